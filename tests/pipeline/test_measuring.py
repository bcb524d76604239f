"""Kinds and costs of stages, and the measurement of them on tiny networks."""

import copy
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from ddcal.config import resolve
from ddcal.distill import make_distiller
from ddcal.distill.matching import GradientMatching
from ddcal.errors import BadInput
from ddcal.networks import predict_logits
from ddcal.pipeline import Environment
from ddcal.pipeline import measuring as probing
from ddcal.pipeline.compute.distill import DistillWork, probe_training
from ddcal.pipeline.compute.train import TrainWork
from ddcal.pipeline.costs import PUBLISH_SECONDS, Amount, Cost
from ddcal.pipeline.measuring import measure
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.stages.train import POINTS


@pytest.mark.parametrize(
    ("stage", "changes", "same"),
    [
        ("distill", {"seed": 1}, True),
        ("distill", {"distill__iterations": 9}, True),
        ("distill", {"distill__matching__image_lr": 0.5}, True),
        ("distill", {"distill__mask__ratio": 0.3}, True),
        ("distill", {"calibrate__method": "none", "train__epochs": 9}, True),
        ("distill", {"distill__mask__ratio": 0.0}, False),
        ("distill", {"distill__ipc": 3}, False),
        ("distill", {"distill__backbone": "dsa"}, False),
        ("distill", {"distill__matching__inner": 2}, False),
        ("distill", {"network__width": 8}, False),
        ("distill", {"data__resolution": 16}, False),
        ("train", {"distill__backbone": "real", "train__augment": "none"}, True),
        ("train", {"train__lr": 1.0, "train__epochs": 9}, True),
        ("train", {"train__networks": 5}, False),  # that many side by side
        ("train", {"train__batch_size": 8}, False),
        ("train", {"train__schedule": "cosine"}, True),
        ("train", {"train__mixup": {"alpha": 0.2}, "train__focal": {"gamma": 1.0}}, True),
        ("train", {"train__loss": "mixup"}, False),
        ("train", {"train__augment": "crop_flip"}, False),
        ("distill", {"train__loss": "mixup"}, True),
        ("train", {"train__network": {"name": "alexnet", "width": 4}}, False),
        ("calibrate", {"train__network": {"name": "alexnet", "width": 4}}, False),
        ("distill", {"train__network": {"name": "alexnet", "width": 4}}, True),
        ("train", {"distill__ipc": 4, "train__holdout": 0.5}, False),
        ("train", {"distill__backbone": "full"}, False),
        ("calibrate", {"calibrate__mask__ratio": 0.5}, True),
        ("calibrate", {"calibrate__draws": 2}, False),
        ("calibrate", {"calibrate__method": "ts_train"}, False),
        ("calibrate", {"calibrate__method": "mts_distilled"}, False),
        ("folds", {"train__networks": 5, "train__epochs": 9, "calibrate__draws": 2}, True),
        ("folds", {"calibrate__folds": 5}, True),  # of two images a class there are two folds
        ("folds", {"distill__ipc": 5}, False),
        ("folds", {"train__batch_size": 8}, False),
        ("evaluate", {"calibrate__method": "none"}, True),
        ("evaluate", {"train__networks": 5}, False),
    ],
)
def test_stages_of_one_kind_differ_in_nothing_that_costs(stage, changes, same, make_trial):
    kinds = [STAGES[stage].kind(resolve(make_trial(**values))) for values in ({}, changes)]
    assert (kinds[0] == kinds[1]) == same


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"max_start": 9, "expert_epochs": 3}, True),
        ({"min_start": 2, "first_max_start": 3, "expand_until": 2}, True),
        ({"experts": {"count": 3}, "label_momentum": 0.5}, True),
        ({"student_steps": 4}, False),
        ({"batch": 5}, False),
        ({"gradient": "tesla"}, False),
    ],
)
def test_which_epochs_of_experts_are_read_costs_nothing(changes, same, make_trial):
    mtt = {"max_start": 5, "student_steps": 2}
    trials = [resolve(make_trial(distill__backbone="datm", distill__mtt=mtt | more)) for more in ({}, changes)]
    kinds = [STAGES["distill"].kind(trial) for trial in trials]
    assert (kinds[0] == kinds[1]) == same


