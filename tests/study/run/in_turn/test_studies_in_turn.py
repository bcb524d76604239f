"""Studies in turn on a real Ray: what overlaps, what is written, and what an interrupt or a refused one does."""

import os
import signal

import pytest
from comparing import assert_each_trial_once, assert_same

from ddcal.errors import BadInput
from ddcal.study import load_study, run_study
from ddcal.study.record.lock import LOCK
from ddcal.study.run.in_turn.studies import alike
from ddcal.study.run.runner import Hooks, run_studies

LONG, ENDLESS = 2000, 200_000
"""Epochs of a trial that is still trained when the next study has begun, and of one that is until it is stopped."""


def of_epochs(tiny_study, name, *epochs, **sections):
    """A study with a trial of each number of epochs, two at a time."""
    study = tiny_study(
        space={"train.epochs": {"choice": sorted(set(epochs))}},
        search={"trials": len(epochs), "concurrency": 2, "enqueue": [{"train.epochs": one} for one in epochs]},
        tracking={},
        **sections,
    )
    return study.model_copy(update={"name": name})


@pytest.mark.usefixtures("ray_session")
def test_one_begins_while_the_last_trial_of_another_is_trained(tiny_study, tmp_path):
    """Their trials, MLflow runs and winners are those of studies that run alone."""
    studies = [of_epochs(tiny_study, name, 2, last) for name, last in (("one", LONG), ("two", 3), ("three", 4))]
    heard, unfinished = [], []

    def hooks(name):
        def start(begun):
            heard.append(f"{name} starts")
            if name == "two":
                unfinished.append(sum(one.outcome is None for one in load_study(tmp_path / "turns" / "one").records))

        return Hooks(on_start=start, on_closed=lambda results: heard.append(f"{results.study.name} ends"))

    run_studies([(study, hooks(study.name)) for study in studies], tmp_path / "turns")
    assert unfinished == [1]
    ends = [one for one in heard if "ends" in one]
    assert heard.index("two starts") < heard.index("one ends")
    assert sorted(ends) == ["one ends", "three ends", "two ends"]
    workers = set()
    for study in studies:
        results = load_study(tmp_path / "turns" / study.name)
        assert results.ending is not None and not results.interrupted and not (results.directory / LOCK).exists()
        assert_each_trial_once(results.directory)
        assert_same(results, run_study(study, output=tmp_path / "alone", debug=True))
        workers |= {one.name for one in results.directory.glob("ray-*")}
    assert workers == {"ray-1"} and not (tmp_path / "turns" / "two" / "ray-1").exists(), "one Tune for all"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ctrl_c_keeps_all_that_are_open(tiny_study, tmp_path):
    studies = [of_epochs(tiny_study, "one", 2, ENDLESS), of_epochs(tiny_study, "two", 3, ENDLESS)]

    def press(trial):
        if trial.trial_key.startswith("two"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_studies([(study, Hooks(on_finished=press)) for study in studies], tmp_path)
    for study in studies:
        results = load_study(tmp_path / study.name)
        assert results.interrupted and results.records[0].outcome == "complete"
        assert [one.outcome for one in results.records[1:]] in ([None], []) and not (results.directory / LOCK).exists()
        assert not (results.directory / "stop").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_where_the_next_is_refused_the_others_come_to_their_end(tiny_study, tmp_path, caplog):
    first, last = of_epochs(tiny_study, "one", 2, LONG), of_epochs(tiny_study, "three", 2)
    missing = of_epochs(tiny_study, "two", 2, base={"data.name": "npz", "data.root": str(tmp_path / "none.npz")})
    with pytest.raises(BadInput, match=r"none\.npz"):
        run_studies([(study, Hooks()) for study in (first, missing, last)], tmp_path / "runs")
    assert "the next study is refused" in caplog.text
    results = load_study(tmp_path / "runs" / "one")
    assert [trial.outcome for trial in results.records] == ["complete"] * 2 and not results.interrupted
    assert not (tmp_path / "runs" / "two" / "ledger.jsonl").exists() and not (tmp_path / "runs" / "three").exists()


@pytest.mark.usefixtures("ray_session")
def test_a_study_whose_listener_raises_as_it_begins_is_closed(tiny_study, tmp_path):
    def start(begun):
        if begun.where != "starting":
            raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError):
        run_study(of_epochs(tiny_study, "one", 2), output=tmp_path, hooks=Hooks(on_start=start))
    results = load_study(tmp_path / "one")
    assert results.interrupted and not (results.directory / LOCK).exists()


@pytest.mark.parametrize(
    ("sections", "same"),
    [
        ({"name": "other"}, True),
        ({"objectives": {"val/ece": "min"}}, True),
        ({"trial": "distill"}, False),
        ({"search": {"trials": 2, "concurrency": 2}}, False),
        ({"resources": {"threads": 2}}, False),
        ({"storage": {"access": "group"}}, False),
    ],
)
def test_which_have_the_same_workers(tiny_study, sections, same):
    one = tiny_study(search={"trials": 2})
    other = tiny_study(**{"search": {"trials": 2}, **sections})
    assert alike(one, one) and alike(other, other) and alike(one, other) == same and alike(other, one) == same


@pytest.mark.parametrize(
    "sections",
    [
        {"scheduler": {"name": "moasha"}},
        {"stop": {"before_seconds": 60.0}},
        {"stop": {"hours": 1.0}},
        {"resources": {"gpu": 0.5}},
        {"resources": {"gpu": "auto"}},
    ],
)
def test_which_are_alone(tiny_study, sections):
    study = tiny_study(**sections)
    assert not alike(study, study) and not alike(tiny_study(), study)
