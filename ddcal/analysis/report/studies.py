"""The studies behind the paper's tables and figures: their files, and what a scale and a dataset change in them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig, read_study
from ddcal.config.problems import suggestion
from ddcal.config.reading.yaml_reader import Refused, YamlReader, read_text
from ddcal.config.shipped import shipped_folder
from ddcal.config.space import grid_size
from ddcal.errors import BadInput

STEMS = ("fdnn", "ddnn", "losses", "calibration", "mask_ratio", "masks", "spectrum", "accuracy", "features")
"""The files of ``studies/paper``, in the order in which they run: later ones find stages of earlier ones."""

SCALES = "scales.yaml"
ANY, MINUTES, EXTRA = "any", "minutes", "extra"
"""Rows of `SCALES` that are no study: for every one, minutes of each, and what is run on request alone."""


@dataclass(frozen=True)
class ReportStudy:
    """One study of the report.

    Attributes:
        dataset: Its dataset.
        stem: The name of its file, without ``.yaml``.
        config: The study, with the scale's and the dataset's changes.
        minutes: How long it takes on 2 CPU cores after those before it; None if that is not known.
    """

    dataset: str
    stem: str
    config: StudyConfig
    minutes: float | None = None


def studies_folder(given: Path | None = None) -> Path:
    """Return the folder of the paper's studies: ``given``, or the one that comes with ddcal.

    Raises:
        BadInput: if it is not there or lacks a file.
    """
    folder = given or shipped_folder() / "paper"
    missing = [name for name in (*(f"{stem}.yaml" for stem in STEMS), SCALES) if not (folder / name).is_file()]
    if missing:
        where = f"--studies {given}" if given else str(folder)
        raise BadInput(
            f"{where}: {', '.join(missing)} not found; give --studies with the folder studies/paper of a checkout of "
            "ddcal"
        )
    return folder


def read_scales(folder: Path, known: Collection[str] = (ANY, MINUTES, EXTRA, *STEMS)) -> dict[str, dict[str, Any]]:
    """Return scale → dataset → study → dotted name → value, as `SCALES` has it.

    Args:
        folder: Where it lies.
        known: What the rows of a dataset may be.

    Raises:
        BadInput: if the file is not YAML, or is not made like that.
    """
    path = folder / SCALES
    scales: dict[str, dict[str, Any]] = _mapping(path, "the file", "scales to datasets", read_rows(path))
    for scale, datasets in scales.items():
        for dataset, rows in _mapping(path, scale, "datasets to studies", datasets).items():
            for stem, changes in _mapping(path, f"{scale}.{dataset}", "studies to changes", rows or {}).items():
                place = f"{scale}.{dataset}.{stem}"
                if stem not in known:
                    raise BadInput(f"{path}: {place} is no study{suggestion(str(stem), known)}")
                values = _mapping(path, place, "names to values", changes or {})
                if stem == EXTRA:
                    for extra, value in values.items():
                        _mapping(path, f"{place}.{extra}", "names to values", value or {})
                if stem == MINUTES and (wrong := {k: v for k, v in values.items() if not isinstance(v, int | float)}):
                    raise BadInput(f"{path}: {place} has {wrong}; give numbers")
    return scales


def _mapping(path: Path, place: str, what: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise BadInput(f"{path}: {place} is {value!r}; it must map {what}")
    return value


def read_rows(path: Path) -> Any:
    """Return what a YAML file that is no study holds.

    Raises:
        BadInput: if it is not YAML.
    """
    reader = YamlReader()
    try:
        rows = reader.read(read_text(path))
    except Refused as refused:
        raise BadInput(str(replace(refused.problem, file=str(path)))) from None
    if reader.problems:
        raise BadInput(str(replace(reader.problems[0], file=str(path))))
    return rows


def paper_studies(scale: str, datasets: Sequence[str], folder: Path, extra: bool = False) -> list[ReportStudy]:
    """Return the studies of a report, dataset by dataset, each named ``<dataset>-<stem>``.

    Args:
        scale: ``cpu`` or ``gpu``, or whatever else `SCALES` has.
        datasets: Names of datasets that the scale has, without repetition.
        folder: From `studies_folder`.
        extra: With the dear studies, ``<dataset>-<stem>-extra``, that the scale leaves out otherwise.

    Raises:
        BadInput: for a scale or dataset that the file has not.
        ConfigError: if a change does not fit its study.
    """
    rows = rows_of(read_scales(folder), scale, datasets)
    found = [_study(rows, dataset, stem, folder) for dataset in datasets for stem in STEMS]
    if extra:
        found += [_study(rows, name, stem, folder, True) for name in datasets for stem in _extras(rows[name])]
    return [study for study in found if study is not None]


def rows_of(scales: Mapping[str, dict[str, Any]], scale: str, datasets: Sequence[str]) -> dict[str, Any]:
    """Return the rows of a scale: dataset → study → dotted name → value.

    Raises:
        BadInput: for a scale or dataset that is not there, or a dataset that is named twice.
    """
    if scale not in scales:
        raise BadInput(f"--scale {scale}: must be one of {', '.join(scales)}{suggestion(scale, scales)}")
    rows = scales[scale]
    names = [name for name in rows if name != ANY]
    for index, name in enumerate(datasets):
        if name not in names:
            raise BadInput(f"--datasets: {name!r} is not one of {', '.join(names)}{suggestion(name, names)}")
        if name in datasets[:index]:
            raise BadInput(f"--datasets: {name} is there twice")
    if not datasets:
        raise BadInput(f"--datasets is empty; take one or more of {', '.join(names)}")
    return rows


def study_names(dataset: str, stem: str) -> tuple[str, str]:
    """Return the names that a dataset's studies of this file have: its own, and its extra one's."""
    return f"{dataset}-{stem}", f"{dataset}-{stem}-{EXTRA}"


def _extras(own: Mapping[str, Any] | None) -> Collection[str]:
    return ((own or {}).get(EXTRA) or {}).keys()


def _study(rows: Mapping[str, Any], dataset: str, stem: str, folder: Path, extra: bool = False) -> ReportStudy | None:
    own = rows[dataset] or {}
    changes: dict[str, Any] = {"name": study_names(dataset, stem)[extra], "base.data.name": dataset}
    for place in (rows.get(ANY) or {}, own):
        for row in (ANY, stem):
            if row in place and place[row] is None:
                return None
            changes = changed(changes, place.get(row))
    if extra:
        changes = changed(changes, own[EXTRA][stem])
    study = changed_study(folder / f"{stem}.yaml", changes)
    return ReportStudy(dataset, stem, study, None if extra else (own.get(MINUTES) or {}).get(stem))


def changed(changes: Mapping[str, Any], row: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return changes with those of a row behind them: also a section that was there before comes in their place."""
    row = row or {}
    return {name: value for name, value in changes.items() if name not in row} | dict(row)


def changed_study(path: Path, changes: Mapping[str, Any]) -> StudyConfig:
    """Return the study of a file with these values; a grid is gone through whole.

    Args:
        path: The file.
        changes: Dotted name → value, as for ``--set``, applied in order.

    Raises:
        ConfigError: if a change does not fit.
    """
    study = read_study(path, [f"{name}={json.dumps(value)}" for name, value in changes.items()])
    if study.search.searcher != "grid":
        return study
    return study.model_copy(update={"search": study.search.model_copy(update={"trials": grid_size(study)})})
