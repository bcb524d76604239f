from dataclasses import replace

import pytest
import torch

from ddcal.config import TrialConfig, resolve
from ddcal.config.backbones import BACKBONES
from ddcal.config.networks import ARCHITECTURES
from ddcal.distill.importing.tensor_file import TensorFileError
from ddcal.pipeline import Environment, stage_keys
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.stages.calibrate import CalibrateStage
from ddcal.pipeline.stages.distill import LIMITS
from ddcal.pipeline.stages.experts import expert_keys
from ddcal.pipeline.stages.train import TrainStage

ALL = ["distill", "train", "calibrate", "evaluate"]
HERE = Environment("cpu", 1)
PRINT = "0" * 64


MTT = {"distill__backbone": "mtt"}
RTP = {"distill__backbone": "rtp", "distill__rtp": {"bases": 0}}
BATCH = {"distill__mtt": {"batch": 4}}
REDUCED = ({}, {"data__train_images": 100})
EXPERTS = {**MTT, "distill__mtt": {"max_start": 2, "expert_epochs": 1, "experts": {"count": 2, "epochs": 4}}}


def keys_of(config, fingerprint=PRINT, environment=HERE):
    return stage_keys(config, fingerprint, environment)


@pytest.mark.parametrize(
    ("base", "change", "changed"),
    [
        ({}, {"seed": 1}, ALL),
        ({}, {"data__validation_fraction": 0.5}, ALL),
        ({}, {"data__zca": True}, ALL),
        ({}, {"network__width": 5}, ALL),
        ({}, {"distill__backbone": "dsa"}, ALL),
        ({}, {"distill__ipc": 3}, ALL),
        ({}, {"distill__iterations": 5}, ALL),
        ({}, {"distill__mask__ratio": 0.2}, ALL),
        ({}, {"distill__mask__unit": "pixel"}, ALL),
        ({}, {"distill__mask__where": "inner"}, ALL),
        ({}, {"distill__mask__resample": "fixed"}, ALL),
        ({}, {"distill__matching__image_lr": 0.2}, ALL),
        ({}, {"distill__clip": 1.0}, ALL),
        ({}, {"distill__update_limit": 1.0}, ALL),
        ({}, {"distill__probe__points": 3}, ALL),  # its curve is stored with the set
        ({}, {"distill__network": {"depth": 1}}, ALL),
        ({}, {"train__epochs": 4}, ALL[1:]),
        ({}, {"train__networks": 3}, ALL[1:]),
        ({}, {"train__lr": 0.02}, ALL[1:]),
        ({}, {"train__augment": "dsa"}, ALL[1:]),
        ({}, {"train__augment": "crop_flip"}, ALL[1:]),
        ({}, {"train__schedule": "cosine"}, ALL[1:]),
        ({}, {"train__loss": "mixup"}, ALL[1:]),
        ({}, {"train__loss": "focal"}, ALL[1:]),
        ({"train__loss": "mixup"}, {"train__loss": "label_smoothing"}, ALL[1:]),
        ({"train__loss": "mixup"}, {"train__mixup": {"alpha": 0.2}}, ALL[1:]),
        ({"train__loss": "label_smoothing"}, {"train__label_smoothing": {"epsilon": 0.2}}, ALL[1:]),
        ({"train__loss": "focal"}, {"train__focal": {"gamma": 2.0}}, ALL[1:]),
        ({"train__loss": "focal"}, {"train__focal": {"sample_dependent": True}}, ALL[1:]),
        ({}, {"train__augment": "crop_scale_rotate"}, ALL[1:]),
        ({}, {"train__schedule": "step_reference"}, ALL[1:]),
        (RTP, {"distill__rtp": {"bases": 0, "init": "noise"}}, ALL),
        (RTP, {"distill__rtp": {"bases": 0, "augment": "none"}}, ALL),
        (RTP, {"distill__rtp": {"bases": 0, "init": "real", "augment": "dsa"}}, []),
        ({**MTT, **BATCH}, {"distill__mtt": {"batch": 4, "remainder": "first"}}, ALL),
        ({**MTT, **BATCH}, {"distill__mtt": {"batch": 4, "remainder": "last"}}, []),
        # a family is the settings that it fills in
        ({"train__schedule": None}, {"train__schedule": None, "distill__family": "reference"}, ALL[1:]),
        ({"train__schedule": "step_reference"}, {"distill__family": "reference"}, []),
        ({}, {"train__holdout": 0.5}, ALL[1:]),
        ({}, {"train__network": {"norm": "batch"}}, ALL[1:]),
        ({}, {"train__network": {"name": "mlp"}}, ALL[1:]),  # which evaluates the same set
        ({}, {"train__network": {"name": "alexnet"}}, ALL[1:]),
        ({}, {"distill__network": {"name": "mlp"}}, ALL),
        ({}, {"network": {"name": "mlp"}}, ALL),
        ({"train__network": {"name": "mlp"}}, {"train__network": {"name": "mlp", "width": 9}}, ALL[1:]),
        ({}, {"calibrate__method": "none"}, ALL[2:]),
        ({}, {"calibrate__method": "ts_train"}, ALL[2:]),
        ({}, {"calibrate__mask__ratio": 0.5}, ALL[2:]),
        ({}, {"calibrate__mask__unit": "patch"}, ALL[2:]),
        ({}, {"calibrate__draws": 3}, ALL[2:]),
        ({}, {"calibrate__t_max": 10.0}, ALL[2:]),
        ({}, {"calibrate__solver": "paper_lbfgs"}, ALL[2:]),
        ({}, {"evaluate__bins": 10}, ALL[3:]),
        # what has no effect changes nothing
        ({}, {"train__mixup": {"alpha": 0.2}, "train__focal": {"gamma": 2.0}}, []),
        ({}, {"train__label_smoothing": {"epsilon": 0.2}}, []),
        ({"train__loss": "mixup"}, {"train__focal": {"sample_dependent": True}}, []),
        ({"train__loss": "focal"}, {"train__mixup": {"alpha": 0.2}}, []),
        ({"train__loss": "focal"}, {"train__focal": {"gamma": 3.0}}, []),
        ({}, {"data__root": "elsewhere"}, []),
        ({"distill__mask__ratio": 0.0}, {"distill__mask__unit": "pixel"}, []),
        ({"distill__mask__ratio": 0.0}, {"distill__mask__where": "inner"}, []),
        ({"distill__mask__ratio": 0.0}, {"distill__mask__resample": "fixed"}, []),
        ({"distill__backbone": "real"}, {"distill__mask__ratio": 0.5}, []),
        ({"distill__backbone": "real"}, {"distill__iterations": 99}, []),
        ({"distill__backbone": "real"}, {"distill__clip": 1.0, "distill__update_limit": 1.0}, []),
        ({"distill__backbone": "real"}, {"distill__matching__image_lr": 9.0}, []),
        ({"distill__backbone": "full"}, {"distill__ipc": 5}, []),
        ({}, {"distill__mtt__student_steps": 9}, []),  # another backbone's section
        ({"distill__backbone": "dm"}, {"distill__matching__image_lr": 9.0}, []),
        ({"distill__backbone": "dm"}, {"distill__dm__image_lr": 9.0}, ALL),
        ({"distill__backbone": "dsa"}, {"distill__family": "rethinking"}, []),  # one recipe in both
        ({"calibrate__method": "ts_train"}, {"calibrate__mask__ratio": 0.5}, []),
        ({"calibrate__method": "ts_val"}, {"calibrate__mask__unit": "patch"}, []),
        ({"calibrate__method": "ts_val"}, {"calibrate__draws": 7}, []),
        ({"calibrate__method": "none"}, {"calibrate__t_max": 9.0}, []),
        ({}, {"calibrate__folds": 2}, []),  # no folds there
        ({}, {"calibrate__method": "vs_val"}, ALL[2:]),
        ({"calibrate__method": "vs_val"}, {"calibrate__t_max": 9.0}, []),
        ({"calibrate__method": "isotonic_val"}, {"calibrate__t_min": 0.5, "calibrate__solver": "paper_lbfgs"}, []),
        ({"calibrate__method": "histogram_val"}, {"calibrate__mask__ratio": 0.5, "calibrate__draws": 3}, []),
        ({"calibrate__method": "ets_val"}, {"calibrate__solver": "paper_lbfgs"}, []),
        ({"calibrate__method": "ets_val"}, {"calibrate__t_max": 9.0}, ALL[2:]),
        ({"calibrate__method": "ts_cv"}, {"calibrate__mask__ratio": 0.5, "calibrate__draws": 3}, []),
        ({"calibrate__method": "ts_cv"}, {"calibrate__solver": "paper_lbfgs"}, ALL[2:]),
        ({"calibrate__method": "mts_distilled"}, {"calibrate__mask__ratio": 0.5}, []),  # it is found
        ({"calibrate__method": "mts_distilled"}, {"calibrate__mask__unit": "pixel"}, ALL[2:]),
        ({"calibrate__method": "mts_distilled"}, {"calibrate__draws": 3}, ALL[2:]),
        ({"calibrate__method": "mts_distilled"}, {"train__networks": 3}, ALL[1:]),  # but not the folds
        ({"calibrate__method": "mts_distilled"}, {"train__epochs": 4}, ["train", "folds", *ALL[2:]]),
        ({"calibrate__mask__ratio": 0.0}, {"calibrate__mask__unit": "patch"}, []),
        ({"calibrate__mask__ratio": 0.0}, {"calibrate__draws": 7}, []),
        # the ConvNet's width, depth and norm are not those of another network, nor is what that has not
        ({"distill__network": {"name": "mlp"}, "train__network": {"name": "mlp"}}, {"network": {"depth": 1}}, []),
        ({"train__network": {"name": "mlp"}}, {"train__network": {"name": "mlp", "width": 128, "norm": "none"}}, []),
        ({"train__network": {"name": "alexnet"}}, {"train__network": {"name": "alexnet", "width": 128}}, []),
        ({}, {"train__network": {"name": "convnet"}}, []),
        # the preset written out is the preset
        ({}, {"distill__matching__init": "noise"}, []),
        ({}, {"train__augment": "none"}, []),
        ({}, {"calibrate__t_min": 1.0}, []),
        ({}, {"data__validation_fraction": 0.3}, []),
        ({}, {"distill__network": {"width": 4}}, []),
        ({"train__epochs": None}, {"train__epochs": 300}, []),
        ({"distill__backbone": "dsa", "train__epochs": None}, {"train__epochs": 1000}, []),
        ({"distill__iterations": None}, {"distill__iterations": 1000}, []),
        ({"distill__ipc": 10, "distill__matching": {}}, {"distill__matching": {"outer": 10, "inner": 50}}, []),
    ],
    ids=str,
)
def test_a_change_reaches_exactly_the_stages_it_can_influence(base, change, changed, make_trial):
    before, after = keys_of(make_trial(**base)), keys_of(make_trial(**{**base, **change}))
    assert [stage for stage in after if before[stage] != after[stage]] == changed


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"distill__ipc": 3}, ALL),
        ({"distill__mask__ratio": 0.5}, ALL),
        ({"distill__mtt__image_lr": 3.0}, ALL),
        ({"distill__mtt__gradient": "tesla"}, ALL),
        ({"distill__mtt__max_start": 3}, ALL),  # the epochs are enough
        ({"distill__probe__points": 3}, ALL),
        ({"train__epochs": 9}, ALL[1:]),
        ({"distill__mtt__experts__epochs": 5}, ["experts", *ALL]),
        ({"distill__mtt__experts__count": 3}, ["experts", *ALL]),
        ({"distill__mtt__experts__lr": 0.02}, ["experts", *ALL]),
        ({"distill__mtt__experts__precision": "float16"}, ["experts", *ALL]),
        ({"distill__network": {"width": 5}}, ["experts", *ALL]),
        ({"network__width": 5}, ["experts", *ALL]),
        ({"seed": 1}, ["experts", *ALL]),
        ({"data__zca": True}, ["experts", *ALL]),
    ],
    ids=str,
)
def test_a_change_reaches_the_experts_only_if_they_are_trained_otherwise(change, changed, make_trial):
    before, after = keys_of(make_trial(**EXPERTS)), keys_of(make_trial(**{**EXPERTS, **change}))
    assert list(after) == ["experts", *ALL]
    assert [stage for stage in after if before[stage] != after[stage]] == changed


