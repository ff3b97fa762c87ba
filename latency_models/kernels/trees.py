"""Extremely randomised trees as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from millifit.latency_models.archive import State
from millifit.latency_models.kernels.matern import Singles
from millifit.latency_models.prediction import Floats

_TREES = 64
_BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """Regression trees whose mean is the prediction; one entry per node.

    A node's left child is at `child`, the right one behind it. A leaf is its own child.
    """

    roots: npt.NDArray[np.int32]  # [trees]
    feature: npt.NDArray[np.int16]
    threshold: Singles
    child: npt.NDArray[np.int32]
    value: Singles
    depth: int

    def predict(self, x: Singles) -> Floats:
        """For features ``[n, features]``: ``[n]``."""
        made = np.empty(len(x))
        for start in range(0, len(x), _BLOCK):
            block = x[start : start + _BLOCK]
            flat, width = np.ascontiguousarray(block).ravel(), block.shape[1]
            offset = np.arange(len(block), dtype=np.int32)[:, None] * width
            node = np.broadcast_to(self.roots, (len(block), len(self.roots)))
            for _ in range(self.depth):
                seen = flat.take(offset + self.feature.take(node))
                node = self.child.take(node) + (seen > self.threshold.take(node))
            made[start : start + _BLOCK] = self.value.take(node).mean(axis=1)
        return made

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind="trees",
            facts={"depth": self.depth},
            arrays={
                "roots": self.roots,
                "feature": self.feature,
                "threshold": self.threshold,
                "child": self.child,
                "value": self.value,
            },
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The trees that `to_state` described."""
        return cls(
            roots=state.array("roots", ndim=1),
            feature=state.array("feature", ndim=1),
            threshold=state.array("threshold", ndim=1),
            child=state.array("child", ndim=1),
            value=state.array("value", ndim=1),
            depth=int(state.fact("depth")),
        )


def fit_trees(x: Singles, target: Floats, *, seed: int) -> Trees:
    """Learn ``target [n]`` from ``x [n, features]``."""
    from sklearn.ensemble import ExtraTreesRegressor

    fitted = ExtraTreesRegressor(n_estimators=_TREES, max_features=0.6, random_state=seed)
    fitted.fit(x, target)
    grown = [_arrays(estimator.tree_) for estimator in fitted.estimators_]
    roots = np.cumsum([0, *(len(tree[0]) for tree in grown)])
    feature, threshold, child, value = (
        np.concatenate([tree[part] for tree in grown]) for part in range(4)
    )
    child = child + np.repeat(roots[:-1], np.diff(roots))
    return Trees(
        roots=roots[:-1].astype(np.int32),
        feature=feature.astype(np.int16),
        threshold=threshold,
        child=child.astype(np.int32),
        value=value.astype(np.float32),
        depth=max(estimator.tree_.max_depth for estimator in fitted.estimators_),
    )


def _arrays(tree: object) -> tuple[npt.NDArray[np.generic], ...]:
    """Feature, threshold, child and value of a scikit-learn tree, children side by side."""
    left, right = np.asarray(tree.children_left), np.asarray(tree.children_right)  # type: ignore[attr-defined]
    feature, cut = np.asarray(tree.feature), np.asarray(tree.threshold)  # type: ignore[attr-defined]
    value = np.asarray(tree.value)[:, 0, 0]  # type: ignore[attr-defined]
    place = np.zeros(len(left), np.int64)
    child, made, level = np.zeros(len(left), np.int64), 1, np.array([0])
    while level.size:
        inner = level[left[level] >= 0]
        child[inner] = made + 2 * np.arange(len(inner))
        made += 2 * len(inner)
        place[left[inner]], place[right[inner]] = child[inner], child[inner] + 1
        level = np.concatenate([left[inner], right[inner]])
    leaf = left < 0
    child[leaf] = place[leaf]
    threshold = cut.astype(np.float32)
    # Rounded down: x <= cut and x <= threshold are then the same for float32 features.
    above = threshold > cut
    threshold[above] = np.nextafter(threshold[above], np.float32(-np.inf))
    threshold[leaf] = np.inf
    order = np.argsort(place)
    return np.maximum(feature, 0)[order], threshold[order], child[order], value[order]
