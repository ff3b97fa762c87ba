"""The networks that are compared with ONNX Runtime: real ones where the data is at hand, else with
random weights.

Batch 1, fp32, batch normalization folded, as networks are deployed. The same seed gives the same
model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.networks import convolutional, transformers
from benchmarks.setting import data_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network to be timed.

    `build` makes it from a seed; `file` names the trained one in the folder of real models.
    `sample_kind` is what its input holds: `image` and `sound` are maps ``(1, C, H, W)``, `tokens`
    are ids. `convolutional` networks are those of which integers are expected to be faster than
    fp32 in whole.
    """

    build: Callable[[int], onnx.ModelProto]
    convolutional: bool = True
    tokens: int = 0
    file: str = ""


MODELS: Mapping[str, Model] = {
    "MobileNetV2": Model(build=convolutional.mobilenet_v2, file="mobilenet_v2_imagenet.onnx"),
    "MobileNetV1": Model(build=convolutional.mobilenet_v1),
    "MobileNetV3-large": Model(build=convolutional.mobilenet_v3_large),
    "EfficientNet-B0": Model(build=convolutional.efficientnet_b0),
    "ResNet-18": Model(build=convolutional.resnet18),
    "ResNet-50": Model(build=convolutional.resnet50),
    "SqueezeNet": Model(build=convolutional.squeezenet),
    "ResNet-8": Model(build=convolutional.resnet8, file="resnet8_cifar10.onnx"),
    "DS-CNN": Model(build=convolutional.ds_cnn, file="ds_cnn_kws.onnx"),
    "SR": Model(build=convolutional.super_resolution),
    "BERT-mini": Model(build=transformers.bert_mini, convolutional=False, tokens=30522),
    "ViT-tiny": Model(build=transformers.vit_tiny, convolutional=False),
}


def load(name: str, seed: int) -> onnx.ModelProto:
    """The model of that name: the real file where there is one, else built from `seed`."""
    model = MODELS[name]
    data = data_folder()
    if model.file and data is not None and (data / "models" / model.file).is_file():
        return onnx.load(data / "models" / model.file)
    return model.build(seed)


def samples(name: str, shape: tuple[int, ...], count: int, seed: int) -> npt.NDArray[np.generic]:
    """Inputs of the right kind, ``(count, *shape[1:])``: token ids, or smooth maps near 1.

    Maps have the spectrum of natural images: neighbours are alike, so that pooling and padding see
    what they would see in use.
    """
    rng = np.random.default_rng(seed)
    if MODELS[name].tokens:
        return rng.integers(0, MODELS[name].tokens, (count, *shape[1:]), dtype=np.int64)
    noise = np.fft.fft2(rng.standard_normal((count, *shape[1:])))
    rows, columns = (np.fft.fftfreq(extent)[:, None] for extent in shape[2:])
    noise /= np.maximum(np.hypot(rows, columns.T), 1 / max(shape[2:]))
    maps = np.fft.ifft2(noise).real
    maps /= maps.std(axis=(1, 2, 3), keepdims=True)
    return maps.astype(np.float32)
