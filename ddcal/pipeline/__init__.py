"""A trial as five pure stages over a content-addressed store; an ordinary Python computation without Ray or MLflow.

Names are imported at first use: looking after a store or a lock needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddcal.pipeline.advance import Advance
    from ddcal.pipeline.environment import Environment
    from ddcal.pipeline.keys import stage_keys
    from ddcal.pipeline.place import DatasetCache
    from ddcal.pipeline.run import run_trial
    from ddcal.pipeline.trial import TrialRunner
    from ddcal.store.base import Entry, Store
    from ddcal.store.opening import open_store

HOMES = {
    "Advance": "ddcal.pipeline.advance",
    "DatasetCache": "ddcal.pipeline.place",
    "Entry": "ddcal.store.base",
    "Environment": "ddcal.pipeline.environment",
    "Store": "ddcal.store.base",
    "TrialRunner": "ddcal.pipeline.trial",
    "open_store": "ddcal.store.opening",
    "run_trial": "ddcal.pipeline.run",
    "stage_keys": "ddcal.pipeline.keys",
}

__all__ = [
    "Advance",
    "DatasetCache",
    "Entry",
    "Environment",
    "Store",
    "TrialRunner",
    "open_store",
    "run_trial",
    "stage_keys",
]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'ddcal.pipeline' has no attribute {name!r}")
