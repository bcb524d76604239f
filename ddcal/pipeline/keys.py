"""Stage keys: two trials share a stage exactly if everything that can change its numbers is the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from ddcal.config import TrainConfig, TrialConfig, resolve
from ddcal.config.backbones import OWN_SECTION, SECTIONS
from ddcal.config.calibrations import CALIBRATIONS, FOLD_METHODS, MASK_METHODS
from ddcal.config.training import LOSS_SECTIONS
from ddcal.config.trial import IMAGE_FILE_DATASETS, folds_of
from ddcal.pipeline.environment import Environment

STAGES = ("experts", "distill", "train", "folds", "calibrate", "evaluate")
"""All stages in their order; ``experts`` is one of ``backbone: mtt`` alone, ``folds`` of `FOLD_METHODS`."""

MASKED = "masked"
"""Logits of masked images: entries that calibrate stages share, and no stage of a trial."""

ENTRIES = (*STAGES, MASKED)
"""All kinds of entries that a store has."""

ALGORITHM_VERSIONS = {
    "experts": 1,
    "distill/real": 1,
    "distill/dc": 1,
    "distill/dsa": 1,
    "distill/dm": 1,
    "distill/mtt": 1,
    "distill/rtp": 1,
    "distill/rtp with bases": 2,
    "distill/file": 1,
    "train": 1,
    "folds": 1,
    "masked": 1,
    "calibrate": 2,
    "evaluate": 3,
}
"""Raised whenever a stage's numbers change, so that old artefacts are not taken for new ones."""

LIMITS = ("clip", "update_limit")
"""Settings of ``distill`` that are no part of its key where they are off."""

USUAL: dict[str, dict[str, tuple[object, ...]]] = {
    "mtt": {"remainder": (None, "last")},
    "rtp": {"init": ("real",), "augment": ("dsa",)},
}
"""Section of ``distill`` → settings that are no part of its key where they have these values: stores are older."""


def stage_config(config: TrialConfig, stage: str) -> dict[str, Any]:
    """Return the part of a *resolved* trial config that the stage's numbers depend on.

    Settings without effect are left out: the masks of a calibration that masks nothing, the loops of ``real``, the
    sections of other losses. The experts' part is the distilling network and ``mtt.experts`` alone, so that sets of any
    ipc and mask share them. The folds' part is how networks are trained, but not how many, as a fold has one. An
    imported file is its content, not its path.

    Raises:
        ddcal.distill.tensor_file.TensorFileError: if that file cannot be read.
    """
    if stage == "experts":
        return {
            "network": config.distill.network.model_dump(mode="json"),
            "experts": config.distill.mtt.experts.model_dump(mode="json"),
        }
    if stage == "distill":
        values = config.distill.model_dump(mode="json", exclude={"family"})  # the resolved values say it all
        backbone = config.distill.backbone
        for limit in LIMITS:
            if values[limit] is None or backbone == "real":
                del values[limit]
        for section in SECTIONS:
            if section != OWN_SECTION.get(backbone):
                del values[section]
            else:
                for name, usual in USUAL.get(section, {}).items():
                    if values[section][name] in usual:
                        del values[section][name]
        if backbone in ("real", "file"):
            del values["mask"], values["iterations"]
        elif config.distill.mask.ratio == 0.0:
            values["mask"] = {"ratio": 0.0}
        if backbone == "file":
            from ddcal.distill.tensor_file import content_digest, file_identity  # torch, which other keys do without

            values["file"] = file_identity(config.distill.file, content_digest(config.distill.file))
        return values
    if stage == "train":
        return _train_config(config.train)
    if stage == "folds":
        return {"train": _train_config(config.train) | {"networks": 1}, "folds": folds_of(config)}
    if stage == "calibrate":
        return _calibrate_config(config)
    return config.evaluate.model_dump(mode="json")


def _calibrate_config(config: TrialConfig) -> dict[str, Any]:
    method, calibration = config.calibrate.method, CALIBRATIONS[config.calibrate.method]
    values = config.calibrate.model_dump(mode="json", exclude={"folds"})  # of the folds stage, where there is one
    if method not in MASK_METHODS:
        del values["mask"], values["draws"]
    elif method == "mts_distilled":
        del values["mask"]["ratio"]
    elif config.calibrate.mask.ratio == 0.0:
        values["mask"], values["draws"] = {"ratio": 0.0}, 1
    if calibration.bounds is None:
        del values["t_min"], values["t_max"]
    if not calibration.temperature_alone:
        del values["solver"]
    return values


