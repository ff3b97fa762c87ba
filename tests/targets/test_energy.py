"""Energy: counters are added up beyond their ends, and what cannot be read is no number."""

from pathlib import Path

import pytest

from millifit.targets.runner.energy import Rapl, rapl_domains
from millifit.targets.timing import Samples, TimingPolicy, sample


def domain(root: Path, place: str, name: str, *, uj: int = 0, range_uj: int = 10**7) -> Path:
    """A folder as Linux has them in /sys/class/powercap."""
    folder = root / place
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    return folder / "energy_uj"


def test_packages_and_memory_count_but_not_their_parts(tmp_path: Path) -> None:
    """Cores are within a package; a second package and the memory are not."""
    names = {
        "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1", "intel-rapl:1:0": "uncore",
    }  # fmt: skip
    for place, name in names.items():
        domain(tmp_path, place, name)
    found = [each.name for each in rapl_domains(tmp_path)]
    assert found == ["package-0", "dram", "package-1"]


def test_energy_is_counted_on_beyond_the_end_of_a_counter(tmp_path: Path) -> None:
    """A counter of 10 J that went from 9.5 J to 0.25 J has counted 0.75 J."""
    counter = domain(tmp_path, "intel-rapl:0", "package-0", uj=9_500_000)
    rapl = Rapl(rapl_domains(tmp_path))
    assert rapl.drawn_j() == 0
    counter.write_text("250000\n")
    assert rapl.drawn_j() == pytest.approx(0.75)
    counter.write_text("1250000\n")
    assert rapl.drawn_j() == pytest.approx(1.75)


def test_what_cannot_be_read_is_no_energy(tmp_path: Path) -> None:
    """No folder, no domain, or a counter that is gone: None, and never 0."""
    assert rapl_domains(tmp_path / "absent") == ()
    assert Rapl(()).drawn_j() is None
    counter = domain(tmp_path, "intel-rapl:0", "package-0")
    rapl = Rapl(rapl_domains(tmp_path))
    counter.unlink()
    assert rapl.drawn_j() is None
    assert rapl_domains(tmp_path) == ()


def test_samples_carry_the_energy_of_a_run() -> None:
    """What was drawn over all samples, divided by the runs in them; None where it is unknown."""
    policy = TimingPolicy(warmup_s=0.0, block_s=0.001)
    runs: list[int] = []

    def run(n: int) -> float:
        runs.append(n)
        return n * 1e-3

    found = sample(run, policy, drawn_j=lambda: 2.0 * sum(runs))
    assert found == Samples(run_s=(1e-3,) * 11, energy_j=2.0)
    assert sample(run, policy).energy_j is None


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_energy_that_is_none_is_refused(bad: float) -> None:
    """Joules are finite and not negative."""
    with pytest.raises(ValueError, match="joules"):
        Samples(run_s=(1.0,), energy_j=bad)
