"""Files of distilled tensors: every format gives the same set, and what cannot be used is said with its key."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddcal.config.backbones import FileConfig
from ddcal.distill.importing.tensor_file import (
    TensorFileError,
    check_tensors,
    content_digest,
    file_identity,
    label_order,
    read_tensor_file,
)

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 1, 2, 0])


class Evil:
    """Would make a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def written(folder, form):
    """A FileConfig of the set in one of the forms that people publish."""
    images = str(folder / f"{form}.pt")
    if form == "pair of files":
        torch.save(IMAGES, images)
        torch.save(LABELS, folder / "labels.pt")
        return FileConfig(images=images, labels=str(folder / "labels.pt"))
    if form == "npz":
        np.savez(folder / "set.npz", images=IMAGES.numpy(), labels=LABELS.numpy().astype(np.int32))
        return FileConfig(images=str(folder / "set.npz"))
    if form == "safetensors":
        save_file({"images": IMAGES, "labels": LABELS}, folder / "set.safetensors")
        return FileConfig(images=str(folder / "set.safetensors"))
    if form == "second of several":  # as DC, DSA and DM save them
        torch.save({"data": [[IMAGES + 1, LABELS], [IMAGES, LABELS]], "accs": {"ConvNet": [0.5]}}, images)
        return FileConfig(images=images, index=1)
    content = {
        "mapping": {"images": IMAGES, "labels": LABELS},
        "pair": (IMAGES, LABELS),
        "learned": [torch.nn.Parameter(IMAGES), LABELS.to(torch.uint8)],
    }[form]
    torch.save(content, images)
    return FileConfig(images=images)


FORMS = ["pair of files", "npz", "safetensors", "second of several", "mapping", "pair", "learned"]


def test_every_form_is_the_same_set(tmp_path):
    found = [read_tensor_file(written(tmp_path, form)) for form in FORMS]
    for one in found:
        assert torch.equal(one.images, IMAGES) and torch.equal(one.labels, LABELS) and one.labels.dtype == torch.int64
    assert len({one.digest for one in found}) == 1


def test_the_digest_is_of_the_content(tmp_path):
    config = written(tmp_path, "pair")
    before = content_digest(config)
    assert before == read_tensor_file(config).digest == content_digest(config)
    torch.save((IMAGES + 1e-6, LABELS), config.images)
    assert content_digest(config) != before
    torch.save((IMAGES.double(), LABELS), config.images)
    assert content_digest(config) != before


def file_of(folder, name, content):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".npz"):
        np.savez(path, **content)
    else:
        torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("set.pkl", b"x", "must end in one of .pt"),
        ("set.pt", b"", "cannot be read as tensors alone"),
        ("set.pt", b"not a file of tensors", "cannot be read as tensors alone"),
        ("set.npz", b"PK\x03\x04 cut off", "cannot be read as an .npz of plain arrays"),
        ("set.npz", {"images": np.array([{"a": 1}], dtype=object)}, "cannot be read as an .npz of plain arrays"),
        ("set.safetensors", b"\xff" * 20, "cannot be read as safetensors"),
        ("set.pt", IMAGES, "holds no labels: give the file that does as distill.file.labels"),
        ("set.pt", {"x": IMAGES}, "must hold 'images'; it holds x"),
        ("set.pt", [IMAGES, LABELS, LABELS], "holds a list of 3"),
        ("set.pt", ["images", LABELS], "holds a str as images"),
        *(
            ("set.npz", {"images": IMAGES.numpy(), "labels": LABELS.numpy(), name: array}, f"holds {said}")
            for name, array, said in (
                ("images", np.array(["a"]), "text ('a') as images; they must be floats, or uint8 (pixels)"),
                ("labels", np.array(["cat", "dog"]), "text ('cat', 'dog') as labels; they must be whole numbers"),
                ("labels", np.array([b"cat"]), "text (\"b'cat'\") as labels; they must be whole numbers, 0 … K-1"),
                ("labels", np.zeros(6, complex), "complex128 of shape (6,) as labels; they must be whole numbers"),
            )
        ),
    ],
)
def test_what_cannot_be_read_is_said(name, content, said, tmp_path):
    path = file_of(tmp_path, name, content)
    with pytest.raises(TensorFileError) as error:
        read_tensor_file(FileConfig(images=path))
    assert said in str(error.value) and path in str(error.value) and "distill.file.images" in str(error.value)


