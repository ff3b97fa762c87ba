"""Which precisions a run chooses from, and the networks that stand for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millifit.errors import UsageError
from millifit.pipeline.precisions import offered, variant
from millifit.recipe import resolve_recipe
from millifit.targets.catalog import find_target
from millifit.targets.importer.infer import infer_types
from millifit.targets.lower import lower
from millifit.targets.network import Network, Node, TensorType

AVX2, VNNI = find_target("x86-avx2"), find_target("x86-avx512-vnni")
BF16 = replace(VNNI, features=(*VNNI.features, "+avx512bf16"), precisions=())


def test_unless_asked_a_run_chooses_what_is_worth_measuring() -> None:
    """fp32, int8 and w7a8 where the target has them; whatever is asked for instead, with fp32."""
    assert offered(None, AVX2) == ("fp32", "int8", "w7a8")
    assert offered(None, BF16) == ("fp32", "int8")
    assert offered(("bf16", "w4"), BF16) == ("fp32", "bf16", "w4")
    assert offered(("fp32",), BF16) == ("fp32",)
    assert offered(None, find_target("pixel4-gpu")) == ("fp32", "fp16")
    assert offered(None, find_target("t4")) == ("fp32", "fp16", "int8")


def test_a_precision_that_the_target_lacks_is_refused() -> None:
    """The message names the target, the precision and what there is."""
    with pytest.raises(UsageError, match=r"'x86-avx2' has no bf16: .* fp32, int8, w7a8, w8, w4"):
        offered(("int8", "bf16"), AVX2)


def test_recipes_take_precisions_as_typed() -> None:
    """A list from YAML or text from the command line; a misspelt one is named."""
    flags = {"model": "net.onnx"}
    assert resolve_recipe(flags=flags).precisions is None
    given = resolve_recipe(flags=flags | {"precisions": "int8, bf16"})
    assert given.precisions == ("int8", "bf16")
    assert resolve_recipe(flags=flags | {"precisions": ["w8"]}).precisions == ("w8",)
    with pytest.raises(UsageError, match="precisions"):
        resolve_recipe(flags=flags | {"precisions": "int4"})


def test_a_variant_is_what_its_file_would_be() -> None:
    """A dense network in 4 bits is lowered to weight-only kernels."""
    import numpy as np

    types = {
        "x": TensorType(shape=(1, 64), dtype="float32"),
        "w": TensorType(shape=(8, 64), dtype="float32"),
        "b": TensorType(shape=(8,), dtype="float32"),
    }
    dense = Node(
        name="fc", op="Gemm", inputs=("x", "w", "b"), outputs=("y",), attributes={"transB": 1}
    )
    net = infer_types(
        Network(
            name="dense", inputs=("x",), outputs=("y",), nodes=(dense,), opset=17, types=types,
            constants={"w": np.ones((8, 64), np.float32), "b": np.zeros(8, np.float32)},
        )
    )  # fmt: skip
    (call,) = lower(variant(net, "w4", {}), AVX2).calls
    assert (call.kernel.precision, call.kernel.attribute("block")) == ("w4", 32)
