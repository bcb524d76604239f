import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
import torchvision.datasets

from ddcal.config import DataConfig
from ddcal.config.datasets import DATASETS
from ddcal.data import DataError, dataset_fingerprint, load_dataset
from ddcal.data.shapes import check_dataset
from ddcal.data.sources import arrays_of_function, data_root, locate_source, read_source


def read(**config):
    config = DataConfig(**config)
    return read_source(config, locate_source(config))


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    raw, bunch = read(name="digits"), load_digits()
    assert np.array_equal(raw.train_images[..., 0], (bunch.images / 16).astype(np.float32))
    assert np.array_equal(raw.train_labels, bunch.target)
    assert raw.train_images.shape == (1797, 8, 8, 1) and len(raw.test_labels) == 0


def test_the_data_root_is_the_configs_then_the_environments_then_the_homes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DDCAL_DATA", "~/env")
    assert data_root(DataConfig(root="/somewhere")).as_posix() == "/somewhere"
    assert data_root(DataConfig()) == tmp_path / "env"
    monkeypatch.delenv("DDCAL_DATA")
    assert data_root(DataConfig()) == tmp_path / ".cache" / "ddcal" / "data"


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("cifar10", ("cifar10.npz", "cifar-10-batches-py", "torchvision.datasets.CIFAR10(")),
        ("cifar100", ("cifar100.npz", "cifar-100-python", "torchvision.datasets.CIFAR100(")),
        ("fashion-mnist", ("fashion-mnist.npz", "FashionMNIST/raw", "torchvision.datasets.FashionMNIST(")),
    ],
)
def test_missing_data_names_both_places_and_how_to_get_it(tmp_path, name, places):
    with pytest.raises(DataError) as error:
        load_dataset(DataConfig(name=name, root=str(tmp_path)))
    assert all(place in str(error.value) for place in (*places, str(tmp_path), "x_train", "download=True"))


def test_a_missing_npz(tmp_path):
    with pytest.raises(DataError, match=r"data\.root is .*nothing\.npz.*x_train"):
        load_dataset(DataConfig(name="npz", root=str(tmp_path / "nothing.npz")))


def test_npz_arrays_come_back(arrays, write_npz):
    raw = read(name="npz", root=str(write_npz(arrays)))
    assert np.array_equal(raw.train_images, arrays["x_train"]) and np.array_equal(raw.test_labels, arrays["y_test"])
    assert raw.class_names == ("0", "1", "2")


