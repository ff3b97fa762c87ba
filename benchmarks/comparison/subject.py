"""One network as both sides get it: fp32, and the same quantized by our own quantizer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.models import load, samples
from millifit.compress.quantize.quantizer import quantizable, quantize
from millifit.compress.quantize.ranges import Range, calibrate
from millifit.targets.importer.onnx_file import read_network, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Network
from millifit.targets.target import Precision

_CALIBRATION_SAMPLES = 8
_JUDGED_SAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network and its files.

    `files` are what ONNX Runtime may run for a precision, by a name of their form: for integers the
    same weights and scales with activations of 8 unsigned bits (``u8s8``) or signed ones
    (``s8s8``), of which it is slow at one on most processors. `ours` is what we compile.
    `own_quantizer` is the same network as ONNX Runtime's own tool quantizes it: it rounds after
    every operator, where ours keeps activation functions in fp32 and ONNX Runtime then computes
    the layer before in fp32, too.
    `inputs` are ``(N, *sample)``, none of which calibration saw; `input_path` has the first.
    """

    network: Network
    ours: Path
    files: dict[str, Path]
    own_quantizer: Path | None
    inputs: npt.NDArray[np.generic]
    input_path: Path


class Source:
    """The fp32 network, and what is quantized from it, in files of a folder."""

    def __init__(self, name: str, folder: Path, seed: int, *, own_quantizer: bool = False) -> None:
        self._own_quantizer = own_quantizer
        self._folder = folder
        self._file = folder / "fp32.onnx"
        onnx.save(load(name, seed), self._file)
        self.network = simplify(read_network(self._file))
        shape = self.network.types[self.network.inputs[0]].shape
        drawn = samples(name, shape, _CALIBRATION_SAMPLES + _JUDGED_SAMPLES, seed)
        self._calibration, self._judged = np.split(drawn, [_CALIBRATION_SAMPLES])
        self._input = folder / "input.npy"
        np.save(self._input, self._judged[:1])
        self._ranges: dict[str, Range] = {}

    def subject(self, precision: Precision) -> Subject:
        """The network in a precision: every layer that can have it.

        Ranges are those of all values seen in calibration: which method finds them changes no
        latency.
        """
        if precision == "fp32":
            return self._subject(self.network, self._file, {"fp32": self._file})
        self._ranges = self._ranges or calibrate(self.network, self._calibration, method="min_max")
        network = quantize(self.network, quantizable(self.network, precision), self._ranges)
        unsigned = self._folder / f"{precision}_u8s8.onnx"
        write_network(network, unsigned)
        signed = self._folder / f"{precision}_s8s8.onnx"
        onnx.save(with_signed_activations(onnx.load(unsigned)), signed)
        own = self._quantized_by_onnxruntime() if self._own_quantizer else None
        return self._subject(network, unsigned, {"u8s8": unsigned, "s8s8": signed}, own)

    def _quantized_by_onnxruntime(self) -> Path:
        """As its documentation recommends for x86: QDQ, u8s8, weights per channel; made once."""
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # of an untyped package
            def __init__(self, name: str, x: npt.NDArray[np.generic]) -> None:
                self._left = iter([{name: x[i : i + 1]} for i in range(len(x))])

            def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
                return next(self._left, None)

        path = self._folder / "own_quantizer.onnx"
        if not path.exists():
            logging.getLogger().setLevel(logging.ERROR)  # its advice is to simplify the model first
            reader = Reader(onnx.load(self._file).graph.input[0].name, self._calibration)
            quantize_static(
                self._file, path, reader, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        return path

    def _subject(
        self, network: Network, ours: Path, files: dict[str, Path], own: Path | None = None
    ) -> Subject:
        return Subject(
            network=network, ours=ours, files=files, own_quantizer=own, inputs=self._judged,
            input_path=self._input,
        )  # fmt: skip


def with_signed_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same quantized values as int8: zero points less 128, scales as they were."""
    signed = onnx.ModelProto()
    signed.CopyFrom(model)
    points = {
        node.input[2]
        for node in signed.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2
    }
    for tensor in signed.graph.initializer:
        if tensor.name in points and tensor.data_type == onnx.TensorProto.UINT8:
            value = onnx.numpy_helper.to_array(tensor).astype(np.int16) - 128
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.int8), tensor.name))
    return signed
