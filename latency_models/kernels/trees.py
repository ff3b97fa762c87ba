"""Extremely randomised trees as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from millifit.latency_models.archive import State
from millifit.latency_models.kernels.matern import Singles
from millifit.latency_models.prediction import Floats

_TREES = 32
_BLOCK = 512
_ALL_MOVE = 8  # levels down to which hardly any row has reached its leaf
_LEVELS = 3  # from one search for rows that have to the next


Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """Regression trees whose mean is the prediction; one entry per node.

    A node's left child is at `child`, the right one behind it. A leaf is its own child.
    """

    roots: Indices  # [trees]
    feature: Indices
    threshold: Singles
    child: Indices
    value: Singles
    depth: int

    def predict(self, x: Singles) -> Floats:
        """For features ``[n, features]``: ``[n]``."""
        made = np.empty(len(x))
        for start in range(0, len(x), _BLOCK):
            block = x[start : start + _BLOCK]
            leaves = self.value.take(self._leaves(block)).reshape(len(block), len(self.roots))
            made[start : start + _BLOCK] = leaves.mean(axis=1)
        return made

    def _leaves(self, x: Singles) -> Indices:
        """The leaf of each row in each tree: ``[n * trees]``. Half of all paths are much shorter
        than the longest one, so those that have ended are left out now and then.
        """
        flat = np.ascontiguousarray(x).ravel()
        row = np.repeat(np.arange(len(x)) * x.shape[1], len(self.roots))
        node = np.tile(self.roots, len(x))
        leaves, moving = node, np.arange(len(node))
        for level in range(self.depth):
            child = self.child.take(node)
            if level >= _ALL_MOVE and (level - _ALL_MOVE) % _LEVELS == 0:
                leaves[moving] = node
                inner = np.flatnonzero(child != node)
                moving, node = moving.take(inner), node.take(inner)
                row, child = row.take(inner), child.take(inner)
            seen = flat.take(row + self.feature.take(node))
            node = child + (seen > self.threshold.take(node))
        leaves[moving] = node
        return leaves

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind="trees",
            facts={"depth": self.depth},
            arrays={
                "roots": self.roots.astype(np.int32),
                "feature": self.feature.astype(np.int16),
                "threshold": self.threshold,
                "child": self.child.astype(np.int32),
                "value": self.value,
            },
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The trees that `to_state` described."""
        return cls(
            roots=state.array("roots", ndim=1).astype(np.intp),
            feature=state.array("feature", ndim=1).astype(np.intp),
            threshold=state.array("threshold", ndim=1),
            child=state.array("child", ndim=1).astype(np.intp),
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
        roots=roots[:-1].astype(np.intp),
        feature=feature.astype(np.intp),
        threshold=threshold,
        child=child.astype(np.intp),
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
