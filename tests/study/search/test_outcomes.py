"""What a study makes of a trial's end."""

import math

import pytest

from ddcal.study.search.outcomes import judge

GOOD = {"val/ece": 0.1, "val/accuracy": 0.8, "val/nll": 1.0}


@pytest.mark.parametrize(
    ("outcome", "changes", "expected"),
    [
        ("complete", {}, ("complete", None)),
        ("complete", {"val/accuracy": 0.5}, ("complete", None)),
        ("complete", {"val/accuracy": 0.25}, ("infeasible", "violates val/accuracy >= 0.5 (is 0.2500)")),
        ("complete", {"val/ece": math.nan}, ("failed", "no finite val/ece to select on")),
        (
            "complete",
            {"val/accuracy": math.inf, "val/ece": None},
            ("failed", "no finite val/accuracy, val/ece to select on"),
        ),
        ("pruned", {"val/ece": math.nan, "val/accuracy": 0.1}, ("pruned", None)),
        ("out_of_memory", {"val/ece": None}, ("out_of_memory", None)),
    ],
)
def test_the_outcome_of_a_trial(outcome, changes, expected, tiny_study):
    study = tiny_study(constraints={"val/accuracy": ">= 0.5"})
    metrics = {name: value for name, value in (GOOD | changes).items() if value is not None}
    assert judge(study, outcome, metrics) == expected
