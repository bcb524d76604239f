"""What the driver and the plan both ask: the trial of a point of a study's space, and the keys of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddcal.config import StudyConfig, TrialConfig
from ddcal.config.space import trial_of
from ddcal.pipeline import Environment, stage_keys


@dataclass(frozen=True)
class PlannedTrial:
    """A trial: its resolved config, and stage → key, up to where the study's trials end."""

    config: TrialConfig
    keys: dict[str, str]


class Planned:
    """The trials of a study in one environment; every data set is looked at once."""

    def __init__(self, study: StudyConfig, environment: Environment) -> None:
        """Plan trials of ``study``, whose stages are computed in ``environment``."""
        self.study, self.environment = study, environment
        self._fingerprints: dict[str, str] = {}

    def trial(self, point: Mapping[str, Any]) -> PlannedTrial:
        """Return the trial of a point of the space: dotted name → value, active names alone.

        Raises:
            ConfigError: if its settings contradict each other.
            ddcal.data.DataError: if its data is missing.
        """
        config = trial_of(self.study, point)
        return PlannedTrial(config, self.keys(config))

    def keys(self, config: TrialConfig) -> dict[str, str]:
        """Return stage → key of a trial, up to the last stage that the study's trials have (``trial: distill``).

        Raises:
            ddcal.data.DataError: if its data is missing.
        """
        data = config.data.model_dump_json()
        if data not in self._fingerprints:
            from ddcal.data import dataset_fingerprint  # torch, which looking at a study does without

            self._fingerprints[data] = dataset_fingerprint(config.data)
        return stage_keys(config, self._fingerprints[data], self.environment, self.study.trial)
