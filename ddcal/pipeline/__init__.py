"""A trial as five pure stages over a content-addressed store; an ordinary Python computation without Ray or MLflow.

Names are imported at first use: looking after a store or a lock needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddcal.pipeline.environment import Environment
    from ddcal.pipeline.keys import stage_keys
    from ddcal.pipeline.place import DatasetCache
    from ddcal.pipeline.store import Entry, Store, open_store
    from ddcal.pipeline.trial import Advance, TrialRunner, run_trial

HOMES = {
    "Advance": "ddcal.pipeline.trial",
    "DatasetCache": "ddcal.pipeline.place",
    "Entry": "ddcal.pipeline.store",
    "Environment": "ddcal.pipeline.environment",
    "Store": "ddcal.pipeline.store",
    "TrialRunner": "ddcal.pipeline.trial",
    "open_store": "ddcal.pipeline.store",
    "run_trial": "ddcal.pipeline.trial",
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
