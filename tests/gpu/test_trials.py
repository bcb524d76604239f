"""Whole trials on a pretended CUDA device: the CPU's metrics and files, and states that lie on the CPU."""

import io

import numpy as np
import pytest
import torch
from pretended_cuda import OnCuda
from tiny_trials import tiny_trial
from torch.utils._pytree import tree_leaves

from ddcal.calibration import TemperatureScaling, VectorScaling, score, sweep_logits
from ddcal.calibration.calibrator import shipped
from ddcal.calibration.masked import first_per_class
from ddcal.config import resolve
from ddcal.config.calibrations import CALIBRATIONS
from ddcal.distill import distill
from ddcal.pipeline import DatasetCache, Environment, TrialRunner, measuring, open_store
from ddcal.pipeline.compute.folds import FoldsWork
from ddcal.study import run_study
from ddcal.study.export.export import export_trial
from ddcal.study.export.layout import CUDA_TOLERANCE
from ddcal.study.export.replay import _tolerance, replay
from ddcal.training import DDNNTraining

DATASETS = DatasetCache()
SMALL = {
    "network": {"width": 4, "depth": 2},
    "distill__backbone": "real",
    "distill__iterations": 2,
    "distill__probe": {"points": 1, "epochs": 1},
    "train__epochs": 2,
    "train__networks": 1,
    "train__lr": 0.05,
    "train__batch_size": 16,
}
LOOPS = {
    "dc": {"distill__matching": {"outer": 2, "inner": 1, "real_batch": 4}},
    "dsa": {"distill__matching": {"outer": 2, "inner": 1, "real_batch": 4}},
    "dm": {"distill__dm": {"real_batch": 8}},
    "mtt": {
        "distill__mtt": {
            "student_steps": 2,
            "expert_epochs": 1,
            "max_start": 1,
            "image_lr": 1.0,
            "rate_lr": 1e-5,
            "rate": 0.05,
            "experts": {"count": 2, "batch_size": 512},
        }
    },
    "rtp": {"distill__rtp": {"bases": 3, "steps": 2, "batch_per_class": 1, "real_batch": 4, "inner_lr": 0.05}},
}
"""What keeps an iteration of each backbone short."""


def on_the_cpu(state):
    """A state as a checkpoint has it, through a file; nothing in it may be on the device."""
    assert not any(isinstance(leaf, OnCuda) for leaf in tree_leaves(state)), "a state has tensors on the device"
    stream = io.BytesIO()
    torch.save(state, stream)
    return torch.load(io.BytesIO(stream.getvalue()), weights_only=True)


def finished(root, device, target="ddnn", until="evaluate", **changes):
    """A trial that was run to the end of a stage; on the device, each step goes on from a state of the one before."""

    def begin():
        config = tiny_trial(**{**SMALL, **changes})
        return TrialRunner(config, open_store(root), Environment(device, 1), target=target, datasets=DATASETS)

    runner, points = begin(), []
    while not (runner.done or until in runner.entries):
        points.append(runner.advance())
        if device != "cpu" and runner._work is not None:
            state = on_the_cpu(runner.state())
            runner.close()
            runner = begin()
            runner.restore(state)
    runner.close()
    return runner, points


def check_trial(tmp_path, target="ddnn", until="evaluate", **changes):
    """Compare a trial on both devices: metrics, points, and the digests of all files."""
    (there, points), (here, wanted) = (
        finished(tmp_path / one, one, target, until, **changes) for one in ("cuda", "cpu")
    )
    assert there.metrics == here.metrics and bool(here.metrics) == here.done
    assert points == wanted
    for stage, entry in here.entries.items():
        assert there.entries[stage].files == entry.files, stage
        assert there.keys[stage] != here.keys[stage]  # the GPU's model is part of what a stage is
    return there


