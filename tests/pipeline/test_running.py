"""Running bundles and portfolios on files: what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from millifit.errors import BundleError, DataError
from millifit.pipeline import run
from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower
from millifit.targets.portfolio import write_portfolio
from millifit.targets.signature import sign
from tests.signing import keys


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network for this machine."""
    network, here = simplify(read_network(model)), find_target("local")
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    shape = network.types[network.inputs[0]].shape
    write_bundle(
        path, program=lower(network, here), target=here, versions="v", details={},
        golden_input=np.ones(shape, np.float32),
    )  # fmt: skip
    return path


def test_samples_of_a_file_are_run(bundle: Path, tmp_path: Path, data: Path) -> None:
    """Many samples give as many answers, one gives one, each the same whichever way it came."""
    with np.load(data) as digits:
        x = digits["x"][:5]
    np.save(tmp_path / "many.npy", x)
    np.save(tmp_path / "one.npy", x[2:3])
    found = run(bundle, input_file=tmp_path / "many.npy", output_file=tmp_path / "y.npy")
    one = run(bundle, input_file=tmp_path / "one.npy", output_file=tmp_path / "y1.npy")
    assert (found["samples"], one["samples"]) == (5, 1)
    assert found["outputs"] == [{"shape": [5, 10], "dtype": "float32"}]
    assert found["written"] == [str(tmp_path / "y.npy")]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy")[2:3], np.load(tmp_path / "y1.npy"))
    assert 0 < found["latency_s"]["low"] <= found["latency_s"]["median"]
    assert (found["latency_s"]["n"], one["latency_s"]) == (4, None)


def test_golden_input_is_run_unless_another_is_given(bundle: Path, tmp_path: Path) -> None:
    """Without an input the golden one gives the golden output."""
    run(bundle, output_file=tmp_path / "y.npy")
    with np.load(bundle / "golden.npz") as golden:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), golden["output0"])


def test_portfolio_runs_its_variant(bundle: Path, tmp_path: Path) -> None:
    """Of a portfolio the fitting variant runs."""
    write_portfolio(tmp_path / "all", {"here": bundle})
    found = run(tmp_path / "all")
    assert found["bundle"] == str(tmp_path / "all" / "variants" / "here")
    assert (found["target"], found["refused"]) == ("local", {})


def test_only_what_was_signed_runs_where_a_key_is_given(bundle: Path, tmp_path: Path) -> None:
    """A portfolio runs with the key of its signer and not without its signature."""
    key, public = keys(tmp_path)
    whole = tmp_path / "all"
    write_portfolio(whole, {"here": bundle})
    with pytest.raises(BundleError, match="is not signed"):
        run(whole, public_key=public)
    sign(whole, key)
    assert run(whole, public_key=public)["signature"] == "valid"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((2, 3), np.float32), r"has the shape \(2, 3\); bundle 'tiny' takes \(1, "),
        (b"no array", r"cannot be read .* numpy\.save"),
        (np.array([{}], dtype=object), r"cannot be read .* numpy\.save"),
        (None, "cannot be read"),
    ],
)
def test_unusable_inputs_are_named(
    bundle: Path, tmp_path: Path, content: np.ndarray | bytes | None, said: str
) -> None:
    """Another shape, a text, pickled objects and a missing file are each a DataError."""
    file = tmp_path / "x.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(DataError, match=said):
        run(bundle, input_file=file)
