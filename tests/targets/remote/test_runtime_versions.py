"""Which runtimes run what is compiled here."""

import pytest

from millifit.targets.remote.runtime_versions import runtime_mismatch

HERE = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}


@pytest.mark.parametrize(
    "versions",
    [HERE, {"apache-tvm": "0.27.0", "apache-tvm-ffi": "0.1.15"}],
)
def test_the_same_release_fits(versions: dict[str, str]) -> None:
    """A post-release changes the package, not the runtime."""
    assert runtime_mismatch(versions, HERE) is None


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, "there is no TVM runtime on the device. Run there: pip install apache-tvm==0.27.0"),
        (
            {**HERE, "apache-tvm": "0.26.0"},
            "has apache-tvm 0.26.0, this machine 0.27.0.post1. Run on the device: pip install",
        ),
        ({**HERE, "apache-tvm-ffi": "0.2.0"}, "has apache-tvm-ffi 0.2.0, this machine 0.1.14"),
        ({"apache-tvm": "0.27.0"}, "has apache-tvm-ffi of no version"),
    ],
)
def test_another_release_is_named_with_the_command(versions: dict[str, str], message: str) -> None:
    """The wire and the libraries belong to one release."""
    assert message in str(runtime_mismatch(versions, HERE))
