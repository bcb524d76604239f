"""A user's own components that a trial names, and the source that each has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from typing import Any

from ddcal.config.backbones import BACKBONES, backbone
from ddcal.config.calibrations import CALIBRATIONS, calibration
from ddcal.config.components import Kind, imported_object, source_of
from ddcal.config.datasets import DATASETS
from ddcal.config.networks import ARCHITECTURES, architecture
from ddcal.config.trial import TrialConfig

KINDS: dict[str, Kind] = {
    "data.name": "dataset",
    "network.name": "network",
    "distill.backbone": "backbone",
    "distill.network.name": "network",
    "train.network.name": "network",
    "calibrate.method": "calibrator",
}
"""Setting that may name a user's own component → what kind of component that is."""

_KNOWN: dict[Kind, Container[str]] = {
    "dataset": DATASETS,
    "network": ARCHITECTURES,
    "backbone": BACKBONES,
    "calibrator": CALIBRATIONS,
}


def own_names(trial: TrialConfig) -> dict[str, str]:
    """Return setting → the component of a user's own that it names; nothing is imported."""
    named = {setting: functools.reduce(getattr, setting.split("."), trial) for setting in KINDS}
    return {
        setting: str(name)
        for setting, name in named.items()
        if name is not None and str(name) not in _KNOWN[KINDS[setting]]
    }


def replay_with(trial: TrialConfig) -> str:
    """Return ``ddcal replay``, with the option by which whoever trusts the trial's own data function says so."""
    return "ddcal replay --trust-code" if "data.name" in own_names(trial) else "ddcal replay"


def own_sources(trial: TrialConfig) -> dict[str, dict[str, Any]]:
    """Return setting → the source of the component of a user's own that it names (`source_of`).

    Raises:
        ddcal.config.components.ComponentError: if its package is missing.
    """
    return {
        setting: source_of(KINDS[setting], name, _computes(KINDS[setting], name))
        for setting, name in own_names(trial).items()
    }


def import_own(trial: TrialConfig) -> None:
    """Import the components of a user's own that a trial names, but for data functions, before their source is hashed.

    So what a stage's key says is what computes it, also where a file is edited before its stage begins.

    Raises:
        ddcal.config.components.ComponentError: if one cannot be imported.
    """
    for setting, name in own_names(trial).items():
        if path := _computes(KINDS[setting], name):
            imported_object(KINDS[setting], name, path)


def _computes(kind: Kind, name: str) -> str:
    """Return the import path of what computes for a user's component; importing what it is called runs its code."""
    others: dict[Kind, Callable[[str], str]] = {
        "dataset": lambda name: "",
        "network": lambda name: architecture(name).builder,
        "backbone": lambda name: backbone(name).distiller,
        "calibrator": lambda name: calibration(name).calibrator,
    }
    return others[kind](name)
