"""Mutations of data sets: every one is read or refused with a clear error that names the file."""

import io
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import EXAMPLES, changes, examples, mutated, mutated_inside, outcome
from PIL import Image

from ddcal.config import DataConfig
from ddcal.data import DataError, dataset_fingerprint, load_dataset
from ddcal.data.shapes import check_dataset


def ask_all(config):
    """What validate, plan and a trial ask of a data set."""
    said = []
    for ask in (lambda config: check_dataset(config, thorough=False), dataset_fingerprint, load_dataset):
        try:
            ask(config)
        except DataError as error:
            said.append(error)
    if said:
        raise said[-1]


@pytest.mark.parametrize("count", [EXAMPLES // 2, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("packed", [False, True])
def test_mutations_of_an_npz(arrays, tmp_path, packed, count):
    arrays["x_train"] = arrays["x_train"][:, :, :, 0] / np.float32(255.0)
    arrays["x_test"] = arrays["x_test"][:, :, :, 0] / np.float32(255.0)
    path = tmp_path / "t.npz"
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    whole, refused = path.read_bytes(), []

    @examples(count)
    @given(changes, st.integers(0, 4))
    def check(what, member):
        path.write_bytes(mutated_inside(whole, member - 1, what) if member else mutated(whole, what))
        refused.append(outcome(lambda: ask_all(DataConfig(name="npz", root=str(path))), DataError, path))

    check()
    print(f"npz: {len(refused)} mutations, {sum(refused)} refused")
    assert sum(refused) > len(refused) / 4


def seeds():
    """Name → content of small pictures in every format, some of them with what decoders have to look at twice."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    clear = Image.fromarray(random.integers(0, 256, (8, 8, 4), dtype=np.uint8))
    deep = Image.fromarray(random.integers(0, 65536, (8, 8)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, packed = {"exif": exif}, {"compression": "tiff_lzw"}
    forms = [
        *(("a.png", colours, turned), ("b.png", clear, {}), ("c.png", deep, {}), ("d.png", colours.quantize(8), {})),
        *(("e.jpg", colours, turned), ("f.jpg", colours.convert("CMYK"), {}), ("g.webp", clear, turned)),
        *(("h.tiff", clear, {}), ("i.tiff", deep, packed), ("j.bmp", colours, {}), ("k.pgm", deep, {})),
        *(("l.png", colours, {"save_all": True, "append_images": [clear]}), ("m.ppm", colours, {})),
    ]
    found = {}
    for name, picture, settings in forms:
        stream = io.BytesIO()
        kind = {"jpg": "JPEG", "pgm": "PPM"}.get(name[2:], name[2:].upper())
        picture.save(stream, format=kind, **settings)
        found[name] = stream.getvalue()
    stream = io.BytesIO()
    colours.quantize(8).save(stream, format="GIF")
    return found | {"n.png": stream.getvalue()}


@pytest.mark.parametrize("count", [EXAMPLES, pytest.param(400, marks=pytest.mark.slow)])
def test_mutations_of_pictures(tmp_path, count):
    contents, refused = seeds(), []
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for index in range(2):
                picture = np.random.default_rng([index, label == "a"]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / part / label / f"{index}.bmp")
    config = DataConfig(name="image-folder", root=str(tmp_path), resolution=8, validation_fraction=0.5)

    @examples(count)
    @given(st.sampled_from(sorted(contents)), changes)
    def check(name, what):
        path = tmp_path / "train" / "a" / name
        path.write_bytes(mutated(contents[name], what))
        try:
            refused.append(outcome(lambda: ask_all(config), DataError, f"train/a/{name}"))
        finally:
            path.unlink()
            shutil.rmtree(tmp_path / ".ddcal", ignore_errors=True)

    check()
    print(f"pictures: {len(refused)} mutations, {sum(refused)} refused")
    assert sum(refused) > len(refused) / 4


@pytest.mark.parametrize("count", [EXAMPLES // 2, pytest.param(400, marks=pytest.mark.slow)])
def test_mutations_of_the_lists_of_tiny_imagenet(tiny_imagenet, count):
    base, refused = tiny_imagenet / "tiny-imagenet-200", []
    names = ("wnids.txt", "words.txt", "val/val_annotations.txt", "train/n01/n01_boxes.txt")
    contents = {name: (base / name).read_bytes() for name in names}

    @examples(count)
    @given(st.sampled_from(names), changes)
    def check(name, what):
        (base / name).write_bytes(mutated(contents[name], what))
        try:
            config = DataConfig(name="tiny-imagenet", root=str(tiny_imagenet))
            refused.append(outcome(lambda: ask_all(config), DataError, base))
        finally:
            (base / name).write_bytes(contents[name])
            shutil.rmtree(tiny_imagenet / ".ddcal", ignore_errors=True)

    check()
    print(f"lists: {len(refused)} mutations, {sum(refused)} refused")
