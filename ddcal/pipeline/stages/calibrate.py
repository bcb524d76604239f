"""The calibrate stage: one calibrator a network, fitted on what ``calibrate.method`` is allowed to see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ddcal.config import TrialConfig
from ddcal.config.calibrations import CALIBRATIONS
from ddcal.config.components import source_of
from ddcal.pipeline.costs import Amount, Kind, image_values, image_words
from ddcal.pipeline.stages.base import Stage
from ddcal.pipeline.stages.train import trained_set

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape


CALIBRATORS = "calibrators"
"""Folder of an entry, with one folder a network, where one temperature is not all there is to a calibrator."""


class CalibrateStage(Stage):
    """Calibrators of a trial's networks, computed in one go."""

    name = "calibrate"
    span = (0.9, 0.95)
    builds_on = ("experts", "distill", "labels", "train", "folds")
    reads = ("seed", "data.", "network.", "distill.", "labels.", "train.", "calibrate.")
    step = "network"
    values_file = "calibration.json"
    shared_files = {"calibration.json": "networks"}  # noqa: RUF012 - never changed

    def version(self, config: TrialConfig) -> int:
        """Return the version of the calibrations."""
        return 2

    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return ``calibrate`` without what the method does not have, and without a mask that masks nothing."""
        method, calibration = config.calibrate.method, config.calibrate.spec
        values = config.calibrate.model_dump(mode="json", exclude={"folds"})  # of the folds stage, where there is one
        if not calibration.masks:
            del values["mask"], values["draws"]
        elif calibration.finds_ratio:
            del values["mask"]["ratio"]
        elif config.calibrate.mask.ratio == 0.0:
            values["mask"], values["draws"] = {"ratio": 0.0}, 1
        if calibration.bounds is None:
            del values["t_min"], values["t_max"]
        if not calibration.temperature_alone:
            del values["solver"]
        if method not in CALIBRATIONS:  # a user's own
            source = source_of("calibrator", method, calibration.calibrator)["sha256"]
            values |= {"source": source, "version": calibration.version}
        return values

    def exported(self, files: Iterable[str]) -> dict[str, str]:
        """Return its values, and the calibrators that are more than a temperature."""
        files = list(files)
        calibrators = {name: "networks" for name in files if name.startswith(f"{CALIBRATORS}/")}
        return super().exported(files) | calibrators

    def kind(self, config: TrialConfig) -> Kind:
        """Return what a fit depends on."""
        calibrate = config.calibrate
        values = image_values(config) | {"method": calibrate.method, "solver": calibrate.solver}
        what = f"{config.data.name} {calibrate.method}, {image_words(config)}"
        if calibrate.spec.masks:
            draws = calibrate.draws if calibrate.mask.ratio > 0.0 or calibrate.spec.finds_ratio else 1
            values |= {"network": config.train.network.model_dump(), "draws": draws}
            what += f", {draws} mask{'s' * (draws != 1)}"
        return self._kind(what, values)

    def amount(self, config: TrialConfig) -> Amount:
        """Return one fit a network."""
        return Amount(config.train.networks, 1, 0)

    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the fits, and of the logits of masked images that they leave."""
        from ddcal.pipeline.footprint import FIT_BYTES, MANIFEST_BYTES, RATIO_BYTES, calibrator_bytes, masked_bytes

        networks = config.train.networks
        draws = config.calibrate.draws if config.calibrate.spec.masks else 0
        text = 2 * (networks * (FIT_BYTES + 32 * draws) + RATIO_BYTES)  # once in its file, once in the manifest
        return text + masked_bytes(config, shape) + networks * calibrator_bytes(config, shape) + MANIFEST_BYTES

    def memory(self, config: TrialConfig) -> dict[str, Any]:
        """Return its settings, how many images there are, and the networks."""
        networks = config.train.model_dump(mode="json", include={"network", "networks"})
        return {self.name: self.settings(config), "distill": trained_set(config), "train": networks}


CALIBRATE = CalibrateStage()
