"""Data sets of one file an image: their layouts, their decoding, and what is said of missing and damaged files."""

import os

import numpy as np
import pytest
import torchvision
from image_files import write_image
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from ddcal.config import DataConfig
from ddcal.data import DataError, DatasetShape, dataset_fingerprint, dataset_shape, load_dataset
from ddcal.data.image_folders import IMAGENETTE_CLASSES


def pixels(dataset, split="test"):
    """The images of a split as uint8 (N, H, W, C)."""
    images = getattr(dataset, split).images
    return (dataset.inverse_transform(images.clone()) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def rgb(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def tiny(root, **settings):
    return DataConfig(name="tiny-imagenet", root=str(root), **settings)


def test_tiny_imagenet_in_its_original_layout(tiny_imagenet):
    dataset = load_dataset(tiny(tiny_imagenet))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (27, 3, 6)
    assert (dataset.num_classes, dataset.channels, dataset.image_size) == (3, 3, 8)
    assert dataset.class_names == ("crane", "goldfish", "crane, lifting device")  # wnids are sorted
    assert dataset.test.labels.tolist() == [2, 0, 1, 2, 0, 1]
    base = tiny_imagenet / "tiny-imagenet-200"
    np.testing.assert_array_equal(pixels(dataset), [rgb(base / f"val/images/val_{index}.JPEG") for index in range(6)])
    found = {
        (label, image.tobytes())
        for split in ("train", "val")
        for label, image in zip(getattr(dataset, split).labels.tolist(), pixels(dataset, split), strict=True)
    }
    stored = {
        (label, rgb(path).tobytes())
        for label, wnid in enumerate(("n01", "n02", "n03"))
        for path in (base / "train" / wnid / "images").glob("*.JPEG")
    }
    assert found == stored and len(stored) == 30  # among them grey ones, whose channels are equal


@pytest.mark.parametrize("settings", [{}, {"resolution": 12}, {"validation_fraction": 0.5}, {"zca": True}])
def test_the_shape_is_known_without_decoding(tiny_imagenet, settings, monkeypatch):
    config = tiny(tiny_imagenet, **settings)
    loaded = load_dataset(config)
    counts = (len(split) for split in (loaded.train, loaded.val, loaded.test))
    monkeypatch.setattr("ddcal.data.decoding.decode_picture", None)
    expected = DatasetShape(*counts, loaded.num_classes, loaded.channels, loaded.image_size)
    assert dataset_shape(config) == expected


@pytest.mark.parametrize(("variant", "folder"), [("full", "imagenette2"), ("320px", "imagenette2-320")])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_imagenette_is_as_torchvision_reads_it(tmp_path, variant, folder, resize):
    for label, wnid in enumerate(IMAGENETTE_CLASSES):
        for part, count in (("train", 2), ("val", 1)):
            for index in range(count):
                size = (150 + 7 * label, 140) if index else (130, 141 + 10 * label)
                write_image(tmp_path / folder / part / wnid / f"{wnid}_{index}.JPEG", label, size)
    (tmp_path / folder / "noisy_imagenette.csv").write_text("path\n")
    (tmp_path / folder / "val" / ".DS_Store").write_bytes(b"")
    config = DataConfig(
        name="imagenette", root=str(tmp_path), variant=variant, resize=resize, validation_fraction=0, resolution=None
    )
    dataset = load_dataset(config)
    transform = Resize((128, 128)) if resize == "squash" else Compose([Resize(128), CenterCrop(128)])
    theirs = torchvision.datasets.Imagenette(str(tmp_path), split="val", size=variant, transform=transform)
    assert dataset.image_size == 128 and len(dataset.train) == 20
    np.testing.assert_array_equal(pixels(dataset), [np.asarray(image) for image, _ in theirs])
    assert dataset.test.labels.tolist() == [label for _, label in theirs]
    assert dataset.class_names == tuple(names[0] for names in theirs.classes)


def test_any_image_folder(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for index, (ending, mode) in enumerate((("png", "RGBA"), ("jpg", "L"), ("webp", "RGB"), ("PNG", "P"))):
            write_image(tmp_path / "train" / name / "more" / f"{index}.{ending}", 10 * label + index, (20, 16), mode)
        write_image(tmp_path / "test" / name / "a.bmp", label, (10, 12))
    (tmp_path / "train" / "labels.csv").write_text("")
    config = DataConfig(name="image-folder", root=str(tmp_path), resolution=8, validation_fraction=0.25)
    dataset = load_dataset(config)
    assert dataset.class_names == ("cat", "dog") and dataset.train.images.shape == (6, 3, 8, 8)
    assert len(dataset.val) == 2 and dataset.test.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"is 20 × 16 px.*set data\.resolution"):
        load_dataset(config.model_copy(update={"resolution": None}))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tiny-imagenet", ("tiny-imagenet.npz", "tiny-imagenet-200", "wnids.txt", "val/val_annotations.txt", "*.JPEG")),
        ("imagenette", ("imagenette.npz", "imagenette2", "train/<wnid>/*.JPEG", "torchvision.datasets.Imagenette(")),
        ("image-folder", ("train/<class>/<image>", "missing: train/, test/", "rename it to test/")),
        ("mnist", ("mnist.npz", "MNIST/raw", "torchvision.datasets.MNIST(")),
    ],
)
def test_missing_data_names_the_places_and_the_layout(tmp_path, name, parts):
    (tmp_path / "val").mkdir()
    config = DataConfig(name=name, root=str(tmp_path))
    for ask in (dataset_fingerprint, dataset_shape, load_dataset):
        with pytest.raises(DataError) as error:
            ask(config)
        assert all(part in str(error.value) for part in (*parts, str(tmp_path)))


