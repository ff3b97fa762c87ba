"""Transformers for text and images, in the operators that exporters write at fixed shapes.

Attention has separate projections, one per role, and a matrix product on either side of a softmax.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.networks.graph import Graph

_OPSET = 20  # the first with Gelu
_NORM_EPSILON = 1e-6


def bert_mini(seed: int) -> onnx.ModelProto:
    """BERT-mini: 4 layers of width 256 (Turc et al., arXiv 1908.08962), 128 tokens.

    The input holds token ids, none of them padding; the output is the pooled state ``(1, 256)``.
    """
    tokens, hidden, vocabulary = 128, 256, 30522
    g = Graph("bert_mini", (1, tokens), seed=seed, opset=_OPSET)
    words = g.normal((vocabulary, hidden), 1.0)
    x = g.add("Gather", words, "input", shape=(1, tokens, hidden), axis=0)
    position = g.constant(np.arange(tokens, dtype=np.int64)[None])
    places = g.normal((512, hidden), 0.5)
    x = g.join(x, g.add("Gather", places, position, shape=(1, tokens, hidden), axis=0))
    segment = g.constant(np.zeros((1, tokens), np.int64))
    segments = g.normal((2, hidden), 0.5)
    x = g.join(x, g.add("Gather", segments, segment, shape=(1, tokens, hidden), axis=0))
    x = _normalized(g, x)
    for _ in range(4):
        x = _normalized(g, g.join(x, _attention(g, x, heads=4)))
        x = _normalized(g, g.join(x, _perceptron(g, x, 1024)))
    first = g.add("Gather", x, g.constant(np.array(0, np.int64)), shape=(1, hidden), axis=1)
    pooled = g.dense(first, hidden)
    return g.model(g.add("Tanh", pooled, shape=(1, hidden)), element=TensorProto.INT64)


def vit_tiny(seed: int) -> onnx.ModelProto:
    """ViT-tiny, patches of 16 in 224x224 (Dosovitskiy et al., arXiv 2010.11929; the size is
    DeiT-Ti's, Touvron et al., arXiv 2012.12877).
    """
    width, patches = 192, 196
    g = Graph("vit_tiny", (1, 3, 224, 224), seed=seed, opset=_OPSET)
    x = g.conv("input", width, 16, stride=16, padding=0)
    flat = g.constant(np.array([1, width, patches], np.int64))
    x = g.add("Reshape", x, flat, shape=(1, width, patches))
    x = g.add("Transpose", x, shape=(1, patches, width), perm=[0, 2, 1])
    token = g.normal((1, 1, width), 1.0)
    x = g.add("Concat", token, x, shape=(1, patches + 1, width), axis=1)
    x = g.join(x, g.normal((1, patches + 1, width), 0.5))
    for _ in range(12):
        x = g.join(x, _attention(g, _normalized(g, x), heads=3))
        x = g.join(x, _perceptron(g, _normalized(g, x), 4 * width))
    x = _normalized(g, x)
    first = g.add("Gather", x, g.constant(np.array(0, np.int64)), shape=(1, width), axis=1)
    return g.model(g.dense(first, 1000))


def _normalized(g: Graph, x: str) -> str:
    width = g.shapes[x][-1]
    gain = g.constant((1 + g.values((width,), 0.1)).astype(np.float32))
    return g.add(
        "LayerNormalization", x, gain, g.normal((width,), 0.1), shape=g.shapes[x], axis=-1,
        epsilon=_NORM_EPSILON,
    )  # fmt: skip


def _linear(g: Graph, x: str, units: int, gain: float = 1.0) -> str:
    """``x @ W + b`` on the last axis."""
    *outer, features = g.shapes[x]
    weight = g.normal((features, units), gain / math.sqrt(features))
    y = g.add("MatMul", x, weight, shape=(*outer, units))
    return g.add("Add", y, g.normal((units,), 0.05), shape=(*outer, units))


def _perceptron(g: Graph, x: str, wide: int) -> str:
    y = _linear(g, x, wide, 1.5)
    return _linear(g, g.add("Gelu", y, shape=g.shapes[y]), g.shapes[x][-1])


def _attention(g: Graph, x: str, *, heads: int) -> str:
    """Attention of a sequence ``(1, L, C)`` to itself."""
    _, length, width = g.shapes[x]
    each = width // heads

    def split(role: str, perm: list[int]) -> str:
        parts = g.constant(np.array([1, length, heads, each], np.int64))
        y = g.add("Reshape", role, parts, shape=(1, length, heads, each))
        held = g.shapes[y]
        return g.add("Transpose", y, shape=tuple(held[axis] for axis in perm), perm=perm)

    query = split(_linear(g, x, width), [0, 2, 1, 3])
    key = split(_linear(g, x, width), [0, 2, 3, 1])
    value = split(_linear(g, x, width), [0, 2, 1, 3])
    scores = g.add("MatMul", query, key, shape=(1, heads, length, length))
    root = g.constant(np.array(math.sqrt(each), np.float32))
    scores = g.add("Div", scores, root, shape=g.shapes[scores])
    weights = g.add("Softmax", scores, shape=g.shapes[scores], axis=-1)
    mixed = g.add("MatMul", weights, value, shape=(1, heads, length, each))
    mixed = g.add("Transpose", mixed, shape=(1, length, heads, each), perm=[0, 2, 1, 3])
    whole = g.constant(np.array([1, length, width], np.int64))
    joined = g.add("Reshape", mixed, whole, shape=(1, length, width))
    return _linear(g, joined, width)
