"""Coresets as trials: keys, experts that are shared with labels, stages killed and gone on with, what a plan counts."""

import pytest
import torch

from ddcal.config import TrialConfig, resolve
from ddcal.config.training import LabelsConfig
from ddcal.distill import SyntheticSet
from ddcal.pipeline import Environment, TrialRunner, open_store, stage_keys
from ddcal.pipeline.compute.labels import labelled_set
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.stages.experts import expert_keys

EXPERTS = {"batch_size": 64, "epochs": 2}
BASE = {"distill__mtt__experts": EXPERTS, "train__networks": 1, "train__epochs": 2}
BACKBONES = ("herding", "k_center", "el2n", "rded")
PRINT, HERE = "0" * 64, Environment("cpu", 1)


def keys_of(config):
    return stage_keys(config, PRINT, HERE)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(tmp_path_factory.mktemp("coresets"))


@pytest.fixture(scope="module")
def start(make_trial, environment, datasets, store):
    def make(backbone, where=None, **changes):
        trial = make_trial(**{**BASE, "distill__backbone": backbone, **changes})
        return TrialRunner(trial, where or store, environment, datasets=datasets)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_trial_goes_from_real_data_to_calibrated_metrics(backbone, start):
    runner = start(backbone)
    metrics = runner.run()
    assert list(runner.keys) == ["experts", "distill", "train", "calibrate", "evaluate"]
    assert 0.0 <= metrics["val/accuracy"] <= 1.0 and "test/ece" in metrics
    made = SyntheticSet.load(runner.entries["distill"].folder)
    assert made.images.shape == (20, 1, 8, 8) and made.labels.tolist() == [i for i in range(10) for _ in range(2)]
    assert made.provenance["config"]["coreset"]["epoch"] == 2 and "mtt" not in made.provenance["config"]
    count = 5 if backbone == "el2n" else 1
    assert runner.config.experts == count and runner.entries["experts"].meta["members"] == expert_keys(
        runner.config, runner.fingerprint, runner.environment
    )
    assert STAGES["experts"].amount(runner.config).units == count


@pytest.mark.parametrize("backbone", [pytest.param("el2n", marks=pytest.mark.slow), "rded"])
def test_a_trial_that_was_stopped_anywhere_goes_on_to_the_same_bits(backbone, start, tmp_path):
    whole, place = start(backbone), open_store(tmp_path)
    whole.run()
    steps = 0
    while True:  # a new process after each step, with what the one before had kept
        runner = start(backbone, where=place)
        checkpoint = tmp_path / "state.pt"
        if checkpoint.exists():
            runner.restore(torch.load(checkpoint, weights_only=False))
        runner.advance()
        steps += 1
        done = runner.done
        torch.save(runner.state(), checkpoint)
        runner.close()
        if done:
            break
    assert steps > 8 and runner.metrics == whole.metrics
    assert runner.entries["distill"].files == whole.entries["distill"].files


def test_backbones_share_experts_that_are_trained_alike(make_trial):
    def keys(backbone, **changes):
        return expert_keys(resolve(make_trial(**{**BASE, "distill__backbone": backbone, **changes})), PRINT, HERE)

    herding, errors = keys("herding"), keys("el2n")
    assert len(herding) == 1 and len(errors) == 5 and errors[:1] == herding
    matched = {"max_start": 1, "expert_epochs": 1, "experts": {**EXPERTS, "count": 2}}
    assert keys("mtt", distill__mtt=matched) == errors[:2]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"distill__coreset__hardest": True}, ["el2n"]),
        ({"distill__coreset__candidates": 40}, ["rded"]),
        ({"distill__coreset__crops": 2}, ["rded"]),
        ({"distill__coreset__factor": 2}, ["rded"]),
        ({"distill__coreset__epoch": 1}, BACKBONES),
        ({"distill__coreset__experts": 3}, BACKBONES),
        ({"distill__ipc": 3}, BACKBONES),
        ({"distill__mtt__experts": {**EXPERTS, "lr": 0.5}}, BACKBONES),
        ({"distill__mtt__experts": {**EXPERTS, "count": 7}}, []),
        ({"distill__mtt": {"experts": EXPERTS, "image_lr": 3.0}}, []),
        ({"distill__iterations": 9}, []),
        ({"distill__mask__ratio": 0.7}, []),
        ({"distill__coreset__epoch": 2}, []),  # their last
    ],
)
def test_settings_are_in_the_keys_of_those_that_they_have_an_effect_on(backbone, change, where, make_trial):
    base = {**BASE, "distill__backbone": backbone}
    before, after = keys_of(make_trial(**base)), keys_of(make_trial(**{**base, **change}))
    assert (before["distill"] != after["distill"]) == (backbone in where)


def test_others_have_no_such_section(make_trial):
    """Neither in their keys nor in their configs, which older ddcals read."""
    plain, asked = make_trial(), make_trial(distill__coreset__factor=3)
    assert keys_of(plain) == keys_of(asked) and "coreset" not in plain.model_dump()["distill"]
    assert "coreset" not in resolve(plain).model_dump()["distill"]
    mine = resolve(make_trial(distill__backbone="herding"))
    assert mine.distill.coreset.epoch == mine.distill.mtt.experts.epochs == 20
    assert TrialConfig.model_validate_json(mine.model_dump_json()) == mine == resolve(mine)


def test_experts_that_label_are_no_part_of_the_set(start):
    plain, labels = start("herding"), {"source": "experts", "experts": 3, "epoch": 1}
    labelled = start("herding", labels=labels)
    assert labelled.keys["distill"] == plain.keys["distill"] and labelled.keys["experts"] != plain.keys["experts"]
    assert labelled.config.experts == 3
    plain.run()
    labelled.run()
    assert "distill" in labelled.cache_hits
    made = labelled_set(labelled.place)
    assert made.labels.shape == (20, 10)
    assert torch.equal(made.images, SyntheticSet.load(plain.entries["distill"].folder).images)


def test_labels_take_the_experts_that_there_are(make_trial):
    fewer = resolve(make_trial(**BASE, distill__backbone="el2n", labels={"source": "experts"}))
    assert fewer.experts == 5 and fewer.labels == LabelsConfig(source="experts", epoch=2)
    preset = resolve(make_trial(distill__backbone="herding", labels={"source": "experts"}))
    assert preset.labels.epoch == 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distill__coreset": {"epoch": 21}}, r"distill\.coreset\.epoch is 21, but experts end after epoch 20"),
        ({"distill__mtt": {"max_start": 30, "expert_epochs": 2}}, r"distill\.mtt\.experts\.epochs is missing: herding"),
        ({"labels": {"source": "experts", "epoch": 30}}, r"labels\.epoch is 30, but experts end after epoch 20"),
        ({"network__norm": "batch"}, r"network\.norm is 'batch', which herding cannot use in the distilling network"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(changes, said, make_trial):
    with pytest.raises(ValueError, match=said):
        make_trial(distill__backbone="herding", **changes)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_time_of_a_set_is_measured_on_one_class(backbone, make_trial, datasets):
    trial = resolve(make_trial(**BASE, distill__backbone=backbone))
    cost = STAGES["distill"].work.measure(trial, datasets.get(trial.data), "cpu")
    assert cost.step > 0.0 and STAGES["distill"].amount(trial).steps == 1