def masked_key(train_key: str, config: TrialConfig, ratio: float, draws: int) -> str:
    """Return the key of the logits of masked images, which calibrations that differ in bounds or solver share.

    Args:
        train_key: The train stage's, whose networks and images these are.
        config: The trial, of which the unit of the mask and the seed count.
        ratio: The mask's.
        draws: How many masks are drawn.
    """
    values = {"unit": config.calibrate.mask.unit, "ratio": ratio, "draws": draws, "seed": config.seed}
    return _key({"stage": MASKED, "algorithm_version": ALGORITHM_VERSIONS[MASKED], "upstream": train_key, **values})


def _train_config(train: TrainConfig) -> dict[str, Any]:
    values = train.model_dump(mode="json")
    for section in LOSS_SECTIONS:
        if section != train.loss:
            del values[section]
    if train.loss == "focal" and train.focal.sample_dependent:
        del values["focal"]["gamma"]
    return values


def expert_keys(config: TrialConfig, fingerprint: str, environment: Environment) -> list[str]:
    """Return the key of each expert of a trial (MTT), which the number of experts is no part of.

    Args:
        config: Resolved or not; both give the same keys.
        fingerprint: Of the data source, from `ddcal.data.dataset_fingerprint`.
        environment: Device, precision and threads.

    Raises:
        ddcal.distill.tensor_file.TensorFileError: as `stage_config`.
    """
    config = resolve(config)
    identity = _identity(config, "experts", fingerprint, environment)
    del identity["config"]["experts"]["count"]
    return [_key(identity | {"expert": index}) for index in range(config.distill.mtt.experts.count)]


def stage_keys(
    config: TrialConfig, fingerprint: str, environment: Environment, target: Literal["ddnn", "distill"] = "ddnn"
) -> dict[str, str]:
    """Return stage → key, a sha256 in hex, for every stage that the trial has.

    ``distill.backbone: full`` has no distill stage; its networks train on the real data. ``mtt`` alone has experts, and
    cross-validation alone has folds, which do not depend on the networks of the train stage.

    Args:
        config: Resolved or not; both give the same keys.
        fingerprint: Of the data source, from `ddcal.data.dataset_fingerprint`.
        environment: Device, precision and threads.
        target: ``distill`` leaves out what comes after the distilled set.
    """
    config = resolve(config)
    backbone = config.distill.backbone
    keys: dict[str, str] = {}
    for stage in STAGES:
        if (stage == "distill" and backbone == "full") or (stage == "experts" and backbone != "mtt"):
            continue
        if stage == "folds" and config.calibrate.method not in FOLD_METHODS:
            continue
        identity = _identity(config, stage, fingerprint, environment)
        upstream = [key for other, key in keys.items() if (other, stage) != ("train", "folds")]
        keys[stage] = _key(identity | {"upstream": sorted(upstream)})
        if stage == target:
            break
    return keys


def _algorithm(config: TrialConfig, stage: str) -> str:
    """Return under which name of `ALGORITHM_VERSIONS` a stage of a resolved trial computes."""
    if stage != "distill":
        return stage
    bases = config.distill.backbone == "rtp" and config.distill.rtp.bases
    return f"distill/{config.distill.backbone}{' with bases' if bases else ''}"


def _identity(config: TrialConfig, stage: str, fingerprint: str, environment: Environment) -> dict[str, Any]:
    """Return what decides over a stage of a resolved trial, but for the stages before it."""
    # What only image files have stays out of the keys of the others; the variant is told by the fingerprint.
    without = {"root", "variant"} | (set() if config.data.name in IMAGE_FILE_DATASETS else {"resize"})
    without |= {"train_images"} if config.data.train_images is None else set()
    return {
        "stage": stage,
        "algorithm_version": ALGORITHM_VERSIONS[_algorithm(config, stage)],
        "config": stage_config(config, stage),
        "data": config.data.model_dump(mode="json", exclude=without) | {"fingerprint": fingerprint},
        "seed": config.seed,
        "environment": environment.identity(),
    }


def _key(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