def cache_of(root):
    return sorted(path.name for path in (root / ".ddcal").glob("*decoded-*") if path.is_dir())


def test_damaged_images_are_listed_and_nothing_is_kept(tiny_imagenet):
    folder = tiny_imagenet / "tiny-imagenet-200" / "train" / "n01" / "images"
    whole = (folder / "n01_5.JPEG").read_bytes()
    (folder / "n01_5.JPEG").write_bytes(whole[:-40])
    (folder / "n01_0.JPEG").write_bytes(b"")
    write_image(folder / "n01_7.JPEG", 5, (8, 9))
    Image.fromarray(np.arange(64, dtype=np.float32).reshape(8, 8)).save(folder / "n01_8.JPEG", format="TIFF")
    with pytest.raises(DataError) as error:
        load_dataset(tiny(tiny_imagenet))
    said = str(error.value)
    assert "4 images are missing or cannot be used" in said and said.count("\n  ") == 4
    assert "train/n01/images/n01_5.JPEG: image file is truncated" in said
    assert "train/n01/images/n01_0.JPEG: cannot identify" in said
    assert "n01_7.JPEG: 8 × 9 px where others have 8 × 8: set data.resolution" in said
    assert "n01_8.JPEG: pixels of mode F with 32 bits" in said
    assert cache_of(tiny_imagenet) == []


def test_missing_images_are_listed_up_to_twenty(tiny_imagenet):
    base = tiny_imagenet / "tiny-imagenet-200"
    for wnid in ("n01", "n02"):
        for index in range(10):
            (base / "train" / wnid / "images" / f"{wnid}_{index}.JPEG").unlink()
    (base / "val" / "images" / "val_5.JPEG").rename(base / "val" / "images" / "val_77.JPEG")
    os.symlink("nowhere", base / "train" / "n03" / "images" / "n03_10.JPEG")
    with pytest.raises(DataError) as error:
        dataset_fingerprint(tiny(tiny_imagenet))
    said = str(error.value)
    assert "25 images are missing" in said and said.count("\n  ") == 21 and "… and 5 more" in said
    assert "train/n01/images/: no image in it" in said and "n01_0.JPEG: missing (train/n01/n01_boxes.txt" in said


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("wnids.txt", lambda text: text + "\nn09\n", r"train/n09/images/: no such folder"),
        ("wnids.txt", lambda text: text.replace("n01", ""), r"line 2: class 'n01' is not in wnids\.txt"),
        ("val/val_annotations.txt", lambda text: text + "val_0.JPEG\n", r"line 7: no class after"),
        ("val/val_annotations.txt", lambda text: text + "val_0.JPEG\tn01\n", r"line 7: val_0\.JPEG has another class"),
        ("val/val_annotations.txt", lambda text: text + "val_9.JPEG\tn01\n", r"images/val_9\.JPEG: missing \(val/val_"),
        ("val/val_annotations.txt", lambda text: text.partition("\n")[2], r"val_0\.JPEG: .*gives it no class"),
    ],
)
def test_text_files_that_contradict_the_images(tiny_imagenet, file, change, message):
    path = tiny_imagenet / "tiny-imagenet-200" / file
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        load_dataset(tiny(tiny_imagenet))


def test_a_test_class_that_train_has_not(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b", "test/c"):
        write_image(tmp_path / name / "1.png", 1)
    with pytest.raises(DataError, match=r"1 image is missing.*\n  test/c/: there is no train/c/"):
        load_dataset(DataConfig(name="image-folder", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"train/caf\xe9/1.png", r"train/caf\\udce9/: its name is not UTF-8: rename it"),
        (b"test/caf\xe9/1.png", r"test/caf\\udce9/: its name is not UTF-8: rename it"),
        (b"train/a/\xff.png", r"train/a/\\udcff.png: its name is not UTF-8: rename it"),
        (b"train/a/\xff/1.png", r"train/a/\\udcff/: its name is not UTF-8: rename it"),
        (b"train/a/\xff.png/1.png", r"train/a/\\udcff.png: its name is not UTF-8: rename it"),
    ],
    ids=["a class", "a class of test", "an image", "a folder in a class", "a folder like an image"],
)
def test_names_that_are_not_utf_8_are_listed(tmp_path, name, shown):
    for part in ("train/a", "train/b", "test/a", "test/b"):
        write_image(tmp_path / part / "1.png", 1)
        (tmp_path / part / os.fsdecode(b"note\xe9.txt")).write_text("what is no image may have any name")
    config = DataConfig(name="image-folder", root=str(tmp_path))
    assert len(dataset_fingerprint(config)) == 64
    write_image(tmp_path / os.fsdecode(name), 1)
    for read in (dataset_fingerprint, load_dataset, dataset_shape):
        with pytest.raises(DataError, match=rf"1 image is missing or cannot be used.*\n  {shown}\n"):
            read(config)
