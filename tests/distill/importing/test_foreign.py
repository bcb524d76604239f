"""Files of tensors that anybody may have made: result files of the public codes are read, and nothing harmful is."""

import collections
import io
import os
import pickle
import resource
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddcal.config.backbones import FileConfig
from ddcal.distill.importing.foreign import SCALARS
from ddcal.distill.importing.tensor_file import TensorFileError, check_tensors, content_digest, read_tensor_file

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 1, 2, 0])


def config_of(path):
    return FileConfig(images=str(path), preprocessing="normalized")


def refused(path, *said):
    """One line that names the file and says so, soon, without much memory and without codes for the terminal."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(TensorFileError) as error:
        read_tensor_file(config_of(path))
    text = str(error.value)
    assert text.isprintable() and str(path) in text and "distill.file.images" in text
    assert all(words in text for words in said), text
    assert time.monotonic() - began < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_a_result_file_of_dc_with_numpy_accuracies_is_read(tmp_path, zipped, module):
    accuracies = [np.float64(0.25), np.float32(0.5), np.int64(3), np.bool_(True), np.float64(float("nan"))]
    content = {"data": [[IMAGES + 1, LABELS], [IMAGES, LABELS]], "accs_all_exps": {"ConvNet": accuracies}}
    path = tmp_path / "res_DC_CIFAR10_ConvNet_1ipc.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if zipped and module != b"numpy._core.multiarray":
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, stored in members.items():
                archive.writestr(name, stored.replace(b"numpy._core.multiarray", module))
    elif not zipped:
        path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module))
    found = read_tensor_file(FileConfig(images=str(path), index=1))
    assert torch.equal(found.images, IMAGES) and torch.equal(found.labels, LABELS)
    torch.save((IMAGES, LABELS), tmp_path / "pair.pt")
    assert found.digest == content_digest(config_of(tmp_path / "pair.pt"))


def test_numpy_scalars_are_read_as_their_numbers(tmp_path):
    from ddcal.distill.importing.foreign import load_foreign

    values = {name: np.dtype(name).type(1) for name in SCALARS} | {"big": np.array([-2.5], ">f4")[0]}
    torch.save({"images": IMAGES, **values}, tmp_path / "set.pt")
    found = load_foreign(tmp_path / "set.pt", ())
    assert {name: found[name] for name in values} == {name: value.item() for name, value in values.items()}
    assert all(type(found[name]) in (bool, int, float) for name in values)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.zeros(3), "multiarray._reconstruct"),
        (np.datetime64("2020-01-01"), "cannot be read as tensors alone"),
        (np.str_("x"), "cannot be read as tensors alone"),
        (torch.zeros(2, 2).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.zeros(2, device="meta"), "_rebuild_meta_tensor"),
        (torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.quint8), "_rebuild_qtensor"),
        (torch.zeros(2).to(torch.float8_e4m3fn), "_rebuild_tensor_v3"),
        (collections.Counter("aab"), "collections.Counter"),
        (torch.device("cuda"), "torch.device"),
        (bytearray(10), "bytearray"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_no_plain_tensor_is_named_with_the_cure(tmp_path, value, name, zipped):
    torch.save(
        {"data": [[IMAGES, LABELS]], "\x1b[31mmore": value}, tmp_path / "set.pt", _use_new_zipfile_serialization=zipped
    )
    refused(tmp_path / "set.pt", name)
    if not name.startswith("cannot"):
        refused(tmp_path / "set.pt", "weights_only=False); torch.save({'data': d['data']}, 'clean.pt')")


def test_names_in_a_file_are_shown_harmlessly(tmp_path):
    torch.save({"\x1b[2Jx": IMAGES}, tmp_path / "set.pt")
    refused(tmp_path / "set.pt", "must hold 'images'; it holds \\x1b[2Jx")
    np.savez(tmp_path / "set.npz", **{"\x1b[2Jx": IMAGES.numpy()})
    refused(tmp_path / "set.npz", "\\x1b[2Jx")


def test_views_that_repeat_are_refused_where_they_are_large(tmp_path):
    torch.save((torch.zeros(1).expand(10**6, 3, 32, 32), LABELS), tmp_path / "set.pt")
    refused(tmp_path / "set.pt", "as a view that repeats 4 bytes")
    torch.save((IMAGES[:1].expand(6, 1, 8, 8), LABELS), tmp_path / "small.pt")
    assert torch.equal(read_tensor_file(config_of(tmp_path / "small.pt")).images, IMAGES[:1].repeat(6, 1, 1, 1))


def with_pickle(path, change):
    """Write a .pt whose pickle is changed."""
    torch.save((IMAGES, LABELS), path)
    with zipfile.ZipFile(path) as archive:
        stored = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in stored.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


def laughs(levels, width):
    """A pickle of a mapping whose key holds itself again and again: as small as it is, its hash takes forever."""
    stream = io.BytesIO(b"")
    stream.write(b"\x80\x02}(K\x01\x85q\x00")
    for level in range(levels):
        stream.write(b"(" + b"h" + bytes([level]) + (b"h" + bytes([level])) * (width - 1) + b"tq" + bytes([level + 1]))
    return stream.getvalue() + b"K\x01u."


def nested(levels, memoised=False):
    """A pickle of a mapping whose key is a tuple in a tuple in a tuple …: its hash is a recursion in C."""
    around = b"\x85q\x00h\x00" if memoised else b"\x85"
    return b"\x80\x02}K\x01" + around * levels + b"K\x01s."


def call(name, *arguments):
    """A pickle that calls something with numbers and texts."""
    module, attribute = name.rsplit(".", 1)
    content = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"("
    for argument in arguments:
        if isinstance(argument, str):
            content += b"X" + struct.pack("<I", len(argument.encode())) + argument.encode()
        else:
            number = pickle.dumps(argument, 2)
            content += number[2:-1]
    return content + b"tR."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (laughs(40, 2), "a tuple of more than 1,000,000 values"),
        (laughs(5, 100), "a tuple of more than 1,000,000 values"),
        (nested(499_000), "tuples in each other, more than 64 deep"),
        (nested(65), "tuples in each other, more than 64 deep"),
        (nested(65, memoised=True), "tuples in each other, more than 64 deep"),
        (call("builtins.bytearray", 10**11), "builtins.bytearray"),
        (call("torch.FloatTensor", 10**11), "torch.FloatTensor"),
        (call("os.system", "true"), "os.system"),
        (call("builtins.eval", "1"), "builtins.eval"),
        (call("_codecs.encode", "ü" * 100_000, "punycode"), "take forever"),
        (b"\x80\x02" + b"(" * 50_000 + b".", "cannot be read as tensors alone"),
        (b"\x80\x02]" + b"N0" * 260_000 + b".", "more than 500,000 instructions"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "cannot be read as tensors alone"),
        (b"\x80\x02" + b"N" * 2**25 + b".", "a pickle of 33,554,435 bytes"),
        (b"", "cannot be read as tensors alone"),
    ],
    ids=range(15),
)
def test_pickles_that_would_hang_or_fill_the_memory_are_refused(tmp_path, content, said):
    refused(with_pickle(tmp_path / "set.pt", lambda _: content), said)


def test_what_is_deep_but_not_too_deep_is_read(tmp_path):
    notes = {"nested": [[[{"a": (1, (2, (3,)))}]]], "long": [(i,) for i in range(999)]}
    torch.save({"images": IMAGES, "labels": LABELS, "notes": notes}, tmp_path / "set.pt")
    assert torch.equal(read_tensor_file(config_of(tmp_path / "set.pt")).images, IMAGES)
    path = with_pickle(tmp_path / "keys.pt", lambda _: nested(64))
    refused(path, "must hold 'images'")


def test_sizes_that_are_not_in_the_file_are_refused(tmp_path):
    numel = struct.pack("<H", 384)  # of IMAGES
    huge = struct.pack("<i", 2**31 - 1)
    refused(with_pickle(tmp_path / "a.pt", lambda c: c.replace(b"M" + numel, b"J" + huge)), "cannot be read as tensors")
    shape = b"(K\x06K\x01K\x08K\x08t"
    refused(
        with_pickle(tmp_path / "b.pt", lambda c: c.replace(shape, shape.replace(b"K\x06", b"J" + huge))), "cannot be"
    )
    torch.save((IMAGES, LABELS), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(old.replace(b"M" + numel, b"J" + huge))
    refused(tmp_path / "c.pt", "cannot be read as tensors")
    (tmp_path / "d.pt").write_bytes(old[:-2000])
    refused(tmp_path / "d.pt", "cannot be read as tensors")


def test_what_inflates_is_refused(tmp_path):
    torch.save((torch.zeros(2**25), LABELS), tmp_path / "set.pt")
    with zipfile.ZipFile(tmp_path / "set.pt") as archive:
        stored = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "set.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in stored.items():
            archive.writestr(name, content)
    refused(tmp_path / "set.pt", "which no data is packed to")


@pytest.mark.parametrize(
    "header",
    [
        b'{"images":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"images":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,16]}}',
        b'{"images":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}',
        b'{"images":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"labels":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b'{"images":{"dtype":"F32","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,16]}}',
        b"[" * 100_000,
        b"{}",
    ],
    ids=range(7),
)
def test_safetensors_that_lie_are_refused(tmp_path, header):
    (tmp_path / "set.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    refused(tmp_path / "set.safetensors")
    (tmp_path / "set.safetensors").write_bytes(struct.pack("<Q", 2**63) + header)
    refused(tmp_path / "set.safetensors", "cannot be read as safetensors")


@pytest.mark.parametrize("ending", ["pt", "npz", "safetensors"])
def test_what_is_no_regular_file_never_blocks(tmp_path, ending):
    os.mkfifo(tmp_path / f"set.{ending}")
    refused(tmp_path / f"set.{ending}", "is a FIFO, not a file")
    (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
    refused(tmp_path / f"zero.{ending}", "is a device, not a file")
    (tmp_path / f"folder.{ending}").mkdir()
    refused(tmp_path / f"folder.{ending}", "is a folder, not a file")


def test_a_link_to_a_file_is_followed(tmp_path):
    save_file({"images": IMAGES, "labels": LABELS}, tmp_path / "real.safetensors")
    (tmp_path / "set.safetensors").symlink_to("real.safetensors")
    assert torch.equal(read_tensor_file(config_of(tmp_path / "set.safetensors")).images, IMAGES)


def test_odd_numbers_of_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES.numpy().astype(np.longdouble), labels=LABELS.numpy().astype(np.uint16))
    found = read_tensor_file(config_of(tmp_path / "a.npz"))
    assert torch.equal(found.images.float(), IMAGES) and torch.equal(found.labels, LABELS)
    np.savez(tmp_path / "b.npz", images=IMAGES.numpy(), labels=np.array([2**64 - 1] * 6, np.uint64))
    refused(tmp_path / "b.npz", "holds 18446744073709551615 in labels")


def test_a_label_as_large_as_it_may_be_takes_no_memory(tmp_path):
    torch.save((IMAGES, LABELS * 2**40), tmp_path / "set.pt")
    (fault,) = check_tensors(read_tensor_file(config_of(tmp_path / "set.pt")), config_of(tmp_path / "set.pt"), 2)
    assert "has label 2199023255552 and 6 labels" in str(fault)