def test_missing_files_and_indices_are_said(tmp_path):
    with pytest.raises(TensorFileError, match="there is no such file"):
        read_tensor_file(FileConfig(images=str(tmp_path / "no.pt")))
    with pytest.raises(TensorFileError, match="there is no such file"):
        content_digest(FileConfig(images=str(tmp_path / "no.pt")))
    several = written(tmp_path, "second of several")
    with pytest.raises(TensorFileError, match=r"distill\.file.index: 2 is not allowed: must be below 2"):
        read_tensor_file(several.model_copy(update={"index": 2}))
    with pytest.raises(TensorFileError, match=r"distill\.file.index: 1 is not allowed: must be 0"):
        read_tensor_file(written(tmp_path, "pair").model_copy(update={"index": 1}))


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"images": IMAGES, "labels": LABELS, "more": Evil(tmp_path / "made")}, tmp_path / "evil.pt")
    with pytest.raises(TensorFileError, match=r"nothing else in a \.pt is ever run"):
        read_tensor_file(FileConfig(images=str(tmp_path / "evil.pt")))
    assert not (tmp_path / "made").exists()


SHAPE = (3, 1, 8)


@pytest.mark.parametrize(
    ("images", "labels", "stated", "ipc", "said"),
    [
        (IMAGES, LABELS, {}, 2, []),
        ((IMAGES.abs() * 10).to(torch.uint8), LABELS, {"preprocessing": "pixels"}, 2, []),
        (IMAGES, LABELS, {}, 10, ["distill.ipc: 10 is not allowed: must be 2"]),
        (IMAGES[:, :, :7], LABELS, {}, 2, ["(6, 1, 7, 8)", "(M, 1, 8, 8)"]),
        (IMAGES.permute(0, 2, 3, 1), LABELS, {}, 2, ["(M, 1, 8, 8); this looks like (M, S, S, C)"]),
        (IMAGES[0], LABELS, {}, 2, ["(1, 8, 8); it must be (M, C, S, S)"]),
        (IMAGES.long(), LABELS, {}, 2, ["torch.int64; they must be floats, or uint8"]),
        (IMAGES.abs().to(torch.uint8), LABELS, {}, 2, ["distill.file.preprocessing", "must be 'pixels'"]),
        (IMAGES / 0, LABELS, {}, 2, ["NaN or infinite values in 6 of 6 images"]),
        (IMAGES, LABELS, {"preprocessing": "pixels"}, 2, ["pixels are in [0, 1]", "divide by 255"]),
        (IMAGES, LABELS, {"mean": (0.0,) * 3, "std": (1.0,) * 3}, 2, ["distill.file.mean", "must be 1 numbers"]),
        (IMAGES, LABELS.float(), {}, 2, []),
        (IMAGES, LABELS.double()[:, None], {}, 2, []),
        (IMAGES, LABELS[:, None], {}, 2, []),
        (IMAGES, LABELS + 0.5, {}, 2, ["torch.float32 of shape (6,); they must be whole numbers"]),
        (IMAGES, torch.eye(3)[LABELS], {}, 2, ["of shape (6, 3); they must be whole numbers", "labels.argmax(1)"]),
        (
            IMAGES,
            torch.eye(3).long()[LABELS],
            {},
            2,
            ["of shape (6, 3); for these images it must be (6,)", "argmax(1)"],
        ),
        (torch.tensor(1.0), LABELS, {}, 2, ["images of shape (); it must be (M, C, S, S)"]),
        (IMAGES, LABELS[:5], {}, 2, ["labels of shape (5,); for these images it must be (6,)"]),
        (IMAGES, LABELS - 1, {}, 2, ["label -1"]),
        (IMAGES, LABELS + 1, {}, 2, ["label 3; this dataset has labels 0 … 2"]),
        (IMAGES, LABELS.clamp(max=1), {}, 2, ["4 images of class 1 and 0 of class 2"]),
        (IMAGES[:, :, :7] / 0, LABELS + 0.5, {}, 2, ["(M, 1, 8, 8)", "NaN or infinite", "whole numbers"]),
    ],
)
def test_what_does_not_fit_is_said_at_once(images, labels, stated, ipc, said, tmp_path):
    torch.save((images.clone(), labels), tmp_path / "set.pt")
    config = FileConfig.model_validate({"images": str(tmp_path / "set.pt"), "preprocessing": "normalized", **stated})
    text = "\n".join(map(str, check_tensors(read_tensor_file(config), config, ipc, SHAPE)))
    assert bool(text) == bool(said) and all(words in text for words in said), text


