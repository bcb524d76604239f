"""The studies behind a scoreboard: its sets, and of each a study of recipes and one of the cells with those chosen."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ddcal.analysis.report.studies import (
    ANY,
    MINUTES,
    SCALES,
    ReportStudy,
    changed,
    changed_study,
    read_rows,
    read_scales,
    rows_of,
)
from ddcal.analysis.scoreboard.choice import SEED, SOURCE, Chosen
from ddcal.config import StudyConfig
from ddcal.config.base import Config
from ddcal.config.problems import ConfigError
from ddcal.config.reading.study_paths import from_folder, with_trial_paths
from ddcal.config.shipped import shipped_folder
from ddcal.config.space import grid_points
from ddcal.config.trial import flatten
from ddcal.errors import BadInput

FULL, RECIPES, CELLS = "full", "recipes", "cells"
STEMS = (FULL, RECIPES, CELLS)
"""The files of ``studies/scoreboard``, in the order in which they run."""

SETS = "sets.yaml"
RANDOM = "random"
KINDS = (RANDOM, "coreset", "distilled", "imported")
SEEDS, CHOICE = "seeds", "choice"
"""Rows of `SCALES` that are no study: how many seeds each kind of set has, and how many the choice of a recipe."""

VARIED = ("train.augment", "calibrate.method")
"""What the cells of one recipe differ in, besides labels and seed; a board finds them by it."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,31}")


class SetRow(Config):
    """A set of images, one line of `SETS`.

    Attributes:
        title: What people read.
        kind: Says how many seeds it has; ``random`` is the reference of the scores.
        base: Dotted names of the trial → value.
    """

    title: str
    kind: Literal["random", "coreset", "distilled", "imported"]
    base: dict[str, Any]


@dataclass(frozen=True)
class BoardSet:
    """A set with its studies.

    Attributes:
        name: Of its line.
        row: Its line.
        recipes: The study among whose trials the recipes are chosen.
        cells: The study that the recipes are put into (`cells_study`).
        seeds: How many each cell has.
    """

    name: str
    row: SetRow
    recipes: ReportStudy
    cells: ReportStudy
    seeds: int


@dataclass(frozen=True)
class Board:
    """What is to be run of one dataset.

    Attributes:
        dataset: Its name.
        full: Networks on all real images; None where the scale leaves them out.
        sets: In the order of the tables.
    """

    dataset: str
    full: ReportStudy | None
    sets: tuple[BoardSet, ...]

    @property
    def first(self) -> list[ReportStudy]:
        """The studies that depend on no choice."""
        return [*([self.full] if self.full else []), *(one.recipes for one in self.sets)]


def board_folder(given: Path | None = None) -> Path:
    """Return the folder of the scoreboard's studies: ``given``, or the one that comes with ddcal.

    Raises:
        BadInput: if it is not there or lacks a file.
    """
    folder = given or shipped_folder() / "scoreboard"
    missing = [name for name in (*(f"{stem}.yaml" for stem in STEMS), SCALES, SETS) if not (folder / name).is_file()]
    if missing:
        where = f"--studies {given}" if given else str(folder)
        raise BadInput(
            f"{where}: {', '.join(missing)} not found; give --studies with the folder studies/scoreboard of a checkout "
            "of ddcal"
        )
    return folder


