"""Codes of names and values become features, or errors that name the field."""

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.architectures.codes import (
    encode_candidates,
    encode_transformer_codes,
    fields,
)
from millifit.latency_models.architectures.transformers import DIMENSIONS, encode_transformers

VARIABLES = {"depth": (1, 2), "precision": ("fp32", "int8"), "width": ("0.5", "1.0")}


def test_candidates_are_one_hot_with_logarithms_of_sizes() -> None:
    """In the order of the variables, whatever the order of the code."""
    found = encode_candidates(VARIABLES, ["depth=2;precision=int8;width=0.5"])
    assert found.group("choice").tolist() == [[0, 1, 0, 1, 1, 0]]
    assert found.group("size") == pytest.approx(np.log([[2, 0.5]]))
    assert found.names[:3] == ("choice depth=1", "choice depth=2", "choice precision=fp32")
    again = encode_candidates(VARIABLES, ["width=0.5;precision=int8;depth=2"])
    assert (again.x == found.x).all()


def test_an_option_of_another_space_is_not_known() -> None:
    """It has no feature, and says so; the others of the batch do not suffer."""
    found = encode_candidates(
        VARIABLES, ["depth=1;precision=fp16;width=1.0", "depth=1;precision=fp32;width=1.0"]
    )
    assert found.known.tolist() == [False, True]
    assert found.group("choice")[0].tolist() == [1, 0, 0, 0, 0, 1]
    assert len(encode_candidates(VARIABLES, [])) == 0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("depth=1;precision=fp32", "has no 'width'"),
        ("depth=1;precision=fp32;width=1.0;kernel=3", "has 'kernel', which the space does not"),
        ("depth=1;precision", "field 2, 'precision', is not name=value"),
        ("depth=1;depth=2", "field 2 gives 'depth' again"),
        ("", "field 1"),
    ],
)
def test_a_code_that_is_none_names_its_field(code: str, said: str) -> None:
    """With its place in the code."""
    with pytest.raises(DataError, match=said):
        encode_candidates(VARIABLES, [code])


def test_transformers_are_read_from_their_codes() -> None:
    """The same features as from the columns of their table; their number is not one."""
    values = {name: [float(10 + place)] for place, name in enumerate(DIMENSIONS)}
    code = "arch=7;" + ";".join(f"{name}={value[0]:g}" for name, value in values.items())
    assert fields(code)["arch"] == "7"
    assert (encode_transformer_codes([code]).x == encode_transformers(values).x).all()
    with pytest.raises(DataError, match="needs 'encoder_embed_dim=' with a positive number"):
        encode_transformer_codes([code.replace("embed_dim=10", "embed_dim=none", 1)])
