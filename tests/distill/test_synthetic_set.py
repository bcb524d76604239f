import json
import re

import pytest
import torch
from safetensors.torch import save_file

from ddcal.distill import SyntheticSet, distill

FILES = ("synthetic.json", "synthetic.safetensors")


@pytest.fixture
def folder(tmp_path):
    images, labels = torch.randn(6, 1, 4, 4), torch.arange(3).repeat_interleave(2)
    small = {"mean": torch.tensor([0.1]), "std": torch.tensor([0.3])}
    SyntheticSet(images, labels, 2, 0.02, {"backbone": "dc", "seed": 3}, small).save(tmp_path / "set")
    return tmp_path / "set"


def test_save_and_load_give_the_same_set(tmp_path):
    images, labels = torch.randn(8, 3, 4, 4), torch.arange(4).repeat_interleave(2)
    small = {"mean": torch.tensor([0.1, 0.2, 0.3])}
    saved = SyntheticSet(images, labels, 1, 0.1 + 0.2, {"config": {"ipc": 1}, "names": ["a", "ü"]}, small)
    saved.save(tmp_path / "new" / "folder")
    loaded = SyntheticSet.load(tmp_path / "new" / "folder")
    assert torch.equal(loaded.images, images) and torch.equal(loaded.labels, labels)
    assert (loaded.ipc, loaded.images_per_class, loaded.num_classes) == (1, 2, 4)
    assert loaded.learning_rate == 0.1 + 0.2
    assert loaded.provenance == saved.provenance
    assert loaded.preprocessing.keys() == {"mean"} and torch.equal(loaded.preprocessing["mean"], small["mean"])


def test_a_distilled_set_says_where_it_comes_from(dataset, make_config):
    result = distill(dataset, make_config("dsa", ipc=3), 9)
    assert result.ipc == result.images_per_class == 3
    known = {"backbone": "dsa", "seed": 9, "iterations": 3, "dataset": "digits", "data_fingerprint": "0" * 64}
    assert known.items() <= result.provenance.items()
    assert result.provenance["config"]["matching"]["outer"] == 2
    assert result.provenance["class_names"] == ["a", "b", "c"]
    json.dumps(result.provenance)
    assert result.preprocessing.keys() == {"mean", "std"}


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 2, 2], [0, 0, 2, 2], [1, 1]])
def test_unbalanced_labels_are_refused(labels):
    with pytest.raises(ValueError, match="images per class differ"):
        SyntheticSet(torch.zeros(len(labels), 1, 4, 4), torch.tensor(labels), 1)


@pytest.mark.parametrize(("shape", "count"), [((4, 8, 8), 4), ((4, 1, 8, 8), 3)])
def test_images_and_labels_that_do_not_fit_are_refused(shape, count):
    with pytest.raises(ValueError, match="do not fit"):
        SyntheticSet(torch.zeros(shape), torch.arange(count), 1)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        SyntheticSet.load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a distilled set"):
        SyntheticSet.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{}", b"{}", b"null"])
def test_a_damaged_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        SyntheticSet.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        SyntheticSet.load(folder)


SOFT = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])


def test_soft_labels_are_kept_to_the_bit(tmp_path):
    images = torch.randn(4, 1, 4, 4)
    saved = SyntheticSet(images, SOFT, 2, provenance={"backbone": "dc"})
    saved.save(tmp_path)
    loaded = SyntheticSet.load(tmp_path)
    assert torch.equal(loaded.labels, SOFT) and loaded.labels.dtype == torch.float32
    assert (loaded.num_classes, loaded.images_per_class) == (2, 2)
    assert loaded.hard_labels().tolist() == [0, 1, 1, 1]
    assert loaded.classes.tolist() == [0, 0, 1, 1], "the place of an image, where most labels say another class"
    assert repr(loaded) == "<SyntheticSet dc: 2 classes, 2 images of 1x4x4 each (ipc 2), soft labels>"
    assert "soft labels" in loaded._repr_html_() and "2 of 2 classes" in loaded._repr_html_()


def test_a_one_hot_set_stands_for_its_classes():
    one_hot = SyntheticSet(torch.zeros(4, 1, 4, 4), torch.eye(2)[[1, 0, 0, 1]], 2)
    assert one_hot.classes.tolist() == one_hot.hard_labels().tolist() == [1, 0, 0, 1]
    sure = SyntheticSet(torch.zeros(4, 1, 4, 4), torch.eye(2)[[0, 0, 0, 1]], 2)  # of experts that are sure, and wrong
    assert sure.classes.tolist() == [0, 0, 1, 1] and (sure.num_classes, sure.images_per_class) == (2, 2)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (SOFT.double(), "must be integers (M,), or float32 probabilities (M, K)"),
        (SOFT * 2, "row 0 sums to 2"),
        (SOFT - 0.2, "row 3 has -0.1 for class 0"),
        (SOFT / 0, "must be finite"),
        (SOFT[:, None], "must be integers"),
        (torch.full((4, 3), 1 / 3), "M must be a multiple of K"),
        (torch.zeros(4, 0), "row 0 sums to 0"),
        (torch.tensor([0, 0, 0, 1]), "images per class differ: [3, 1]"),
        (torch.eye(3)[[0, 0, 1, 1]], "M must be a multiple of K"),
    ],
)
def test_soft_labels_that_are_none_are_refused(labels, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        SyntheticSet(torch.zeros(4, 1, 4, 4), labels, 1)


@pytest.mark.parametrize("content", [b"", b"{", "other"])
def test_labels_that_experts_gave_stand_for_the_sets_own_or_are_named(folder, content):
    labels = torch.full((6, 3), 1 / 3)
    save_file({"labels": labels}, folder / "labels.safetensors")
    assert torch.equal(SyntheticSet.load(folder).labels, labels)
    if content == "other":
        save_file({"rows": labels}, folder / "labels.safetensors")
    else:
        (folder / "labels.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"labels.safetensors is damaged"):
        SyntheticSet.load(folder)
