"""What makes a study's parts fit together: the checks that types alone cannot do, collected and not only the first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from ddcal.config.backbones import BACKBONES
from ddcal.config.baselines import check_paper
from ddcal.config.checks.searchers import check_scheduler, check_search
from ddcal.config.checks.space import check_domain, check_rules, check_when
from ddcal.config.metrics import METRICS, VAL_METRICS
from ddcal.config.names import nest, trial_names
from ddcal.config.places import is_url, parse_s3, taken_by, tracking_problem
from ddcal.config.problems import GIVEN_TWICE, KeyPath, Problem, problem_at, suggestion
from ddcal.config.reading.field_errors import field_problems
from ddcal.config.reading.study_paths import NO_TEXT, TRIAL_PLACES
from ddcal.config.space import not_possible, same
from ddcal.config.study import Constraint, StudyConfig, parse_constraint
from ddcal.config.trial import TrialConfig, flatten


def _check_base(base: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem], set[str]]:
    """Return the base without its bad fields, their problems, and their dotted names."""
    good, conflicts = nest(base)
    problems = [problem_at(("base", *path), GIVEN_TWICE) for path in conflicts]
    broken = {".".join(map(str, path)) for path in conflicts}
    while True:
        try:
            TrialConfig.model_validate(good)
        except ValidationError as error:
            raised = (details["loc"] for details in error.errors() if details["type"] == "value_error")
            rules = {loc for loc in raised if ".".join(map(str, loc)) not in trial_names()}
            found = field_problems(error, TrialConfig, good, ("base",))
            fields = [(path, problem) for path, problem in found if path not in rules]
            if not fields:
                return good, problems, broken  # what is left are rules between fields: check_rules tries those
            for path, problem in fields:
                problems.append(problem)
                broken.add(".".join(map(str, path)))
                place = good
                *sections, last = map(str, path)
                for index, part in enumerate(sections):
                    if not isinstance(place.get(part), dict):  # a list, which goes as a whole
                        last = sections[index]
                        break
                    place = place[part]
                place.pop(last, None)
        else:
            return good, problems, broken


def _metric_problem(path: KeyPath, metric: str, direction: str | None = None) -> list[Problem]:
    if metric.startswith("test/"):
        message = f"selecting on the test set is refused; use {'val/' + metric.removeprefix('test/')!r}"
        return [problem_at(path, message, metric)]
    if metric not in VAL_METRICS:
        return [problem_at(path, f"must be one of {', '.join(VAL_METRICS)}{suggestion(metric, VAL_METRICS)}", metric)]
    better = METRICS[metric.removeprefix("val/")].better
    if direction is not None and direction != better:
        return [
            problem_at(
                path, f"{metric} is better when {'lower' if better == 'min' else 'higher'}: use {better}", direction
            )
        ]
    return []


def _unmet(constraint: Constraint) -> str:
    """Return why no trial can meet a constraint and what to write; empty if one can, or the metric is unknown."""
    name, bound = constraint.metric.removeprefix("val/"), constraint.bound
    if constraint.metric not in VAL_METRICS:
        return ""
    most = METRICS[name].most
    if (bound <= most) if constraint.at_least else (bound >= 0):
        return ""
    if most == 1 and 1 < bound <= 100:
        return f"{name} is a share from 0 to 1: write >= {bound / 100:g}"
    lies = f"lies between 0 and {most:g}" if math.isfinite(most) else "is at least 0"
    return f"no trial can meet it: {name} {lies}"


def _check_selection(study: StudyConfig) -> list[Problem]:
    """Return what is wrong with objectives, constraints and the scheduler's metric."""
    problems = []
    for metric, direction in study.objectives.items():
        problems += _metric_problem(("objectives", metric), metric, direction)
    for metric, text in study.constraints.items():
        problems += _metric_problem(("constraints", metric), metric)
        try:
            constraint = parse_constraint(metric, text)
        except ValueError as error:
            problems.append(problem_at(("constraints", metric), str(error)))
            continue
        if message := _unmet(constraint):
            problems.append(problem_at(("constraints", metric), message, text))
    if study.scheduler.metric is not None:
        problems += _metric_problem(("scheduler", "metric"), study.scheduler.metric)
    return problems + check_scheduler(study)


def _check_kind(study: StudyConfig, base: dict[str, Any], broken: set[str]) -> list[Problem]:
    """Return settings that do not fit a study that selects, or the study's ``trial`` kind."""

    def given(name: str) -> Iterator[tuple[KeyPath, Any]]:
        domain = study.space.get(name) if name not in broken else None
        if domain is not None:
            yield from ((("space", name, domain.kind), corner) for corner in domain.corners)
        if (domain is None or domain.when) and name in fixed:
            yield ("base", name), fixed[name]

    fixed = flatten(base)
    refused: list[tuple[str, Any, str]] = [
        ("data.validation_fraction", 0.0, "a study selects on val, so this must be above 0")
    ]
    if study.trial == "distill":
        refused += [
            ("distill.backbone", name, f"nothing is distilled by {name!r}; use another backbone, or trial: ddnn")
            for name, spec in BACKBONES.items()
            if not spec.distills
        ]
        refused.append(
            ("distill.probe.points", 0, "trial: distill is scored by its probes, so this must be at least 1")
        )
    problems = [
        problem_at(path, message, value)
        for name, wrong, message in refused
        for path, value in given(name)
        if same(value, wrong)
    ]
    if study.trial == "distill":
        message = (
            "trial: distill ends before this stage, so searching it changes nothing; remove it, or use trial: ddnn"
        )
        late = [name for name in study.space if name.startswith(("labels.", "train.", "calibrate."))]
        problems += [problem_at(("space", name), message) for name in late]
    return problems


