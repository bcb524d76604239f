"""How long a study would take: the cost of every kind of stage, over the stages that it would compute."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

from ddcal.config import TrialConfig
from ddcal.config.base import RECORDED
from ddcal.config.components import is_imported
from ddcal.config.own import KINDS, own_names
from ddcal.pipeline import DatasetCache, Environment
from ddcal.pipeline.costs import Cost, Kind
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.upkeep import Listed
from ddcal.study.plan.candidates import Candidates, Planner
from ddcal.study.plan.planned import PlannedTrial

STARTUP_SECONDS = 12.0
"""Starting Ray and importing torch in the workers: an estimate for 2 cores."""

TRIAL_SECONDS = 0.15
"""What a trial costs beside its stages: handing it out, the ledger, Tune: an estimate, with reused actors."""

OnProbe = Callable[[int, int, str], None]


@dataclass(frozen=True)
class KindTime:
    """A kind of stage in the estimate.

    Attributes:
        stage: Its stage.
        what: A few words on it.
        step: What a step is.
        seconds_a_step: Seconds of one.
        steps: Steps of all stages of this kind that are to be computed.
        stages: How many those are.
        seconds: Seconds of all of them, with their fidelity points.
        gpu_bytes: Peak of the GPU memory that torch allocated, in bytes; None where it was not measured.
    """

    stage: str
    what: str
    step: str
    seconds_a_step: float
    steps: int
    stages: int
    seconds: float
    gpu_bytes: int | None


@dataclass(frozen=True)
class Measured:
    """What `measure_kinds` found.

    Attributes:
        costs: Of every kind.
        load_seconds: Loading the datasets.
        cpu_share: The share of the time in which this process had a CPU: well below 1 where others keep it busy.
    """

    costs: dict[Kind, Cost]
    load_seconds: float
    cpu_share: float


@dataclass(frozen=True)
class TimeEstimate:
    """The time of a study.

    Attributes:
        source: ``probe`` or ``store``.
        kinds: Kind by kind, the stages that are to be computed.
        load_seconds: Loading the datasets, once a worker.
        work_seconds: All expected stages one after another.
        at_a_time: Trials side by side.
        expected_seconds: The study from start to end.
        worst_seconds: The same with the most and the longest stages that the space has.
    """

    source: str
    kinds: list[KindTime]
    load_seconds: float
    work_seconds: float
    at_a_time: int
    expected_seconds: float
    worst_seconds: float


def measure_kinds(
    wanted: Mapping[Kind, TrialConfig], environment: Environment, on_probe: OnProbe | None = None
) -> Measured:
    """Measure every kind on this machine, and how long the datasets take to load.

    Args:
        wanted: Kind → a resolved trial that has it.
        environment: Where the study would compute.
        on_probe: Called before each kind with (how many are done, how many there are, what comes).
    """
    from ddcal.pipeline.measuring import measure

    datasets, costs = DatasetCache(), {}
    loaded: dict[str, float] = {}
    wall = busy = 0.0
    ordered = sorted(wanted.items(), key=lambda item: item[1].data.model_dump_json())  # one dataset after the other
    for index, (kind, config) in enumerate(ordered):
        if on_probe is not None:
            on_probe(index, len(ordered), f"{kind.stage} {kind.what}")
        began = time.perf_counter()
        dataset = datasets.get(config.data)
        loaded.setdefault(config.data.model_dump_json(), time.perf_counter() - began)
        began, used = time.perf_counter(), time.process_time()
        costs[kind] = measure(config, kind.stage, dataset, environment)
        wall, busy = wall + time.perf_counter() - began, busy + time.process_time() - used
    return Measured(costs, sum(loaded.values()), busy / wall if wall else 1.0)


def recorded_kinds(entries: Iterable[Listed], wanted: Iterable[Kind], planner: Planner) -> dict[Kind, Cost] | None:
    """Return what the store's entries say about these kinds, or None if it does not know all of them.

    Args:
        entries: What is in the artefact store.
        wanted: The kinds that are asked for.
        planner: Entries of other data, devices, threads or versions than its own do not count.
    """
    seconds: dict[str, list[float]] = {}
    for entry in entries:
        if entry.config is None:  # a short stage, which records none: the mean of all is good enough
            seconds.setdefault(entry.stage, []).append(entry.seconds)
            continue
        try:
            config = TrialConfig.model_validate(entry.config, context={RECORDED: True})
            if not all(is_imported(KINDS[setting], name) for setting, name in own_names(config).items()):
                continue  # a store never has code run
            key = planner.keys(config).get(entry.stage)
        except ValueError:  # of an earlier version, or of what is no component here
            continue
        if key == entry.key:
            amount = STAGES[entry.stage].amount(config)
            one = entry.seconds / (amount.units * amount.steps)
            seconds.setdefault(STAGES[entry.stage].kind(config).identity, []).append(one)
    costs = {}
    for kind in wanted:
        found = seconds.get(kind.identity) or seconds.get(kind.stage)
        if not found:
            return None
        costs[kind] = Cost(statistics.fmean(found))
    return costs


def estimate(
    source: str,
    costs: Mapping[Kind, Cost],
    trials: Sequence[PlannedTrial],
    count: int,
    published: Set[str],
    candidates: Mapping[str, Candidates],
    load_seconds: float,
    at_a_time: int,
    worst_at_a_time: int,
) -> TimeEstimate:
    """Return the time of a study.

    Args:
        source: Where the costs are from.
        costs: Of every kind that ``trials`` have.
        trials: In their order, as expected.
        count: How many trials the study has.
        published: Keys that the store has.
        candidates: Stage → all that the space has.
        load_seconds: Loading the datasets, once a worker.
        at_a_time: Trials side by side.
        worst_at_a_time: The same where trials that share a GPU gain nothing from each other.
    """

    def seconds(stage: str, config: TrialConfig) -> float:
        kind = STAGES[stage].kind(config)
        if kind in costs:
            return costs[kind].seconds(STAGES[stage].amount(config))
        return max(  # not among the drawn trials, so not measured: no cheaper than the dearest of them
            (cost.seconds(STAGES[stage].amount(config)) for kind, cost in costs.items() if kind.stage == stage),
            default=0.0,
        )

    kinds: dict[Kind, KindTime] = {}
    work, seen = 0.0, set(published)
    for trial in trials:
        for stage, key in trial.keys.items():
            if key in seen:
                continue
            seen.add(key)
            kind, amount = STAGES[stage].kind(trial.config), STAGES[stage].amount(trial.config)
            cost = costs[kind]
            old = kinds.get(kind) or KindTime(stage, kind.what, kind.step, cost.step, 0, 0, 0.0, cost.gpu_bytes)
            steps, whole = old.steps + amount.units * amount.steps, cost.seconds(amount)
            kinds[kind] = replace(old, steps=steps, stages=old.stages + 1, seconds=old.seconds + whole)
            work += whole
    jobs = [[(key, seconds(stage, trial.config)) for stage, key in trial.keys.items()] for trial in trials]
    fixed = STARTUP_SECONDS + load_seconds
    expected = fixed + makespan(jobs, at_a_time, published)
    each = [found.worst(count, published, partial(seconds, stage)) for stage, found in candidates.items()]
    total = sum(map(sum, each)) + TRIAL_SECONDS * count
    longest = sum(max(values, default=0.0) for values in each)
    most = fixed + total / worst_at_a_time + longest * (1 - 1 / worst_at_a_time)
    rows = sorted(kinds.values(), key=lambda row: -row.seconds)
    return TimeEstimate(source, rows, load_seconds, work, at_a_time, expected, max(expected, most))


def makespan(trials: Sequence[Sequence[tuple[str, float]]], workers: int, published: Iterable[str] = ()) -> float:
    """Return the seconds in which ``workers`` go through the trials, as the driver would hand them out.

    A trial whose first missing stage is being computed by another waits while later ones go first.

    Args:
        trials: In their order: (key, seconds) of each of their stages.
        workers: Trials side by side, at least 1.
        published: Keys that need no computing.
    """
    ready = dict.fromkeys(published, 0.0)  # key → when it is in the store
    waiting, now = list(trials), 0.0
    running: list[tuple[float, set[str]]] = []  # (end, keys)
    while waiting or running:
        running = [(end, keys) for end, keys in running if end > now]
        while waiting and len(running) < workers:
            chosen = next((trial for trial in waiting[: workers + 1] if not _blocked(trial, running, ready, now)), None)
            if chosen is None:
                break
            waiting.remove(chosen)
            clock = now + TRIAL_SECONDS
            for key, seconds in chosen:
                if ready.get(key, clock + 1.0) > clock:
                    clock += seconds
                    ready[key] = min(clock, ready.get(key, clock))
            running.append((clock, {key for key, _ in chosen}))
        soon = [*(end for end, _ in running), *(at for at in ready.values() if at > now)]
        now = min(soon, default=now)
    return now


def _blocked(
    trial: Sequence[tuple[str, float]], running: list[tuple[float, set[str]]], ready: dict[str, float], now: float
) -> bool:
    missing = next((key for key, _ in trial if key not in ready or ready[key] > now), None)
    return missing is not None and any(missing in keys for _, keys in running)
