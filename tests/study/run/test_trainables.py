"""The trainables driven by hand, as a notebook would: no Ray runtime is started."""

import math

import pytest

from ddcal.config.metrics import VAL_METRICS
from ddcal.study import DDNNTrainable, DistillTrainable


@pytest.fixture
def make_config(tiny_study, tmp_path):
    """make_config({dotted trial name: value}, **assignment) -> a Tune config."""

    def make(values=None, **settings):
        from ddcal.config import trial_from

        trial = trial_from(tiny_study().base, values or {}).model_dump(mode="json")
        return {"trial": trial, "store": str(tmp_path / "store"), **settings}

    return make


def results_of(trainable):
    results = [trainable.train()]
    while not results[-1]["done"]:
        results.append(trainable.train())
    return results


def test_reports_come_at_fixed_progress_and_hold_every_search_metric(make_config):
    trainable = DDNNTrainable(config=make_config(), storage=None)
    results = results_of(trainable)
    trainable.stop()
    assert [result["progress"] for result in results] == [0.125, 0.25, 0.375, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert [result["fidelity"] for result in results] == [round(1000 * result["progress"]) for result in results]
    for result in results:
        assert all(math.isfinite(result[name]) for name in VAL_METRICS)
        assert result["complete"] == (result is results[-1])
        assert any(name.startswith("test/") for point in result["points"] for name in point) == result["complete"]
    (record,) = results[-1]["records"]
    assert record["outcome"] == "complete" and record["metrics"]["test/ece"] > 0
    assert {name: results[-1][name] for name in VAL_METRICS}.items() <= record["metrics"].items()


def test_an_actor_takes_the_next_trial(make_config):
    trainable = DDNNTrainable(config=make_config(), storage=None)
    first = results_of(trainable)[-1]["records"][0]
    assert trainable.reset(make_config({"calibrate.method": "ts_val"})) is True
    second = results_of(trainable)[-1]["records"][0]
    trainable.stop()
    assert second["outcome"] == "complete" and second["cache_hits"] == ["distill", "train"]
    assert second["keys"]["train"] == first["keys"]["train"] != second["keys"]["calibrate"]
    assert second["metrics"]["test/ts_val/nll"] == second["metrics"]["test/nll"]


def test_an_actor_outlives_a_trial_that_raises(make_config):
    trainable = DDNNTrainable(config=make_config({"distill.ipc": 500}), storage=None)
    (result,) = results_of(trainable)
    (record,) = result["records"]
    assert record["outcome"] == "failed" and "500" in record["error"]
    assert all(math.isnan(result[name]) for name in VAL_METRICS), "Tune needs every metric in every result"
    assert trainable.reset(make_config()) is True
    assert results_of(trainable)[-1]["records"][0]["outcome"] == "complete"
    trainable.stop()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 2, 6, 9])
def test_a_checkpoint_goes_on_to_the_same_result(make_config, tmp_path, steps):
    whole = DDNNTrainable(config=make_config(store=str(tmp_path / "whole")), storage=None)
    expected = results_of(whole)
    whole.stop()

    first = DDNNTrainable(config=make_config(), storage=None)
    seen = [first.train() for _ in range(steps)]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    first.save_checkpoint(str(folder))
    first.stop()
    second = DDNNTrainable(config=make_config(), storage=None)
    second.load_checkpoint(str(folder))
    if steps < len(expected):
        seen += results_of(second)
        assert seen[-1]["records"][0]["metrics"] == expected[-1]["records"][0]["metrics"]
    second.stop()
    assert [result["progress"] for result in seen] == [result["progress"] for result in expected]
    assert [result["val/nll"] for result in seen] == [result["val/nll"] for result in expected]


def test_a_distill_trainable_stops_at_the_distilled_set(make_config):
    trainable = DistillTrainable(config=make_config(), storage=None)
    results = results_of(trainable)
    trainable.stop()
    assert [result["progress"] for result in results] == [0.25, 0.5, 0.75, 1.0]
    (record,) = results[-1]["records"]
    assert list(record["keys"]) == ["distill"] and set(record["metrics"]) == set(VAL_METRICS)


@pytest.mark.parametrize(
    ("resources", "bundle"),
    [
        (None, {"CPU": 1.0}),
        ({"cpu": 2}, {"CPU": 2.0}),
        ({"cpu": 1, "gpu": 0.25}, {"CPU": 1.0, "GPU": 0.25}),
        ({"cpu": 0.5, "gpu": 0.0}, {"CPU": 0.5}),
        ({"cpu": 4, "gpu": 2}, {"CPU": 4.0, "GPU": 2.0}),
    ],
)
@pytest.mark.parametrize("trainable", [DDNNTrainable, DistillTrainable])
def test_fractions_are_asked_for_as_they_are(trainable, resources, bundle):
    request = trainable.default_resource_request({"resources": resources} if resources else {})
    assert request.bundles == [bundle]