def _check_gpu(study: StudyConfig) -> list[Problem]:
    gpu, precision, problems = study.resources.gpu, study.resources.precision, []
    if gpu != "auto" and gpu > 1:
        message = "a trial computes on one GPU: at most 1 (0.25 puts four on one), or auto; more GPUs run more trials"
        problems.append(problem_at(("resources", "gpu"), message, gpu))
    if precision == "tf32" and not gpu:
        message = "an arithmetic of NVIDIA's GPUs, and resources.gpu is 0: float32, or ask for a GPU"
        problems.append(problem_at(("resources", "precision"), message, precision))
    return problems


def _check_words(study: StudyConfig, base: dict[str, Any], broken: set[str]) -> list[Problem]:
    """Return paths and names that are what other languages write for nothing: YAML takes None for text."""
    problems, fixed = [], flatten(base)
    given: list[tuple[KeyPath, Any]] = [
        ((section, key), getattr(getattr(study, section), key))
        for section, keys in {"tracking": ("uri", "experiment"), "storage": ("output", "store", "cache")}.items()
        for key in keys
    ]
    for name in TRIAL_PLACES:
        if name in study.space and name not in broken:
            given += [(("space", name, "choice"), value) for value in study.space[name].corners]
        elif name in fixed:
            given.append((("base", name), fixed[name]))
    for path, value in given:
        tracking = path == ("tracking", "uri")
        if isinstance(value, str) and value.strip().lower() in NO_TEXT and not (tracking and value == "none"):
            cure = "write none for no tracking, null for the default" if tracking else "write null, or leave it out"
            problems.append(problem_at(path, f"this is text to YAML; {cure}", value))
    return problems


def _check_tracking(study: StudyConfig) -> list[Problem]:
    found = tracking_problem(study.tracking.uri)
    return [] if found is None else [problem_at(("tracking", "uri"), found)]


def _check_storage(study: StudyConfig) -> list[Problem]:
    """Return that a store on S3 lies where the study itself is kept."""
    storage = study.storage
    if not storage.on_s3 or storage.store is None or not is_url(storage.store):
        return []
    output, store = parse_s3(storage.output), parse_s3(storage.store)
    own = "/".join(part for part in (output.prefix, study.name) if part)
    same_server = (output.bucket, output.endpoint_override) == (store.bucket, store.endpoint_override)
    if not same_server or not (store.prefix == output.prefix or f"{store.prefix}/".startswith(f"{own}/")):
        return []
    other = "/".join(part for part in (output.bucket, output.prefix, "store") if part)
    return [problem_at(("storage", "store"), f"lies where storage.output is: for example s3://{other}", storage.store)]


def _check_enqueue(study: StudyConfig, broken: set[str]) -> list[Problem]:
    problems = []
    for index, config in enumerate(study.search.enqueue):
        if isinstance(config, str):
            problems += check_paper(study, index, broken)
            continue
        for name, value in config.items():
            path: KeyPath = ("search", "enqueue", index, name)
            if name in study.space:
                if name not in broken and (why := not_possible(study.space[name], value)):
                    problems.append(problem_at(path, why, value))
            elif name not in broken:
                problems.append(problem_at(path, f"not a name of the space{suggestion(name, study.space)}", value))
    return problems


def check_study(study: StudyConfig, reported: Collection[str] = ()) -> list[Problem]:
    """Return everything that is wrong with a study whose types are right, in the file's order of sections.

    Args:
        study: The study.
        reported: Dotted trial names that were left out of its space since their own problems are known; nothing is
            said about what follows from their absence.
    """
    broken = set(reported)
    base, problems, bad_fields = _check_base(study.base)
    study = study.model_copy(update={"base": base})
    broken |= bad_fields - set(study.space)
    if (taken := taken_by(study.name)) is not None:
        message = f"a study cannot be called {study.name!r}: {taken} has that name in the output root; take another"
        problems.insert(0, problem_at(("name",), message))
    for name, domain in study.space.items():
        if found := check_domain(name, domain):
            problems += found
            broken.add(name)
    problems += check_when(study.space, broken)
    problems += check_rules(study, base, broken)
    problems += _check_selection(study)
    problems += _check_kind(study, base, broken)
    problems += _check_words(study, base, broken)
    problems += _check_gpu(study)
    problems += check_search(study, broken)
    problems += _check_enqueue(study, broken)
    problems += _check_tracking(study)
    problems += _check_storage(study)
    return problems
