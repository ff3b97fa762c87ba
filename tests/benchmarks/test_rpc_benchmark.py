"""The benchmark of sweeps over the network: its relay delays, and its shares add up."""

from benchmarks import rpc


def test_a_round_trip_through_the_relay_takes_what_was_asked() -> None:
    """Not less; how much more depends on the machine, and is part of the result."""
    assert rpc.measured_round_trip_s(2e-3, count=20) >= 2e-3


def test_shares_are_of_the_wall_without_the_wait_for_the_compiler() -> None:
    """Two kernels, near and far, on a server that ends with the benchmark."""
    found = rpc.run(rounds=1, round_trip_s=1e-3, count=2)
    assert found["kernels"] == 2
    for sweeps in found["sweeps"].values():
        for each in sweeps:
            parts = each["device_s"] + each["waiting_for_compiler_s"] + each["lost_s"]
            assert abs(parts - each["wall_s"]) < 1e-9
            assert 0 < each["device_s"] < each["wall_s"]
            assert 0 < each["lost_share"] < 1
    assert found["met"] == (found["lost_share"] <= found["bar"])
