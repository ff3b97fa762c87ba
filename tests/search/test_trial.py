"""Trials survive JSON, and plans have keys."""

import json

from millifit.compress.plan import Plan
from millifit.latency_models.prediction import Prediction
from millifit.search.trial import Trial, plan_key
from millifit.targets.timing import Samples


def trial(**changes) -> Trial:
    fields = {
        "plan": Plan(precisions={"a": "int8", "b": "fp32"}, widths={"g": 16}),
        "predicted": Prediction(
            median_s=1e-3, low_s=0.9e-3, high_s=1.2e-3, origin="predicted", extrapolated=True
        ),
        "measured": Samples(run_s=(1.1e-3, 1.05e-3, 1.2e-3)),
        "accuracy": 0.1 + 0.2,
        "size_bytes": 12345,
        "feasible": True,
        "note": "first",
    }
    return Trial(**{**fields, **changes})


def test_json_round_trip_is_exact():
    """Every field comes back as it was, down to the last bit, with and without a measurement."""
    for one in (trial(), trial(measured=None, accuracy=None, feasible=False, note="no compiler")):
        assert Trial.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_plan_key_depends_on_content_alone():
    """Order does not matter to a plan's key, any decision does."""
    plan = Plan(precisions={"a": "int8", "b": "fp32"}, widths={"g": 16})
    same = Plan(precisions={"b": "fp32", "a": "int8"}, widths={"g": 16})
    others = [
        Plan(precisions={"a": "int8", "b": "int8"}, widths={"g": 16}),
        Plan(precisions={"a": "int8", "b": "fp32"}, widths={"g": 32}),
        Plan(precisions={"a": "int8", "b": "fp32"}),
    ]
    assert plan_key(plan) == plan_key(same)
    assert len({plan_key(p) for p in (plan, *others)}) == 4
