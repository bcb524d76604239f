"""What a study would cost before it is run: its stages, disk, packing and, where measured, time. Nothing is written.

(What is derived from a dataset once, its digest and a ZCA, is kept beside the data as always.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from ddcal.config import ConfigError, StudyConfig, TrialConfig
from ddcal.config.baselines import enqueued_points
from ddcal.config.checks.notes import constraint_notes, expert_notes, unused_notes, zca_notes
from ddcal.config.places import is_url
from ddcal.pipeline import Store
from ddcal.pipeline.costs import Cost, Kind
from ddcal.pipeline.environment import compile_problems, study_environment
from ddcal.pipeline.imported import check_imports
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.upkeep import list_entries
from ddcal.store.s3 import S3Store
from ddcal.study.plan.candidates import UNAFFECTED_BY_RESULTS, Candidates, Planner
from ddcal.study.plan.disk import DiskUse, disk_uses, disk_warnings
from ddcal.study.plan.planned import PlannedTrial
from ddcal.study.plan.settings import Setting, preset_notes, settings_of
from ddcal.study.plan.side_by_side import Machine, Packing, on_cuda, pack, refuse_without_gpu, this_machine
from ddcal.study.plan.time import (
    OnProbe,
    TimeEstimate,
    estimate,
    measure_kinds,
    recorded_kinds,
)
from ddcal.study.record.study_store import check_remote_store, store_place, study_store
from ddcal.study.run.checks import refuse_data

BUSY = 0.8
"""A probe that has a CPU for less of its time than this says so."""


@dataclass(frozen=True)
class StageCount:
    """How many different stages of one kind a study needs.

    Attributes:
        stage: The stage.
        expected: Different ones among the trials that the searcher draws.
        worst: The most that so many trials can need.
        in_store: How many of the expected ones the store has.
        to_compute: Expected ones that it has not.
        worst_to_compute: The most that it has not.
    """

    stage: str
    expected: int
    worst: int
    in_store: int
    to_compute: int
    worst_to_compute: int


@dataclass(frozen=True)
class Plan:
    """Everything that `make_plan` found.

    Attributes:
        study: The study's name.
        trials: How many it has.
        basis: How the expected counts came about, as a sentence.
        exact: Whether they are what the study will need, and no estimate.
        settings: The resolved values of the base.
        notes: What is no published row among the presets in force, or a row with ZCA for trials without, in sentences.
        stages: How many different ones.
        disk: What is written where.
        free: Place → free bytes on its file system.
        machine: What there is.
        packing: Groups of trials and how many run side by side.
        time: None where nothing is known.
        warnings: Sentences.
    """

    study: str
    trials: int
    basis: str
    exact: bool
    settings: list[Setting]
    notes: list[str]
    stages: list[StageCount]
    disk: list[DiskUse]
    free: dict[str, int]
    machine: Machine
    packing: list[Packing]
    time: TimeEstimate | None
    warnings: list[str]


def make_plan(
    study: StudyConfig,
    *,
    output: Path | str | None = None,
    probe: bool = False,
    on_probe: OnProbe | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Plan a study.

    Args:
        study: The study.
        output: The output root; default: ``storage.output``.
        probe: Measure a few steps of each kind of stage on this machine, in this process, for the time estimate.
        on_probe: Called before each measurement with (done, of, what).
        machine: Where it would run; default: this machine.

    Raises:
        BadInput: if data is missing, or ``probe`` needs a GPU and there is none.
    """
    about_data = refuse_data(study)
    imported = check_imports(study)
    if problems := imported.problems + compile_problems(study):
        raise ConfigError(problems)
    environment = study_environment(study)
    if probe:
        refuse_without_gpu(environment)
    machine = machine or this_machine()
    root = Path(output if output is not None else study.storage.root).expanduser().absolute()
    store, place = existing_store(study, root)
    entries = [] if store is None else list(list_entries(store))
    published = {entry.key for entry in entries}

    planner = Planner(study, environment)
    size, listed = planner.size, len(enqueued_points(study)) >= study.search.trials
    covered = size is not None and size <= study.search.trials and not listed
    extremes = planner.drawn() if listed else planner.extremes()
    trials = extremes if covered or listed else planner.drawn()
    needed = _needed(trials)
    candidates = {
        stage: Candidates(found, countable=True) if listed else planner.candidates(stage)
        for stage, found in needed.items()
    }
    packing = pack(study, [trial.config for trial in trials], machine)
    at_a_time = packing[0].at_a_time
    disk = disk_uses(needed, candidates, study.search.trials, published, extremes, max(1, at_a_time), root, place)
    free, warnings = disk_warnings(disk)

    wanted = {
        STAGES[stage].kind(config): config
        for stage, configs in needed.items()
        for key, config in configs.items()
        if key not in published
    }
    costs: dict[Kind, Cost] | None = None
    load_seconds = 0.0
    if probe:
        measured = measure_kinds(wanted, environment, on_probe)
        costs, load_seconds = measured.costs, measured.load_seconds
        if not on_cuda(study) and measured.cpu_share < BUSY:
            warnings.append(
                f"other programs keep this machine busy: the probe had a CPU for {measured.cpu_share:.0%} of its time. "
                "The time is for a machine as busy as that"
            )
    elif store is not None:
        costs = recorded_kinds(entries, wanted, planner)
    time = None
    if costs is not None:
        workers = max(1, at_a_time)
        alone = min(workers, machine.gpus) if on_cuda(study) else min(workers, machine.cpus)
        time = estimate(
            "probe" if probe else "store",
            costs,
            trials,
            study.search.trials,
            published,
            candidates,
            load_seconds,
            workers,
            max(1, alone),
        )
    return Plan(
        study=study.name,
        trials=study.search.trials,
        basis=_basis(study, size, covered, listed),
        exact=covered or listed or study.search.searcher in UNAFFECTED_BY_RESULTS,
        settings=settings_of(study, extremes),
        notes=[*preset_notes(study, extremes), *zca_notes(study)],
        stages=[_count(stage, needed[stage], candidates[stage], study.search.trials, published) for stage in needed],
        disk=disk,
        free=free,
        machine=machine,
        packing=packing,
        time=time,
        warnings=[
            *unused_notes(study),
            *expert_notes(study),
            *constraint_notes(study),
            *about_data,
            *imported.warnings,
            *warnings,
            *_packing_warnings(study, machine, at_a_time),
            *_approximations(extremes),
        ],
    )


