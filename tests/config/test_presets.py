"""The published settings (method.md) and how configs take them."""

import pytest

from ddcal.config import TrialConfig, resolve
from ddcal.config.presets import preset

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}


def values_of(family, backbone, dataset, ipc, section):
    found = preset(family, backbone, dataset, ipc).values
    return {n.removeprefix(f"{section}."): v for n, v in found.items() if n.startswith(f"{section}.")}


@pytest.mark.parametrize("backbone", ["dc", "dsa"])
@pytest.mark.parametrize("ipc", LOOPS)
def test_loops_of_gradient_matching(backbone, ipc):
    found = values_of("published", backbone, "cifar10", ipc, "distill.matching")
    assert (found["outer"], found["inner"]) == LOOPS[ipc]
    assert preset("published", backbone, "cifar10", ipc).notes == ()


@pytest.mark.parametrize(
    ("family", "dataset", "ipc", "row"),
    [  # student steps, expert epochs, max start, batch, image rate, rate of the rate, first rate
        ("published", "cifar10", 1, (50, 2, 2, None, 1e2, 1e-7, 1e-2)),
        ("published", "cifar10", 10, (30, 2, 20, None, 1e2, 1e-5, 1e-3)),
        ("published", "cifar10", 50, (30, 2, 40, None, 1e3, 1e-5, 1e-3)),
        ("rethinking", "cifar10", 50, (30, 2, 20, None, 1e2, 1e-5, 1e-3)),
        ("rethinking", "cifar10", 10, (30, 2, 20, None, 1e2, 1e-5, 1e-3)),
        ("published", "cifar100", 1, (20, 3, 20, None, 1e3, 1e-5, 1e-2)),
        ("published", "cifar100", 10, (20, 2, 20, None, 1e3, 1e-5, 1e-2)),
        ("published", "cifar100", 50, (80, 2, 40, 125, 1e3, 1e-5, 1e-2)),
        ("published", "tiny-imagenet", 1, (10, 2, 10, None, 1e4, 1e-4, 1e-2)),
        ("published", "tiny-imagenet", 10, (20, 2, 40, 200, 1e4, 1e-4, 1e-2)),
        ("published", "tiny-imagenet", 50, (20, 2, 40, 300, 1e4, 1e-4, 1e-2)),
        ("published", "imagenette", 1, (20, 2, 10, None, 1e5, 1e-6, 1e-2)),
        ("published", "imagenette", 10, (20, 2, 10, 20, 1e5, 1e-6, 1e-2)),
        ("rethinking", "cifar100", 5, (20, 2, 20, None, 1e3, 1e-5, 1e-2)),
        ("rethinking", "cifar100", 30, (40, 2, 30, None, 1e3, 1e-5, 1e-2)),
    ],
)
def test_rows_of_trajectory_matching(family, dataset, ipc, row):
    found = values_of(family, "mtt", dataset, ipc, "distill.mtt")
    names = ("student_steps", "expert_epochs", "max_start", "batch", "image_lr", "rate_lr", "rate")
    assert tuple(found.get(name) for name in names) == row
    assert preset(family, "mtt", dataset, ipc).notes == ()


@pytest.mark.parametrize(
    ("backbone", "train"),
    [
        ("real", (300, "none", 5e-4, "step", 256, 0.01)),
        ("dc", (300, "none", 5e-4, "step", 256, 0.01)),
        ("dsa", (1000, "dsa", 5e-4, "step", 256, 0.01)),
        ("dm", (1000, "dsa", 5e-4, "step", 256, 0.01)),
        ("rtp", (300, "dsa", 0.0, "constant", 640, 0.01)),
        ("full", (50, "crop_flip", 5e-4, "cosine", 128, 0.03)),
    ],
)
def test_every_backbone_has_an_evaluation_recipe(backbone, train):
    trial = {"data": {"name": "cifar10"}, "distill": {"backbone": backbone, "ipc": 1}}
    found = resolve(TrialConfig.model_validate(trial)).train
    assert (found.epochs, found.augment, found.weight_decay, found.schedule, found.batch_size, found.lr) == train


@pytest.mark.parametrize(
    ("backbone", "dataset", "ipc", "name", "value", "note"),
    [
        ("dc", "cifar10", 5, "distill.matching.inner", 23, "interpolated between ipc 1 and 10"),  # 1 + 4/9·49
        ("dc", "cifar10", 70, "distill.matching.inner", 10, "that of ipc 50, the highest published"),
        # rates geometrically: 100·10^(10/40)
        ("mtt", "cifar10", 20, "distill.mtt.image_lr", 178.0, "interpolated between ipc 10 and 50"),
        ("mtt", "cifar100", 20, "distill.mtt.batch", None, None),  # not a number below: never interpolated
        ("mtt", "digits", 1, "distill.mtt.student_steps", 50, "no published row for digits"),
    ],
)
def test_what_is_not_a_row_is_said(backbone, dataset, ipc, name, value, note):
    found = preset("published", backbone, dataset, ipc)
    assert found.values.get(name) == value
    assert note is None or any(note in sentence for sentence in found.notes)


def test_bases_are_published_for_one_case_alone():
    def trial(**distill):
        return TrialConfig.model_validate({"data": {"name": "cifar10"}, "distill": {"backbone": "rtp"} | distill})

    assert resolve(trial(ipc=1)).distill.rtp.bases == 16
    with pytest.raises(ValueError, match=r"distill\.rtp\.bases is missing.*'cifar10' at distill\.ipc 10"):
        trial(ipc=10)
    assert trial(ipc=10, rtp={"bases": 0}).distill.rtp.bases == 0


