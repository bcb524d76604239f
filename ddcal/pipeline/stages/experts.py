"""The experts stage, of MTT, coresets and labels by experts: the trajectories of networks trained on the real data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddcal.config import TrialConfig, resolve
from ddcal.config.backbones.halving import half, width_of
from ddcal.pipeline.costs import Amount, Kind
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.stages.base import Stage, digest

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape


class ExpertsStage(Stage):
    """Experts of one trial: an entry that lists them, beside an entry for each that trials share."""

    name = "experts"
    span = (0.0, 0.0)  # none of a trial's progress: a point lies where it lies for trials without them
    builds_on = ()
    reads = (
        *("seed", "data.", "network.", "distill.network.", "distill.mtt.experts."),
        *("distill.backbone", "distill.family", "distill.ipc", "distill.mtt.max_start", "distill.mtt.expert_epochs"),
        "distill.coreset.experts",
        *("labels.source", "labels.experts", "labels.epoch"),
    )
    step = "epoch of an expert"
    optional = True

    def in_trial(self, config: TrialConfig) -> bool:
        """Return whether the backbone takes experts, or they label the set."""
        return config.experts > 0

    def version(self, config: TrialConfig) -> int:
        """Return the version of training experts."""
        return 1

    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return the distilling network and ``mtt.experts`` alone, so that sets of any ipc and mask share them."""
        return {
            "network": config.distill.network.model_dump(mode="json"),
            "experts": config.distill.mtt.experts.model_dump(mode="json") | {"count": config.experts},
        }

    def kind(self, config: TrialConfig) -> Kind:
        """Return what an epoch of an expert depends on."""
        data, distill, experts = config.data, config.distill, config.distill.mtt.experts
        values = {"data": data.model_dump(mode="json"), "network": distill.network.model_dump()}
        values |= experts.model_dump(include={"batch_size", "augment", "precision"})
        what = f"{data.name} experts, width {distill.network.width}, augment {experts.augment}"
        return self._kind(what, values)

    def amount(self, config: TrialConfig) -> Amount:
        """Return the experts and their epochs."""
        return Amount(config.experts, config.distill.mtt.kept_epochs, 0)

    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of all experts and of their list."""
        from ddcal.pipeline.footprint import (
            EPOCH_BYTES,
            MANIFEST_BYTES,
            MEMBER_BYTES,
            TENSOR_HEADER_BYTES,
            trajectory_bytes,
        )

        count, epochs = config.experts, config.distill.mtt.kept_epochs
        text = MANIFEST_BYTES + EPOCH_BYTES * (epochs + 1)
        one = trajectory_bytes(config, shape) + TENSOR_HEADER_BYTES + text
        return count * one + MANIFEST_BYTES + count * (MEMBER_BYTES + EPOCH_BYTES * (epochs + 1))

    def checkpoint_size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of one unfinished expert."""
        from ddcal.pipeline.footprint import EPOCH_BYTES, MANIFEST_BYTES, momentum_bytes, trajectory_bytes

        state = trajectory_bytes(config, shape) + momentum_bytes(config.distill.network, shape)
        return 2 * (state + EPOCH_BYTES * config.distill.mtt.kept_epochs + MANIFEST_BYTES)

    def what_to_halve(self, config: TrialConfig) -> list[str]:
        """Return the batch of an expert, and the width of the distilling network."""
        return [
            *half("distill.mtt.experts.batch_size", config.distill.mtt.experts.batch_size),
            *half("distill.network.width", width_of(config.network, config.distill.network)),
        ]


EXPERTS = ExpertsStage()


def expert_keys(config: TrialConfig, fingerprint: str, environment: Environment) -> list[str]:
    """Return the key of each expert of a trial (MTT), which the number of experts is no part of.

    Args:
        config: Resolved or not; both give the same keys.
        fingerprint: Of the data source, from `ddcal.data.dataset_fingerprint`.
        environment: Device, precision and threads.
    """
    config = resolve(config)
    identity = EXPERTS.identity(config, fingerprint, environment)
    del identity["config"]["experts"]["count"]
    return [digest(identity | {"expert": index}) for index in range(config.experts)]