def test_more_experts_are_the_same_ones_and_further_ones(make_trial):
    def keys(**change):
        return expert_keys(make_trial(**{**EXPERTS, **change}), PRINT, HERE)

    two, three = keys(), keys(distill__mtt__experts__count=3)
    assert len(set(three)) == 3 and three[:2] == two
    assert not set(keys(distill__mtt__experts__lr=0.02, distill__mtt__experts__count=3)) & set(three)
    assert not set(keys(seed=1)) & set(two)


def test_a_distilling_target_ends_with_the_distilled_set(make_trial):
    config = make_trial(**MTT)
    assert list(stage_keys(config, PRINT, HERE, "distill")) == ["experts", "distill"]
    assert stage_keys(config, PRINT, HERE, "distill").items() <= keys_of(config).items()


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "1" * 64},
        {"environment": Environment("cpu", 2)},
        {"environment": replace(HERE, compile=True)},
    ],
)
def test_data_and_environment_change_everything(other, make_trial):
    before, after = keys_of(make_trial()), keys_of(make_trial(), **other)
    assert not set(before.values()) & set(after.values())


def test_the_device_is_part_of_the_identity():
    assert HERE.identity() == {"device": "cpu", "precision": "float32", "threads": 1}


@pytest.mark.parametrize("backbone", ["real", "full", "dc", "dsa", "mtt"])
def test_resolved_or_not_gives_the_same_keys(backbone, make_trial):
    for config in (make_trial(distill__backbone=backbone), make_trial(distill={"backbone": backbone}, train={})):
        assert keys_of(config) == keys_of(resolve(config)) == keys_of(resolve(resolve(config)))


