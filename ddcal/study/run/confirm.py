"""Confirmation: the leaders of a study on fresh seeds, against the number that the search itself reported.

The best of many trials looks better than it is (the winner's curse); fresh seeds tell by how much. Asked for more
leaders or seeds, a second confirmation runs beside the first: what both need comes from the store, and a leader's
interval is over all its seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ddcal.config import StudyConfig
from ddcal.config.metrics import possible
from ddcal.config.study import LONGEST_NAME
from ddcal.errors import BadInput, ResourceError, StoreError
from ddcal.seeding import derive_seed
from ddcal.statistics import mean_interval, standard_deviation
from ddcal.study.mlflow.client import without_password
from ddcal.study.record.confirmation import CONFIRMATION, verdict, write_confirmation
from ddcal.study.record.ledger import LEDGER, begun
from ddcal.study.record.results import WINNER_METRIC, StudyResults, Trial, load_study
from ddcal.study.record.status import write_tables
from ddcal.study.remote.output import fetch_begun, send_file, send_rest
from ddcal.study.run.runner import Hooks, resume_study, run_study

MIN_SEEDS = 2


@dataclass(frozen=True)
class Confirmed:
    """One metric of one leader.

    Attributes:
        trial_key: The leader.
        metric: For example ``val/ece``.
        searched: What the search reported, on its own seed.
        mean: The mean over the fresh seeds.
        low: Lower end of the 95 % interval of that mean (Student's t over seeds), cut to what is possible.
        high: Upper end.
        seeds: How many fresh seeds finished.
        std: The standard deviation over them (n − 1).
        verdict: What they say of the search's number (`ddcal.study.record.confirmation`).
    """

    trial_key: str
    metric: str
    searched: float
    mean: float
    low: float
    high: float
    seeds: int
    std: float
    verdict: str


class NotSentError(StoreError):
    """A confirmation is done, and S3 lacks something of it; the message says what.

    Attributes:
        found: As `confirm` returns it.
    """

    def __init__(self, message: str, found: list[Confirmed]) -> None:
        """Keep what was found."""
        super().__init__(message)
        self.found = found


def confirmation_study(results: StudyResults, leaders: list[Trial], seeds: int) -> StudyConfig:
    """Return the study that runs every leader on the same fresh seeds; it searches nothing."""
    study = without_password(results.study)
    used = {trial.config.seed for trial in results.records}
    fresh: list[int] = []
    index = 0
    while len(fresh) < seeds:
        candidate = derive_seed(study.search.seed, "confirm", "seed", index) % 2**31
        index += 1
        if candidate not in used and candidate not in fresh:
            fresh.append(candidate)
    values = study.model_dump(mode="json")
    values["name"], values["confirms"] = f"{study.name}-confirm", study.name
    count = len(leaders)
    values["description"] = f"{count} leader{'s' * (count != 1)} of {study.name} on {seeds} fresh seeds."
    values["space"]["seed"] = {"choice": fresh}
    values["constraints"] = {}
    values["scheduler"] = {}
    values["stop"]["plateau"] = None  # every leader runs on every seed
    enqueue = [leader.values | {"seed": seed} for seed in fresh for leader in leaders]
    values["search"] |= {"searcher": "random", "trials": len(enqueue), "enqueue": enqueue}
    return StudyConfig.model_validate(values)


def confirm(
    results: StudyResults,
    *,
    top: int,
    seeds: int,
    debug: bool = False,
    address: str | None = None,
    hooks: Hooks | None = None,
) -> list[Confirmed]:
    """Run the leaders again on fresh seeds, and write ``confirmation.json`` into the study's folder.

    Args:
        results: The study.
        top: How many feasible trials, by ``val/nll``.
        seeds: How many fresh seeds each; at least 2.
        debug: As in `run_study`.
        address: As in `run_study`.
        hooks: As in `run_study`.

    Raises:
        BadInput: if there is no feasible trial, too few seeds, the study is a confirmation itself, another
            confirmation of it is there, or its name is so long that none has room for its own.
        NotSentError: if all is done and written here, and S3 lacks something of it: the same call sends it.
    """
    if seeds < MIN_SEEDS:
        raise BadInput(f"--seeds {seeds}: an interval needs at least {MIN_SEEDS}")
    if results.confirms is not None:
        raise BadInput(f"{results.directory} is itself the confirmation of {results.confirms}: confirm that study")
    leaders = leading_trials(results, top)
    if not leaders:
        raise BadInput(f"{results.directory}: no trial is feasible, so there is nothing to confirm")
    bound = [name for name, domain in results.study.space.items() if "seed" in domain.when]
    if bound:
        raise BadInput(
            f"{results.directory}: space.{bound[0]}.when looks at seed, so a trial is another one on a fresh seed: "
            "there is nothing to confirm"
        )
    _check_name(results, f"{results.study.name}-confirm")
    study = confirmation_study(results, leaders, seeds)
    for name in _names(study.name):
        if not fetch_begun(study.model_copy(update={"name": name}), results.directory.parent / name):
            break
    earlier = confirmations(results)
    ended = [trial.values for one in earlier for trial in one.records if trial.outcome is not None]
    not_sent: str | None = None
    if any(values not in ended for values in study.search.enqueue):  # else nothing is left to run: no Ray is needed
        same = next((one for one in earlier if _same(one.study, study)), None)
        if same is not None:
            done = resume_study(same.directory, given=study, debug=debug, address=address, hooks=hooks)
        else:
            study = study.model_copy(update={"name": _free_name(results, study.name)})
            done = run_study(study, output=results.directory.parent, debug=debug, address=address, hooks=hooks)
        not_sent = done.uncopied
    else:
        not_sent = _left_after(lambda: _send_rest(earlier))
    results = load_study(results.directory)  # it may have gone on meanwhile
    there = confirmations(results)
    measured = compare(results, leading_trials(results, len(results.records)), fresh_trials(there))
    write_confirmation(results.directory, seeds, there[-1].study.name, [asdict(one) for one in measured])
    write_tables(results)
    asked = {leader.trial_key for leader in leaders}
    found = [one for one in measured if one.trial_key in asked]
    not_sent = not_sent or _left_after(lambda: send_file(results.study, results.directory, CONFIRMATION))
    if not_sent is not None:
        raise NotSentError(not_sent, found)
    return found


def _send_rest(there: Sequence[StudyResults]) -> None:
    for one in there:
        send_rest(one.study, one.directory)


def _left_after(send: Callable[[], object]) -> str | None:
    """Return why S3 did not take what was sent to it; None if it did."""
    try:
        send()
    except (ResourceError, StoreError) as error:
        return str(error)
    return None


def confirmations(results: StudyResults) -> list[StudyResults]:
    """Return the confirmations of a study that lie beside it, the first one first.

    One of another study of that name, which lay here before, is none of it.
    """
    name, found = f"{results.study.name}-confirm", []
    for path in results.directory.parent.glob(f"{name}*/{LEDGER}"):
        if begun(path.parent):
            other = load_study(path.parent)
            if other.confirms == results.study.name and _common(other.study) == _common(
                without_password(results.study)
            ):
                found.append(other)
    return sorted(found, key=lambda one: (len(one.study.name), one.study.name))


def fresh_trials(there: Sequence[StudyResults]) -> list[Trial]:
    """Return the complete trials of confirmations, one for each leader and seed."""
    found: list[Trial] = []
    for trial in (trial for one in there for trial in one.records if trial.outcome == "complete"):
        if all(trial.values != other.values for other in found):
            found.append(trial)
    return found


def _free_name(results: StudyResults, name: str) -> str:
    """Return the name of a new confirmation: the first that no folder has."""
    free = next(one for one in _names(name) if not begun(results.directory.parent / one))
    _check_name(results, free)
    return free


def _check_name(results: StudyResults, name: str) -> None:
    """Raise BadInput if a study cannot have the name of a confirmation."""
    if len(name) > LONGEST_NAME:
        study = results.study.name
        room = LONGEST_NAME - len(name) + len(study)
        raise BadInput(
            f"the study that confirms {study} would be called {name}, and a name has at most {LONGEST_NAME} "
            f"characters: run it again under one of at most {room} (its finished stages are in the store), and confirm "
            "that one"
        )


def _names(name: str) -> Iterator[str]:
    """Yield what a study's confirmations are called, the first one first."""
    return (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))


