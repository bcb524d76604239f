"""What MLflow keeps of a trial: which of its numbers are metrics, and its pictures."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ddcal.errors import StoreError
from ddcal.pipeline.compute.diagram import DIAGRAM, SHIFT_PICTURE
from ddcal.store.opening import open_store
from ddcal.study.record.events import TrialFinished

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
"""The artefact with every number of a trial, most of which are no metrics in MLflow."""

MAIN = ("ece", "nll", "accuracy")
STEP_TAG, STEP_WORDS = "ddcal.step", "percent of the trial"
"""What the steps of a run's metrics are; a run of an earlier version has no such tag, and its steps are thousandths."""

PERCENT, THOUSANDTHS = 100, 1000


def is_metric(name: str, named: Collection[str]) -> bool:
    """Return whether a number of a trial is a metric in MLflow, which draws a chart for each.

    What is known at several points of a trial is one, and what is looked at most: 150 numbers would be 150 charts, most
    of them a single point.

    Args:
        name: As in the ledger, for example ``test/raw/ece``.
        named: Names that the study asks for: objectives and constraints.
    """
    if name in named:
        return True
    *place, last = name.split("/")
    if last.endswith("_std"):
        return False
    if place[:1] == ["test"]:
        return (last in MAIN and "shift" not in place) or name == "test/ece_noise_floor"
    return len(place) < 2  # of ``val`` the trial's own calibration, which has a curve; temperatures


class TrialPictures:
    """The pictures of a study's trials, fetched from the store or drawn."""

    def __init__(self, directory: Path) -> None:
        """Keep what is drawn in the study's folder."""
        self._directory = directory
        self._pictures: Any = None

    def of(self, event: TrialFinished, data: dict[str, Any], store: str | None, cache: str | None) -> Iterator[Path]:
        """Yield the files of a trial's pictures that there are.

        Args:
            event: Its end.
            data: The data section of its config.
            store: The place of its artefacts; None: nothing is found.
            cache: The cache of a store elsewhere.
        """
        if not store:
            return
        diagram = Path(event.diagram).name if event.diagram else DIAGRAM  # the path is of before any move
        found = [_evaluated(event, store, cache, diagram)]
        if any(name.startswith("test/shift/") for name in event.metrics or ()):
            found.append(_evaluated(event, store, cache, SHIFT_PICTURE))
        found += self._distilled(event.keys.get("distill"), data, store, cache)
        yield from (picture for picture in found if picture is not None)

    def _distilled(
        self, key: str | None, data: dict[str, Any], store: str, cache: str | None
    ) -> tuple[Path | None, ...]:
        """Return the pictures of the distilled images, drawn once a distilled set; None for one it has not."""
        if key is None:
            return ()
        if self._pictures is None:
            from ddcal.pipeline.distilled_picture import DistilledPictures  # torch and matplotlib

            self._pictures = DistilledPictures(self._directory / "figures" / "distilled")
        opened = open_store(store, cache)
        return self._pictures.picture(opened, key, data), self._pictures.progress(opened, key)


def _evaluated(event: TrialFinished, store: str, cache: str | None, name: str) -> Path | None:
    """Return a picture of the trial's evaluation, fetched from the store if that is elsewhere."""
    key = event.keys.get("evaluate")
    if not key or not event.metrics:
        return None
    try:
        return open_store(store, cache).file("evaluate", key, name)
    except StoreError as error:
        logger.warning("no %s for MLflow: %s", name, error)
        return None
