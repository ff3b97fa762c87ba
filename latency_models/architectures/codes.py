"""Architectures written as ``name=value;…``: candidates of our own spaces, and transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from millifit.errors import DataError
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.architectures.transformers import DIMENSIONS, encode_transformers

_NAMED = 3


def encode_candidates(variables: Mapping[str, Sequence[object]], codes: Sequence[str]) -> Encoded:
    """Features of candidates of a space, given the options of each of its variables.

    With ``{"depth": (1, 2), "precision": ("fp32", "int8")}`` the code ``depth=2;precision=int8``
    becomes ``0 1 0 1`` in the group ``choice`` (one-hot), and the logarithm of 2 in the group
    ``size``, which has the variables whose options are all positive numbers.

    A candidate with an option that a variable does not have is not ``known``, and has no feature
    for it. Raises DataError for a code that lacks a variable of the space, or has another.
    """
    rows = [_candidate(code, variables) for code in codes]
    options = {name: tuple(map(str, each)) for name, each in variables.items()}
    pairs = [(name, option) for name, each in options.items() for option in each]
    choice = np.array([[row[name] == option for name, option in pairs] for row in rows], np.float64)
    sizes = [name for name, each in options.items() if all(_log(text) is not None for text in each)]
    size = np.array([[_log(row[name]) or 0.0 for name in sizes] for row in rows], np.float64)
    return Encoded.of(
        {
            "choice": (
                tuple(f"{name}={option}" for name, option in pairs),
                choice.reshape(len(rows), len(pairs)),
            ),
            "size": (tuple(sizes), size.reshape(len(rows), len(sizes))),
        },
        known=np.array(
            [all(row[name] in each for name, each in options.items()) for row in rows], np.bool_
        ),
    )


def encode_transformer_codes(codes: Sequence[str]) -> Encoded:
    """Features of ``encoder_embed_dim=640;…``, each of `DIMENSIONS` in any order.

    Other fields, such as the number of the architecture in its table, say nothing. Raises DataError
    for a dimension that is missing or no positive number.
    """
    columns: dict[str, list[float]] = {name: [] for name in DIMENSIONS}
    for code in codes:
        row = fields(code)
        for name, column in columns.items():
            value = _log(row.get(name, ""))
            if value is None:
                raise DataError(f"'{code}' needs '{name}=' with a positive number.")
            column.append(float(row[name]))
    return encode_transformers({name: np.array(column) for name, column in columns.items()})


def fields(code: str) -> dict[str, str]:
    """The values of a code by name; DataError where it is none, naming the field."""
    found: dict[str, str] = {}
    for place, field in enumerate(code.split(";"), start=1):
        name, equals, value = field.partition("=")
        if not (name and equals and value):
            raise DataError(
                f"'{code}' is no architecture: field {place}, '{field}', is not name=value."
            )
        if name in found:
            raise DataError(f"'{code}' is no architecture: field {place} gives '{name}' again.")
        found[name] = value
    return found


def _candidate(code: str, variables: Mapping[str, Sequence[object]]) -> dict[str, str]:
    row = fields(code)
    missing = [name for name in variables if name not in row]
    odd = [name for name in row if name not in variables]
    if missing or odd:
        wrong = [f"has no {_some(missing)}"] * bool(missing) + [
            f"has {_some(odd)}, which the space does not have"
        ] * bool(odd)
        raise DataError(f"'{code}' {' and '.join(wrong)}.")
    return row


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + (f" (and {more} more)" * (more > 0))


def _log(text: str) -> float | None:
    """The logarithm of a positive number; None for other texts."""
    try:
        value = float(text)
    except ValueError:
        return None
    return float(np.log(value)) if 0 < value < np.inf else None
