"""Made-up studies: ledgers whose metrics are known."""

import random

import pytest

from ddcal.config.names import nest
from ddcal.config.trial import flatten
from ddcal.study import load_study
from ddcal.study.record.events import StudyFinished, StudyStarted, TrialFinished, TrialStarted
from ddcal.study.record.ledger import Ledger

SPACE = {
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.mask.ratio": {"uniform": [0.0, 0.5], "when": {"distill.backbone": ["dc"]}},
    "calibrate.t_min": {"loguniform": [0.01, 1.0]},
    "calibrate.draws": {"int": [1, 4]},
}
OUTCOMES = ("complete", "infeasible", "pruned", "failed", "out_of_memory", "killed", None)


@pytest.fixture
def made_study(tiny_study, tmp_path):
    """made_study(name, outcomes, objectives=…, data=…, bins=…) -> the results of such a study."""

    def make(
        name, outcomes, objectives=None, *, data="digits", fraction=0.3, bins=15, root="runs", fixed=None, trial="ddnn"
    ):
        folder = tmp_path / root / name
        folder.mkdir(parents=True)
        objectives = objectives or {"val/ece": "min", "val/accuracy": "max"}
        fixed = fixed or {}
        space = {key: domain for key, domain in SPACE.items() if key not in fixed}
        if trial == "distill":  # searches what is distilled alone
            space = {"distill.ipc": {"choice": [1, 2]}}
        search = {"trials": max(1, len(outcomes))}
        study = tiny_study(name=name, space=space, objectives=objectives, search=search, trial=trial)
        ledger = Ledger(folder)
        environment = {"device": "cpu", "threads": 1, "precision": "float32"}
        facts = {"environment": environment, "versions": {}, "git_commit": None, "store": "", "study_id": name}
        ledger.append(StudyStarted, study=study.model_dump(mode="json"), **facts)
        rng = random.Random(0)
        config = {"data": {"name": data, "validation_fraction": fraction}, "evaluate": {"bins": bins}}
        config |= {"calibrate": {"method": "mts"}, "train": {"networks": 1}}
        config = nest(flatten(config) | fixed)[0]
        for number, outcome in enumerate(outcomes):
            values = {"distill.backbone": rng.choice(["real", "dc"])}
            if values["distill.backbone"] == "dc":
                values["distill.mask.ratio"] = rng.uniform(0.0, 0.5)
            values |= {"calibrate.t_min": 10 ** rng.uniform(-2, 0), "calibrate.draws": rng.randint(1, 4)}
            values = {key: value for key, value in values.items() if key in space}
            metrics = {"val/ece": rng.random(), "val/accuracy": rng.random(), "val/nll": 1.0 + number}
            metrics |= {"test/ece": 0.05, "test/raw/ece": 0.25, "test/accuracy": 0.75, "test/ece_noise_floor": 0.01}
            key = f"{name}-{number:04d}"
            ledger.append(TrialStarted, number=number, trial_key=key, values=values, config=config, log=None)
            if outcome is not None:
                record = {"keys": {}, "cache_hits": [], "stage_seconds": {}, "seconds": 1.0, "error": None}
                record |= {"fingerprint": f"of {data}", "metrics": metrics if outcome in OUTCOMES[:2] else {}}
                ledger.append(TrialFinished, number=number, outcome=outcome, **record)
        ledger.append(StudyFinished, seconds=9.0, interrupted=False)
        ledger.close()
        return load_study(folder)

    return make
