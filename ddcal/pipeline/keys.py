"""Stage keys: two trials share a stage exactly if everything that can change its numbers is the same."""

from __future__ import annotations

from ddcal.config import TrialConfig, resolve
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.stages import stages_of


def stage_keys(config: TrialConfig, fingerprint: str, environment: Environment, target: str = "ddnn") -> dict[str, str]:
    """Return stage → key, a sha256 in hex, for every stage that the trial has, in their order.

    Args:
        config: Resolved or not; both give the same keys.
        fingerprint: Of the data source, from `ddcal.data.dataset_fingerprint`.
        environment: Device, precision and threads.
        target: ``distill`` leaves out what comes after the distilled set.

    Raises:
        ddcal.distill.importing.tensor_file.TensorFileError: if a file of images that is to be imported cannot be read.
        ValueError: as `ddcal.pipeline.stages.stages_of`.
    """
    config = resolve(config)
    keys: dict[str, str] = {}
    for stage in stages_of(config, target):
        keys[stage.name] = stage.key(config, fingerprint, environment, keys)
    return keys