def _same(earlier: StudyConfig, study: StudyConfig) -> bool:
    """Whether a confirmation runs the same leaders on the same seeds."""
    return (earlier.search.enqueue, earlier.space) == (study.search.enqueue, study.space)


def _common(study: StudyConfig) -> dict[str, Any]:
    """Return what decides the results of a study's trials, but for searched values: confirmations share it."""
    values = study.model_dump(mode="json")
    shared = {name: values[name] for name in ("trial", "base", "objectives", "resources")}
    return shared | {"space": {name: domain for name, domain in values["space"].items() if name != "seed"}}


def leading_trials(results: StudyResults, top: int) -> list[Trial]:
    """Return the feasible trials with the lowest ``val/nll``, the winner first, one for each combination of values."""
    feasible = [trial for trial in results.records if trial.outcome == "complete"]
    best = results.best  # first: it is the one that is exported, also where another of its seeds has a lower val/nll
    leaders: list[Trial] = []
    for trial in sorted(feasible, key=lambda one: (one != best, (one.metrics or {})[WINNER_METRIC], one.number)):
        if all(_without_seed(trial) != _without_seed(leader) for leader in leaders):
            leaders.append(trial)
    return leaders[:top]


def compare(results: StudyResults, leaders: list[Trial], fresh: Sequence[Trial]) -> list[Confirmed]:
    """Return each leader's objectives, ``val/nll`` and ``test/ece``: as searched, and over its trials of ``fresh``.

    A leader with fewer than `MIN_SEEDS` of them is left out.
    """
    metrics = list(dict.fromkeys([*results.study.objectives, WINNER_METRIC, "test/ece"]))
    found = []
    for leader in leaders:
        runs = [trial.metrics or {} for trial in fresh if _without_seed(trial) == _without_seed(leader)]
        for metric in metrics:
            values = [run[metric] for run in runs if run.get(metric) is not None]
            if len(values) < MIN_SEEDS or (leader.metrics or {}).get(metric) is None:
                continue
            searched = (leader.metrics or {})[metric]
            mean, low, high = mean_interval(values)
            assert low is not None and high is not None, "MIN_SEEDS is at least 2"
            low, high = possible(metric, low, high)
            measured: dict[str, Any] = {
                "trial_key": leader.trial_key,
                "metric": metric,
                "searched": searched,
                "mean": mean,
            }
            measured |= {"low": low, "high": high, "seeds": len(values), "std": standard_deviation(values)}
            found.append(Confirmed(**measured, verdict=verdict(measured)))
    return found


def _without_seed(trial: Trial) -> dict[str, Any]:
    return {name: value for name, value in trial.values.items() if name != "seed"}
