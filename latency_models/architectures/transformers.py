"""Transformers of HAT's space (arXiv 2005.14187): an encoder and a decoder with elastic sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.prediction import Floats

DIMENSIONS = (
    "encoder_embed_dim",
    "encoder_layer_num",
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
    "decoder_embed_dim",
    "decoder_layer_num",
    "decoder_ffn_embed_dim_avg",
    "decoder_self_attention_heads_avg",
    "decoder_ende_attention_heads_avg",
    "decoder_arbitrary_ende_attn_avg",
)

_MILLION = 1e6
_THOUSAND = 1e3


def encode_transformers(dimensions: Mapping[str, Sequence[float] | npt.ArrayLike]) -> Encoded:
    """Features of transformers, given a column ``[n]`` for each of `DIMENSIONS`.

    Groups: ``encoder`` (7) and ``decoder`` (13), each the widths, and the layers alone and times
    what a layer does: projections of the attention, its heads, the feed-forward network, and in
    the decoder the attention to the encoder, which grows with the encoder layers attended. Means
    over layers stand for the layers. Raises DataError for a missing column, columns of different
    lengths, or values that are not positive.
    """
    columns = []
    for name in DIMENSIONS:
        if name not in dimensions:
            raise DataError(f"transformers need a column '{name}'; see DIMENSIONS.")
        columns.append(np.asarray(dimensions[name], np.float64))
    if len({len(column) for column in columns}) != 1:
        raise DataError("the columns of transformers differ in length.")
    values = np.column_stack(columns)
    if not (np.isfinite(values) & (values > 0)).all():
        row = int(np.flatnonzero(~(values > 0).all(axis=1))[0])
        raise DataError(f"transformer {row} has a dimension that is not positive: {values[row]}.")
    return Encoded.of(
        {"encoder": _encoder(*columns[:4]), "decoder": _decoder(columns[0], *columns[4:])},
        known=np.ones(len(values), bool),
    )


_Group = tuple[tuple[str, ...], Floats]


def _encoder(width: Floats, layers: Floats, hidden: Floats, heads: Floats) -> _Group:
    features = {
        "width": width,
        "layers": layers,
        "projections": layers * width * width / _MILLION,
        "feed-forward": layers * width * hidden / _MILLION,
        "heads": layers * heads,
        "heads of width": layers * heads * width / _THOUSAND,
        "layers of width": layers * width / _THOUSAND,
    }
    return tuple(features), np.column_stack(list(features.values()))


def _decoder(
    source: Floats,
    width: Floats,
    layers: Floats,
    hidden: Floats,
    heads: Floats,
    cross_heads: Floats,
    attended: Floats,
) -> _Group:
    """`source` is the encoder's width: keys and values of the cross-attention are made of it."""
    features = {
        "width": width,
        "layers": layers,
        "projections": layers * width * width / _MILLION,
        "feed-forward": layers * width * hidden / _MILLION,
        "heads": layers * heads,
        "heads of width": layers * heads * width / _THOUSAND,
        "layers of width": layers * width / _THOUSAND,
        "cross heads": layers * cross_heads,
        "cross heads of width": layers * cross_heads * width / _THOUSAND,
        "cross heads of source": layers * cross_heads * source / _THOUSAND,
        "attended": layers * attended,
        "attended heads": layers * attended * cross_heads,
        "attended source": layers * attended * cross_heads * source / _THOUSAND,
    }
    return tuple(features), np.column_stack(list(features.values()))