@pytest.mark.parametrize(("iterations", "points"), [(1, 3), (2, 3), (3, 3), (5, 3), (2, 0), (5, 1)])
def test_the_amount_of_a_stage_is_what_the_work_does(iterations, points, make_trial, datasets, monkeypatch):
    trial = resolve(make_trial(distill__iterations=iterations, distill__probe__points=points, train__epochs=iterations))
    dataset = datasets.get(trial.data)
    calls = {"point": 0}
    monkeypatch.setattr(GradientMatching, "_update_images", lambda *_: 0.0)
    monkeypatch.setattr(GradientMatching, "_train_network", lambda *_: None)

    def count(*_):
        calls["point"] += 1
        return {}

    monkeypatch.setattr(DistillWork, "_probe", count)
    monkeypatch.setattr(TrainWork, "_score", count)
    work, steps = DistillWork(trial, dataset, "cpu"), 0
    while work.fraction < 1.0:
        work.step()
        steps += 1
    assert STAGES["distill"].amount(trial) == Amount(1, steps, calls["point"])
    calls["point"] = 0
    training = TrainWork(resolve(make_trial(distill__backbone="full", train__epochs=iterations)), dataset, None, "cpu")
    training.training.step = lambda: setattr(training.training, "epoch", training.training.epoch + 1) or 0.0
    while training.fraction < 1.0:
        training.step()
    assert STAGES["train"].amount(trial) == Amount(2, iterations, calls["point"])


def test_the_last_point_and_the_result_ask_the_networks_once(make_trial, datasets, tmp_path, monkeypatch):
    """A state that is restored has no logits of other weights."""
    trial = resolve(make_trial(distill__backbone="full", train__epochs=4, train__networks=2))
    dataset, asked = datasets.get(trial.data), []
    work = TrainWork(trial, dataset, None, "cpu")
    predict = work.training.predict
    monkeypatch.setattr(work.training, "predict", lambda *given: asked.append(len(given[1])) or predict(*given))
    states = []
    while work.fraction < 1.0:
        work.step()
        states.append(copy.deepcopy(work.state()))
    work.write(tmp_path)
    sizes = [len(split.images) for split in (dataset.train, dataset.val, dataset.test)]
    assert Counter(asked) == Counter({sizes[0]: 2, sizes[1]: 2 * POINTS, sizes[2]: 2})
    work.restore(states[0])
    (tmp_path / "again").mkdir()
    work.write(tmp_path / "again")
    first, last = (load_file(folder / "logits.safetensors") for folder in (tmp_path / "again", tmp_path))
    assert not torch.equal(first["val_logits"], last["val_logits"])
    for index, network in enumerate(work.training.networks):
        assert torch.equal(predict_logits(network, dataset.val.images), first["val_logits"][index])


def test_the_words_on_a_kind_name_the_loss_where_it_is_not_the_usual_one(make_trial):
    plain, mixed = (
        STAGES["train"].kind(resolve(make_trial(train__loss=loss))).what for loss in ("cross_entropy", "mixup")
    )
    assert mixed == f"{plain}, mixup"


@pytest.mark.parametrize("loss", ["mixup", "label_smoothing", "focal"])
def test_the_probe_of_a_distilled_set_keeps_the_cross_entropy(loss, make_trial, datasets):
    trial = resolve(make_trial(train__loss=loss, train__schedule="cosine", train__augment="crop_flip"))
    dataset = datasets.get(trial.data)
    probe = probe_training(trial, dataset, dataset.train.images[:4], dataset.train.labels[:4], "cpu")
    assert (probe.config.loss, probe.config.schedule, probe.config.augment) == ("cross_entropy", "step", "none")


def test_the_probe_follows_the_augmentation_of_rtp_and_no_family(make_trial, datasets):
    """Its scores lie with the distilled set, whose key has ``distill.rtp`` and not the family."""

    def recipe(**values):
        trial = resolve(make_trial(**values))
        dataset = datasets.get(trial.data)
        probe = probe_training(trial, dataset, dataset.train.images[:4], dataset.train.labels[:4], "cpu")
        return probe.config.schedule, probe.config.augment

    rtp = {"distill__backbone": "rtp", "distill__rtp": {"bases": 0, "augment": "rotate"}}
    assert recipe(**rtp) == ("constant", "rotate")
    assert recipe(distill__family="reference", train__schedule=None) == ("step", "none")


def test_the_seconds_of_a_stage():
    assert Cost(2.0, point=3.0, once=5.0).seconds(Amount(3, 10, 4)) == pytest.approx(PUBLISH_SECONDS + 3 * 37)


