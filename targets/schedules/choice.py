"""What tuning may decide in place of a schedule rule, checked where the rule would decide."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, TypeVar

from millifit.errors import CompileError
from millifit.targets.kernel import Choice, Kernel

_Value = TypeVar("_Value", int, str)


def decided(kernel: Kernel, name: str, by_rule: _Value, legal: Container[_Value]) -> _Value:
    """The kernel's choice of `name`, else what the rule says.

    Raises CompileError for a choice that is not `legal`; what the rule says is not checked.
    """
    choice: dict[str, Any] = dict(kernel.choice)
    if name not in choice:
        return by_rule
    value: _Value = choice[name]
    if type(value) is not type(by_rule) or value not in legal:
        raise CompileError(
            f"kernel '{kernel.op}' ({kernel.key}): choice {name}={value!r} is not possible. "
            "Tune the network again."
        )
    return value


def check_names(kernel: Kernel, *known: str) -> None:
    """CompileError for a choice of anything but `known` names."""
    unknown = [name for name, _ in kernel.choice if name not in known]
    if unknown:
        raise CompileError(
            f"kernel '{kernel.op}' ({kernel.key}) has nothing called '{unknown[0]}' to choose: "
            "tune the network again"
        )


def choice_of(**values: int | str) -> Choice:
    """``choice_of(vectors=2, rows=6) == (("rows", 6), ("vectors", 2))``."""
    return tuple(sorted(values.items()))