def test_noise_as_the_start_of_bases_is_refused():
    said = r"distill\.rtp\.init is 'noise', which means something without bases alone"
    for rtp in ({"init": "noise"}, {"init": "noise", "bases": 4}):
        with pytest.raises(ValueError, match=said):
            TrialConfig.model_validate(
                {"data": {"name": "cifar10"}, "distill": {"backbone": "rtp", "ipc": 1, "rtp": rtp}}
            )
    kept = {"distill": {"backbone": "rtp", "rtp": {"init": "noise", "bases": 0}}}
    assert resolve(TrialConfig.model_validate(kept)).distill.rtp.init == "noise"


@pytest.mark.parametrize("backbone", ["dm", "rtp"])
def test_a_backbone_with_one_kind_of_pass_refuses_where(backbone):
    with pytest.raises(ValueError, match=r"mask\.where is 'inner'"):
        TrialConfig.model_validate({"distill": {"backbone": backbone, "mask": {"where": "inner"}, "rtp": {"bases": 1}}})


def mtt_trial(ipc, **mtt):
    values = {"data": {"name": "cifar10"}, "distill": {"backbone": "mtt", "ipc": ipc, "mtt": mtt}}
    return TrialConfig.model_validate(values)


@pytest.mark.parametrize(("ipc", "given", "epochs"), [(1, {}, 3), (10, {}, 21), (50, {}, 41), (1, {"epochs": 9}, 9)])
def test_experts_are_trained_to_the_last_epoch_that_is_read(ipc, given, epochs):
    found = resolve(mtt_trial(ipc, experts=given))
    assert found.distill.mtt.experts.epochs == epochs
    assert (found.train.epochs, found.train.augment, found.train.lr) == (1000, "dsa", None)


def test_a_remainder_of_one_batch_is_refused():
    with pytest.raises(ValueError, match=r"distill\.mtt\.remainder is 'first', but all images are one batch"):
        mtt_trial(10, remainder="first")
    assert mtt_trial(10, remainder="first", batch=30).distill.mtt.remainder == "first"
    published = {"data": {"name": "cifar100"}, "distill": {"backbone": "mtt", "ipc": 50, "mtt": {"remainder": "first"}}}
    assert resolve(TrialConfig.model_validate(published)).distill.mtt.batch == 125


@pytest.mark.parametrize(
    ("backbone", "dataset", "ipc", "changed"),
    [
        ("dc", "mnist", 10, {"schedule": "step_reference", "epochs": 1000, "augment": "crop_scale_rotate"}),
        ("real", "mnist", 10, {"schedule": "step_reference", "epochs": 1000, "augment": "crop_scale_rotate"}),
        ("dc", "cifar10", 10, {"schedule": "step_reference"}),
        ("dsa", "mnist", 10, {"schedule": "step_reference"}),
        ("dm", "cifar10", 10, {"schedule": "step_reference"}),
        ("mtt", "cifar10", 10, {"schedule": "step_reference"}),
        ("mtt", "tiny-imagenet", 50, {"schedule": "step_reference", "remainder": "first"}),
        ("mtt", "tiny-imagenet", 10, {"schedule": "step_reference"}),
        ("datm", "cifar10", 10, {"schedule": "step_reference", "batch_size": 128}),
        ("datm", "tiny-imagenet", 50, {"schedule": "step_reference", "batch_size": 128}),
        ("rtp", "cifar10", 1, {}),
        ("full", "cifar10", 1, {}),
    ],
)
def test_the_family_of_the_reference_codes_changes_what_they_do_otherwise(backbone, dataset, ipc, changed):
    def settings(family):
        distill = {"backbone": backbone, "family": family, "ipc": ipc}
        found = resolve(TrialConfig.model_validate({"data": {"name": dataset}, "distill": distill}))
        return found.train.model_dump() | found.distill.model_dump(exclude={"network", "family"})["mtt"]

    published, reference = settings("published"), settings("reference")
    assert {name: value for name, value in reference.items() if published[name] != value} == changed
    assert preset("reference", backbone, dataset, ipc).notes == preset("published", backbone, dataset, ipc).notes


def test_experts_that_end_too_soon_are_refused():
    said = r"experts\.epochs is 20, but epoch 21 is read \(max_start 20 \+ expert_epochs 2 - 1\)"
    with pytest.raises(ValueError, match=rf"distill\.mtt\.{said}.*preset of distill\.ipc 10"):
        mtt_trial(10, experts={"epochs": 20})
    with pytest.raises(ValueError, match=said):
        mtt_trial(10, max_start=20, expert_epochs=2, experts={"epochs": 20})
    assert mtt_trial(10, experts={"epochs": 21}).distill.mtt.experts.epochs == 21


@pytest.mark.parametrize("backbone", ["real", "full", "dc", "dsa", "dm", "mtt"])
def test_resolving_twice_changes_nothing_and_what_is_given_stays(backbone):
    trial = TrialConfig.model_validate({"distill": {"backbone": backbone, "iterations": 7}, "train": {"epochs": 3}})
    once = resolve(trial)
    assert resolve(once) == once
    assert (once.distill.iterations, once.train.epochs) == (7, 3)
