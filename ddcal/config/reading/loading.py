"""Study files: YAML in, a checked `StudyConfig` out, or every mistake with its file, line and key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ddcal.config.checks.study import check_study
from ddcal.config.names import nest
from ddcal.config.problems import GIVEN_TWICE, ConfigError, Problem, problem_at
from ddcal.config.reading.cures import mapping_cure
from ddcal.config.reading.field_errors import field_problems
from ddcal.config.reading.overrides import apply_override, misplaced, parse_overrides
from ddcal.config.reading.study_paths import from_folder, with_study_paths
from ddcal.config.reading.yaml_reader import Refused, YamlReader, read_text
from ddcal.config.study import StudyConfig, in_full


def _validate(data: dict[str, Any]) -> tuple[StudyConfig | None, list[Problem], set[str]]:
    """Return the study of those parts whose types are right, the problems of the others, and their space names."""
    problems: list[Problem] = []
    broken: set[str] = set()
    for _ in range(3):
        try:
            return StudyConfig.model_validate(data), problems, broken
        except ValidationError as error:
            for path, problem in field_problems(error, StudyConfig, data):
                problems.append(problem)
                section = data.get(str(path[0]))
                if path[0] == "space" and len(path) > 1:
                    broken.add(str(path[1]))
                if len(path) > 1 and isinstance(section, dict):
                    section.pop(str(path[1]), None)
                else:
                    data.pop(str(path[0]), None)
        data.setdefault("name", "unnamed")
        if not data.get("objectives"):
            data["objectives"] = {"val/nll": "min"}
    return None, problems, broken


def _located(problem: Problem, file: str, lines: dict[str, int], overrides: Sequence[tuple[str, Any, str]]) -> Problem:
    """Return ``problem`` with its file, and the line or the ``--set`` argument that its value came from."""
    if problem.line is not None or problem.override is not None:
        return replace(problem, file=file)
    parts = problem.path.split(".") if problem.path else []
    for size in range(len(parts), 0, -1):
        path = ".".join(parts[:size])
        for key, _, text in reversed(overrides):
            if key == path or (size == len(parts) and key.startswith(f"{path}.")):
                return replace(problem, file=file, override=f"{key}=…" if key.startswith("notify") else text)
        if path in lines:
            return replace(problem, file=file, line=lines[path])
    return replace(problem, file=file)


def study_problems(
    path: str | Path,
    overrides: Iterable[str] = (),
    more: Callable[[StudyConfig], list[Problem]] | None = None,
) -> tuple[StudyConfig | None, list[Problem]]:
    """Read a study file and return the study, or None and everything that is wrong with it.

    Args:
        path: The YAML file.
        overrides: ``--set`` arguments, ``key.path=value``, applied in order before anything is checked.
        more: Further checks of a study that is right in itself, for example of the files that it names.

    Returns:
        The study and no problems, or None and the problems in the order of their lines.
    """
    file, reader = str(path), YamlReader()
    parsed, problems = parse_overrides(overrides)
    try:
        data = reader.read(read_text(Path(path)))
        if not isinstance(data, dict):
            shown = "the file is empty" if data is None else f"the file holds {problem_at((), '', data).value}"
            cure = mapping_cure((), data) or "; a study is a mapping of keys to values, such as name and space"
            raise Refused(Problem("", "", f"{shown}{cure}"))
    except Refused as refused:
        return None, [replace(problem, file=file) for problem in (*reader.problems, refused.problem, *problems)]

    known = {problem.path for problem in reader.problems}
    problems = reader.problems + problems
    if isinstance(data.get("base"), dict):
        data["base"], conflicts = nest(data["base"])
        problems += [problem_at(("base", *conflict), GIVEN_TWICE) for conflict in conflicts]
    data = with_study_paths(data, from_folder(Path(path).parent))  # those of overrides are of the working folder
    _write_in_full(data)
    for key, value, text in parsed:
        if why := misplaced(key) or apply_override(data, key.split("."), value):
            problems.append(Problem(key, "", why, override=text))
        _write_in_full(data)
    if isinstance(data.get("base"), dict):
        data["base"], _ = nest(data["base"])
    study, found, broken = _validate(data)
    if study is not None:
        found += check_study(study, broken | _names(known))
    problems += [problem for problem in found if problem.path not in known]
    if study is not None and not problems and more is not None:
        problems += more(study)
    located = [_located(problem, file, reader.lines, parsed) for problem in problems]
    return (None if problems else study), sorted(located, key=lambda problem: (problem.line is None, problem.line or 0))


def _write_in_full(data: dict[str, Any]) -> None:
    if isinstance(space := data.get("space"), dict):
        data["space"] = {name: in_full(domain) for name, domain in space.items()}


def _names(paths: Collection[str]) -> set[str]:
    return {path.removeprefix("base.") for path in paths if path.startswith("base.")}


def read_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """Return the study in a YAML file.

    Args:
        path: The file.
        overrides: ``--set`` arguments, ``key.path=value``, applied in order before anything is checked.

    Raises:
        ConfigError: with every problem of the file and of the overrides.
    """
    study, problems = study_problems(path, overrides)
    if study is None:
        raise ConfigError(problems)
    return study
