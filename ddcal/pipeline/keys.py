"""Stage keys: two trials share a stage exactly if everything that can change its numbers is the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ddcal.config import TrialConfig, resolve
from ddcal.config.backbones import OWN_SECTION, SECTIONS
from ddcal.config.trial import IMAGE_FILE_DATASETS
from ddcal.pipeline.environment import Environment

STAGES = ("distill", "train", "calibrate", "evaluate")

ALGORITHM_VERSIONS = {
    "distill/real": 1,
    "distill/dc": 1,
    "distill/dsa": 1,
    "distill/dm": 1,
    "distill/mtt": 1,
    "distill/rtp": 1,
    "train": 1,
    "calibrate": 1,
    "evaluate": 1,
}
"""Raised whenever a stage's numbers change, so that old artefacts are not taken for new ones."""


def stage_config(config: TrialConfig, stage: str) -> dict[str, Any]:
    """Return the part of a *resolved* trial config that the stage's numbers depend on.

    Settings without effect are left out: the masks of a calibration that masks nothing, the loops of ``real``.
    """
    if stage == "distill":
        values = config.distill.model_dump(mode="json", exclude={"family"})  # the resolved values say it all
        backbone = config.distill.backbone
        for section in SECTIONS:
            if section != OWN_SECTION.get(backbone):
                del values[section]
        if backbone == "real":
            del values["mask"], values["iterations"]
        elif config.distill.mask.ratio == 0.0:
            values["mask"] = {"ratio": 0.0}
        return values
    if stage == "train":
        return config.train.model_dump(mode="json")
    if stage == "calibrate":
        values = config.calibrate.model_dump(mode="json")
        if config.calibrate.method != "mts":
            del values["mask"], values["draws"]
        elif config.calibrate.mask.ratio == 0.0:
            values["mask"], values["draws"] = {"ratio": 0.0}, 1
        return {"method": "none"} if config.calibrate.method == "none" else values
    return config.evaluate.model_dump(mode="json")


def stage_keys(config: TrialConfig, fingerprint: str, environment: Environment) -> dict[str, str]:
    """Return stage → key, a sha256 in hex, for every stage that the trial has.

    ``distill.backbone: full`` has no distill stage; its networks train on the real data.

    Args:
        config: Resolved or not; both give the same keys.
        fingerprint: Of the data source, from `ddcal.data.dataset_fingerprint`.
        environment: Device, precision and threads.
    """
    config = resolve(config)
    backbone = config.distill.backbone
    # What only image files have stays out of the keys of the others; the variant is told by the fingerprint.
    without = {"root", "variant"} | (set() if config.data.name in IMAGE_FILE_DATASETS else {"resize"})
    data = config.data.model_dump(mode="json", exclude=without) | {"fingerprint": fingerprint}
    keys: dict[str, str] = {}
    for stage in STAGES:
        if stage == "distill" and backbone == "full":
            continue
        version = ALGORITHM_VERSIONS[f"distill/{backbone}" if stage == "distill" else stage]
        identity = {
            "stage": stage,
            "algorithm_version": version,
            "config": stage_config(config, stage),
            "data": data,
            "seed": config.seed,
            "upstream": sorted(keys.values()),
            "environment": environment.identity(),
        }
        keys[stage] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return keys
