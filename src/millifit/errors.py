"""What can go wrong, as a tree of exceptions.

::

    MillifitError                 exit code 1
    ├── UsageError                exit code 2: an option, a recipe or a budget makes no sense
    │   └── UnknownTarget         exit code 2
    ├── ModelError                a model file cannot be read or used
    │   └── UnsupportedOperator   names the operator and its node
    ├── DataError                 images, arrays or labels cannot be used
    ├── TargetError               a device is not what its target says
    ├── CompileError              code generation failed
    ├── MeasurementError          nothing could be measured
    ├── BundleError               a bundle is incomplete, tampered with, or for another device
    ├── RunFolderError            a run folder or store cannot be written or belongs to another run
    ├── MissingDependency         names the package and how to install it
    └── BudgetInfeasible          exit code 3: carries the explanation

A message says what went wrong, on which file or node, and what to do next.
"""

from __future__ import annotations


class MillifitError(Exception):
    """Something a person can act on; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(MillifitError):
    """The command, recipe or arguments make no sense."""

    exit_code = 2


class UnknownTarget(UsageError):
    """No target of that name in the catalog or the user's file."""


class ModelError(MillifitError):
    """A model cannot be read, or cannot be used as it is."""


class UnsupportedOperator(ModelError):
    """An operator that nothing here can lower."""

    def __init__(self, *, op: str, node: str, detail: str = "") -> None:
        self.op = op
        self.node = node
        super().__init__(
            f"operator '{op}' of node '{node}' is not supported{': ' + detail if detail else ''}. "
            "Replace it in the model, or export the model without it."
        )


class DataError(MillifitError):
    """The data set cannot be read, or does not fit the model."""


class TargetError(MillifitError):
    """The device is not what its target says, or cannot be reached."""


class CompileError(MillifitError):
    """Code generation failed."""


class MeasurementError(MillifitError):
    """Nothing could be measured."""


class BundleError(MillifitError):
    """A bundle is incomplete, tampered with, or made for another device."""


class RunFolderError(MillifitError):
    """A run folder or store cannot be written, or belongs to another run."""


class MissingDependency(MillifitError):
    """An optional dependency is not installed."""

    def __init__(self, *, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs '{package}', which is not installed. Run: {install}")


class BudgetInfeasible(MillifitError):
    """No plan meets the budget; the message explains the floor."""

    exit_code = 3
