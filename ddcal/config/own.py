"""A user's own components that a trial names, and the source that each has."""

from __future__ import annotations

from typing import Any

from ddcal.config.backbones import is_own_backbone
from ddcal.config.components import Kind, source_of
from ddcal.config.trial import TrialConfig

KINDS: dict[str, Kind] = {"distill.backbone": "backbone"}
"""Setting that may name a user's own component → what kind of component that is."""


def own_names(trial: TrialConfig) -> dict[str, str]:
    """Return setting → the component of a user's own that it names; nothing is imported."""
    backbone = trial.distill.backbone
    return {"distill.backbone": backbone} if is_own_backbone(backbone) else {}


def own_sources(trial: TrialConfig) -> dict[str, dict[str, Any]]:
    """Return setting → the source of the component of a user's own that it names (`source_of`).

    Raises:
        ddcal.config.components.ComponentError: if its package is missing.
    """
    others = {"distill.backbone": lambda: (trial.distill.spec.distiller,)}
    return {setting: source_of(KINDS[setting], name, *others[setting]()) for setting, name in own_names(trial).items()}
