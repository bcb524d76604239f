"""Why a study ends: the plateau's counting, and the sentence in the summary."""

import json

import pytest

from ddcal.study import load_study, run_study
from ddcal.study.run.runner import Hooks, resume_study
from ddcal.study.search.stopping import Plateau

ECE, BOTH = {"val/ece": "min"}, {"val/ece": "min", "val/accuracy": "max"}


@pytest.mark.parametrize(
    ("objectives", "trials", "since"),
    [
        (ECE, [], 0),
        (ECE, [("failed", None), ("infeasible", 0.1)], 0),
        (ECE, [("complete", 0.5)], 0),
        (ECE, [("complete", 0.5), ("complete", 0.5)], 1),
        (ECE, [("complete", 0.5), ("pruned", None), ("failed", None), ("infeasible", 0.1)], 3),
        (ECE, [("complete", 0.5), ("complete", 0.6), ("complete", 0.4)], 0),
        (ECE, [("complete", 0.5), ("complete", None), ("complete", float("nan"))], 2),
        ({"val/accuracy": "max"}, [("complete", 0.5), ("complete", 0.4), ("complete", 0.6), ("complete", 0.6)], 1),
        (BOTH, [("complete", 0.5, 0.5), ("complete", 0.6, 0.6)], 0),
        (BOTH, [("complete", 0.5, 0.5), ("complete", 0.6, 0.5)], 1),
        (BOTH, [("complete", 0.5, 0.5), ("complete", 0.5, 0.5)], 1),
        (BOTH, [("complete", 0.5, 0.5), ("complete", 0.6, 0.6), ("complete", 0.55, 0.55), ("complete", 0.58, 0.52)], 1),
        (BOTH, [("complete", 0.5, 0.5), ("complete", 0.4, 0.6), ("complete", 0.45, 0.55)], 1),
    ],
)
def test_trials_since_the_last_improvement(tiny_study, objectives, trials, since):
    plateau = Plateau(tiny_study(objectives=objectives, stop={"plateau": 1}))
    for outcome, *values in trials:
        plateau.add(outcome, dict(zip(objectives, values, strict=False)))
    assert plateau.since == since


def test_a_plateau_is_reached_for_good(tiny_study):
    """Trials that run by then may improve something: the executors have been told that no more will come."""
    plateau = Plateau(tiny_study(objectives=ECE, stop={"plateau": 2}))
    reached = []
    for value in (0.5, 0.4, 0.4, 0.3, 0.3, 0.3, 0.1):
        plateau.add("complete", {"val/ece": value})
        reached.append(plateau.reached)
    assert reached == [False] * 5 + [True] * 2


def test_without_a_plateau_nothing_is_reached(tiny_study):
    plateau = Plateau(tiny_study(objectives=ECE))
    for _ in range(100):
        plateau.add("complete", {"val/ece": 0.5})
    assert plateau.since == 99 and not plateau.reached


CALIBRATIONS = {"calibrate.mask.ratio": {"choice": [0.1, 0.2, 0.3, 0.4]}}


def study_of(tiny_study, **sections):
    """Trials whose objective is the same whatever the calibration: nothing improves after the first."""
    return tiny_study(space=CALIBRATIONS, objectives={"val/accuracy": "max"}, **sections)


@pytest.mark.parametrize(
    ("sections", "trials", "ending"),
    [
        ({"search": {"trials": 3}}, 3, "search.trials: all 3 were tried"),
        ({"search": {"trials": 9}, "stop": {"plateau": 2}}, 3, "stop.plateau: nothing improved over 2 "),
        ({"search": {"trials": 9, "searcher": "grid"}}, 4, "every point of the space was tried"),
        ({"search": {"trials": 9}, "stop": {"hours": 1e-9}}, 0, "stop.hours: 1e-09 hours are over"),
    ],
)
def test_the_summary_says_why_a_study_ended(tiny_study, tmp_path, sections, trials, ending):
    results = run_study(study_of(tiny_study, **sections), output=tmp_path, debug=True)
    assert len(results.records) == trials
    assert json.loads((tmp_path / "tiny" / "summary.json").read_text())["ending"].startswith(ending)


def test_a_resumed_study_ends_at_the_same_trial(tiny_study, tmp_path):
    def stop_after(count):
        finished = []

        def stop(trial):
            finished.append(trial)
            if len(finished) == count:
                raise KeyboardInterrupt

        return Hooks(on_finished=stop)

    study = study_of(tiny_study, search={"trials": 9}, stop={"plateau": 3})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, debug=True, hooks=stop_after(2))
    assert load_study(tmp_path / "tiny").summary()["ending"] is None
    with pytest.raises(KeyboardInterrupt):
        resume_study(tmp_path / "tiny", debug=True, hooks=stop_after(1))
    results = resume_study(tmp_path / "tiny", debug=True)
    assert len(results.records) == 4 and results.ending.startswith("stop.plateau")
    assert len(resume_study(tmp_path / "tiny", debug=True).records) == 4, "it stays ended"
