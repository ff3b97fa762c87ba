"""Plans applied from end to end."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import images, residual

from millifit.compress.apply import Training, apply_plan
from millifit.compress.evaluate import divergence, outputs
from millifit.compress.plan import Plan
from millifit.data import Dataset, Split
from millifit.errors import ModelError
from millifit.targets.target import Precision

LAYERS = ("conv1", "conv2", "dw3", "conv4", "fc")


def _plan(precision: Precision, **widths: int) -> Plan:
    return Plan(precisions=dict.fromkeys(LAYERS, precision), widths=widths)


def _dataset() -> Dataset:
    """Data whose held-out parts would break whatever looked at them."""
    poison = Split(x=np.full((4, 3, 16, 16), np.nan, dtype=np.float32), y=np.full(4, -1))
    x = images(320)
    y = outputs(residual(), x).argmax(axis=1)
    return Dataset(
        calibration=Split(x=x[:64], y=y[:64]),
        search=poison,
        validation=poison,
        train=Split(x=x[64:], y=None),
    )


def test_fp32_at_full_width_is_the_network_itself() -> None:
    """A plan that decides nothing changes nothing."""
    net = residual()
    made = apply_plan(net, _plan("fp32"), dataset=_dataset(), seed=0)
    assert made.network is net
    assert made.float_network is net
    assert made.calibration is None


def test_int8_stays_close() -> None:
    """All layers in int8 diverge little, and the held-out parts are not looked at."""
    net = residual()
    made = apply_plan(net, _plan("int8"), dataset=_dataset(), seed=0)
    assert made.float_network is net
    assert made.calibration in ("min_max", "percentile", "mse")
    assert [n.op for n in made.network.nodes].count("QuantizeLinear") == 8
    x = images(64, seed=9)
    assert divergence(outputs(net, x), outputs(made.network, x)) < 0.01


def test_narrower_and_int8() -> None:
    """Channels go first, training brings the answers back, and the result is quantized."""
    net, data = residual(), _dataset()
    plan = _plan("int8", conv1=6, conv4=12)
    bare = apply_plan(net, plan, dataset=data, training=Training(epochs=0), seed=0)
    trained = apply_plan(net, plan, dataset=data, training=Training(epochs=10), seed=0)
    assert trained.float_network.constants["conv4.w"].shape == (12, 6, 1, 1)
    assert trained.network.constants["fc/weight_quantized"].shape == (5, 48)
    x = images(128, seed=9)
    reference = outputs(net, x)
    gap = divergence(reference, outputs(trained.network, x))
    assert gap < 0.7 * divergence(reference, outputs(bare.network, x))


def test_same_seed_same_bytes() -> None:
    """Applying a plan twice gives the same integers."""
    plan = _plan("int8", conv4=8)
    first, second = (
        apply_plan(residual(), plan, dataset=_dataset(), training=Training(epochs=1), seed=7)
        for _ in range(2)
    )
    assert set(first.network.constants) == set(second.network.constants)
    for name, value in first.network.constants.items():
        np.testing.assert_array_equal(value, second.network.constants[name])


def test_plans_of_other_networks_are_refused() -> None:
    """An unknown group is named."""
    with pytest.raises(ModelError, match="no channel group 'stem'"):
        apply_plan(residual(), _plan("int8", stem=4), dataset=_dataset(), seed=0)
