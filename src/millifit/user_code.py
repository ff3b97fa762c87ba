"""Functions of the user's, named ``module:function`` on the command line and in recipes."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from millifit.errors import MillifitError

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def names_function(spec: str) -> bool:
    """Whether `spec` reads ``module:function``."""
    return _SPEC.fullmatch(spec) is not None


def call_function(spec: str, *, error: type[MillifitError]) -> object:
    """Import ``module:function``, from the current directory too, and call it without arguments.

    Whatever goes wrong in the user's code is raised as `error`, with its cause.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return _function(spec, error)()
    except MillifitError:
        raise
    except Exception as failed:
        raise error(
            f"'{spec}' failed: {type(failed).__name__}: {failed}. "
            f"Modules are looked for in {here} and in the installed packages."
        ) from failed
    finally:
        sys.path.remove(here)


def _function(spec: str, error: type[MillifitError]) -> Callable[[], object]:
    module_name, _, name = spec.partition(":")
    function: object = getattr(importlib.import_module(module_name), name, None)
    if not callable(function):
        raise error(f"'{spec}': module '{module_name}' has no function '{name}'.")
    return function
