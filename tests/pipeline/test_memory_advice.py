"""Which settings to halve after running out of memory, for every backbone and stage."""

import pytest
import torch

from ddcal.config import resolve, trial_from
from ddcal.pipeline import TrialRunner
from ddcal.pipeline.stages import STAGES
from ddcal.study.run.worker import Assignment, Worker


def resolved(**settings):
    return resolve(trial_from({"data.name": "cifar10", **settings}, {}))


@pytest.mark.parametrize(
    ("settings", "stage", "first", "others"),
    [
        ({"distill.backbone": "dc"}, "distill", "distill.matching.real_batch (256 → 128)", ["inner_batch", "ipc"]),
        ({"distill.backbone": "dsa", "distill.ipc": 200}, "distill", "distill.ipc (200 → 100)", ["real_batch (256"]),
        ({"distill.backbone": "dm"}, "distill", "distill.dm.real_batch (256 → 128)", ["distill.ipc (10 → 5)"]),
        ({"distill.backbone": "rtp", "distill.ipc": 1}, "distill", "distill.rtp.gradient (auto → segments)",
         ["batch_per_class (32 → 16)", "real_batch (64 → 32)", "steps (150 → 75)"]),
        ({"distill.backbone": "rtp", "distill.ipc": 1, "distill.rtp.gradient": "full"}, "distill",
         "distill.rtp.gradient (full → exact)", ["steps"]),
        ({"distill.backbone": "rtp", "distill.ipc": 1, "distill.rtp.gradient": "segments"}, "distill",
         "distill.rtp.batch_per_class (32 → 16)", ["steps"]),
        ({"distill.backbone": "real"}, "distill", "distill.probe.images (1000 → 500)", []),
        ({"train.networks": 4}, "train", "train.batch_size (256 → 128)", ["train.network.width", "train.networks (4"]),
        ({"distill.backbone": "full"}, "train", "train.batch_size (128 → 64)", ["train.network.width"]),
        ({"calibrate.method": "mts"}, "calibrate", "train.network.width (128 → 64)", []),
    ],
)  # fmt: skip
def test_what_counts_most_comes_first(settings, stage, first, others):
    advice = STAGES[stage].what_to_halve(resolved(**settings))
    assert advice[0] == first
    assert all(any(word in one for one in advice[1:]) for word in others)
    if stage == "distill":
        assert advice[-1] == "distill.network.width (128 → 64)"


def test_nothing_that_cannot_be_halved_is_named():
    config = resolved(**{"distill.backbone": "dc", "distill.ipc": 1, "network.width": 1})
    assert STAGES["distill"].what_to_halve(config) == ["distill.matching.real_batch (256 → 128)"]


def test_the_outcome_says_which_settings(tiny_study, tmp_path, monkeypatch):
    def advance(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(TrialRunner, "advance", advance)
    trial = trial_from(tiny_study().base, {}).model_dump(mode="json")
    config = {"trial": trial, "store": str(tmp_path / "store"), "gpu": 0.5}
    (record,) = Worker(Assignment.from_config(config), None).step()["records"]
    assert record["outcome"] == "out_of_memory"
    for words in ("2.00 GiB", "stage distill; the trial had 1/2 of a GPU; raise resources.gpu", " → "):
        assert words in record["error"]
