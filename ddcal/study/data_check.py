"""Whether the data sets that a study can ask for are there, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ddcal.config import DataConfig, StudyConfig
from ddcal.config.problems import Problem, problem_at
from ddcal.config.space import combinations, trial_of


def asked_data(study: StudyConfig) -> list[DataConfig]:
    """Return the data config of every data set that trials of a study can have."""
    asked = [trial_of(study, point).data for point in combinations(study, of=("data.",))]
    return list({data.model_dump_json(): data for data in asked}.values())


def with_data_problems(
    file: Path, study: StudyConfig | None, problems: Sequence[Problem]
) -> tuple[StudyConfig | None, list[Problem]]:
    """Return the study (None if files are missing) and its problems, with one more for each data set that is not there.

    Files are looked for and listed; nothing is read or decoded.

    Args:
        file: The study file, for the messages.
        study: None if it has problems.
        problems: Those that it has.
    """
    found = list(problems)
    if study is None:
        return None, found
    from ddcal.data import DataError
    from ddcal.data.sources import locate_source

    for data in asked_data(study):
        try:
            source = locate_source(data)
            if source.images is not None:
                _ = source.images.listing
        except DataError as error:
            said = " ".join(str(error).split())  # a problem is a line
            found.append(replace(problem_at(("base", "data"), said), file=str(file)))
    return (study if len(found) == len(problems) else None), found
