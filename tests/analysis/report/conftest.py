"""The paper's studies at a scale so small that all of them take seconds."""

import shutil
from pathlib import Path

import pytest

from ddcal.analysis.report.studies import SCALES, studies_folder

TINY = """
tiny:
  any:
    any:
      base.data: {name: digits}
      base.network.width: 4
      base.distill.ipc: 2
      base.distill.iterations: 2
      base.distill.probe: {points: 1, epochs: 1}
      base.distill.matching: {outer: 1, inner: 1, real_batch: 4}
      base.distill.dm: {real_batch: 4}
      base.train: {networks: 1, epochs: 3, lr: 0.1}
      base.calibrate.draws: 2
      space.seed: {choice: [0, 1]}
      constraints: {val/accuracy: ">= 0.0"}
      resources: {cpu: 1, threads: 1}
      tracking.uri: none
    fdnn:
      space.train.loss: {choice: [cross_entropy, mixup]}
    ddnn:
      space.distill.backbone: {choice: [dsa, real]}
      space.distill.ipc: {choice: [2, 1]}
    losses:
      space.train.loss: {choice: [mixup]}
      space.distill.ipc: {choice: [2]}
      space.distill.backbone: {choice: [real]}
    calibration:
      space.distill.ipc: {choice: [2]}
      space.calibrate.method: {choice: [mts, ts_holdout, ts_cv]}
      space.train.holdout: {choice: [0.5], when: {calibrate.method: [ts_holdout]}}
      space.distill.backbone: {choice: [real]}
    mask_ratio:
      space.distill.ipc: {choice: [2]}
      space.calibrate.mask.ratio: {choice: [0.0, 0.5, 0.9]}
      space.distill.backbone: {choice: [real]}
    masks:
      base.distill.ipc: 2
      space.calibrate.draws: {choice: [2, 1], when: {calibrate.mask.unit: [element]}}
      space.calibrate.mask.ratio: {choice: [0.5, 0.9]}
    accuracy:
      base.distill.backbone: dsa
      base.distill.family: published
      space.train.holdout: {choice: [0.5], when: {calibrate.method: [ts_holdout]}}
    features:
      base.seed: 0
      space.seed: {choice: [0]}
      space.train.loss: {choice: [cross_entropy]}
      space.distill.mask.ratio: {choice: [0.0]}
    spectrum:
      space.seed: {choice: [0]}
      space.distill.backbone: {choice: [real, dsa]}
      space.distill.mask.ratio: {choice: [0.0, 0.1], when: {distill.backbone: [dsa]}}
  digits: {}
"""


@pytest.fixture(scope="session")
def tiny_studies(tmp_path_factory) -> Path:
    """A copy of the paper's studies whose scales have one more, ``tiny``."""
    folder = tmp_path_factory.mktemp("paper-studies") / "paper"
    shutil.copytree(studies_folder(), folder)
    scales = folder / SCALES
    scales.write_text(scales.read_text() + TINY)
    return folder
