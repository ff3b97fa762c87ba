"""TVM's runtime for NVIDIA GPUs: a library of its own beside the runtime, loaded where a GPU is.

It needs the driver's ``libcuda.so.1`` and CUDA's ``libcudart.so.13``, which comes with the CUDA
toolkit or with NVIDIA's wheel, where the dynamic linker does not look for it.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from millifit.errors import MissingDependency, TargetError

_REGISTERED = "device_api.cuda"
_CUDART = "libcudart.so.13"


def load_cuda() -> None:
    """Load the runtime, so that TVM has devices of kind "cuda"; nothing where it has them.

    Raises TargetError without a driver, MissingDependency without CUDA's runtime library.
    """
    import tvm

    if tvm.get_global_func(_REGISTERED, allow_missing=True) is not None:
        return
    try:
        ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TargetError(
            f"there is no driver for NVIDIA GPUs here ({error}): install it, or run the bundle "
            "where a GPU is (docs/how-to/server-gpu.md)"
        ) from error
    _load_cudart()
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TargetError(f"TVM's runtime for CUDA cannot be loaded: {error}") from error


def _load_cudart() -> None:
    """From where the dynamic linker looks, else from NVIDIA's wheel."""
    found = importlib.util.find_spec("nvidia")
    folders = (found.submodule_search_locations or ()) if found is not None else ()
    for place in (_CUDART, *(str(Path(folder) / "cu13" / "lib" / _CUDART) for folder in folders)):
        try:
            ctypes.CDLL(place, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return
    raise MissingDependency(
        package="nvidia-cuda-runtime", purpose="running on an NVIDIA GPU",
        install="pip install 'nvidia-cuda-runtime>=13,<14', or install the CUDA 13 toolkit",
    )  # fmt: skip