def first_versions(monkeypatch):
    """Give backbones, and training, the versions that they had at first."""
    for spec in BACKBONES.values():
        monkeypatch.setattr(type(spec), "version", 1)
    monkeypatch.setattr("ddcal.config.backbones.rtp.BASES_VERSION", 1)
    monkeypatch.setattr(TrainStage, "version", lambda self, config: 1)  # 2 where networks go side by side
    monkeypatch.setitem(ARCHITECTURES, "convnet", replace(ARCHITECTURES["convnet"], cpu_version=1))


@pytest.mark.parametrize(
    ("network", "device", "told"), [("convnet", "cpu", True), ("mlp", "cpu", False), ("convnet", "cuda", False)]
)
def test_a_convnets_arithmetic_on_a_cpu_has_a_version_that_keys_of_gpus_lack(network, device, told, make_trial):
    trial = resolve(make_trial(network={"name": network}, distill__backbone="mtt"))
    there = Environment(device, kind="cuda:NVIDIA H200" if device == "cuda" else None)
    for stage in ("experts", "distill", "train"):
        identity = STAGES[stage].identity(trial, PRINT, there)
        assert identity.get("networks") == ({"convnet": {"cpu": 2}} if told else None)


def test_a_background_is_in_the_keys_of_those_who_set_it_alone(make_trial):
    folder = {"data__name": "image-folder", "data__root": "pictures"}
    white, black = (make_trial(**folder, data__background=name) for name in ("white", "black"))
    identities = [STAGES["train"].identity(resolve(trial), PRINT, HERE) for trial in (white, black)]
    assert "background" not in identities[0]["data"] and identities[1]["data"]["background"] == "black"


