"""Precisions besides int8: what the network says, and how far ONNX Runtime's answers are off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import images, residual

from millifit.compress.apply import quantize_well
from millifit.compress.evaluate import divergence, outputs
from millifit.compress.quantize.bias_correction import correct_bias
from millifit.compress.quantize.calibration import Calibration
from millifit.compress.quantize.quantizer import quantizable, quantize
from millifit.compress.quantize.ranges import calibrate
from millifit.compress.quantize.weight_only import symmetric_blocks
from millifit.compress.size import file_bytes, layer_bytes
from millifit.compress.torch_network import TorchNetwork
from millifit.errors import ModelError
from millifit.targets.importer.onnx_file import read_network, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Network
from millifit.targets.target import Precision

ALL: tuple[Precision, ...] = ("fp16", "bf16", "int8", "w7a8", "w8", "w4")


def _made(precision: Precision) -> tuple[Network, Network]:
    net = residual()
    x = images(8)
    return net, quantize(net, quantizable(net, precision), calibrate(net, x))


@pytest.mark.parametrize(
    ("precision", "largest"),
    [("fp16", 1e-3), ("bf16", 1e-2), ("int8", 4e-2), ("w7a8", 6e-2), ("w8", 1e-2), ("w4", 0.15)],
)
def test_error_follows_the_precision(tmp_path: Path, precision: Precision, largest: float) -> None:
    """Read back from its file, a network of any precision runs in ONNX Runtime near the float one.

    It is not the float network: something was rounded. PyTorch computes the same.
    """
    net, made = _made(precision)
    write_network(made, tmp_path / "net.onnx")
    stored = simplify(read_network(tmp_path / "net.onnx"))
    x = images(8, seed=1)
    wanted, found = outputs(net, x), outputs(stored, x)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 0 < error <= largest
    with torch.no_grad():
        same = TorchNetwork(stored)(torch.from_numpy(x)).numpy()
    # A sum in another order may round a value to the next step: 8 significant bits in bf16.
    np.testing.assert_allclose(same, found, atol=largest * np.abs(wanted).max())
    assert {layer.name for layer in stored.layers} == {layer.name for layer in net.layers}


def test_files_shrink_with_the_bits() -> None:
    """Weights take 2, 1 and half a byte in the file and in the figures per layer."""
    net, half = _made("bf16")
    chosen = quantizable(net, "bf16")
    full = layer_bytes(net)
    for name, size in layer_bytes(half).items():
        weight = net.constants[net.node(name).inputs[1]].size
        assert full[name] - size == (2 * weight if name in chosen else 0)
    (dense,) = quantizable(net, "w4")
    weight = net.constants[net.node(dense).inputs[1]].size
    sizes = {p: layer_bytes(_made(p)[1])[dense] for p in ("w8", "w4")}
    assert sizes["w8"] - sizes["w4"] == weight // 2
    assert file_bytes(half) < file_bytes(net)


def test_seven_bits_stay_within_63() -> None:
    """w7a8 stores int8 in -63..63 but for depthwise layers, and is coarser than int8."""
    net, narrow = _made("w7a8")
    _, wide = _made("int8")
    largest = {
        name.removesuffix("/weight_quantized"): int(np.abs(value.astype(int)).max())
        for name, value in narrow.constants.items()
        if name.endswith("/weight_quantized")
    }
    for layer in net.layers:
        depthwise = net.types[layer.inputs[1]].shape[1:2] == (1,) and layer.op == "Conv"
        assert largest[layer.name] == (127 if depthwise else 63)
    x = images(8, seed=1)
    reference = outputs(net, x)
    assert divergence(reference, outputs(wide, x)) < divergence(reference, outputs(narrow, x))


def test_rounded_tensors_are_read_by_everybody() -> None:
    """A tensor that a 16-bit layer reads exists in 16 bits only: other readers take that, too."""
    net = residual()
    layer = net.layers[-2]
    made = quantize(net, {layer.name: "bf16"}, {})
    source = layer.inputs[0]
    readers = {node.op for node in made.nodes if source in node.inputs}
    assert readers == {"Cast"}
    casts = [node for node in made.nodes if node.op == "Cast"]
    assert [made.types[node.outputs[0]].dtype for node in casts].count("bfloat16") == 1
    assert made.types[f"{layer.name}/weight_bfloat16"].dtype == "bfloat16"


def test_blocks_are_scaled_one_by_one() -> None:
    """Each block uses all its levels; the last one may be shorter, an empty one is harmless."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 70)).astype(np.float32) * np.geomspace(1, 100, 70)
    weight = weight.astype(np.float32)
    weight[1, 32:64] = 0
    integers, scale = symmetric_blocks(weight, block=32, levels=7)
    assert (integers.shape, scale.shape) == ((3, 70), (3, 3))
    spread = np.repeat(scale, 32, axis=1)[:, :70]
    assert np.abs(integers * spread - weight).max() <= 0.5001 * scale.max()
    assert np.abs(integers[:, 64:]).max(axis=1).tolist() == [7, 7, 7]
    assert scale[1, 1] == 1


def test_biases_of_integer_weights_are_corrected() -> None:
    """The mean shift of 4-bit weights is taken out of the float bias."""
    net, made = _made("w4")
    x = images(64, seed=2)
    corrected = correct_bias(net, made, x)
    wanted = outputs(net, x).mean(axis=0)
    before = np.abs(outputs(made, x).mean(axis=0) - wanted).max()
    assert np.abs(outputs(corrected, x).mean(axis=0) - wanted).max() < 0.5 * before


def test_mixed_precisions_need_ranges_for_integers_only() -> None:
    """Several precisions meet in one network; without integers nothing is calibrated."""
    net = residual()
    x = images(16)
    names = [layer.name for layer in net.layers]
    mixed: dict[str, Precision] = dict(zip(names, ("bf16", "int8", "w7a8", "fp16"), strict=False))
    mixed[names[-1]] = "w8"
    made = quantize(net, mixed, calibrate(net, x))
    wanted = outputs(net, x)
    assert np.abs(outputs(made, x) - wanted).max() <= 0.1 * np.abs(wanted).max()
    _, method = quantize_well(Calibration(net, x), {names[0]: "bf16", names[-1]: "w4"})
    assert method is None


def test_weight_only_is_for_dense_layers() -> None:
    """A convolution cannot be w8; the message names it and says what to do."""
    net = residual()
    convolution = next(layer.name for layer in net.layers if layer.op == "Conv")
    with pytest.raises(ModelError, match=rf"'{convolution}' \(Conv\) cannot be w8"):
        quantize(net, {convolution: "w8"}, {})
    assert set(quantizable(net, "w8")) == {n.name for n in net.layers if n.op == "Gemm"}