SOFT = torch.tensor([[5.0, 1, 0], [3, 2, 0], [0, 4, 1], [0, 3, 2], [1, 1, 2], [0, 0, 9]])


@pytest.mark.parametrize(
    ("labels", "kind", "ipc", "said"),
    [
        (SOFT, "logits", 2, []),
        (SOFT.double(), "logits", 2, []),
        (SOFT.long(), "logits", 2, []),
        (SOFT.softmax(1), "probabilities", 2, []),
        (torch.eye(3)[LABELS], "probabilities", 2, []),
        (torch.eye(3).long()[LABELS], "probabilities", 2, []),
        (SOFT.softmax(1).half(), "probabilities", 2, []),
        (SOFT.softmax(1).bfloat16(), "probabilities", 2, []),
        (SOFT, "logits", 1, ["distill.ipc: 1 is not allowed: must be 2"]),
        (SOFT, "probabilities", 2, ["distill.file.labels_are: 'probabilities'", "row 0 sums to 6"]),
        (SOFT.softmax(1) - 0.5, "probabilities", 2, ["probabilities must be at least 0"]),
        (SOFT / 0, "logits", 2, ["NaN or infinite values in 6 of 6 labels"]),
        (
            SOFT[:5],
            "logits",
            2,
            ["labels of shape (5, 3); as logits (distill.file.labels_are) of these images", "(6, 3)"],
        ),
        (SOFT[:, :2], "logits", 2, ["labels of shape (6, 2)", "it must be (6, 3)"]),
        (LABELS, "logits", 2, ["labels of shape (6,)", "it must be (6, 3)"]),
        (SOFT[[2, 2, 2, 2, 2, 2]], "logits", 2, ["[0, 6, 0] labels", "store the images class by class"]),
        (torch.eye(3)[[0, 0, 1, 1, 2, 1]], "probabilities", 2, ["[2, 3, 1] labels"]),
    ],
)
def test_soft_labels_are_what_they_are_said_to_be(labels, kind, ipc, said, tmp_path):
    torch.save((IMAGES, labels), tmp_path / "set.pt")
    stated = {"images": str(tmp_path / "set.pt"), "preprocessing": "normalized", "labels_are": kind}
    config = FileConfig.model_validate(stated)
    for shape in (SHAPE, None):
        text = "\n".join(map(str, check_tensors(read_tensor_file(config), config, ipc, shape)))
        if shape is not None or labels.shape == SOFT.shape:
            assert bool(text) == bool(said) and all(words in text for words in said), text


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_soft_labels_of_no_class_are_refused_without_knowing_the_dataset(kind, tmp_path):
    torch.save((IMAGES, torch.empty(len(IMAGES), 0)), tmp_path / "set.pt")
    stated = {"images": str(tmp_path / "set.pt"), "preprocessing": "normalized", "labels_are": kind}
    config = FileConfig.model_validate(stated)
    (fault,) = check_tensors(read_tensor_file(config), config, 2)
    assert f"has labels of shape (6, 0); as {kind}" in str(fault) and "it must be (6, K)" in str(fault)


def test_the_order_of_soft_labels():
    shuffled = SOFT.softmax(1)[[2, 0, 5, 3, 1, 4]]
    assert label_order(shuffled).tolist() == [1, 4, 0, 3, 2, 5], "by the most probable class"
    wandered = SOFT.softmax(1).clone()
    wandered[1] = torch.tensor([0.3, 0.4, 0.3])
    assert label_order(wandered).tolist() == [0, 1, 2, 3, 4, 5], "by its place, as most labels agree"
    assert label_order(wandered[[4, 5, 2, 3, 0, 1]]) is None


def test_what_labels_are_is_part_of_what_is_said_of_a_set():
    config = FileConfig(images="a", preprocessing="zca")
    assert file_identity(config, "0").keys() == {"preprocessing", "mean", "std", "lr", "digest"}
    soft = config.model_copy(update={"labels_are": "logits"})
    assert file_identity(soft, "0")["labels_are"] == "logits"
    assert "labels_are" not in config.model_dump() and soft.model_dump()["labels_are"] == "logits"