@pytest.mark.slow
def test_a_trial_has_the_cpus_metrics_and_files(cuda, tmp_path):
    """Experts, masks while distilling and calibrating, two networks."""
    settings = {"distill__backbone": "mtt", "train__networks": 2, "calibrate__method": "mts"} | LOOPS["mtt"]
    runner = check_trial(tmp_path, **settings)
    assert list(runner.keys) == ["experts", "distill", "train", "calibrate", "evaluate"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mts", "mts_distilled", "ts_cv"])
@pytest.mark.parametrize("backbone", ["dc", "dsa", "dm", "mtt", "rtp", "real", "full"])
def test_every_trial_has_the_cpus_metrics_and_files(cuda, tmp_path, backbone, method):
    if backbone == "full" and method != "mts":
        pytest.skip("folds are of distilled images")
    settings = LOOPS.get(backbone, {}) | {"calibrate__method": method, "calibrate__folds": 2}
    check_trial(tmp_path, distill__backbone=backbone, train__networks=2, **settings)


def test_a_set_from_a_file_has_the_cpus_bits(cuda, tmp_path):
    images = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save((images, torch.arange(10)), tmp_path / "set.pt")
    file = {"images": str(tmp_path / "set.pt"), "preprocessing": "normalized"}
    settings = {"distill__backbone": "file", "distill__ipc": 1, "distill__iterations": 1, "distill__file": file}
    runner = check_trial(tmp_path, target="distill", **settings)
    assert "source.safetensors" in runner.entries["distill"].files


def test_folds_have_the_cpus_bits(cuda, tmp_path):
    """They are in the trial of a calibration that asks for them; its mask ratio comes from them."""
    settings = {"calibrate__method": "mts_distilled", "calibrate__folds": 2, "calibrate__draws": 2}
    runner = check_trial(tmp_path, until="calibrate", **settings)
    assert list(runner.entries) == ["distill", "train", "folds", "calibrate"]


@pytest.mark.slow
def test_every_calibration_has_the_cpus_bits(cuda, tmp_path):
    """All of them on one distilled set and its networks, which are in the store."""
    settings = {"calibrate__folds": 2, "distill__ipc": 4, "train__holdout": 0.25, "train__networks": 2}
    for method in CALIBRATIONS:
        runner = check_trial(tmp_path, until="calibrate", calibrate__method=method, **settings)
        assert method == next(iter(CALIBRATIONS)) or {"distill", "train"} <= set(runner.cache_hits)


@pytest.mark.parametrize("stage", ["experts", "distill", "train", "folds", "calibrate", "evaluate"])
def test_every_stage_is_measured(cuda, monkeypatch, stage):
    """What ``ddcal plan --probe`` does, with the peak that the device tells."""
    monkeypatch.setattr(measuring, "ENOUGH_SECONDS", 1e-9)
    settings = {"distill__backbone": "mtt", "distill__ipc": 2, "calibrate__method": "mts_distilled"} | LOOPS["mtt"]
    trial = resolve(tiny_trial(**{**SMALL, **settings, "calibrate__folds": 2}))
    cost = measuring.measure(trial, stage, DATASETS.get(trial.data), Environment("cuda", 1))
    assert cost.step > 0.0 and cost.gpu_bytes == torch.cuda.max_memory_allocated()
    assert cuda.kernels if stage != "evaluate" else not cuda.kernels  # the CPU scores


def test_calibrators_take_the_devices_logits(cuda):
    """A user's own code may hand them over as they are."""
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 4
    for kind in (*shipped().values(), TemperatureScaling):
        there, here = kind().fit(logits.to("cuda"), labels.to("cuda")), kind().fit(logits, labels)
        assert there.facts() == here.facts()
        assert np.array_equal(there.probabilities(logits.to("cuda")), here.probabilities(logits))
    found = sweep_logits(logits[None].to("cuda"), labels.to("cuda"), 0.5)
    assert found == sweep_logits(logits[None], labels, 0.5)
    assert score(logits.to("cuda"), labels.to("cuda")) == score(logits, labels)
    cuda.forget()
    assert torch.equal(first_per_class(labels.to("cuda")), first_per_class(labels))
    assert sum(cuda.waits.values()) == 2  # for the move above, and for one look


def test_an_export_of_a_gpu_replays(cuda, tmp_path, tiny_study):
    """A study on the device, its winner exported and run again: every metric and every file is the recorded one."""
    study = tiny_study({"network.depth": 2}, resources={"gpu": 1.0}, search={"searcher": "random", "trials": 1})
    results = run_study(study, output=tmp_path / "runs", debug=True)
    assert results.started["environment"]["device"] == "cuda:Pretended GPU"
    assert results.records[0].outcome == "complete", results.records[0].error
    export_trial(results, results.records[0], tmp_path / "best")
    cuda.forget()
    compared = replay(tmp_path / "best")
    assert cuda.kernels["convolution"] > 0
    assert all(one.recorded == one.replayed for one in compared) and len(compared) > 50
    assert all(one.compared and one.tolerance == 0.0 for one in compared), "it is the GPU that made it"

    for name in ("run.yaml", "run.lock.json"):
        path = tmp_path / "best" / name
        path.write_text(path.read_text().replace("cuda:Pretended GPU", "cuda:Another GPU"))
    elsewhere = {one.name: one for one in replay(tmp_path / "best")}
    digests = [one for one in elsewhere.values() if isinstance(one.recorded, str)]
    assert digests and not any(one.compared for one in digests), "equal or not"
    numbers = [one for one in elsewhere.values() if not isinstance(one.recorded, str)]
    assert all(one.compared and one.same and one.tolerance >= CUDA_TOLERANCE for one in numbers)


def test_a_tolerance_is_that_of_the_replayed_networks():
    """Four standard errors of a difference of means, at least 0.02, of large values a share."""
    metrics = {"test/ece": 0.1, "test/ece_std": 0.05, "test/nll": 3.0, "test/accuracy": 0.5, "test/accuracy_std": 0.001}
    assert _tolerance("test/ece", metrics, 2) == pytest.approx(4 * 0.05)
    assert _tolerance("test/ece", metrics, 8) == pytest.approx(2 * 0.05)
    assert _tolerance("test/nll", metrics, 2) == pytest.approx(0.06)
    assert _tolerance("test/accuracy", metrics, 2) == CUDA_TOLERANCE == _tolerance("missing", metrics, 2)


# What is planted


def test_logits_of_folds_that_lie_on_the_device_are_caught(cuda, monkeypatch):
    right = FoldsWork.__init__

    def planted(self, *given):
        right(self, *given)
        self.logits = self.logits.to("cuda")

    trial = resolve(tiny_trial(**{**SMALL, "train__epochs": 1, "calibrate__method": "ts_cv", "calibrate__folds": 2}))
    dataset = DATASETS.get(trial.data)
    synthetic = distill(dataset, trial.distill, trial.seed)
    FoldsWork(trial, dataset, synthetic, "cuda").step()
    monkeypatch.setattr(FoldsWork, "__init__", planted)
    with pytest.raises(RuntimeError, match="same device"):
        FoldsWork(trial, dataset, synthetic, "cuda").step()


def test_a_state_that_stays_on_the_device_is_caught(cuda, tmp_path, monkeypatch):
    right = DDNNTraining.state
    monkeypatch.setattr(DDNNTraining, "state", lambda self: right(self) | {"images": self.images})
    with pytest.raises(AssertionError, match="on the device"):
        finished(tmp_path, "cuda", until="train")


def test_logits_that_are_not_moved_to_the_cpu_are_caught(cuda, monkeypatch):
    monkeypatch.setattr(OnCuda, "cpu", lambda self: self)
    logits = torch.randn(6, 3).to("cuda")
    with pytest.raises(RuntimeError, match="numpy"):
        VectorScaling().fit(logits, torch.arange(6) % 3)
