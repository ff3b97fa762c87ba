"""Trees as arrays, against scikit-learn's own prediction."""

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from millifit.latency_models.kernels.trees import Trees, fit_trees


def test_arrays_predict_what_the_forest_predicts() -> None:
    """Also for values that lie on thresholds: features are whole numbers here."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, (300, 5)).astype(np.float32)
    y = x[:, 0] * x[:, 1] - x[:, 2] + rng.standard_normal(300)
    asked = rng.integers(-1, 8, (700, 5)).astype(np.float32)
    forest = ExtraTreesRegressor(n_estimators=32, max_features=0.6, random_state=4).fit(x, y)
    trees = fit_trees(x, y, seed=4)
    assert np.allclose(trees.predict(asked), forest.predict(asked), rtol=1e-5, atol=1e-5)
    again = Trees.from_state(trees.to_state())
    assert np.array_equal(again.predict(asked), trees.predict(asked))


def test_a_tree_of_one_leaf() -> None:
    """Where all targets are equal there is nothing to split."""
    trees = fit_trees(np.eye(3, dtype=np.float32), np.full(3, 2.5), seed=0)
    assert trees.predict(np.zeros((2, 3), np.float32)).tolist() == [2.5, 2.5]
