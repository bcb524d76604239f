"""The evaluate stage: every metric of the calibrated networks on ``val`` and ``test``, and the reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddcal.config import TrialConfig
from ddcal.pipeline.costs import Amount, Kind, image_values, image_words
from ddcal.pipeline.stages.base import Stage

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape


class EvaluateStage(Stage):
    """The metrics of a trial, computed in one go from stored logits."""

    name = "evaluate"
    span = (0.95, 1.0)
    builds_on = ("experts", "distill", "labels", "train", "folds", "calibrate")
    reads = ("seed", "data.", "network.", "distill.", "labels.", "train.", "calibrate.", "evaluate.")
    step = "evaluation"
    values_file = "evaluation.json"
    shared_files = {"evaluation.json": ".", "reliability.png": "."}  # noqa: RUF012 - never changed

    def version(self, config: TrialConfig) -> int:
        """Return the version of the metrics."""
        return 3

    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return ``evaluate``, without what is not asked for."""
        also = sorted(set(config.evaluate.also))
        values: dict[str, Any] = {"bins": config.evaluate.bins}
        if also:
            values["also"] = also
        if "conformal" in also:
            values["coverage"] = config.evaluate.coverage
        return values

    def metrics(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metrics that were found."""
        return dict(meta["values"]["metrics"])

    def kind(self, config: TrialConfig) -> Kind:
        """Return what an evaluation depends on."""
        values = image_values(config) | {"bins": config.evaluate.bins, "networks": config.train.networks}
        if also := sorted(set(config.evaluate.also)):  # which takes longer
            values["also"] = also
        return self._kind(f"{config.data.name} {image_words(config)}, {config.train.networks} networks", values)

    def amount(self, config: TrialConfig) -> Amount:
        """Return one evaluation."""
        return Amount(1, 1, 0)

    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the metrics and of the picture."""
        from ddcal.pipeline.footprint import BIN_BYTES, DIAGRAM_BYTES, MANIFEST_BYTES, METRICS_BYTES

        metrics = METRICS_BYTES * (3 if config.evaluate.also else 1)
        text = metrics + 5 * (config.evaluate.bins * BIN_BYTES + 32 * config.train.networks)
        return 2 * text + DIAGRAM_BYTES + MANIFEST_BYTES

    def memory(self, config: TrialConfig) -> None:
        """Return None: it works on stored logits."""
        return


EVALUATE = EvaluateStage()