def read_sets(paths: Iterable[Path]) -> dict[str, SetRow]:
    """Return name → set of one or more files like `SETS`; paths in them are relative to the file.

    Raises:
        BadInput: if a file is not made like that, or a name is there twice.
    """
    found: dict[str, SetRow] = {}
    problems: list[str] = []
    for path in paths:
        rows = read_rows(path)
        if not isinstance(rows, dict) or not rows:
            raise BadInput(f"{path}: must map names of sets to title, kind and base, as studies/scoreboard/{SETS} does")
        for name, row in rows.items():
            problems += [f"{path}: {text}" for text in _name_problems(str(name), found)]
            try:
                one = SetRow.model_validate(row)
            except ValidationError as error:
                for each in error.errors(include_url=False):
                    key = ".".join(map(str, (name, *each["loc"])))
                    problems.append(f"{path}: {key}: {each['msg'][0].lower()}{each['msg'][1:]}; a set has title, kind "
                                    f"({', '.join(KINDS)}) and base")  # fmt: skip
                continue
            if twin := next((key for key, other in found.items() if key != name and other.title == one.title), ""):
                problems.append(f"{path}: {name}.title is that of {twin}, and tables name sets by it: take another one")
            found[str(name)] = one.model_copy(update={"base": with_trial_paths(one.base, from_folder(path.parent))})
    random = [name for name, row in found.items() if row.kind == RANDOM]
    if not problems and len(random) != 1:
        problems.append(f"exactly one set must be of the kind random, the scores' reference; here {random or 'none'}")
    if problems:
        raise BadInput("; ".join(problems))
    return found


def _name_problems(name: str, found: Mapping[str, SetRow]) -> list[str]:
    if name in found:
        return [f"{name} is the name of another set: take another one"]
    if name in (ANY, MINUTES, SEEDS, *STEMS, *KINDS):
        return [f"{name} means something else in {SCALES}: give the set another name"]
    if not NAME.fullmatch(name):
        return [f"{name!r} is no name of a set: letters, digits and _, at most 32"]
    return []


def boards(scale: str, datasets: Sequence[str], folder: Path, sets: Sequence[Path] = ()) -> list[Board]:
    """Return what a scoreboard consists of, dataset by dataset.

    Args:
        scale: ``cpu`` or ``gpu``, or whatever else `SCALES` has.
        datasets: Names of datasets that the scale has, without repetition.
        folder: From `board_folder`.
        sets: Further files like `SETS`.

    Raises:
        BadInput: for a scale, dataset or set that is not right, or a change that does not fit its study.
    """
    rows = read_sets([folder / SETS, *sets])
    known = (ANY, MINUTES, SEEDS, *STEMS, *KINDS, *rows)
    return [_board(rows_of(read_scales(folder, known), scale, datasets), one, rows, folder) for one in datasets]


def _board(scale: Mapping[str, Any], dataset: str, rows: Mapping[str, SetRow], folder: Path) -> Board:
    places = [scale.get(ANY) or {}, scale[dataset] or {}]
    seeds: dict[str, int] = {}
    for place in places:
        seeds |= place.get(SEEDS) or {}
    for kind in (CHOICE, FULL, *KINDS):
        if not isinstance(seeds.get(kind), int) or seeds[kind] < 1:
            raise BadInput(f"{folder / SCALES}: seeds.{kind} of {dataset} is {seeds.get(kind)}; give a number from 1")
    minutes = places[1].get(MINUTES) or {}

    def study(stem: str, set_name: str | None, count: int) -> ReportStudy | None:
        of_set = [rows[set_name].kind, set_name] if set_name else []
        whole = "-".join([dataset, *([set_name] if set_name else []), stem])
        changes: dict[str, Any] = {"name": whole, "base.data.name": dataset}
        for place in places:
            for row in (ANY, stem, *of_set):
                if row in place and place[row] is None:
                    return None
                changes = changed(changes, place.get(row))
        if set_name:  # a line of one's own has the last word
            changes = changed(changes, {f"base.{key}": value for key, value in rows[set_name].base.items()})
        changes["space.seed"] = {"choice": list(range(count))}
        try:
            config = changed_study(folder / f"{stem}.yaml", changes)
        except ConfigError as error:
            who = f"set {set_name}" if set_name else whole
            raise BadInput("\n".join(f"{who}: {line}" for line in str(error).splitlines())) from error
        return ReportStudy(dataset, stem, config, minutes.get(stem))

    found = []
    for name, row in rows.items():
        count = seeds[row.kind]
        recipes = study(RECIPES, name, min(seeds[CHOICE], count))
        cells = study(CELLS, name, count)
        if recipes is not None and cells is not None:
            _check_spaces(folder, recipes.config.space, cells.config.space)
            _check_base(name, row, {**recipes.config.space, **cells.config.space})
            found.append(BoardSet(name, row, recipes, cells, count))
        elif row.kind == RANDOM:
            raise BadInput(f"{folder / SCALES}: {name} of {dataset} is left out, and the scores need random images")
    _check_images(found)
    return Board(dataset, study(FULL, None, seeds[FULL]), tuple(found))


