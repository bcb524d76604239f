"""Which pending trial Tune gives a worker to; what it is for is seen in test_cluster.py: trials on all nodes."""

import pickle
from dataclasses import dataclass, field

from ray.tune.schedulers import FIFOScheduler

from ddcal.study.run.starting import let_workers_start


@dataclass(eq=False)
class Trial:
    trial_id: str
    status: str = "PENDING"
    config: dict = field(default_factory=dict)


class Controller:
    def __init__(self, *trials):
        self.trials = trials

    def get_trials(self):
        return list(self.trials)

    def get_live_trials(self):
        return set(self.trials)


def test_a_trial_that_waits_for_its_worker_is_not_given_another_while_there_are_new_ones():
    trials = [Trial(str(number), config={"number": number}) for number in range(3)]
    scheduler = let_workers_start(FIFOScheduler())
    controller = Controller(*trials)
    assert [scheduler.choose_trial_to_run(controller) for _ in range(3)] == trials
    assert scheduler.choose_trial_to_run(controller) is trials[0], "no new one: as Tune does by itself"
    trials[0].status = "RUNNING"
    new = Trial("3", config={"number": 3})
    assert scheduler.choose_trial_to_run(Controller(*trials, new)) is new
    assert scheduler.choose_trial_to_run(Controller(*trials, new)) is trials[1]
    for trial in trials:
        trial.status = "TERMINATED"
    assert scheduler.choose_trial_to_run(Controller(*trials)) is None


def test_the_scheduler_can_still_be_pickled():
    again = pickle.loads(pickle.dumps(let_workers_start(FIFOScheduler())))
    trial = Trial("0", config={"number": 0})
    assert again.choose_trial_to_run(Controller(trial)) is trial
