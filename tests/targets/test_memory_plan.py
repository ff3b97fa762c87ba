"""The arena: tensors that live together never overlap, and little memory is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from millifit.targets.kernel import Kernel
from millifit.targets.memory_plan import ALIGNMENT, Life, arrange
from millifit.targets.network import TensorType
from millifit.targets.program import Call, Program
from millifit.targets.relax_program import plan_memory

LIVES = st.lists(
    st.builds(
        lambda size, first, length: Life(bytes=size, first=first, last=first + length),
        st.integers(1, 5000), st.integers(0, 20), st.integers(0, 6),
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lives=LIVES)
def test_no_two_living_tensors_share_a_byte(lives):
    """Any two tensors with a call in common are apart, aligned, and inside the arena."""
    arena = arrange(lives)
    for i, one in enumerate(lives):
        assert arena.offsets[i] % ALIGNMENT == 0
        assert arena.offsets[i] + one.bytes <= arena.bytes
        for j, other in enumerate(lives[:i]):
            if one.first <= other.last and other.first <= one.last:
                apart = (
                    arena.offsets[i] + one.bytes <= arena.offsets[j]
                    or arena.offsets[j] + other.bytes <= arena.offsets[i]
                )
                assert apart


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lives=LIVES)
def test_the_arena_is_between_what_lives_at_once_and_everything(lives):
    """It is no smaller than the most that lives at once, and no larger than all together."""
    aligned = [-(-life.bytes // ALIGNMENT) * ALIGNMENT for life in lives]
    most = max(
        (
            sum(a for a, o in zip(aligned, lives, strict=True) if o.first <= t <= o.last)
            for t in range(30)
        ),
        default=0,
    )
    assert most <= arrange(lives).bytes <= sum(aligned)


def test_a_chain_needs_its_two_largest_neighbours_only():
    """In a chain of layers the arena is as large as the largest input and output together."""
    sizes = [640, 1280, 320, 64, 2560, 128]
    chain = [Life(bytes=size, first=i, last=i + 1) for i, size in enumerate(sizes)]
    assert arrange(chain).bytes == 2560 + 128


def test_a_view_keeps_its_memory_alive_and_outputs_lie_alone():
    """A view shares its tensor's memory and life; a network's output is not in the arena."""
    kind = TensorType(shape=(1, 8), dtype="float32")

    def call(op: str, source: str, output: str) -> Call:
        kernel = Kernel(op=op, inputs=(kind,), output=kind, precision="fp32")
        return Call(kernel=kernel, inputs=(source,), output=output, constants={}, nodes=(output,))

    calls = (
        call("relu", "x", "a"), call("reshape", "a", "view"), call("relu", "x", "b"),
        call("relu", "b", "c"), call("relu", "view", "d"), call("reshape", "d", "y"),
    )  # fmt: skip
    names = {name for c in calls for name in (*c.inputs, c.output)}
    memory = plan_memory(
        Program(
            name="p", inputs=("x",), outputs=("y",), calls=calls, types=dict.fromkeys(names, kind)
        )
    )
    assert memory.alone == {"d"}
    assert set(memory.place) == {"a", "b", "c"}
    assert memory.place["a"] not in (memory.place["b"], memory.place["c"])
    assert memory.arena.bytes == 3 * ALIGNMENT


def test_what_a_fallback_operator_reads_lies_alone():
    """TVM's own code expects tensors at the start of their memory."""
    kind = TensorType(shape=(1, 8), dtype="float32")

    def call(op: str, source: str, output: str) -> Call:
        kernel = Kernel(op=op, inputs=(kind,), output=kind, precision="fp32")
        return Call(kernel=kernel, inputs=(source,), output=output, constants={}, nodes=(output,))

    calls = (call("relu", "x", "a"), call("onnx", "a", "b"), call("relu", "b", "y"))
    memory = plan_memory(
        Program(
            name="p", inputs=("x",), outputs=("y",), calls=calls,
            types=dict.fromkeys(("x", "a", "b", "y"), kind),
        )
    )  # fmt: skip
    assert memory.alone == {"a", "y"}
    assert memory.arena.bytes == 0
