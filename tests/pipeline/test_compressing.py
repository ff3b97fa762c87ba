"""Compressing a model by a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roofline import RooflineTimer
from tiny import MakeRecipe

from millifit.compress.evaluate import outputs
from millifit.errors import UsageError
from millifit.pipeline import compress, fit
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify


def test_plan_gives_the_network_of_the_run(
    here: str, make_recipe: MakeRecipe, model: Path, data: Path, tmp_path: Path
) -> None:
    """compress with a run's plan.json makes the network that the run compiled and validated."""
    result = fit(make_recipe(tmp_path, target=here), timer=RooflineTimer())
    out = tmp_path / "again" / "small.onnx"
    found = compress(str(model), tmp_path / "run" / "plan.json", data=str(data), out=out)
    assert found["accuracy"] == pytest.approx(result["compressed"]["accuracy"], abs=0.006)
    assert found["size_bytes"] == out.stat().st_size
    assert [(r["layer"], r["precision"]) for r in found["plan"]] == [
        (r["layer"], r["precision"]) for r in result["plan"]
    ]
    with np.load(data) as arrays:
        x = arrays["x"][:100]
    ours, theirs = (
        outputs(simplify(read_network(file)), x)
        for file in (out, tmp_path / "run" / "compressed.onnx")
    )
    np.testing.assert_array_equal(ours, theirs)


def test_plan_without_int8_changes_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    """A plan of fp32 throughout gives the network itself."""
    layers = [layer.name for layer in simplify(read_network(model)).layers]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"precisions": dict.fromkeys(layers, "fp32"), "widths": {}}))
    found = compress(str(model), plan, data=str(data), out=tmp_path / "out.onnx")
    assert found["calibration"] is None
    with np.load(data) as arrays:
        x = arrays["x"][:50]
    np.testing.assert_array_equal(
        outputs(simplify(read_network(tmp_path / "out.onnx")), x),
        outputs(simplify(read_network(model)), x),
    )


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"precisions": {"other": "int8"}, "widths": {}}, "has no layer 'other'"),
        ({"precisions": {}, "widths": {"other": 8}}, "has no channel group 'other'"),
        ({"precisions": {"node_conv2d": "int3"}, "widths": {}}, "unknown precision 'int3'"),
        ({"widths": {}}, "is no plan"),
        ([], "is no plan"),
    ],
)
def test_plan_that_does_not_fit_is_refused(
    model: Path, data: Path, tmp_path: Path, plan: Any, said: str
) -> None:
    """A plan of another network, or none at all, is wrong use; nothing is written."""
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=said):
        compress(str(model), tmp_path / "plan.json", data=str(data), out=tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
