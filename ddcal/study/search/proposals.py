"""Trials that the search proposes: resolved, with the keys of their stages, and which of them were there before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.config.reading.study_paths import from_folder, with_trial_paths
from ddcal.pipeline import Environment
from ddcal.study.plan.planned import Planned


@dataclass
class Running:
    """A trial that the search has asked for and that has not ended.

    ``gpu`` is its share of a GPU; ``grown`` says that it ran out of memory at a smaller one; ``missing`` are the stages
    that the store did not have when it was handed out.
    """

    number: int
    values: dict[str, Any]
    config: dict[str, Any]
    trial_key: str
    keys: dict[str, str]
    duplicate_of: int | None
    steps: set[int] = field(default_factory=set)
    handed_out: float = 0.0
    attempt: int = 1
    gpu: float = 0.0
    grown: bool = False
    missing: tuple[str, ...] = ()


class Proposals:
    """Makes trials of a study from the values that its search suggests."""

    def __init__(self, study: StudyConfig, environment: Environment) -> None:
        """Propose for ``study``, whose stages are computed in ``environment``."""
        self._study, self._planned = study, Planned(study, environment)
        self._known: dict[str, int] = {}  # values → the first trial that had them

    def make(self, number: int, values: dict[str, Any]) -> Running:
        """Return the trial ``number`` with these values of the space.

        Raises:
            ddcal.data.DataError: if its data is missing.
        """
        planned = self._planned.trial(values)
        config = planned.config.model_dump(mode="json")
        config = with_trial_paths(config, from_folder(Path.cwd()))  # trials run in folders of their own
        first = self.note(number, values)
        duplicate = first if first != number else None
        return Running(number, values, config, f"{self._study.name}-{number:04d}", planned.keys, duplicate)

    def note(self, number: int, values: dict[str, Any]) -> int:
        """Remember that a trial has these values, and return the first that had them."""
        return self._known.setdefault(json.dumps(values, sort_keys=True), number)