@pytest.mark.parametrize("backbone", ["real", "dc", "dsa", "full"])
def test_every_stage_is_measured(backbone, make_trial, datasets, environment, monkeypatch):
    monkeypatch.setattr(probing, "ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(probing, "seconds_of", lambda call, *_: [call(), 0.5][1])
    trial = resolve(make_trial(distill__backbone=backbone, train__lr=1e30))  # would diverge at once
    for stage in ("distill", "train", "calibrate", "evaluate"):
        if (backbone, stage) != ("full", "distill"):
            cost = measure(trial, stage, datasets.get(trial.data), environment)
            assert cost.step > 0.0 and cost.gpu_bytes is None
            assert (cost.point > 0.0) == (stage in ("distill", "train"))


def test_experts_that_label_are_measured(make_trial, datasets, environment, monkeypatch):
    monkeypatch.setattr(probing, "ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(probing, "seconds_of", lambda call, *_: [call(), 0.5][1])
    trial = resolve(make_trial(distill__backbone="real", labels={"source": "experts", "experts": 3, "epoch": 2}))
    for stage, units, steps in (("experts", 3, 2), ("labels", 3, 1)):
        cost, amount = measure(trial, stage, datasets.get(trial.data), environment), STAGES[stage].amount(trial)
        assert cost.step > 0.0 and cost.point == 0.0
        assert (amount.units, amount.steps, amount.points) == (units, steps, 0)


class Clock:
    """Stands in for timing: an iteration costs 10 an image update and 1 an inner epoch, times a scale."""

    def __init__(self, distiller, scale):
        self.distiller, self.scale, self.most = distiller, scale, 0.0

    def __call__(self, call):
        outer, inner = self.distiller.outer, self.distiller.inner
        seconds = self.scale * (10 * outer + (outer - 1) * inner)
        self.most = max(self.most, seconds)
        return seconds


@pytest.mark.parametrize(("outer", "inner"), [(1, 1), (2, 1), (10, 50), (50, 10)])
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_long_iterations_are_put_together_from_short_ones(outer, inner, scale, make_trial, datasets):
    trial = resolve(make_trial(distill__matching__outer=outer, distill__matching__inner=inner))
    distiller = make_distiller(datasets.get(trial.data), trial.distill, 0)
    clock = Clock(distiller, scale)
    whole = scale * (10 * outer + (outer - 1) * inner)
    assert distiller.iteration_seconds(clock, probing.LONG_SECONDS) == pytest.approx(whole)
    assert (distiller.outer, distiller.inner) == (outer, inner)
    if scale == 1.0:
        assert clock.most <= 40.0


def test_the_call_is_repeated_unless_it_is_long(monkeypatch):
    seconds, calls = iter([9.0, 0.15, 0.05, 0.3, 0.1]), []
    monkeypatch.setattr(probing, "_timed", lambda call, device: calls.append(1) or next(seconds))
    assert probing.seconds_of(print, "cpu") == 9.0 and len(calls) == 1
    assert probing.seconds_of(print, "cpu") == pytest.approx((0.05 + 0.3) / 2)


@pytest.mark.parametrize("method", ["ts_cv", "mts_distilled", "vs_val", "ets_val", "isotonic_val", "histogram_val"])
def test_every_calibration_is_measured(method, make_trial, datasets, environment, monkeypatch):
    monkeypatch.setattr(probing, "seconds_of", lambda call, *_: [call(), 0.5][1])
    trial = resolve(make_trial(distill__backbone="real", distill__ipc=4, calibrate__method=method, calibrate__folds=2))
    cost = measure(trial, "calibrate", datasets.get(trial.data), environment)
    assert cost.step == 0.5 * (8 if method == "mts_distilled" else 1)
    if method in ("ts_cv", "mts_distilled"):
        folds = measure(trial, "folds", datasets.get(trial.data), environment)
        assert folds.step == 0.5 and folds.once == pytest.approx(0.5 / 2)
        assert STAGES["folds"].amount(trial) == Amount(2, 3, 0)


def test_too_many_images_a_class_is_bad_input(make_trial, datasets, environment):
    trial = resolve(make_trial(distill__ipc=2000))
    with pytest.raises(BadInput, match=r"distill\.ipc is 2000"):
        measure(trial, "distill", datasets.get(trial.data), environment)


def test_the_peak_of_a_gpu_is_reported(make_trial, datasets, monkeypatch):
    calls = []
    for name, value in (("reset_peak_memory_stats", None), ("max_memory_allocated", 123), ("synchronize", None)):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda name=name, value=value: calls.append(name) or value)
    monkeypatch.setattr("ddcal.pipeline.compute.train.measure", lambda *arguments: Cost(1.0))
    trial = resolve(make_trial())
    cost = measure(trial, "train", datasets.get(trial.data), Environment("cuda", 1))
    assert cost == Cost(1.0, gpu_bytes=123) and calls == ["reset_peak_memory_stats", "max_memory_allocated"]
