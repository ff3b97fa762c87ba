"""Public tables are known by their columns, and their rows become kernels and networks."""

from pathlib import Path

import pandas as pd
import public_tables
import pytest

from millifit.errors import DataError, UsageError
from millifit.profiler.packs.sheet import Sheet, Subject
from millifit.profiler.packs.sources import Source, read_source, source_named, source_of
from millifit.profiler.packs.table import read_table
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples


def sheet(table: pd.DataFrame, folder: Path, name: str = "t.parquet") -> Sheet:
    """A table as it is read from a file."""
    table.to_parquet(folder / name)
    read = read_table(folder / name)
    source = source_of(read)
    assert source is not None
    return read_source(source, read, folder / name)


@pytest.mark.parametrize(
    ("table", "source"),
    [
        (public_tables.mobile_operators(), "mobile-gpu-ops"),
        (public_tables.mobile_networks(), "mobile-cnns"),
        (public_tables.convolutions(), "gpu-convolutions"),
        (public_tables.architectures(), "architectures"),
        (public_tables.transformers(), "transformers"),
        (pd.DataFrame({"op": ["conv2d"]}), None),
    ],
)
def test_a_table_is_known_by_its_columns(table: pd.DataFrame, source: Source | None) -> None:
    """Each has its source, and another table has none."""
    assert source_of(table) == source


def test_operators_of_phones(tmp_path: Path) -> None:
    """What two networks share is one kernel with two samples; each phone is a target."""
    read = sheet(public_tables.mobile_operators(), tmp_path)
    kernels, networks = read.measurements()
    assert networks == []
    assert len(read) == 16
    assert [m.target_key for m in kernels] == ["phone/gpu/fp16"] * 7 + ["tablet/gpu/fp16"] * 7
    first = kernels[0]
    assert first.outcome == Samples(run_s=(3 * 1e-4, 3.3 * 1e-4))
    assert (first.kernel.epilogue, first.kernel.attribute("pads")) == (("relu",), (0, 0, 0, 0))
    assert first.versions == "tflite"
    assert first.environment["device"] == "A phone"
    assert first.environment["policy"] == "not stated"
    assert [m.kernel.op for m in kernels[:7]] == [
        "conv2d", "depthwise_conv2d", "global_avg_pool", "dense", "conv2d", "concat", "avg_pool",
    ]  # fmt: skip
    assert kernels[4].kernel.attribute("groups") == 4


def test_networks_of_phones_have_their_operators(tmp_path: Path) -> None:
    """With the table of operators beside it a network has its calls, in its own precision."""
    public_tables.mobile_operators().to_parquet(tmp_path / "mobile_gpu_ops.parquet")
    _, networks = sheet(public_tables.mobile_networks(), tmp_path).measurements()
    keys = ["phone/gpu/fp16"] * 2 + ["phone/cpu-2large/int8"] * 2
    assert [m.target_key for m in networks] == keys
    assert [call.op for call in networks[0].calls][:2] == ["conv2d", "depthwise_conv2d"]
    assert {call.precision for call in networks[2].calls} == {"int8"}
    assert networks[2].environment["latency_std_s"] == "4e-05"
    assert len({m.key for m in networks}) == 4


def test_networks_of_phones_alone(tmp_path: Path) -> None:
    """Without that table they are known by their names, and still told apart."""
    _, networks = sheet(public_tables.mobile_networks(), tmp_path).measurements()
    assert {m.calls for m in networks} == {()}
    assert len({m.key for m in networks}) == 4


def test_convolutions_of_a_card(tmp_path: Path) -> None:
    """A fused sum is an addition, a failure stays one, and the output follows from the stride."""
    kernels, _ = sheet(public_tables.convolutions(), tmp_path).measurements()
    assert [m.target_key for m in kernels] == [
        "card/tensorrt/fp16", "card/tensorrt/fp16", "card/tensorrt/int8", "card/tensorrt/fp32",
    ]  # fmt: skip
    assert [m.kernel.epilogue for m in kernels] == [(), ("add",), (), ()]
    assert kernels[2].kernel.op == "depthwise_conv2d"
    assert kernels[0].kernel.output.shape == (32, 8, 8, 128)
    assert kernels[3].outcome == Failed(reason="failed, says the source")


def test_architectures_are_networks_by_their_code(tmp_path: Path) -> None:
    """A batch is part of the target where it is stated, and the resolution of a timer is kept."""
    _, networks = sheet(public_tables.architectures(), tmp_path).measurements()
    assert [m.target_key for m in networks] == ["card/batch32"] * 2 + ["phone"] * 2
    assert {m.space for m in networks} == {"nasbench201"}
    assert [m.architecture for m in networks] == ["|a|", "|b|"] * 2
    assert networks[2].environment["latency_resolution_s"] == "0.001"
    ofa = sheet(public_tables.architectures(resolution=224), tmp_path)
    assert {s.space for s in ofa.subjects if isinstance(s, Subject)} == {"ofa"}


def test_transformers_are_both_their_parts(tmp_path: Path) -> None:
    """Latencies add up, deviations as independent ones do, and rows keep their first number."""
    read = sheet(public_tables.transformers(), tmp_path)
    assert read.latency_s.tolist() == [3.0, 7.0]
    assert read.std_s.tolist() == [0.5, 0.5]
    assert list(read.numbers) == [2, 1]
    assert not any(isinstance(subject, Kernel) for subject in read.subjects)
    _, (first, second) = read.measurements()
    assert first.name == "wmt-0"
    assert first.architecture == "arch=0;encoder_embed_dim=512;decoder_embed_dim=640"
    assert second.target_key == "board/pytorch/fp32"


def test_a_lost_part_is_an_error(tmp_path: Path) -> None:
    """An encoder without its decoder is no network."""
    with pytest.raises(DataError, match="one row for its encoder and one for its decoder"):
        sheet(public_tables.transformers().iloc[:3], tmp_path)


def test_a_wrong_size_is_named(tmp_path: Path) -> None:
    """Column and row of a number that is no size."""
    table = public_tables.convolutions().assign(in_ch=[64, 64, 0, 64])
    with pytest.raises(DataError, match=r"t\.parquet': column 'in_ch', row 3: .* got '0'"):
        sheet(table, tmp_path)


def test_a_named_source_needs_its_columns(tmp_path: Path) -> None:
    """Reading a table as what it is not names the first column that is missing."""
    table = public_tables.convolutions()
    with pytest.raises(DataError, match="no column 'source_key'"):
        read_source(source_named("architectures"), table, tmp_path / "t.csv")
    with pytest.raises(UsageError, match="no source 'v100'; known are mobile-gpu-ops"):
        source_named("v100")
