"""Trials that the search proposes: resolved, with the keys of their stages, and which of them were there before."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.config.reading.study_paths import from_folder, with_trial_paths
from ddcal.pipeline import Environment
from ddcal.study.plan.planned import Planned

logger = logging.getLogger(__name__)


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
        self._told: set[str] = set()  # nodes that compute what was not planned

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

    def compare(self, trial: Running, record: Mapping[str, Any]) -> None:
        """Warn, once a node, where a worker's record has another key of a stage than was planned."""
        node = record.get("node") or "another node"
        other = next((stage for stage, key in record["keys"].items() if trial.keys.get(stage) != key), None)
        if other is None or node in self._told:
            return
        self._told.add(node)
        logger.warning(
            "%s was computed on %s under other keys than planned, from its stage %s on: the data, the GPU's model or "
            "ddcal is another there, so that trials on other nodes share none of it",
            trial.trial_key,
            node,
            other,
        )