def test_grey_images_without_channels_and_floats_are_welcome(arrays, write_npz):
    arrays["x_train"] = arrays["x_train"][..., 0] / 255.0
    arrays["x_test"] = arrays["x_test"][..., 0]
    arrays["y_train"] = arrays["y_train"].astype(np.uint8)
    raw = read(name="npz", root=str(write_npz(arrays)))
    assert raw.train_images.shape == (30, 8, 8, 1) and raw.train_images.dtype == np.float32
    assert raw.test_images.dtype == np.uint8 and raw.train_labels.dtype == np.int64


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("y_test", lambda a: None, r"y_test missing; it holds x_test, x_train, y_train"),
        ("x_train", lambda a: a[0, 0], r"x_train has shape \(8, 3\)"),
        ("x_train", lambda a: a[:, :6], r"x_train has shape \(30, 6, 8, 3\).*square"),
        ("x_train", lambda a: a.transpose(0, 3, 1, 2), r"move the channels last"),
        ("x_train", lambda a: a[..., 0][:, :, :6], r"x_train has shape \(30, 8, 6\), images of 8 × 6 px; .*square"),
        ("x_train", lambda a: a.astype(np.int64), r"x_train is int64.*uint8, or float.*astype\(numpy\.uint8\)"),
        ("x_train", lambda a: a.astype(np.uint16), r"x_train is uint16.*// 257"),
        ("x_train", lambda a: a > 127, r"x_train is bool.*x_train \* numpy\.uint8\(255\)"),
        ("x_train", lambda a: a.astype(np.complex64), r"x_train is complex64; images must be"),
        ("x_train", lambda a: a / 127.5 - 1, r"from -1\.0 to 1\.0; .*\(x_train \+ 1\) / 2"),
        ("x_train", lambda a: np.zeros_like(a), r"all 30 training images are the same"),
        ("y_train", lambda a: a + 0.5, r"y_train has label 0\.5; labels must be whole"),
        ("y_train", lambda a: np.where(a == 1, np.nan, a), r"y_train has label nan; labels must be whole"),
        ("y_train", lambda a: np.eye(3)[a], r"one-hot labels of 3 classes.*y_train = y_train\.argmax\(1\)"),
        ("y_train", lambda a: np.full((len(a), 3), 1 / 3), r"soft labels.*argmax"),
        ("y_train", lambda a: np.array(["cat", "dog", "owl"])[a], r"holds text \('cat', 'dog', 'owl'\).*searchsorted"),
        ("y_train", lambda a: np.array([b"cat", b"dog", b"owl"])[a], r"holds text .*searchsorted"),
        (
            "y_train",
            lambda a: np.where(a == 2, np.uint64(2**64 - 1), a.astype(np.uint64)),
            r"label 18446744073709551615",
        ),
        ("y_train", lambda a: np.where(a == 2, 1e300, a), r"y_train has label 1e\+300"),
        ("y_train", lambda a: a + 1, r"3 classes \(1, 2, 3\), the largest label is 3.*searchsorted\(classes"),
        ("y_train", lambda a: a * 5, r"3 classes \(0, 5, 10\)"),
        ("y_train", lambda a: a.reshape(15, 2, 1), r"y_train is int64 of shape \(15, 2, 1\)"),
        ("x_train", lambda a: a.astype(np.float32), r"x_train is float32 from 0\.0 to 255\.0.*\[0, 1\]"),
        ("x_train", lambda a: np.full(a.shape, np.nan), r"x_train is float64.*\[0, 1\]"),
        ("x_train", lambda a: a[:-1], r"x_train has 29 images, y_train 30 labels"),
        ("x_test", lambda a: a[:0], r"x_test has shape \(0, 8, 8, 3\)"),
        ("x_test", lambda a: a[:, :6, :6], r"x_train has images of \(8, 8, 3\), x_test of \(6, 6, 3\)"),
        ("y_train", lambda a: a - 1, r"y_train has label -1"),
        ("y_train", lambda a: a * 2, r"y_train has 3 classes.*largest label is 4.*no image has label 1"),
        ("y_train", lambda a: a * 0, r"y_train has 1 classes.*at least 2"),
        ("y_test", lambda a: a + 1, r"y_test has label 3.*0 … 2"),
        (
            "y_test",
            lambda a: a.astype(object),
            r"cannot be read as an \.npz of plain arrays: it holds y_test as Python",
        ),
    ],
)
def test_malformed_arrays_are_named(arrays, write_npz, key, change, message):
    path = write_npz({**arrays, key: change(arrays[key])})
    config = DataConfig(name="npz", root=str(path))
    for ask in (lambda: load_dataset(config), lambda: check_dataset(config, thorough=False)):
        with pytest.raises(DataError, match=message.replace("all 30", r"all \d+")) as error:
            ask()
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(np.float32),
        lambda a: a.astype(np.float64)[:, None],
        lambda a: a[:, None],
        lambda a: a.astype(np.uint64),
        lambda a: a.astype(">i2"),
    ],
)
def test_whole_numbers_are_labels_in_any_form(arrays, write_npz, change):
    path = write_npz({**arrays, "y_train": change(arrays["y_train"])})
    assert np.array_equal(read(name="npz", root=str(path)).train_labels, arrays["y_train"])


def test_other_names_are_said(arrays, write_npz):
    path = write_npz({"X_train": arrays["x_train"], **{k: v for k, v in arrays.items() if k != "x_train"}})
    said = r"x_train missing; it holds X_train, x_test, y_test, y_train \(x_train is called X_train there\)"
    with pytest.raises(DataError, match=said):
        read(name="npz", root=str(path))


def test_the_survey_of_an_npz_is_what_is_read(arrays, write_npz):
    arrays["x_train"] = np.asfortranarray(arrays["x_train"] / 255.0)
    config = DataConfig(name="npz", root=str(write_npz({**arrays, "x_val": arrays["x_test"], "z": arrays["y_test"]})))
    shape, remarks = check_dataset(config, thorough=False)
    loaded = load_dataset(config)
    assert shape.train == len(loaded.train) and shape.size == 8 and shape.class_sizes == (9, 9, 9)
    assert np.array_equal(read(name="npz", root=config.root).train_images, arrays["x_train"].astype(np.float32))
    assert remarks == [f"{config.root}: x_val, z in it are not read"]


def test_damaged_npz_files(arrays, write_npz, tmp_path):
    path = write_npz(arrays)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[2000] ^= 255  # inside x_train: the zip's checksum tells
    np.save(tmp_path / "single.npy", arrays["x_train"])
    single = (tmp_path / "single.npy").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no zip at all", bytes(changed), single):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"tiny\.npz: (cannot be read|holds a single array)"):
            load_dataset(DataConfig(name="npz", root=str(path)))


def write_cifar(folder, files, key, meta, classes):
    """Write (file, images) in CIFAR's pickled layout; return the labels of each file."""
    folder.mkdir(parents=True)
    random, labels = np.random.default_rng(0), {}
    for file, count in files:
        labels[file] = [index % classes for index in range(count)]
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / file).write_bytes(pickle.dumps({"data": data, key: labels[file]}))
    file, names_key = meta
    (folder / file).write_bytes(pickle.dumps({names_key: [f"name {label}" for label in range(classes)]}))
    return labels


@pytest.fixture
def without_checksums(monkeypatch):
    """torchvision checks the md5 of CIFAR's real files; None accepts the fakes of these tests."""
    for cifar in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        monkeypatch.setattr(cifar, "train_list", [[file, None] for file, _ in cifar.train_list])
        monkeypatch.setattr(cifar, "test_list", [[file, None] for file, _ in cifar.test_list])
        monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": None})


