"""The cache of decoded images: written whole, checked at every opening, shared by processes, never in the way."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from image_files import write_image

import ddcal.data.decoded as module
import ddcal.data.fingerprint as fingerprint
from ddcal.config import DataConfig
from ddcal.data import DataError, dataset_fingerprint, load_dataset


@pytest.fixture
def config(tiny_imagenet):
    return DataConfig(name="tiny-imagenet", root=str(tiny_imagenet))


@pytest.fixture
def decodings(monkeypatch):
    """One entry for each time that the images are decoded."""
    found, real = [], module._decode

    def counting(*arguments):
        found.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "_decode", counting)
    return found


def caches(place):
    return sorted(path for path in place.glob("*decoded-*") if path.is_dir())


def test_images_are_decoded_once_and_with_other_settings_again(config, decodings):
    first, second = load_dataset(config), load_dataset(config)
    assert len(decodings) == 1 and torch.equal(first.train.images, second.train.images)
    load_dataset(config.model_copy(update={"validation_fraction": 0.3}))  # another split of the same images
    assert len(decodings) == 1
    load_dataset(config.model_copy(update={"resolution": 16}))
    load_dataset(config.model_copy(update={"resolution": 16, "resize": "squash"}))
    assert len(decodings) == 3
    place = Path(config.root) / ".ddcal"
    assert len(caches(place)) == 3 and not list(place.glob(".*"))


@pytest.mark.parametrize("damage", ["byte", "short", "manifest", "gone"])
def test_a_damaged_cache_is_made_anew(config, decodings, damage, capsys):
    first = load_dataset(config).train.images.clone()
    (folder,) = caches(Path(config.root) / ".ddcal")
    path = folder / "train.npy"
    if damage == "byte":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "short":
        os.truncate(path, path.stat().st_size - 192)
    elif damage == "manifest":
        (folder / "decoded.json").write_text("[")
    else:
        path.unlink()
    assert torch.equal(load_dataset(config).train.images, first) and len(decodings) == 2
    assert f"{folder}: damaged" in capsys.readouterr().err


def test_a_changed_image_has_another_fingerprint_and_is_decoded(config, decodings):
    first, before = dataset_fingerprint(config), load_dataset(config)
    image = Path(config.root) / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG"
    os.utime(image, ns=(1, 1))
    assert dataset_fingerprint(config) == first
    write_image(image, 5000)
    after = load_dataset(config)
    assert after.fingerprint == dataset_fingerprint(config) != first and len(decodings) == 2
    assert not torch.equal(after.test.images[0], before.test.images[0])
    assert torch.equal(after.test.images[1:], before.test.images[1:])


def test_contents_are_read_once(config, monkeypatch):
    first, real, read = dataset_fingerprint(config), fingerprint.picture_bytes, []
    monkeypatch.setattr(fingerprint, "picture_bytes", lambda path: read.append(path) or real(path))
    assert dataset_fingerprint(config) == first and read == []
    os.utime(Path(config.root) / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG", ns=(1, 1))
    assert dataset_fingerprint(config) == first and len(read) == 36


def test_images_that_change_meanwhile_leave_no_cache(config, monkeypatch):
    image = Path(config.root) / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG"
    real = module.decoded_chunks

    def changing(*arguments):
        os.utime(image, ns=(1, 1))
        yield from real(*arguments)

    monkeypatch.setattr(module, "decoded_chunks", changing)
    with pytest.raises(DataError, match="images changed while they were read"):
        load_dataset(config)
    assert caches(Path(config.root) / ".ddcal") == [] and not list((Path(config.root) / ".ddcal").glob(".*"))


def test_a_full_disk_leaves_no_cache(config, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(module, "decoded_chunks", full)
    with pytest.raises(DataError, match=r"cannot be kept .*No space left"):
        load_dataset(config)
    assert not list((Path(config.root) / ".ddcal").glob("*decoded-*.tmp"))


def test_images_of_a_data_root_that_cannot_be_written_go_to_the_users_cache(config, tmp_path, monkeypatch, decodings):
    (Path(config.root) / ".ddcal").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_dataset(config)
    load_dataset(config)
    assert len(decodings) == 1 and len(caches(tmp_path / "cache" / "ddcal" / "decoded")) == 1


def test_nowhere_to_keep_them_names_both_places(config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: os.terminal_size((0, 0)) and _Usage)
    with pytest.raises(
        DataError, match=r"nowhere to keep.*\.ddcal: 0\.00 GB free; .*cache/ddcal/decoded: 0\.00 GB free"
    ):
        load_dataset(config)


class _Usage:
    free = 10


def test_what_a_killed_process_left_is_removed(config):
    load_dataset(config)
    place = Path(config.root) / ".ddcal"
    (folder,) = caches(place)
    left = place / f".{folder.name}-0123.tmp"
    left.mkdir()
    (folder / "decoded.json").unlink()
    load_dataset(config)
    assert caches(place) == [folder]


def test_those_who_begin_at_once_decode_once(config, decodings):
    with ThreadPoolExecutor(4) as pool:  # file locks keep threads apart as they do processes
        first, *others = [future.result() for future in [pool.submit(load_dataset, config) for _ in range(4)]]
    assert len(decodings) == 1 and all(torch.equal(other.train.images, first.train.images) for other in others)
