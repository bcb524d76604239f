"""The distillation backbones, each in a file of its own beside this one; their settings are sections of ``distill``.

A file that defines ``SPECS`` is found by itself. None of a setting takes the published value (`ddcal.config.presets`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ddcal.config.backbones.base import OWN_SECTION, Backbone
from ddcal.config.backbones.coreset import CoresetConfig
from ddcal.config.backbones.dm import DMConfig
from ddcal.config.backbones.file import FileConfig
from ddcal.config.backbones.formation import FormationConfig
from ddcal.config.backbones.matching import MatchingConfig
from ddcal.config.backbones.mtt import ExpertsConfig, MTTConfig
from ddcal.config.backbones.rtp import RTPConfig
from ddcal.config.base import Config
from ddcal.config.components import ComponentError, find_component

__all__ = [
    "BACKBONES",
    "SECTIONS",
    "Backbone",
    "Config",
    "CoresetConfig",
    "DMConfig",
    "ExpertsConfig",
    "FileConfig",
    "FormationConfig",
    "MTTConfig",
    "MatchingConfig",
    "RTPConfig",
    "backbone",
    "is_own_backbone",
    "setting_faults",
]


def _shipped() -> dict[str, Backbone]:
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [importlib.import_module(f"{__name__}.{name}") for name in modules]
    return {spec.name: spec for module in found for spec in getattr(module, "SPECS", ())}


BACKBONES = _shipped()
"""Name → what ddcal's own backbones are."""

SECTIONS = tuple(dict.fromkeys([*(spec.section for spec in BACKBONES.values() if spec.section), OWN_SECTION]))
"""Sections of ``distill`` that belong to one backbone or a few; they have no effect on the others."""


def backbone(name: str) -> Backbone:
    """Return what the backbone of a config is.

    Args:
        name: As ``distill.backbone``: one of `BACKBONES`, or a user's own (`ddcal.config.components`).

    Raises:
        ddcal.config.components.ComponentError: if there is none, or the package of a user's own is missing.
    """
    found = find_component("backbone", name, BACKBONES, Backbone)
    if name not in BACKBONES and (fault := _fault(found)):
        raise ComponentError(f"{name!r}: {fault}")
    return found


def is_own_backbone(name: str) -> bool:
    """Return whether a backbone is a user's own."""
    return name not in BACKBONES


def setting_faults(spec: Backbone, settings: dict[str, Any]) -> list[str]:
    """Return what a user's own backbone says of its settings, each as a sentence; others have sections of their own."""
    if spec.section != OWN_SECTION:
        return []
    try:
        spec.settings.model_validate(settings)
    except ValidationError as error:
        known = ", ".join(spec.settings.model_fields) or "none at all"
        faults = []
        for details in error.errors(include_url=False):
            place = ".".join(["settings", *map(str, details["loc"])])
            unknown = details["type"] == "extra_forbidden"
            said = f"unknown setting (it has {known})" if unknown else str(details["msg"])
            faults.append(f"{place} is {details['input']!r:.80}: {said}")
        return faults
    return []


def _fault(spec: Backbone) -> str:
    """Return what a user's own backbone lacks, or an empty string."""
    if not spec.name or ":" not in spec.distiller:
        return "it must say its name, and its distiller as an import path (package.module:NAME)"
    if not (isinstance(spec.settings, type) and issubclass(spec.settings, BaseModel)):
        return "its settings must be a pydantic model: a subclass of ddcal.config.backbones.Config"
    if spec.section != OWN_SECTION:
        return f"its section is {spec.section!r}; that of your own backbones is {OWN_SECTION!r}: leave it out"
    rows = [
        row
        for family in spec.presets.values()
        for place in family.values()
        if isinstance(place, Mapping)
        for row in place.values()
    ]
    begins = f"distill.{OWN_SECTION}."
    for name in (name for row in rows for name in row if name.startswith(begins)):
        if name.removeprefix(begins) not in spec.settings.model_fields:
            return f"its presets name {name}, which its settings have not"
    return ""
