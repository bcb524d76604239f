"""A user's own components that a trial names, and the source that each has."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from ddcal.config.backbones import BACKBONES
from ddcal.config.calibrations import CALIBRATIONS
from ddcal.config.components import Kind, source_of
from ddcal.config.trial import TrialConfig

KINDS: dict[str, Kind] = {"distill.backbone": "backbone", "calibrate.method": "calibrator"}
"""Setting that may name a user's own component → what kind of component that is."""


def own_names(trial: TrialConfig) -> dict[str, str]:
    """Return setting → the component of a user's own that it names; nothing is imported."""
    named: dict[str, tuple[str, Container[str]]] = {
        "distill.backbone": (trial.distill.backbone, BACKBONES),
        "calibrate.method": (trial.calibrate.method, CALIBRATIONS),
    }
    return {setting: name for setting, (name, known) in named.items() if name not in known}


def own_sources(trial: TrialConfig) -> dict[str, dict[str, Any]]:
    """Return setting → the source of the component of a user's own that it names (`source_of`).

    Raises:
        ddcal.config.components.ComponentError: if its package is missing.
    """
    others = {
        "distill.backbone": lambda: trial.distill.spec.distiller,
        "calibrate.method": lambda: trial.calibrate.spec.calibrator,
    }
    return {setting: source_of(KINDS[setting], name, others[setting]()) for setting, name in own_names(trial).items()}