def test_cifar10_in_the_official_layout(tmp_path, without_checksums):
    folder = tmp_path / "cifar-10-batches-py"
    files = [*((f"data_batch_{number}", 20) for number in range(1, 6)), ("test_batch", 10)]
    write_cifar(folder, files, "labels", ("batches.meta", "label_names"), 10)
    dataset = load_dataset(DataConfig(name="cifar10", root=str(tmp_path)))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (90, 10, 10)
    assert dataset.class_names[9] == "name 9" and dataset.image_size == 32 and dataset.channels == 3
    stored = pickle.loads((folder / "test_batch").read_bytes())["data"].reshape(-1, 3, 32, 32)
    np.testing.assert_allclose(dataset.inverse_transform(dataset.test.images) * 255, stored, atol=1e-3)


def test_cifar100_in_the_official_layout(tmp_path, without_checksums):
    files = [("train", 300), ("test", 100)]
    write_cifar(tmp_path / "cifar-100-python", files, "fine_labels", ("meta", "fine_label_names"), 100)
    raw = read(name="cifar100", root=str(tmp_path))
    assert raw.train_images.shape == (300, 32, 32, 3) and raw.train_labels[101] == 1
    assert raw.class_names[99] == "name 99"


@pytest.mark.parametrize(("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_the_idx_files_in_the_official_layout(tmp_path, name, folder):
    folder = tmp_path / folder / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 20, 28, 28) + pixels.tobytes())
        labels = bytes(index % 10 for index in range(20))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 20) + labels)
    raw = read(name=name, root=str(tmp_path))
    assert np.array_equal(raw.train_images[..., 0], pixels) and raw.train_labels.tolist() == [*range(10), *range(10)]
    assert raw.class_names == DATASETS[name].class_names


def test_official_files_that_are_incomplete_or_not_the_real_ones(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    files = [(f"data_batch_{number}", 2) for number in range(1, 6)]
    write_cifar(folder, files, "labels", ("batches.meta", "label_names"), 10)
    config = DataConfig(name="cifar10", root=str(tmp_path))
    with pytest.raises(DataError, match=r"missing: test_batch\)"):
        dataset_fingerprint(config)
    (folder / "test_batch").write_bytes(b"")
    with pytest.raises(DataError, match=r"CIFAR10 cannot read it.*download the files anew"):
        load_dataset(config)


def test_an_npz_goes_before_the_official_layout(tmp_path, arrays, write_npz, without_checksums):
    write_cifar(tmp_path / "cifar-100-python", [("train", 300), ("test", 100)], "fine_labels", ("meta", "x"), 100)
    write_npz(arrays, "cifar100.npz")
    assert read(name="cifar100", root=str(tmp_path)).class_names == ("0", "1", "2")


def test_damaged_digits(tmp_path):
    from ddcal.data.sources import Source

    path = tmp_path / "digits.csv.gz"
    for content in (b"no gzip", gzip.compress(b"1,2,3\n")):
        path.write_bytes(content)
        with pytest.raises(DataError, match="reinstall scikit-learn"):
            read_source(DataConfig(), Source("digits", {"digits": path}, None))


FUNCTION = """
import numpy as np

def reversed_colours(root):
    images = np.arange(20 * 8 * 8 * 3, dtype=np.uint8).reshape(20, 8, 8, 3)[..., ::-1]
    return {"x_train": images, "y_train": np.arange(20) % 2, "x_test": images, "y_test": np.arange(20) % 2}

def copied(root):
    given = reversed_colours(root)
    return {name: np.ascontiguousarray(array) for name, array in given.items()}

def no_names(root):
    return reversed_colours(root) | {"class_names": None}

def ragged(root):
    return reversed_colours(root) | {"x_test": [[1, 2], [3]]}

def one_name(root):
    return reversed_colours(root) | {"class_names": 2}
"""


@pytest.mark.parametrize("name", ["reversed_colours", "no_names"])
def test_a_function_may_return_a_view_that_runs_backwards(name, own_package):
    own_package({"views.py": FUNCTION})
    view, copy = (
        load_dataset(DataConfig(name=f"my_lab.views:{one}", validation_fraction=0.5)) for one in (name, "copied")
    )
    assert view.class_names == ("0", "1") and view.channels == 3
    assert torch.equal(view.train.images, copy.train.images) and torch.equal(view.test.images, copy.test.images)


@pytest.mark.parametrize(
    ("name", "said"),
    [("ragged", "x_test is no array (ValueError: "), ("one_name", "class_names is 2; it must be a list of names")],
)
def test_what_a_function_returns_that_is_no_array_is_said(name, said, own_package):
    own_package({"views.py": FUNCTION})
    with pytest.raises(DataError) as error:
        arrays_of_function(f"my_lab.views:{name}", None)
    assert f"data.name 'my_lab.views:{name}': {said}" in str(error.value)
