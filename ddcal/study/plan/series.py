"""How long several studies on one store take, one after another: stages that several of them need count once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddcal.config import StudyConfig, TrialConfig
from ddcal.pipeline import Environment
from ddcal.pipeline.costs import Kind
from ddcal.pipeline.environment import study_environment
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.upkeep import list_entries
from ddcal.study.plan.candidates import Planner
from ddcal.study.plan.plan import BUSY, existing_store
from ddcal.study.plan.planned import PlannedTrial
from ddcal.study.plan.side_by_side import Machine, pack, refuse_without_gpu, this_machine
from ddcal.study.plan.time import OnProbe, estimate, measure_kinds


@dataclass(frozen=True)
class SeriesStudy:
    """One study of a series.

    Attributes:
        study: Its name.
        trials: How many it has.
        to_compute: Different stages that neither the store nor a study before it has.
        shared: Different stages that one of those has.
        seconds: From its start to its end.
    """

    study: str
    trials: int
    to_compute: int
    shared: int
    seconds: float


@dataclass(frozen=True)
class SeriesPlan:
    """Studies one after another.

    Attributes:
        studies: In their order.
        seconds: All of them.
        at_a_time: Trials side by side, of the study that has the most.
        warnings: Sentences.
    """

    studies: list[SeriesStudy]
    seconds: float
    at_a_time: int
    warnings: list[str]


def plan_series(
    studies: Sequence[StudyConfig],
    output: Path | str,
    *,
    on_probe: OnProbe | None = None,
    machine: Machine | None = None,
) -> SeriesPlan:
    """Plan studies that run one after another with one store, measuring each kind of stage once.

    Args:
        studies: In their order; of searchers that learn, the trials are those that they suggest before they have.
        output: Their output root.
        on_probe: Called before each measurement with (done, of, what).
        machine: Where they would run; default: this machine.

    Raises:
        BadInput: if data is missing, or a study needs a GPU and there is none.
    """
    machine = machine or this_machine()
    root = Path(output).expanduser().absolute()
    drawn: list[list[PlannedTrial]] = []
    ready: set[str] = set()
    wanted: dict[Kind, TrialConfig] = {}
    environment = Environment("cpu", 1)
    for study in studies:
        environment = study_environment(study)
        refuse_without_gpu(environment)
        store, _ = existing_store(study, root)
        if store is not None:
            ready.update(entry.key for entry in list_entries(store))
        drawn.append(Planner(study, environment).drawn())
    for trial in itertools.chain.from_iterable(drawn):
        for stage, key in trial.keys.items():
            if key not in ready:
                wanted.setdefault(STAGES[stage].kind(trial.config), trial.config)
    measured = measure_kinds(wanted, environment, on_probe)
    datasets = {config.data.model_dump_json() for config in wanted.values()}
    load = measured.load_seconds / max(1, len(datasets))

    planned, most = [], 1
    for study, trials in zip(studies, drawn, strict=True):
        at_a_time = max(1, pack(study, [trial.config for trial in trials], machine)[0].at_a_time)
        most = max(most, at_a_time)
        keys = {key for trial in trials for key in trial.keys.values()}
        missing = len(keys - ready)
        loading = load if missing else 0.0
        time = estimate("probe", measured.costs, trials, len(trials), ready, {}, loading, at_a_time, at_a_time)
        planned.append(SeriesStudy(study.name, len(trials), missing, len(keys) - missing, time.expected_seconds))
        ready |= keys
    warnings = []
    if wanted and measured.cpu_share < BUSY:
        warnings.append(
            f"other programs keep this machine busy: the probe had a CPU for {measured.cpu_share:.0%} of its time. "
            "The time is for a machine as busy as that"
        )
    return SeriesPlan(planned, sum(one.seconds for one in planned), most, warnings)
