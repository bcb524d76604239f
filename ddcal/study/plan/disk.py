"""What a study writes where: the files of its stages, checkpoints, its own folder, and what is kept beside the data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ddcal.config import DataConfig, TrialConfig
from ddcal.data import CACHE_FOLDER, DatasetShape, dataset_fingerprint, dataset_shape
from ddcal.data.decoded import decoded_folder, decoded_place
from ddcal.data.sources import locate_source
from ddcal.pipeline.footprint import whitening_bytes
from ddcal.pipeline.stages import STAGES
from ddcal.study.plan.candidates import Candidates
from ddcal.study.plan.planned import PlannedTrial

STUDY_BYTES, TRIAL_BYTES = 3_000_000, 350_000
"""What a study leaves outside the store (ledger, logs, Ray's folder, MLflow's database and artifacts): as such, and a
trial. Measured on the quickstart: 250 kB a trial in all."""


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a study adds in one place.

    Attributes:
        what: What is written.
        place: Where.
        expected: Bytes for the expected stages.
        worst: Bytes in the worst case, never less than what is written.
    """

    what: str
    place: str
    expected: int
    worst: int


class Shapes:
    """Dataset shapes, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, DatasetShape] = {}

    def __getitem__(self, data: DataConfig) -> DatasetShape:
        key = data.model_dump_json()
        if key not in self._known:
            self._known[key] = dataset_shape(data)
        return self._known[key]


def disk_uses(
    needed: Mapping[str, Mapping[str, TrialConfig]],
    candidates: Mapping[str, Candidates],
    trials: int,
    published: Set[str],
    extremes: Sequence[PlannedTrial],
    at_a_time: int,
    root: Path,
    store: Path,
) -> list[DiskUse]:
    """Return what a study writes.

    Args:
        needed: Stage → key → a resolved trial, as expected.
        candidates: Stage → all that the space has.
        trials: How many trials the study has.
        published: Keys that the store has.
        extremes: A trial for each combination of the space's bounds.
        at_a_time: How many trials have a checkpoint at once.
        root: The output root.
        store: The artefact store.
    """
    shapes, uses = Shapes(), []
    for stage, configs in needed.items():

        def size(config: TrialConfig, stage: str = stage) -> int:
            return STAGES[stage].size(config, shapes[config.data])

        expected = sum(size(config) for key, config in configs.items() if key not in published)
        worst = sum(candidates[stage].worst(trials, published, size))
        uses.append(DiskUse(f"{stage} stages", str(store), expected, int(worst)))
    unfinished = max(
        STAGES[stage].checkpoint_size(trial.config, shapes[trial.config.data])
        for trial in extremes
        for stage in trial.keys
    )
    uses.append(DiskUse("checkpoints of unfinished stages", str(store), 0, at_a_time * unfinished))
    own = STUDY_BYTES + trials * TRIAL_BYTES
    uses.append(DiskUse("ledger, logs, Ray and MLflow", str(root), own, own))
    for data in {trial.config.data.model_dump_json(): trial.config.data for trial in extremes}.values():
        source = locate_source(data)
        if source.kind == "images" and decoded_folder(data, source, dataset_fingerprint(data)) is None:
            shape = shapes[data]
            images = (shape.train + shape.val + shape.test) * shape.channels * shape.size**2
            uses.append(DiskUse(f"decoded {data.name}, once", str(decoded_place(source, images)), images, images))
    datasets = {trial.config.data.model_dump_json(): trial.config for trial in extremes if trial.config.data.zca}
    for config in datasets.values():
        source = locate_source(config.data)
        if source.root is not None:
            matrices = whitening_bytes(config, shapes[config.data])
            uses.append(DiskUse(f"ZCA of {config.data.name}, once", str(source.root / CACHE_FOLDER), 0, matrices))
    return uses


def disk_warnings(uses: Sequence[DiskUse]) -> tuple[dict[str, int], list[str]]:
    """Return place → free bytes, and a sentence for each file system that is too small in the worst case."""
    free, on_device = {}, dict[int, tuple[str, int, int]]()
    for use in uses:
        place = next(path for path in (Path(use.place), *Path(use.place).parents) if path.exists())
        room, device = shutil.disk_usage(place).free, place.stat().st_dev
        free[use.place] = room
        where, total, _ = on_device.get(device, (use.place, 0, room))
        on_device[device] = (where, total + use.worst, room)
    return free, [
        f"the disk of {where} has {room / 1e9:.1f} GB free, and the study may need {total / 1e9:.1f} GB: take another "
        "--output, or make room with ddcal store prune"
        for where, total, room in on_device.values()
        if total > room
    ]
