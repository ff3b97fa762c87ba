"""Tables of one's own: a mapping says what columns mean, and what is wrong is named."""

from pathlib import Path

import pytest

from millifit.errors import DataError, UsageError
from millifit.profiler.packs.mapped import read_mapped
from millifit.profiler.packs.mapping import parse_mapping
from millifit.profiler.packs.sheet import Sheet
from millifit.profiler.packs.table import read_table
from millifit.targets.timing import Failed, Samples

TABLE = """\
type,H,Cin,Cout,K,S,time
Conv2d,56,64,128,3,2,1.5
fully_connected,1,64,10,1,1,0.25
"""
MAPPING = "op=type,in_hw=H,in_ch=Cin,out_ch=Cout,kernel=K,stride=S,latency_ms=time,device=phone"


@pytest.fixture
def read(tmp_path: Path):
    """Reads a text as a table, by a mapping as on the command line."""

    def sheet(text: str, *mapping: str) -> Sheet:
        (tmp_path / "t.csv").write_text(text)
        path = tmp_path / "t.csv"
        return read_mapped(read_table(path), parse_mapping(mapping), path)

    return sheet


def test_columns_become_kernels(read) -> None:
    """Sizes, units and spellings are understood; what is not stated has its default."""
    kernels, networks = read(TABLE, MAPPING).measurements()
    assert networks == []
    assert [m.kernel.op for m in kernels] == ["conv2d", "dense"]
    assert kernels[0].kernel.output.shape == (1, 28, 28, 128)
    assert kernels[0].outcome == Samples(run_s=(1.5e-3,))
    assert kernels[0].target_key == "phone/fp32"


def test_columns_of_the_fields_names_need_no_mapping(read) -> None:
    """The least a table must have: an operator, channels, a latency with its unit, a device."""
    text = "Op,in_h,in_w,in_ch,latency_us,device,precision\nadd,8,4,16,20,board,half\n"
    (only,) = read(text).measurements()[0]
    assert only.target_key == "board/fp16"
    assert only.kernel.output.shape == (1, 8, 4, 16)
    assert only.outcome == Samples(run_s=(20 * 1e-6,))


def test_values_for_all_rows(read) -> None:
    """What is no column may be a value: an operator, a number, a padding."""
    text = "h,c,t\n8,4,1\n"
    given = "op=conv2d,in_hw=h,in_ch=c,out_ch=16,kernel=3,padding=valid,latency_ms=t,device=d"
    (only,) = read(text, given).measurements()[0]
    assert only.kernel.output.shape == (1, 6, 6, 16)


def test_networks(read) -> None:
    """Without an operator a row is a network; without a precision its target has none."""
    text = "model,ms,n\na,1,1\nb,2,8\n"
    _, networks = read(text, "network=model,latency_ms=ms,batch=n,device=d").measurements()
    assert [(m.name, m.batch, m.target_key) for m in networks] == [("a", 1, "d"), ("b", 8, "d")]


def test_repeats_failures_energy_and_spread(read) -> None:
    """Rows of one kernel are its samples; a stated failure has no latency."""
    text = (
        "op,in_ch,latency_s,latency_std_ms,energy_mj,failure\n"
        "relu,8,1e-4,1,5,\nrelu,8,2e-4,1,7,\nrelu,16,,,,out of memory\n"
    )
    first, second = read(text, "device=d").measurements()[0]
    assert first.outcome == Samples(run_s=(1e-4, 2e-4), energy_j=(5 * 1e-3 + 7 * 1e-3) / 2)
    assert first.environment["latency_std_s"] == "0.001"
    assert second.outcome == Failed(reason="out of memory")


def test_unknown_operators_keep_their_names(read) -> None:
    """They are counted, not dropped and not guessed."""
    sheet = read("op,in_ch,latency_s,device\nSwizzle,8,1e-4,d\nconv,8,1e-4,d\n")
    assert sheet.unknown == {"Swizzle": 1}
    assert sheet.measurements()[0][0].kernel.op == "Swizzle"


def test_a_mapping_may_be_a_file(tmp_path: Path) -> None:
    """YAML of fields and columns; later options win."""
    (tmp_path / "m.yml").write_text("op: type\nkernel: 3\n")
    given = parse_mapping([str(tmp_path / "m.yml"), "op=kind"])
    assert given == {"op": "kind", "kernel": "3"}
    (tmp_path / "m.yml").write_text("- op\n")
    with pytest.raises(DataError, match=r"m\.yml' should have lines such as"):
        parse_mapping([str(tmp_path / "m.yml")])
    with pytest.raises(DataError, match="cannot read the mapping"):
        parse_mapping([str(tmp_path / "absent.yml")])


@pytest.mark.parametrize(
    ("text", "mapping", "message"),
    [
        (TABLE, MAPPING.replace("=Cin", "=Cinn"), "in_ch=Cinn: .* no column 'Cinn'.* are type, H"),
        (
            TABLE,
            MAPPING.replace("latency_ms=time,", ""),
            "say which, and its unit, as in --map lat",
        ),
        (TABLE, MAPPING.replace(",device=phone", ""), "on which device row 1 .* --device NAME"),
        (TABLE, MAPPING.replace("op=type,", ""), "which operator or network.*--map op=COLUMN"),
        (TABLE, MAPPING.replace("in_ch=Cin,", ""), "no column says 'in_ch'"),
        (TABLE, "colour=type", "no field 'colour'"),
        (TABLE, "op", "'op' should be FIELD=COLUMN"),
        (TABLE, MAPPING + ",latency_s=H", "has latency_s and latency_ms"),
        (TABLE, MAPPING + ",precision=fp7", "precision=fp7: .* no column 'fp7'"),
        ("op,in_ch,time_ms\nadd,8,1\n", "latency_s=time_ms,device=d", "'time_ms' is in ms by its"),
        ("op,in_ch,t [us]\nadd,8,1\n", "latency_ms=t [us],device=d", "--map latency_us=t"),
    ],
)
def test_a_wrong_mapping_says_what_to_do(read, text: str, mapping: str, message: str) -> None:
    """Names that are no column, fields that are none, and units that contradict their column."""
    with pytest.raises(UsageError, match=message):
        read(text, mapping)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",64,128", ",-64,128", r"column 'Cin', row 1: .* whole number, got '-64'"),
        ("Conv2d,56", "Conv2d,56.5", r"column 'H', row 1: .* got '56.5'"),
        (",1.5", ",fast", "column 'time', row 1: it should be a number, got 'fast'"),
        ("Conv2d,", ",", "column 'type', row 1: no operator"),
    ],
)
def test_a_wrong_value_is_named(read, old: str, new: str, message: str) -> None:
    """By column and row, and nothing is imported."""
    with pytest.raises(DataError, match=message):
        read(TABLE.replace(old, new), MAPPING)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty|cannot read"),
        ("t.csv", b"op,latency_s\n", "has no rows"),
        ("t.parquet", b"PAR1 and then nothing", "cannot read"),
        ("t.bin", b"something", "neither Parquet nor named .csv"),
        ("t.csv", b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Empty, without rows, damaged, or of another kind."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)
    with pytest.raises(DataError, match="cannot read"):
        read_table(tmp_path / "absent.csv")
