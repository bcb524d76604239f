import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import ddcal.data.fingerprint as module
from ddcal.config import DataConfig
from ddcal.data import dataset_fingerprint, load_dataset


@pytest.fixture
def config(arrays, write_npz):
    return DataConfig(name="npz", root=str(write_npz(arrays)))


@pytest.fixture
def hashed(monkeypatch):
    """The files whose contents are hashed."""
    files, real = [], module.open_regular

    def counting(path, **settings):
        files.append(os.path.basename(path))
        return real(path, **settings)

    monkeypatch.setattr(module, "open_regular", counting)
    return files


def memory_of(config):
    return os.path.join(os.path.dirname(config.root), ".ddcal", "fingerprints.json")


def test_contents_are_hashed_once(config, hashed):
    first = dataset_fingerprint(config)
    assert len(first) == 64 and hashed == ["tiny.npz"]
    assert dataset_fingerprint(config) == first and hashed == ["tiny.npz"]
    with open(memory_of(config)) as file:
        (entry,) = json.load(file).values()
    assert entry.keys() == {"size", "mtime_ns", "sha256"}
    assert os.listdir(os.path.dirname(memory_of(config))) == ["fingerprints.json"]


def test_a_touched_file_is_hashed_again_and_a_changed_one_has_another_fingerprint(config, hashed, arrays, write_npz):
    first = dataset_fingerprint(config)
    os.utime(config.root, ns=(1, 1))
    assert dataset_fingerprint(config) == first and len(hashed) == 2
    arrays["x_train"][0, 0, 0, 0] ^= 1
    write_npz(arrays)
    assert dataset_fingerprint(config) != first and len(hashed) == 3


def test_the_place_has_no_influence_and_the_dataset_has(config, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(config.root, tmp_path / "elsewhere" / "other.npz")
    assert dataset_fingerprint(DataConfig(name="npz", root=str(copy))) == dataset_fingerprint(config)
    shutil.copy(config.root, tmp_path / "cifar10.npz")
    assert dataset_fingerprint(DataConfig(name="cifar10", root=str(tmp_path))) != dataset_fingerprint(config)


def test_settings_are_not_part_of_it_and_datasets_carry_it(config):
    other = config.model_copy(update={"zca": True, "resolution": 16, "validation_fraction": 0.0})
    assert dataset_fingerprint(other) == dataset_fingerprint(config) == load_dataset(config).fingerprint


@pytest.mark.parametrize("content", ["", "[]", "no json", '{"tiny.npz": 3}', '{"tiny.npz": {"sha256": "wrong"}}'])
def test_a_damaged_memory_is_replaced(config, content):
    first = dataset_fingerprint(config)
    with open(memory_of(config), "w") as file:
        file.write(content)
    assert dataset_fingerprint(config) == first
    with open(memory_of(config)) as file:
        assert len(json.load(file)["tiny.npz"]["sha256"]) == 64


def test_an_unwritable_folder_only_costs_time(config, hashed, tmp_path):
    (tmp_path / ".ddcal").write_text("a file where the folder would be")
    assert dataset_fingerprint(config) == dataset_fingerprint(config)
    assert len(hashed) == 2


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    (tmp_path / "file").write_text("old")
    assert not module.write_atomically(tmp_path / "file", fail)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_several_files_and_entries_of_others_are_kept(arrays, write_npz, tmp_path):
    for name in ("cifar10", "cifar100"):
        write_npz(arrays, f"{name}.npz")
        dataset_fingerprint(DataConfig(name=name, root=str(tmp_path)))
    assert json.loads((tmp_path / ".ddcal" / "fingerprints.json").read_text()).keys() == {"cifar10.npz", "cifar100.npz"}


def test_fingerprints_import_no_reader_and_decode_nothing(tmp_path):
    (tmp_path / "garbage.npz").write_bytes(np.arange(10).tobytes())
    code = (
        "import sys; from ddcal.config import DataConfig; from ddcal.data import dataset_fingerprint as f; "
        f"f(DataConfig()); f(DataConfig(name='npz', root={str(tmp_path / 'garbage.npz')!r})); "
        "sys.exit(any(name in sys.modules for name in ('sklearn', 'torchvision', 'kornia')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
