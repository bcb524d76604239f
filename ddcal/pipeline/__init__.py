"""A trial as five pure stages over a content-addressed store; an ordinary Python computation without Ray or MLflow."""

from ddcal.pipeline.environment import Environment
from ddcal.pipeline.keys import stage_keys
from ddcal.pipeline.store import Entry, Store
from ddcal.pipeline.trial import Advance, DatasetCache, TrialRunner, run_trial

__all__ = ["Advance", "DatasetCache", "Entry", "Environment", "Store", "TrialRunner", "run_trial", "stage_keys"]
