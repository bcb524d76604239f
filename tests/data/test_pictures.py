"""One picture file to pixels: whatever its mode, transparency, orientation and ending, within limits."""

import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddcal.config import DataConfig
from ddcal.data import DataError, dataset_fingerprint, load_dataset
from ddcal.data.pictures import MAX_PIXELS, decode_picture, read_header, ready_pillow

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (8, 8), dtype=np.uint8)
COLOURS = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
ALPHA = RANDOM.integers(0, 256, (8, 8), dtype=np.uint8)


def saved(folder, picture, name="a.png", **settings):
    picture.save(folder / name, **settings)
    return folder / name


def decoded(path, ground="white", side=8, resize=None):
    ready_pillow()
    return decode_picture(path, side, resize, ground)


def over(colours, alpha, ground):
    """Alpha blending as it is defined, in floats."""
    share = alpha[..., None] / 255.0
    return colours * share + ground * (1.0 - share)


@pytest.mark.parametrize(("ground", "value"), [("white", [255] * 3), ("black", [0] * 3), ("#0a7f64", [10, 127, 100])])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L with tRNS"])
def test_transparent_pixels_are_laid_on_the_ground(tmp_path, mode, ground, value):
    colours, alpha = COLOURS, ALPHA
    if mode == "RGBA":
        picture, settings = Image.fromarray(np.dstack([colours, alpha])), {}
    elif mode == "LA":
        colours = np.repeat(GREY[..., None], 3, 2)
        picture, settings = Image.fromarray(np.dstack([GREY, alpha]), mode="LA"), {}
    elif mode == "P":  # an alpha for each entry of the palette
        palette = RANDOM.integers(0, 256, (256, 3), dtype=np.uint8)
        steps = RANDOM.integers(0, 256, 256, dtype=np.uint8)
        picture = Image.fromarray(GREY, mode="P")
        picture.putpalette(palette.tobytes())
        colours, alpha, settings = palette[GREY], steps[GREY], {"transparency": steps.tobytes()}
    else:
        picture, settings = Image.fromarray(GREY), {"transparency": int(GREY[0, 0])}
        colours, alpha = np.repeat(GREY[..., None], 3, 2), np.where(GREY[0, 0] == GREY, 0, 255)
    found = decoded(saved(tmp_path, picture, **settings), ground)
    assert np.abs(found - over(colours, alpha, np.array(value))).max() <= 1.0


def test_black_ink_in_the_alpha_channel_is_seen(tmp_path):
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[2:6, 2:6, 3] = 255
    path = saved(tmp_path, Image.fromarray(ink))
    assert np.array_equal(decoded(path)[..., 0], 255 - ink[..., 3])
    assert (decoded(path, "black") == 0).all()  # asked for


def test_an_opaque_alpha_channel_changes_nothing(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.dstack([COLOURS, np.full((8, 8), 255, np.uint8)])))
    assert np.array_equal(decoded(path), COLOURS)
    assert not read_header(path.read_bytes()).changed and read_header(path).transparent


TURNS = {  # EXIF's number → what the camera did to the upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("number", TURNS)
@pytest.mark.parametrize("ending", ["png", "webp", "tiff"])
def test_pictures_are_turned_as_their_tag_says(tmp_path, number, ending):
    exif = Image.Exif()
    exif[0x0112] = number
    settings = {"lossless": True} if ending == "webp" else {}
    picture = Image.fromarray(np.ascontiguousarray(TURNS[number](COLOURS)))
    path = saved(tmp_path, picture, f"a.{ending}", exif=exif, **settings)
    assert np.array_equal(decoded(path), COLOURS)
    assert read_header(path.read_bytes()).changed == (number > 1 and ending != "tiff")


def test_a_picture_is_turned_before_it_is_cut(tmp_path):
    wide = RANDOM.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(tmp_path, Image.fromarray(np.ascontiguousarray(np.rot90(wide))), exif=exif)
    upright = saved(tmp_path, Image.fromarray(wide), "b.png")
    for resize in ("crop", "squash"):
        assert np.array_equal(decoded(turned, resize=resize), decoded(upright, resize=resize))


def test_damaged_exif_turns_nothing(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOURS), "a.webp", lossless=True, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decoded(path), COLOURS)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled(tmp_path, ending):
    values = RANDOM.integers(0, 65536, (8, 8)).astype(np.uint16)
    values[0, :3] = 0, 257, 65535
    path = tmp_path / f"a.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert np.array_equal(decoded(path)[..., 1], np.round(values / 257.0))
    assert decoded(path)[0, :3, 0].tolist() == [0, 1, 255]