def test_train_images_is_in_the_keys_of_those_who_set_it_alone(make_trial):
    all_images, some = (STAGES["train"].identity(resolve(make_trial(**given)), PRINT, HERE) for given in REDUCED)
    assert "train_images" not in all_images["data"] and some["data"]["train_images"] == 100


@pytest.mark.parametrize(
    ("backbone", "digest"),
    [
        ("real", "0ec8b2e00d729dab3cf5acdd5cfcd4efcec11ba514e13797d4f7de28a4d75369"),
        ("dsa", "3c6ca90dca5a595315b36b09efc885a5a262d49426ef07b9069a177e386cd737"),
        ("mtt", "afd2a99641c415c7e14c36c2a349d185c607596c1f45bfbcfa79ed3e5f23f15a"),
        ("rtp", "42f6b7646fa93ea7587c52549a5d7a17dc00062b9a4d8376477716325a0427e8"),
    ],
)
def test_networks_trained_before_there_were_other_losses_are_still_found(backbone, digest, monkeypatch):
    """The digests are those of the commit before; networks of that time are in people's stores.

    But for the versions that were raised since: of what differentiates a gradient, and of RTP's bases.
    """
    first_versions(monkeypatch)
    exact = {"gradient": "exact"}  # the default of that time
    trial = {"data": {"name": "cifar10"}, "distill": {"backbone": backbone, "ipc": 1, "mtt": exact, "rtp": exact}}
    assert keys_of(TrialConfig.model_validate(trial))["train"] == digest


def test_a_sample_dependent_gamma_leaves_the_fixed_one_out(make_trial):
    fixed, dependent = (
        STAGES["train"].settings(resolve(make_trial(train__loss="focal", train__focal=focal)))
        for focal in ({}, {"sample_dependent": True})
    )
    assert fixed["focal"] == {"gamma": 3.0, "sample_dependent": False}
    assert dependent["focal"] == {"sample_dependent": True}
    assert not {"mixup", "label_smoothing"} & fixed.keys()


