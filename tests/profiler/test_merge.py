"""Merging packs: one measurement per key, and nothing is chosen in silence."""

from dataclasses import replace

from measured_kernels import measured, network

from millifit.profiler.packs.merge import merge
from millifit.profiler.packs.pack import Pack
from millifit.profiler.section import Section
from millifit.targets.timing import Samples


def test_merging_keeps_the_better_one() -> None:
    """A time before a failure, more samples before fewer, a later date before an earlier one."""
    one = Pack(
        kernels=(
            measured(1), measured(2, 1e-3, 1e-3), measured(3, 1e-3, taken_at_s=2.0),
            measured(4, 1e-3), measured(5, 1e-3),
        ),
        networks=(network(1.0),),
    )  # fmt: skip
    two = Pack(
        kernels=(
            measured(1, 1e-3), measured(2, 2e-3), measured(3, 1.1e-3, taken_at_s=3.0),
            measured(4, 1e-3), measured(6, 1e-3),
        ),
        networks=(network(3.0),),
    )  # fmt: skip
    merged = merge([one, two])
    assert [m.outcome for m in merged.pack.kernels] == [
        Samples(run_s=(1e-3,)), Samples(run_s=(1e-3, 1e-3)), Samples(run_s=(1.1e-3,)),
        Samples(run_s=(1e-3,)), Samples(run_s=(1e-3,)), Samples(run_s=(1e-3,)),
    ]  # fmt: skip
    assert [(choice.kept, choice.has, choice.contradict) for choice in merged.choices] == [
        (1, "a time", False),
        (0, "more samples", True),
        (1, "a later date", False),
        (0, "come first", True),
    ]
    assert merged.choices[3].median_s == (1.0, 3.0)


def test_sections_of_merged_packs_stay_apart() -> None:
    """Two packs both have a section 1; merged, each measurement keeps its own."""
    section = Section(
        number=1, target_key="t", versions="v", began_s=1.0, environment={}, anchors={}
    )
    packs = [
        Pack(
            kernels=(measured(n, 1e-3, section=1),), sections=(replace(section, began_s=float(n)),)
        )
        for n in (1, 2)
    ]
    merged = merge(packs).pack
    assert [m.section for m in merged.kernels] == [1, 2]
    assert [(s.number, s.began_s) for s in merged.sections] == [(1, 1.0), (2, 2.0)]
