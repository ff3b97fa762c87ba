"""What the models are compared with: plain trees, additive ridges, and an affine correction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def extra_trees(x: Floats, y: Floats, asked: Floats, *, trees: int = 100) -> Floats:
    """Randomized trees on log seconds."""
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(trees, random_state=0, n_jobs=1).fit(x, np.log(y))
    predicted: Floats = np.exp(model.predict(asked))
    return predicted


def gradient_boosting(x: Floats, y: Floats, asked: Floats) -> Floats:
    """Boosted trees of depth 5 on log seconds."""
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(n_estimators=300, max_depth=5, random_state=0)
    predicted: Floats = np.exp(model.fit(x, np.log(y)).predict(asked))
    return predicted


def ridge(x: Floats, y: Floats, asked: Floats) -> Floats:
    """Ridge regression with alpha 1."""
    from sklearn.linear_model import Ridge

    predicted: Floats = Ridge(1.0).fit(x, y).predict(asked)
    return predicted


def affine(x: Floats, y: Floats) -> Floats:
    """``a x + b`` by least squares on the relative error, each fifth from the other four."""
    from sklearn.model_selection import KFold

    predicted = np.zeros(len(y))
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        columns = np.stack([x[train] / y[train], 1 / y[train]], 1)
        (a, b), *_ = np.linalg.lstsq(columns, np.ones(len(train)), rcond=None)
        predicted[test] = a * x[test] + b
    return predicted
