"""Studies: Ray Tune and Optuna over trials, MLflow tracking, results, export and replay.

Names are imported at first use: reading results needs neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddcal.study.record.results import load_study
    from ddcal.study.run.runner import resume_study, run_study
    from ddcal.study.run.trainable import DDNNTrainable, DistillTrainable

HOMES = {
    "DDNNTrainable": "ddcal.study.run.trainable",
    "DistillTrainable": "ddcal.study.run.trainable",
    "load_study": "ddcal.study.record.results",
    "resume_study": "ddcal.study.run.runner",
    "run_study": "ddcal.study.run.runner",
}

__all__ = ["DDNNTrainable", "DistillTrainable", "load_study", "resume_study", "run_study"]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'ddcal.study' has no attribute {name!r}")
