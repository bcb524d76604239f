"""The distill stage: the synthetic images, and a short network's score on ``val`` at fixed fractions of the work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddcal.config import TrialConfig
from ddcal.config.backbones import SECTIONS, is_own_backbone
from ddcal.config.backbones.halving import half, width_of
from ddcal.config.components import source_of
from ddcal.config.training import LabelsConfig
from ddcal.pipeline.costs import Amount, Kind, network_words
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.stages.base import Stage
from ddcal.pipeline.stages.experts import EXPERTS

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape

LIMITS = ("clip", "update_limit")
"""Settings of ``distill`` that are no part of its key where they are off."""

MAX_CLASSES, MAX_IMAGES = 20, 10
"""The picture of a set shows at most so many classes, and images of each."""

PROGRESS_POINTS = 4
PROGRESS_CLASSES = 10
"""The picture of how images came about shows the first image of so many classes."""


class DistillStage(Stage):
    """The distilled set of a trial; a trial that trains on all real images has none."""

    name = "distill"
    span = (0.0, 0.5)
    builds_on = ("experts",)
    reads = ("seed", "data.", "network.", "distill.")
    step = "iteration"
    points_compared = "all"
    shared_files = {  # noqa: RUF012 - never changed
        "synthetic.safetensors": "distilled",
        "synthetic.json": "distilled",
        "source.safetensors": "distilled",  # of an imported set
    }

    def in_trial(self, config: TrialConfig) -> bool:
        """Return whether anything is distilled."""
        return config.distill.spec.distills

    def needs(self, config: TrialConfig) -> tuple[str, ...]:
        """Return the experts, where the backbone takes them."""
        return self.builds_on if config.distill.spec.takes_experts else ()

    def key(self, config: TrialConfig, fingerprint: str, environment: Environment, earlier: Mapping[str, str]) -> str:
        """Return its key: experts that only label are no part of it."""
        if config.labels.by_experts and EXPERTS.name in self.needs(config):
            plain = config.model_copy(update={"labels": LabelsConfig()})
            earlier = {**earlier, EXPERTS.name: EXPERTS.key(plain, fingerprint, environment, {})}
        return super().key(config, fingerprint, environment, earlier)

    def version(self, config: TrialConfig) -> int:
        """Return the version of the backbone."""
        return config.distill.spec.algorithm_version(config.distill)

    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return ``distill`` with the sections of other backbones, masks and limits that are off left out.

        An imported file is its content, not its path.

        Raises:
            ddcal.distill.importing.tensor_file.TensorFileError: if that file cannot be read.
        """
        values = config.distill.model_dump(mode="json", exclude={"family"})  # the resolved values say it all
        spec = config.distill.spec
        for limit in LIMITS:
            if values[limit] is None or not (spec.learns or spec.imports):
                del values[limit]
        for section in SECTIONS:
            if section != spec.section:
                values.pop(section, None)
        for name, usual in spec.usual.items():
            if values[spec.section].get(name) in usual:
                values[spec.section].pop(name, None)
        for name in spec.unused:
            values[spec.section].pop(name, None)
        if not spec.learns:
            del values["mask"], values["iterations"]
        elif config.distill.mask.ratio == 0.0:
            values["mask"] = {"ratio": 0.0}
        if spec.imports:
            # torch, which other keys do without
            from ddcal.distill.importing.tensor_file import content_digest, file_identity

            values["file"] = file_identity(config.distill.file, content_digest(config.distill.file))
        if is_own_backbone(config.distill.backbone):
            values["source"] = source_of("backbone", config.distill.backbone, spec.distiller)["sha256"]
        return values

    def kind(self, config: TrialConfig) -> Kind:
        """Return what an iteration depends on."""
        data, distill = config.data, config.distill
        values: dict[str, Any] = {"data": data.model_dump(mode="json")}
        values |= {name: getattr(distill, name) for name in ("backbone", "ipc")}
        values |= {"network": distill.network.model_dump(), "probe": distill.probe.model_dump(exclude={"points"})}
        masked = ""
        if distill.spec.section:
            values |= distill.spec.cost_values(distill)
            if distill.mask.ratio > 0.0 and distill.spec.learns:
                values["mask"] = distill.mask.model_dump(exclude={"ratio"})
                masked = " masked"
        formed = f" formation {distill.formation.factor}" if distill.formation.factor > 1 else ""
        what = f"{data.name} {distill.backbone} ipc {distill.ipc}{formed}{masked}, {network_words(distill.network)}"
        return self._kind(what, values)

    def amount(self, config: TrialConfig) -> Amount:
        """Return the iterations and the probes."""
        iterations = (config.distill.iterations or 1) if config.distill.spec.learns else 1
        points = config.distill.probe.points
        scored = {math.ceil(k * iterations / points) for k in range(1, points + 1)}
        return Amount(1, iterations, len(scored))

    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the images, their preprocessing, their pictures and their description."""
        from ddcal.pipeline.footprint import (
            DESCRIPTION_BYTES,
            MANIFEST_BYTES,
            POINT_BYTES,
            SMALL_PREPROCESSING,
            TENSOR_HEADER_BYTES,
        )

        features = shape.channels * shape.size**2
        per_class = config.distill.spec.images_per_class(config.distill, shape.classes, shape.channels, shape.size)
        count = per_class * shape.classes
        tensors = 4 * count * features + 3 * TENSOR_HEADER_BYTES
        soft = config.distill.spec.soft_labels(config.distill)
        labels = 4 * shape.classes * count if soft else 8 * count
        fitted = (features, features**2, features**2) if config.data.zca else (shape.channels, shape.channels)
        kept = sum(4 * numbers + TENSOR_HEADER_BYTES for numbers in fitted if numbers <= SMALL_PREPROCESSING)
        text = MANIFEST_BYTES + POINT_BYTES * config.distill.probe.points + DESCRIPTION_BYTES + 32 * shape.classes
        stored = tensors + (2 if soft else 1) * labels  # of numbers that may have eight bytes
        source = stored if config.distill.spec.imports else 0  # the imported tensors as they were stored
        shown = min(MAX_CLASSES, shape.classes) * min(MAX_IMAGES, per_class)
        grid = shown * features + TENSOR_HEADER_BYTES if config.data.zca else 0
        progress = 0 if not config.distill.spec.learns else _progress_size(shape) + 2 * TENSOR_HEADER_BYTES
        return tensors + labels + source + progress + grid + kept + text

    def checkpoint_size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the images, their momentum and the pictures so far."""
        from ddcal.pipeline.footprint import MANIFEST_BYTES

        spec, distill = config.distill.spec, config.distill
        learned = 8 * distill.ipc * shape.classes * shape.channels * shape.size**2
        if spec.soft_labels(distill):
            learned += 8 * distill.ipc * distill.formation.factor**2 * shape.classes**2
        return 2 * (learned + _progress_size(shape) + MANIFEST_BYTES)

    def memory(self, config: TrialConfig) -> dict[str, Any]:
        """Return its settings, without counts of the backbone that cost nothing."""
        settings, spec = self.settings(config), config.distill.spec
        for name in spec.costless:
            settings[spec.section].pop(name, None)
        return {self.name: settings}

    def what_to_halve(self, config: TrialConfig) -> list[str]:
        """Return the backbone's settings, and the width of the distilling network."""
        width = width_of(config.network, config.distill.network)
        advice = config.distill.spec.what_to_halve(config.distill)
        if not config.distill.spec.learns:  # nothing but the probe computes
            advice = half("distill.probe.images", config.distill.probe.images)
        return [*advice, *half("distill.network.width", width)]


DISTILL = DistillStage()


def _progress_size(shape: DatasetShape) -> int:
    return (PROGRESS_POINTS + 1) * min(PROGRESS_CLASSES, shape.classes) * shape.channels * shape.size**2