def test_other_modes(tmp_path):
    bits = GREY > 127
    one = saved(tmp_path, Image.fromarray(bits), "one.png")
    assert np.array_equal(decoded(one)[..., 2], bits * 255)
    indices = Image.fromarray(COLOURS).quantize(16)
    palette = saved(tmp_path, indices, "palette.png")
    assert np.array_equal(decoded(palette), np.asarray(indices.convert("RGB")))
    ink = Image.fromarray(COLOURS).convert("CMYK")
    assert np.array_equal(decoded(saved(tmp_path, ink, "ink.tif")), np.asarray(ink.convert("RGB")))
    still = saved(tmp_path, Image.fromarray(COLOURS), "plain.jfif", format="JPEG")
    assert np.array_equal(decoded(still), np.asarray(Image.open(still)))
    for number in (np.int32, np.float32):
        path = saved(tmp_path, Image.fromarray(GREY.astype(number)), f"{number.__name__}.tiff")
        with pytest.raises(ValueError, match=r"32 bits.*save it with 8 or 16 bits a channel"):
            decoded(path)


def test_a_colour_profile_is_not_applied(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    path = saved(tmp_path, Image.fromarray(COLOURS), icc_profile=profile)
    assert np.array_equal(decoded(path), COLOURS) and not read_header(path.read_bytes()).changed


@pytest.mark.parametrize("ending", ["png", "webp", "gif"])
def test_of_several_pictures_the_first_is_read(tmp_path, ending):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (255, 0)]
    path = saved(tmp_path, frames[0], f"a.{ending}", save_all=True, append_images=frames[1:])
    assert read_header(path).animated and (decoded(path) == 255).all()


