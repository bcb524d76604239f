"""The labels stage: the distilled images labelled anew by experts, with probabilities (soft labels)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddcal.config import NetworkConfig, TrialConfig
from ddcal.config.backbones.formation import formation_values
from ddcal.config.backbones.halving import half, width_of
from ddcal.pipeline.costs import Amount, Kind, network_words
from ddcal.pipeline.stages.base import Stage

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape


class LabelsStage(Stage):
    """Soft labels of a trial's distilled images, computed in one go; most trials keep the labels of the set."""

    name = "labels"
    span = (0.5, 0.5)  # none of a trial's progress, as experts
    builds_on = ("experts", "distill")
    reads = ("seed", "data.", "network.", "distill.", "labels.")
    step = "expert"
    values_file = "labels.json"
    optional = True
    shared_files = {"labels.json": "distilled", "labels.safetensors": "distilled"}  # noqa: RUF012 - never changed

    def in_trial(self, config: TrialConfig) -> bool:
        """Return whether experts label the images."""
        return config.labels.by_experts

    def version(self, config: TrialConfig) -> int:
        """Return the version of labelling."""
        return 1

    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return ``labels``."""
        return config.labels.model_dump(mode="json")

    def kind(self, config: TrialConfig) -> Kind:
        """Return what the answers of an expert depend on."""
        data, distill = config.data, config.distill
        values = {"data": data.model_dump(mode="json"), "network": distill.network.model_dump(), "ipc": distill.ipc}
        what = f"{data.name} labels of {distill.ipc} images a class, {network_words(distill.network)}"
        return self._kind(what, values | distill.spec.image_values(distill))

    def amount(self, config: TrialConfig) -> Amount:
        """Return the experts."""
        return Amount(config.labels.experts, 1, 0)

    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the labels, and of the experts' answers to real images."""
        from ddcal.pipeline.footprint import MANIFEST_BYTES, TENSOR_HEADER_BYTES

        spec = config.distill.spec
        per_class = spec.images_per_class(config.distill, shape.classes, shape.channels, shape.size)
        images = per_class * shape.classes + shape.val + shape.test
        return 4 * images * shape.classes + 3 * TENSOR_HEADER_BYTES + 2 * MANIFEST_BYTES

    def memory(self, config: TrialConfig) -> dict[str, Any]:
        """Return how many experts answer, and their network."""
        network = config.distill.network.over(NetworkConfig()).model_dump(mode="json")
        distill = {"network": network, "ipc": config.distill.ipc} | formation_values(config.distill)
        return {self.name: {"experts": config.labels.experts}, "distill": distill}

    def what_to_halve(self, config: TrialConfig) -> list[str]:
        """Return the width of the distilling network, which is the experts'."""
        return half("distill.network.width", width_of(config.network, config.distill.network))


LABELS = LabelsStage()
