"""`.npz` files that lie about their size are refused before anything is allocated; others are read as by numpy."""

import io
import os
import resource
import time
import zipfile

import numpy as np
import pytest

from ddcal.config import DataConfig
from ddcal.data import DataError, load_dataset
from ddcal.data.npz import MAX_RATIO, SMALL, check_ratio, memory_bytes, open_npz
from ddcal.data.shapes import check_dataset
from ddcal.untrusted import Untrusted


def header(shape, dtype="|u1"):
    """The header of an array as numpy writes it, without its values."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def write_members(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def members_of(arrays):
    members = {}
    for name, array in arrays.items():
        stream = io.BytesIO()
        np.lib.format.write_array(stream, array)
        members[name] = stream.getvalue()
    return members


def refused(path):
    """What is said of a file; it must not take long, nor memory."""
    config = DataConfig(name="npz", root=str(path))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    said = []
    for ask in (lambda: load_dataset(config), lambda: check_dataset(config, thorough=False)):
        with pytest.raises(DataError) as error:
            ask()
        said.append(str(error.value))
        assert str(path) in said[-1]
    assert time.monotonic() - began < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    return said[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header((10**12, 8, 8, 3)) + bytes(100), "with a header of 192,000,000,000,000 bytes"),
        (header((10**12,), "|V0"), "not of plain numbers"),
        (header((10**12,), "<U0"), "not of plain numbers"),
        (header((30, 8, 8, 3)), "5,760 bytes (uint8 (30, 8, 8, 3)) and 0 bytes behind it"),
        (header((30, 8, 8, 3)) + bytes(5761), "5,760 bytes (uint8 (30, 8, 8, 3)) and 5,761 bytes behind it"),
        (header((-1, 8, 8, 3)), "which no array has"),
        (header((30,), [("a", "<i4"), ("b", "<f8")]) + bytes(360), "not of plain numbers"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff" + b"(" * 100, "a header of 4,294,967,295 bytes"),
        (b"\x93NUMPY\x01\0\x10\x27" + b"(" * 10000, "which is damaged"),
        (b"\x93NUMPY\x03\0\x10\x27\0\0" + b" " * 10000, "in version (3, 0)"),
        (b"", "which is damaged"),
    ],
)
@pytest.mark.parametrize("key", ["x_train", "y_train"])
def test_a_header_that_lies_is_refused(arrays, tmp_path, key, content, said):
    path = write_members(tmp_path / "t.npz", {**members_of(arrays), key: content})
    assert said in refused(path)


def test_what_inflates_is_refused(arrays, tmp_path):
    """2 MB on disk, 0.5 GB in memory: what the archive declares tells, before anything is unpacked."""
    path = tmp_path / "t.npz"
    size = 2**29
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members_of(arrays).items():
            if name != "x_train":
                archive.writestr(f"{name}.npy", content)
        with archive.open("x_train.npy", "w", force_zip64=True) as stream:
            stream.write(header((size // 192, 8, 8, 3)))
            for _ in range(size // 2**24):
                stream.write(bytes(2**24))
    assert "which no data is packed to" in refused(path)


def test_more_than_there_is_memory_is_refused(arrays, tmp_path):
    count = memory_bytes() // 192 + 1
    path = write_members(tmp_path / "t.npz", {name: c for name, c in members_of(arrays).items() if name != "x_train"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header((count, 8, 8, 3)))
        info = archive.getinfo("x_train.npy")
        info.file_size = info.compress_size = len(header((count, 8, 8, 3))) + count * 192
    assert "of memory, and this machine has" in refused(path)


def test_a_ratio_is_refused_only_of_what_is_large():
    info = zipfile.ZipInfo("x.npy")
    info.compress_size = 100_000
    for size in (SMALL, 100_000 * MAX_RATIO):
        info.file_size = size
        check_ratio("x", info)
    info.file_size = SMALL + 1
    with pytest.raises(Untrusted):
        check_ratio("x", info)
    info.file_size, info.compress_size = 3_019_899_032, 26_700_000  # dSprites, as it is published
    check_ratio("imgs", info)


@pytest.mark.parametrize("compressed", [False, True])
def test_what_numpy_writes_is_read_as_numpy_reads_it(tmp_path, compressed):
    random = np.random.default_rng(0)
    arrays = {
        "fortran": np.asfortranarray(random.random((5, 4, 3))),
        "big": random.integers(0, 9, (7,)).astype(">i8"),
        "text": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
        "flags": random.random((3, 3)) > 0.5,
        "wide": random.random(3).astype(np.longdouble),
        "empty": np.zeros((0, 4)),
        "scalar": np.float32(2.5),
        "long": np.arange(2_500_000) // 1000,
    }
    (np.savez_compressed if compressed else np.savez)(tmp_path / "t.npz", **arrays)
    with open_npz(tmp_path / "t.npz") as npz:
        for name, array in arrays.items():
            found = npz.read(name)
            assert found.dtype == array.dtype and np.array_equal(found, array)
            if np.ndim(array) == 1:
                assert np.array_equal(np.concatenate(list(npz.blocks(name))), array)


def test_what_is_no_regular_file_never_blocks(tmp_path):
    os.mkfifo(tmp_path / "t.npz")
    for place in (tmp_path / "t.npz", "/dev/zero", tmp_path):
        with pytest.raises(DataError, match=r"is no regular file|is a folder"):
            load_dataset(DataConfig(name="npz", root=str(place)))
        with pytest.raises((Untrusted, OSError)), open_npz(tmp_path / "t.npz"):
            pass


def test_encrypted_and_oddly_packed_members_are_refused(arrays, tmp_path):
    path = write_members(tmp_path / "t.npz", members_of(arrays), zipfile.ZIP_LZMA)
    assert "packed as numpy never does" in refused(path)
