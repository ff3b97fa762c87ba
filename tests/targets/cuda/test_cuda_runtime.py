"""Where a GPU is missing, or what it needs, errors say what to do; where one is, bundles run."""

import numpy as np
import pytest
from test_cuda_networks import TOLERANCES, network, oracle

from millifit.errors import MissingDependency, TargetError
from millifit.targets import cuda_runtime
from millifit.targets.bundle import write_bundle
from millifit.targets.detect_gpu import cuda_devices, detect_gpu_target
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.lower import lower
from millifit.targets.runner.clock import clock_for


@pytest.fixture
def no_devices(monkeypatch):
    """TVM without devices of CUDA, and libraries as each test wants them."""
    monkeypatch.setattr("tvm.get_global_func", lambda *_, **__: None)

    def use(*missing):
        def load(name, mode):
            if any(part in name for part in missing):
                raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(cuda_runtime.ctypes, "CDLL", load)

    return use


def test_without_a_driver_the_error_says_so(no_devices):
    """The bundle may run elsewhere."""
    no_devices("libcuda.so.1")
    with pytest.raises(TargetError, match=r"no driver for NVIDIA GPUs here \(libcuda"):
        cuda_runtime.load_cuda()


def test_without_cudas_runtime_the_error_has_the_command(no_devices):
    """Neither the toolkit's library nor the wheel's."""
    no_devices("libcudart")
    with pytest.raises(MissingDependency, match="pip install 'nvidia-cuda-runtime"):
        cuda_runtime.load_cuda()


def test_a_runtime_that_does_not_load_is_an_error(no_devices):
    """With the dynamic linker's reason."""
    no_devices("libtvm_runtime_cuda")
    with pytest.raises(TargetError, match=r"cannot be loaded: .*libtvm_runtime_cuda"):
        cuda_runtime.load_cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", TOLERANCES)
def test_bundles_run_on_the_gpu(tmp_path, precision):
    """On a real one: outputs as ONNX Runtime's from run to run, and a time."""
    if not cuda_devices():
        pytest.skip("no NVIDIA GPU here")
    target = detect_gpu_target("local-cuda")
    made, x = network("MobileNetV2", precision)
    wanted = oracle(made, x, tmp_path / "network.onnx")
    write_bundle(
        tmp_path / "bundle", program=lower(made, target), target=target, versions="test",
        golden_input=x, golden_output=[wanted], details={},
    )  # fmt: skip
    bundle = load_bundle(tmp_path / "bundle")
    tolerance = max(TOLERANCES[precision], 1e-2) * np.abs(wanted).max()
    for _ in range(3):
        np.testing.assert_allclose(bundle.run(x)[0], wanted, atol=tolerance)
    bundle.set_input(x)
    assert 0 < clock_for(target).seconds(bundle.start) < 1
