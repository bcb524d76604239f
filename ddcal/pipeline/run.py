"""One trial from start to end, in this process: for notebooks and debuggers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddcal.config import TrialConfig
from ddcal.pipeline.advance import Advance
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.trial import TrialRunner
from ddcal.store.base import Store
from ddcal.store.opening import open_store


def run_trial(
    config: TrialConfig,
    store: Store | Path | str = "runs/store",
    *,
    environment: Environment | None = None,
    on_advance: Callable[[Advance], None] | None = None,
) -> dict[str, Any]:
    """Run one trial from data to calibrated metrics, without Ray or MLflow.

    Args:
        config: The trial.
        store: The artefact store, its folder or its ``s3://`` URL; finished stages are taken from it.
        environment: Device, threads and precision; default: a GPU if there is one, one thread.
        on_advance: Called after every chunk of work, for progress.

    Returns:
        Metric name → value: ``val/ece``, ``test/ece``, ``test/raw/ece``, ``temperature``…

    Raises:
        DataError, DivergedError, StoreError: as `TrialRunner`.
    """
    place = store if isinstance(store, Store) else open_store(store)
    return TrialRunner(config, place, environment).run(on_advance)
