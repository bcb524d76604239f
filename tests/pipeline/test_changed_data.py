"""Data whose file is replaced while a process lives: no trial computes on other data than its keys say."""

import os

import numpy as np
import pytest

from ddcal.config import TrialConfig
from ddcal.data import DataError, load_dataset
from ddcal.pipeline import DatasetCache, TrialRunner, open_store


def replace_file(path, seed, bright):
    """Two classes that differ in their brightness; ``bright`` is the brighter one."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 2, 200)
    images = (draws.integers(0, 120, (200, 8, 8)) + (labels[:, None, None] == bright) * 130).astype(np.uint8)
    new = path.with_name("new.npz")
    np.savez(new, x_train=images[:150], y_train=labels[:150], x_test=images[150:], y_test=labels[150:])
    os.utime(new, (1e9 + seed, 1e9 + seed))
    os.replace(new, path)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "d.npz"
    replace_file(path, 0, 0)
    return path


def trial(file, seed=0):
    return TrialConfig.model_validate(
        {
            "seed": seed,
            "data": {"name": "npz", "root": str(file), "validation_fraction": 0.3},
            "network": {"width": 8, "depth": 2},
            "distill": {"backbone": "real", "ipc": 5},
            "train": {"epochs": 10, "networks": 1},
        }
    )


def runner(file, store, environment, datasets=None, seed=0):
    return TrialRunner(trial(file, seed), open_store(store), environment, datasets=datasets)


def test_a_trial_after_the_change_is_computed_on_the_new_data(file, tmp_path, environment):
    shared = DatasetCache()
    old = runner(file, tmp_path / "store", environment, shared)
    old.run()
    replace_file(file, 1, 1)
    new = runner(file, tmp_path / "store", environment, shared, seed=1)
    found = new.run()
    fresh = runner(file, tmp_path / "other", environment, seed=1)
    assert found == fresh.run() and new.keys == fresh.keys
    assert new.dataset.fingerprint == new.fingerprint != old.fingerprint
    assert found["test/accuracy"] > 0.9  # on the old data it would be below 0.1


def test_a_trial_that_loaded_before_the_change_goes_on_with_what_it_has(file, tmp_path, environment):
    expected = runner(file, tmp_path / "undisturbed", environment).run()
    one = runner(file, tmp_path / "store", environment)
    while not one.entries:
        one.advance()
    replace_file(file, 1, 1)
    assert one.run() == expected


def test_a_trial_that_had_not_loaded_before_the_change_stops(file, tmp_path, environment):
    one = runner(file, tmp_path / "store", environment)
    replace_file(file, 1, 1)
    with pytest.raises(DataError, match=r"d\.npz: the data changed: .* put back .* begin the trial again"):
        one.run()
    assert not list((tmp_path / "store").rglob("*.safetensors")), "nothing is kept under the old data's keys"


def test_other_data_that_changes_before_the_evaluation_stops_the_trial(file, tmp_path, environment):
    other = tmp_path / "other" / "o.npz"
    other.parent.mkdir()
    replace_file(other, 2, 0)
    shift = {"datasets": [str(other)], "images": 20}
    config = TrialConfig.model_validate(trial(file).model_dump() | {"evaluate": {"shift": shift}})
    one = TrialRunner(config, open_store(tmp_path / "store"), environment)
    replace_file(other, 3, 0)
    with pytest.raises(DataError, match=r"evaluate\.shift\.datasets: the data of .* changed after the trial began"):
        one.run()
    assert "train" in one.entries and "evaluate" not in one.entries
    assert TrialRunner(config, open_store(tmp_path / "store"), environment).run()["test/accuracy"] > 0.9


def test_what_is_loaded_stays_while_the_data_does(file, environment):
    shared, config = DatasetCache(), trial(file).data
    first = shared.get(config, shared.fingerprint(config))
    assert shared.get(config, shared.fingerprint(config)) is first is shared.get(config)
    shared.remembered("answer", lambda: first.test.labels)
    replace_file(file, 1, 1)
    second = shared.get(config, shared.fingerprint(config))
    assert second is not first and second.fingerprint != first.fingerprint
    assert shared.remembered("answer", lambda: second.test.labels) is second.test.labels


def test_data_that_changes_while_it_is_read_is_refused(file, monkeypatch):
    import ddcal.data.dataset as module

    config, read = trial(file).data, module.read_source

    def interrupted(*given):
        replace_file(file, 1, 1)
        return read(*given)

    monkeypatch.setattr(module, "read_source", interrupted)
    with pytest.raises(DataError, match=r"d\.npz: the data changed while it was read"):
        load_dataset(config)
