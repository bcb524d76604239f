"""The scoreboard's studies at a scale so small that all of them take seconds."""

import shutil
from pathlib import Path

from ddcal.analysis.report.studies import SCALES
from ddcal.analysis.scoreboard.studies import board_folder

TINY = """
tiny:
  any:
    seeds: {{choice: 2, full: 2, random: 3, coreset: 2, distilled: 2, imported: 2}}
    any:
      base.data: {data}
      base.network.width: 4
      base.distill.ipc: 2
      base.distill.iterations: 2
      base.distill.probe.points: 0
      base.distill.dm: {{real_batch: 4}}
      base.distill.mtt.experts: {{epochs: 2, batch_size: 64, lr: 0.1}}
      base.labels.experts: 1
      base.train: {{networks: 1, epochs: 3, lr: 0.1}}
      base.calibrate.draws: 2
      base.calibrate.folds: 2
      resources: {{cpu: 1, threads: 1}}
      tracking.uri: none
    recipes:
      space.labels.temperature: {{choice: [1.0], when: {{labels.source: [experts]}}}}
      space.train.lr: {{choice: [0.001, 0.1]}}
      space.train.epochs: {{choice: [3]}}
    coreset: null
    dc: null
    dsa: null
    dm4: null
    mtt: null
    datm: null
    rtp: null
  {dataset}: {{}}
"""


def tiny_board(folder: Path, dataset: str = "digits", data: str = "{name: digits}") -> Path:
    """Return a copy of the scoreboard's studies in ``folder`` whose scales have one more, ``tiny``."""
    copy = folder / "scoreboard"
    shutil.copytree(board_folder(), copy)
    scales = copy / SCALES
    scales.write_text(scales.read_text() + TINY.format(dataset=dataset, data=data))
    return copy
