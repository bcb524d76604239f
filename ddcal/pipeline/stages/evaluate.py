"""The evaluate stage: every metric of the calibrated networks on ``val`` and ``test``, and the reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddcal.config import TrialConfig
from ddcal.config.datasets import other_data, other_label
from ddcal.pipeline.costs import Amount, Kind, image_values, image_words
from ddcal.pipeline.stages.base import Stage

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape
    from ddcal.pipeline.environment import Environment


class EvaluateStage(Stage):
    """The metrics of a trial, computed in one go from stored logits."""

    name = "evaluate"
    span = (0.95, 1.0)
    builds_on = ("experts", "distill", "labels", "train", "folds", "calibrate")
    reads = ("seed", "data.", "network.", "distill.", "labels.", "train.", "calibrate.", "evaluate.")
    step = "evaluation"
    values_file = "evaluation.json"
    shared_files = {"evaluation.json": ".", "reliability.png": ".", "shift.png": "."}  # noqa: RUF012 - never changed

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
        if config.evaluate.shift.asked:
            values["shift"] = _shift_values(config)
        return values

    def identity(self, config: TrialConfig, fingerprint: str, environment: Environment) -> dict[str, Any]:
        """Return what decides the metrics; of other data its contents, and not its place."""
        identity = super().identity(config, fingerprint, environment)
        if config.evaluate.shift.datasets:
            identity["other_data"] = other_fingerprints(config)
        return identity

    def metrics(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metrics that were found."""
        return dict(meta["values"]["metrics"])

    def kind(self, config: TrialConfig) -> Kind:
        """Return what an evaluation depends on."""
        values = image_values(config) | {"bins": config.evaluate.bins, "networks": config.train.networks}
        if also := sorted(set(config.evaluate.also)):  # which takes longer
            values["also"] = also
        if config.evaluate.shift.asked:
            values |= {"shift": _shift_values(config), "network": config.train.network.model_dump()}
        return self._kind(f"{config.data.name} {image_words(config)}, {config.train.networks} networks", values)

    def amount(self, config: TrialConfig) -> Amount:
        """Return one evaluation."""
        return Amount(1, 1, 0)

    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the metrics and of the picture."""
        from ddcal.pipeline.footprint import BIN_BYTES, DIAGRAM_BYTES, MANIFEST_BYTES, METRICS_BYTES, SHIFT_BYTES

        shift = config.evaluate.shift
        metrics = METRICS_BYTES * (3 if config.evaluate.also else 1)
        metrics += SHIFT_BYTES * (len(set(shift.corruptions)) + len(shift.datasets))
        text = metrics + 5 * (config.evaluate.bins * BIN_BYTES + 32 * config.train.networks)
        return 2 * text + DIAGRAM_BYTES * (2 if shift.corruptions else 1) + MANIFEST_BYTES

    def memory(self, config: TrialConfig) -> dict[str, Any] | None:
        """Return None where it works on stored logits; else the networks, which see other images."""
        if not config.evaluate.shift.asked:
            return None
        networks = config.train.model_dump(mode="json", include={"network", "networks"})
        return {"train": networks, "images": config.evaluate.shift.images}


EVALUATE = EvaluateStage()


def other_fingerprints(config: TrialConfig) -> dict[str, str]:
    """Return label → fingerprint of the data of ``evaluate.shift.datasets``.

    Raises:
        ddcal.data.DataError: if one is missing, naming where it was looked for.
    """
    from ddcal.data import DataError, dataset_fingerprint, own_cache  # torch, which other keys do without

    found = {}
    for entry in config.evaluate.shift.datasets:
        data = other_data(entry, config.data)
        try:
            found[other_label(entry)] = dataset_fingerprint(data, own_cache(data))
        except DataError as error:
            raise DataError(f"evaluate.shift.datasets has {entry!r}: {error}") from error
    return found


def _shift_values(config: TrialConfig) -> dict[str, Any]:
    """Return what is asked for, the datasets by their labels."""
    shift = config.evaluate.shift
    labels = sorted({other_label(entry) for entry in shift.datasets})
    return {"corruptions": sorted(set(shift.corruptions)), "datasets": labels, "images": shift.images}