def _needed(trials: Iterable[PlannedTrial]) -> dict[str, dict[str, TrialConfig]]:
    """Return stage → key → a trial that needs it, stages in their order."""
    needed: dict[str, dict[str, TrialConfig]] = {stage: {} for stage in STAGES}
    for trial in trials:
        for stage, key in trial.keys.items():
            needed[stage].setdefault(key, trial.config)
    return {stage: found for stage, found in needed.items() if found}


def _count(
    stage: str, needed: Mapping[str, TrialConfig], found: Candidates, trials: int, published: Set[str]
) -> StageCount:
    there = sum(key in published for key in needed)
    return StageCount(
        stage=stage,
        expected=len(needed),
        worst=found.most(trials),
        in_store=there,
        to_compute=len(needed) - there,
        worst_to_compute=len(found.worst(trials, published, lambda config: 0.0)),
    )


def _basis(study: StudyConfig, size: int | None, covered: bool, listed: bool) -> str:
    searcher, trials = study.search.searcher, study.search.trials
    if listed:
        return f"the {trials} points of search.enqueue"
    if covered:
        return f"all {size} points of the space; {trials} trials cover it"
    if searcher in UNAFFECTED_BY_RESULTS:
        return f"the {trials} points that the searcher ({searcher}) will suggest"
    return f"{trials} points as {searcher} suggests them before it has learned; later it repeats what is good"


def _packing_warnings(study: StudyConfig, machine: Machine, at_a_time: int) -> list[str]:
    resources, warnings = study.resources, []
    if at_a_time == 0:
        warnings.append(
            f"a trial asks for {resources.cpus:g} CPUs and {resources.gpu} GPUs; this machine has {machine.cpus} and "
            f"{machine.gpus}: the study cannot run here"
        )
    return warnings


def _approximations(extremes: Iterable[PlannedTrial]) -> list[str]:
    notes = [note for one in extremes for note in one.config.distill.spec.notes(one.config.distill)]
    return list(dict.fromkeys(notes))


def existing_store(study: StudyConfig, root: Path) -> tuple[Store | None, Path]:
    """Return the study's store, None if there is none yet, and the folder of this machine that fills: S3's copies."""
    check_remote_store(study)
    place = store_place(study, root)
    if not is_url(place) and not Path(place).is_dir():  # opening it would create it
        return None, Path(place)
    store = study_store(study, root)
    return store, store.cache.root if isinstance(store, S3Store) and store.cache is not None else Path(place)
