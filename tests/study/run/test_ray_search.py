"""What Tune keeps of a trial that has ended, and what becomes of one whose worker is lost."""

import errno
import os
from typing import ClassVar

import pytest
from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.experiment import Trial

from ddcal.errors import StoreError
from ddcal.study.run.in_turn.relay import Relay
from ddcal.study.run.ray_search import DriverSearcher, EndedTrialsForgotten, LostWorkers, why_ended
from ddcal.study.run.worker import Assignment, LostProcess


def test_of_an_ended_trial_tune_keeps_no_results():
    trial = Trial("ddnn", stub=True)
    trial.update_last_result({"val/ece": 0.1, "points": [{"progress": 0.5}] * 9, "trial_id": trial.trial_id})
    assert trial.metric_analysis
    EndedTrialsForgotten().on_trial_complete(iteration=1, trials=[trial], trial=trial)
    assert trial.last_result == {"done": True, "trial_id": trial.trial_id}
    assert not trial.metric_analysis and "points" not in trial.run_metadata.get_json_state()


class Lost:
    """A trial of Tune's whose worker has raised ``error``."""

    trial_id = "a"
    config: ClassVar = {"trial_key": "tiny-0000"}

    def __init__(self, folder, error):
        self.pickled_error_file = str(folder / "error.pkl")
        with open(self.pickled_error_file, "wb") as stream:
            cloudpickle.dump(RayTaskError("step", "traceback", error), stream)


class Driver:
    """Hands out one trial and keeps what is recorded of it."""

    running, exhausted = 0, False

    def __init__(self, study, directory):
        self.study, self.directory, self.ended = study, directory, []

    def next_assignment(self):
        return Assignment(trial={}, store="")

    def on_stopped(self, number, outcome, error):
        self.ended.append((number, outcome, error))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "killed or crashed"),
        (RayActorError(), "killed or crashed"),
        (OutOfMemoryError("20 GiB"), "short of memory, so Ray has killed it; fewer trials at a time need less"),
        (ImportError("no module\nthere"), r"ImportError: no module\nthere"),
        (LostProcess("tiny-0000 cannot begin", "mend it"), "tiny-0000 cannot begin"),
    ],
)
def test_why_a_worker_has_ended_is_one_sentence(error, said):
    assert said in why_ended(error) and "\n" not in why_ended(error) and len(why_ended(error)) < 250


@pytest.mark.parametrize("callback", ["on_trial_recover", "on_trial_error"])
def test_a_worker_that_is_lost_to_a_full_disk_stops_the_study_and_ends_no_trial(tiny_study, tmp_path, callback, caplog):
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ValueError("no")):
        driver = Driver(tiny_study(), tmp_path)
        searcher = DriverSearcher(Relay(driver))
        searcher.suggest("a")
        searcher.on_trial_complete("a", error=True)
        getattr(LostWorkers(searcher), callback)(iteration=1, trials=[], trial=Lost(tmp_path, error))
        if isinstance(error, OSError):
            assert isinstance(searcher.error, StoreError) and "No space left" in str(searcher.error)
            assert driver.ended == [] and (tmp_path / "stop").exists() and not caplog.records
        else:
            assert searcher.error is None
            then = "another one goes on with it" if callback == "on_trial_recover" else "the trial is given up"
            assert [record.getMessage() for record in caplog.records] == [
                f"tiny-0000: its worker has ended: ValueError: no; {then}"
            ]
            assert [end[1] for end in driver.ended] == ["killed"] * (callback == "on_trial_error")


def test_a_trial_that_begins_in_no_process_stops_the_study_and_is_not_killed(tiny_study, tmp_path):
    driver = Driver(tiny_study(), tmp_path)
    searcher = DriverSearcher(Relay(driver))
    searcher.suggest("a")
    lost = LostWorkers(searcher)
    trial = Lost(tmp_path, LostProcess("tiny-0000 cannot begin: RuntimeError: no GPU (on there)", "mend it"))
    lost.on_trial_recover(iteration=1, trials=[], trial=trial)
    assert searcher.error is None, "it is tried in another process"
    searcher.on_trial_complete("a", error=True)
    lost.on_trial_error(iteration=1, trials=[], trial=trial)
    assert isinstance(searcher.error, StoreError) and "no GPU (on there)" in str(searcher.error)
    assert searcher.error.cure == "mend it" and driver.ended == [] and (tmp_path / "stop").exists()