def _check_spaces(folder: Path, recipes: Collection[str], cells: Collection[str]) -> None:
    """Refuse studies whose cells would not have the recipe that is chosen for them, or not be found."""
    where = {stem: f"{folder / stem}.yaml (or {SCALES} beside it)" for stem in (RECIPES, CELLS)}
    problems = [
        f"{where[CELLS]}: space.{name} is not in the space of {RECIPES}.yaml: cells would have another {name} than the "
        f"recipe that is chosen for them; put it into both, with one value where nothing is to be chosen, or into none"
        for name in cells
        if name not in (*recipes, *VARIED, SOURCE)
    ]
    problems += [f"{where[CELLS]}: space.{name} is missing: cells are told apart by it" for name in VARIED
                 if name not in cells]  # fmt: skip
    problems += [f"{where[RECIPES]}: space.{name} is no part of a recipe: the cells of each vary it" for name in VARIED
                 if name in recipes]  # fmt: skip
    if SOURCE not in recipes:
        problems.append(f"{where[RECIPES]}: space.{SOURCE} is missing: a recipe is chosen for each kind of labels")
    if problems:
        raise BadInput("; ".join(problems))


def _check_base(name: str, row: SetRow, searched: Collection[str]) -> None:
    """Refuse a line that sets what every set of the board has alike: it would change nothing, or the data."""
    for key in flatten(row.base):
        if key == "data.name":
            raise BadInput(f"set {name}: base has {key}: the sets of a board are of one dataset, that of --datasets")
        if key in searched:
            raise BadInput(f"set {name}: base has {key}, which {RECIPES}.yaml or {CELLS}.yaml search: leave it out")


def _check_images(sets: Sequence[BoardSet]) -> None:
    """Refuse sets with more or fewer images a class than the random ones, which the scores hold them against."""
    counts = {one.name: flatten(one.recipes.config.base).get("distill.ipc") for one in sets}
    wanted = next(counts[one.name] for one in sets if one.row.kind == RANDOM)
    for name, count in counts.items():
        if count != wanted:
            raise BadInput(
                f"set {name}: distill.ipc is {count}, and {wanted} for the random images that it is held against: all "
                f"sets of a board have the same (base.distill.ipc in the row any of {SCALES})"
            )


def cells_study(one: BoardSet, chosen: Mapping[str, Chosen]) -> ReportStudy:
    """Return the study of a set's cells, each with its recipe on every seed.

    Args:
        one: The set.
        chosen: ``labels.source`` → its recipe; labels without one are left out.
    """
    config = one.cells.config
    space = {**config.space, **{name: domain for name, domain in one.recipes.config.space.items() if name != SEED}}
    whole = config.model_copy(update={"space": space})
    points = [
        point
        for seed in range(one.seeds)
        for source, found in chosen.items()
        for point in grid_points(whole, {SOURCE: source, **dict(found.recipe), SEED: seed})
    ]
    search = config.search.model_copy(update={"searcher": "random", "trials": len(points), "enqueue": tuple(points)})
    study = StudyConfig.model_validate(whole.model_copy(update={"search": search}).model_dump(mode="json"))
    return ReportStudy(one.cells.dataset, one.cells.stem, study, one.cells.minutes)


def supposed(one: BoardSet) -> dict[str, Chosen]:
    """Return for each kind of labels the last of a set's recipes, for a plan: where lists rise, that of most epochs."""
    found = {}
    for point in grid_points(one.recipes.config):
        recipe = tuple((name, value) for name, value in point.items() if name not in (SOURCE, SEED))
        found[point[SOURCE]] = Chosen(point[SOURCE], recipe, float("nan"), 0)
    return found