def bomb(path, side):
    """A PNG of black pixels, side × side, in a few kB."""

    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    squeeze, rows = zlib.compressobj(9), b"\0" + bytes(-(-side // 8))
    content = b"".join(squeeze.compress(rows * 64) for _ in range(side // 64)) + squeeze.flush()
    size = side.to_bytes(4, "big")
    head = chunk(b"IHDR", size + size + b"\1\0\0\0\0")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("side", [12800, 40000])
def test_a_bomb_is_refused_by_its_header(tmp_path, side, recwarn):
    path = bomb(tmp_path / "a.png", side)
    began = time.monotonic()
    for read in (lambda: decoded(path, resize="crop"), lambda: read_header(path.read_bytes())):
        with pytest.raises(ValueError, match=f"at most {MAX_PIXELS:,} pixels are read: make it smaller"):
            read()
    assert time.monotonic() - began < 600 and not [warning for warning in recwarn if "bomb" in str(warning.message)]


def test_a_picture_that_is_all_length_is_not_blown_up(tmp_path):
    path = saved(tmp_path, Image.new("L", (60000, 1)))
    with pytest.raises(ValueError, match="so long"):
        decoded(path, side=64, resize="crop")
    assert decoded(path, resize="squash").shape == (8, 8, 3)


def test_what_is_no_picture_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")  # Pillow starts Ghostscript
    with pytest.raises(ValueError, match="cannot identify it: it is none of JPEG, PNG"):
        decoded(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    for path in (tmp_path / "b.png", Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a file"):
            decoded(path)
    whole = saved(tmp_path, Image.fromarray(COLOURS), "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        decoded(tmp_path / "c.png")


def write_folder(root, per_class=4, name="{}.png", **settings):
    for part in ("train", "test"):
        for label in range(2):
            for index in range(per_class):
                place = root / part / f"class{label}" / name.format(index)
                place.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([label, index]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place, **settings)
    return DataConfig(name="image-folder", root=str(root), validation_fraction=0.25)


def test_links_are_followed_and_nothing_blocks(tmp_path):
    config = write_folder(tmp_path / "real")
    linked = tmp_path / "linked"
    for part in ("train", "test"):
        (linked / part).mkdir(parents=True)
        for label in range(2):
            (linked / part / f"class{label}").symlink_to(tmp_path / "real" / part / f"class{label}")
    same = load_dataset(config.model_copy(update={"root": str(linked)}))
    assert same.fingerprint == dataset_fingerprint(config)
    os.mkfifo(tmp_path / "real" / "train" / "class0" / "x.png")
    (tmp_path / "real" / "train" / "class1" / "y.png").symlink_to("/dev/zero")
    (tmp_path / "real" / "test" / "class0" / "deep").mkdir()
    (tmp_path / "real" / "test" / "class0" / "deep" / "up").symlink_to("..")
    with pytest.raises(DataError) as error:
        dataset_fingerprint(config)
    said = str(error.value)
    assert "train/class0/x.png: is a FIFO" in said and "train/class1/y.png: is a FIFO, a socket or a device" in said
    assert "test/class0/deep/up/: is the same folder as test/class0/, through a link" in said


def test_a_name_with_escape_codes_is_shown_harmlessly(tmp_path):
    config = write_folder(tmp_path)
    (tmp_path / "train" / "class0" / "\x1b[2J.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load_dataset(config)
    assert "\x1b" not in str(error.value) and "\\x1b[2J.png: cannot identify" in str(error.value)


def test_the_fingerprint_is_the_old_one_unless_pixels_changed(tmp_path):
    """What the first version of the decoder read as it is stays under its fingerprint, and its stages in the store."""
    plain = write_folder(tmp_path / "plain", name="{}.bmp")
    assert dataset_fingerprint(plain) == "f8c6c6f6a1d2aa5b9747c4bead5f833f9ce5dea0a59571242e1ca9634b8398ec"
    opaque, clear, turned = (tmp_path / name for name in ("opaque", "clear", "turned"))
    exif = Image.Exif()
    exif[0x0112] = 3
    (first, *_) = sorted((tmp_path / "plain" / "test" / "class0").iterdir())
    for root, alpha, settings in ((opaque, 255, {}), (clear, 254, {}), (turned, None, {"exif": exif})):
        config = write_folder(root)
        image = Image.open(first)
        if alpha is not None:
            image.putalpha(alpha)
        image.save(root / "test" / "class0" / "0.png", **settings)
        assert ("pixels" in told(config)) == (alpha != 255)


def told(config):
    """The roles that a fingerprint is of."""
    import ddcal.data.fingerprint as module

    roles, real = [], module.hashlib.sha256

    class Recorder:
        def __init__(self, *arguments):
            self.digest = real(*arguments)

        def update(self, content):
            roles.append(content.split()[0].decode())
            self.digest.update(content)

        def hexdigest(self):
            return self.digest.hexdigest()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.hashlib, "sha256", Recorder)
        dataset_fingerprint(config)
    return roles


def test_what_was_kept_before_the_look_is_read_anew(tmp_path):
    config = write_folder(tmp_path)
    fingerprint = dataset_fingerprint(config)
    memory = tmp_path / ".ddcal" / "fingerprints.json"
    kept = json.loads(memory.read_text())
    for entry in kept.values():
        del entry["look"]
    memory.write_text(json.dumps(kept))
    assert dataset_fingerprint(config) == fingerprint
    assert all("look" in entry for entry in json.loads(memory.read_text()).values())


def test_the_background_is_part_of_what_is_kept(tmp_path):
    config = write_folder(tmp_path)
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "test" / "class0" / "0.png")
    white, black = (load_dataset(config.model_copy(update={"background": name})) for name in ("white", "black"))
    assert white.inverse_transform(white.test.images[:1].clone()).min() > 0.999
    assert black.inverse_transform(black.test.images[:1].clone()).max() < 0.001
    assert white.fingerprint == black.fingerprint


@pytest.mark.parametrize("value", ["red", "#FFFFFF", "#fff", ""])
def test_backgrounds_that_are_none(value):
    with pytest.raises(ValueError, match=r"background is .*'#rrggbb'"):
        DataConfig(name="image-folder", root="x", background=value)


def test_a_background_is_of_image_files_alone():
    with pytest.raises(ValueError, match="leave it out"):
        DataConfig(background="black")