OLD_KEYS = {
    "none": ("4cc44da44c95b58b", "f95346a8a8cee7e4"),
    "ts_train": ("4cc44da44c95b58b", "3440fc366d404aa8"),
    "ts_val": ("4cc44da44c95b58b", "0c52fbbdf4268f36"),
    "mts": ("4cc44da44c95b58b", "348310ff723d1c0d"),
    "ts_holdout": ("fd79a1fa3d22d006", "0f23406cafc85abd"),
}


@pytest.mark.parametrize("method", OLD_KEYS)
def test_keys_are_those_of_stores_that_were_filled_before_there_were_folds(method, make_trial, monkeypatch):
    """But for the version of ``calibrate``, which was raised since: temperatures differ in their last bits."""
    monkeypatch.setattr(CalibrateStage, "version", lambda self, config: 1)
    first_versions(monkeypatch)
    keys = keys_of(make_trial(calibrate__method=method, train__holdout=0.5 if method == "ts_holdout" else 0.0))
    assert (keys["train"][:16], keys["calibrate"][:16]) == OLD_KEYS[method]
    assert list(keys) == ALL


def test_a_version_of_its_own_tells_rtp_with_bases_from_rtp_without(make_trial, monkeypatch):
    """Bases begin as another matrix since version 2; images that are learned themselves do as ever."""

    def keys(bases):
        return keys_of(make_trial(distill__backbone="rtp", distill__rtp={"bases": bases}))

    before = {bases: keys(bases) for bases in (0, 4)}
    monkeypatch.setattr("ddcal.config.backbones.rtp.BASES_VERSION", 1)
    assert keys(0) == before[0]
    assert not set(keys(4).values()) & set(before[4].values())


def test_limits_that_are_off_leave_the_keys_of_older_stores(make_trial):
    off, on = (resolve(make_trial(**values)) for values in ({}, {"distill__clip": 1.0, "distill__update_limit": 1.0}))
    assert not set(LIMITS) & STAGES["distill"].settings(off).keys()
    assert set(LIMITS) <= STAGES["distill"].settings(on).keys()


def test_keys_are_different_sha256_and_full_has_no_distill_stage(make_trial):
    keys = keys_of(make_trial())
    assert list(keys) == ALL
    assert len(set(keys.values())) == 4
    assert all(len(key) == 64 and int(key, 16) >= 0 for key in keys.values())
    assert list(keys_of(make_trial(distill__backbone="full"))) == ALL[1:]


def test_a_gpu_of_another_machine_is_part_of_the_identity():
    """A head node without a GPU gives the keys of the node that has one."""
    there = Environment("cuda", kind="cuda:NVIDIA H200")
    assert there.identity() == {"device": "cuda:NVIDIA H200", "precision": "float32", "threads": 1}


def test_an_imported_set_is_its_content_and_what_is_said_of_it(make_trial, tmp_path):
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 10

    def keys(path, content=images, file=None, **changes):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        torch.save((content, labels), tmp_path / path)
        said = {"images": str(tmp_path / path), "preprocessing": "normalized", **(file or {})}
        return keys_of(make_trial(**{"distill__backbone": "file", "distill__file": said, **changes}))

    first = keys("a/set.pt")
    assert keys("b/other.pt") == first
    assert keys("a/set.pt", distill__iterations=9, distill__mask={"ratio": 0.5}, distill__dm={"image_lr": 9.0}) == first
    for other in (
        keys("a/set.pt", images + 1),
        keys("a/set.pt", file={"lr": 0.02}),
        keys("a/set.pt", file={"mean": [0.1], "std": [1.0]}),
    ):
        assert not set(other.values()) & set(first.values())
    (tmp_path / "a" / "set.pt").unlink()
    with pytest.raises(TensorFileError, match="there is no such file"):
        keys_of(
            make_trial(
                distill__backbone="file",
                distill__file={"images": str(tmp_path / "a" / "set.pt"), "preprocessing": "normalized"},
            )
        )


def test_the_convnet_in_a_key_is_as_it_was_before_there_were_others(make_trial):
    """Stores that were filled when the ConvNet was the only network go on serving."""
    config = resolve(make_trial(distill__network={"depth": 1}, train__network={"norm": "batch"}))
    convnet = {"name": "convnet", "width": 4, "depth": None, "norm": "instance"}
    assert STAGES["distill"].settings(config)["network"] == convnet | {"depth": 1}
    assert STAGES["train"].settings(config)["network"] == convnet | {"norm": "batch"}
