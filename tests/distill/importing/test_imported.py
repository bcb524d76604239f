"""The ``file`` backbone: stored tensors in, this dataset's network inputs out, and doubts about what is stated."""

import pytest
import torch

from ddcal.config import DataConfig, DistillConfig
from ddcal.config.backbones import FileConfig
from ddcal.data import load_dataset
from ddcal.distill import distill
from ddcal.distill.importing.imported import contradictions


@pytest.fixture(scope="module")
def datasets():
    return {zca: load_dataset(DataConfig(zca=zca)) for zca in (False, True)}


@pytest.fixture(scope="module")
def forms(datasets):
    """Two real digits of every class in each form, ordered by class."""
    plain, white = datasets[False], datasets[True]
    chosen = torch.cat([plain.train.indices_of(label)[:2] for label in range(10)])
    pixels = plain.inverse_transform(plain.train.images[chosen])
    return {"pixels": pixels, "normalized": plain.train.images[chosen], "zca": white.train.images[chosen]}


def imported(images, zca, datasets, folder, labels=None, **stated):
    labels = torch.arange(10).repeat_interleave(2) if labels is None else labels
    torch.save((images, labels), folder / "set.pt")
    values = {"backbone": "file", "ipc": 2, "file": {"images": str(folder / "set.pt"), **stated}}
    return distill(datasets[zca], DistillConfig.model_validate(values), 0)


STATED = [
    ("normalized", False, {"preprocessing": "normalized"}),
    ("pixels", False, {"preprocessing": "pixels"}),
    ("bytes", False, {"preprocessing": "pixels"}),
    ("zca", True, {"preprocessing": "zca"}),
    ("pixels", True, {"preprocessing": "pixels"}),
    ("theirs", False, {"preprocessing": "normalized", "mean": [0.4], "std": [0.2]}),
    ("theirs", True, {"preprocessing": "normalized", "mean": [0.4], "std": [0.2]}),
]


@pytest.mark.parametrize(("form", "zca", "stated"), STATED)
def test_every_form_becomes_the_network_inputs(form, zca, stated, forms, datasets, tmp_path):
    made = {"bytes": (forms["pixels"] * 255).round().to(torch.uint8), "theirs": (forms["pixels"] - 0.4) / 0.2}
    found = imported((forms | made)[form], zca, datasets, tmp_path, lr=0.02, **stated)
    wanted = forms["zca" if zca else "normalized"]
    assert torch.allclose(found.images, wanted, atol=0.02 if form == "bytes" else 1e-4)
    assert found.images.dtype == torch.float32 and found.learning_rate == 0.02
    assert found.provenance["warnings"] == []
    assert str(tmp_path) not in str(found.provenance)


def test_images_are_ordered_by_class(forms, datasets, tmp_path):
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10).repeat_interleave(2)
    found = imported(forms["normalized"][order], False, datasets, tmp_path, labels[order], preprocessing="normalized")
    assert torch.equal(found.labels, labels)
    assert {tuple(i.flatten().tolist()) for i in found.images[:2]} == {
        tuple(i.flatten().tolist()) for i in forms["normalized"][:2]
    }


@pytest.mark.parametrize(
    ("form", "stated", "said"),
    [
        ("normalized", "normalized", None),
        ("zca", "zca", None),
        ("pixels", "pixels", None),
        ("pixels", "normalized", "all values lie in [0, 1]"),
        ("pixels", "zca", "all values lie in [0, 1]"),
        ("normalized", "zca", "like real ones that are 'normalized'"),
        ("wandered", "normalized", None),
        ("wandered", "zca", None),
        ("noise", "normalized", None),
        ("bytes", "normalized", "far from real ones in that form"),
        ("overshooting", "normalized", "like real ones that are 'pixels'"),
    ],
)
def test_statistics_that_contradict_are_said(form, stated, said, forms, datasets):
    stream = torch.Generator().manual_seed(0)
    made = {
        "noise": torch.randn(20, 1, 8, 8, generator=stream),
        "wandered": forms[stated] + 0.5 * torch.randn(20, 1, 8, 8, generator=stream) if stated != "pixels" else None,
        "bytes": forms["pixels"] * 255.0,
        "overshooting": forms["pixels"] * 1.05 - 0.02,
    }
    white, plain = datasets[True].train.images, datasets[False]
    pixels = plain.inverse_transform(plain.train.images)
    for whitened in (None, white):  # known or not
        found = contradictions((forms | made)[form], FileConfig(preprocessing=stated), pixels, whitened)
        assert [said in one for one in found] == ([True] if said else []), found


def test_what_is_not_said_is_refused(forms, datasets, tmp_path):
    for zca, stated, words in (
        (False, {}, "preprocessing must say"),
        (False, {"preprocessing": "zca"}, "data.zca is false"),
        (True, {"preprocessing": "normalized"}, "distill.file.mean"),
    ):
        with pytest.raises(ValueError, match=words):
            imported(forms["normalized"], zca, datasets, tmp_path, **stated)


def soft_file(form, images, logits, folder, **stated):
    torch.save(images, folder / "images_best.pt")
    torch.save(logits if form == "logits" else logits.double().softmax(1), folder / "labels_best.pt")
    return {
        "images": str(folder / "images_best.pt"),
        "labels": str(folder / "labels_best.pt"),
        "labels_are": form,
        "preprocessing": "normalized",
        **stated,
    }


@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_soft_labels_come_with_their_images(form, forms, datasets, tmp_path):
    """As DATM stores them: images_best.pt, and labels_best.pt with logits."""
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10).repeat_interleave(2)
    logits = 4.0 * torch.eye(10)[labels] + torch.rand(20, 10, generator=torch.Generator().manual_seed(2))
    file = soft_file(form, forms["normalized"][order], logits[order], tmp_path, lr=0.1)
    found = distill(datasets[False], DistillConfig.model_validate({"backbone": "file", "ipc": 2, "file": file}), 0)
    assert found.labels.dtype == torch.float32 and torch.equal(found.hard_labels(), labels)
    rows = {tuple(one.flatten().tolist()): label for one, label in zip(found.images, found.labels, strict=True)}
    for image, row in zip(forms["normalized"], logits.double().softmax(1).float(), strict=True):
        assert torch.equal(rows[tuple(image.flatten().tolist())], row)
    assert found.provenance["warnings"] == [] and found.provenance["config"]["file"]["labels_are"] == form


def test_labels_that_came_to_say_another_class_are_told(forms, datasets, tmp_path):
    logits = 4.0 * torch.eye(10)[torch.arange(10).repeat_interleave(2)]
    logits[3, 7] = 9.0
    file = soft_file("logits", forms["normalized"], logits, tmp_path)
    found = distill(datasets[False], DistillConfig.model_validate({"backbone": "file", "ipc": 2, "file": file}), 0)
    assert torch.equal(found.images, forms["normalized"]) and found.hard_labels()[3] == 7
    assert found.classes[3] == 1
    assert ["1 of 20 labels" in said for said in found.provenance["warnings"]] == [True]
