import numpy as np
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from ddcal.config import TrialConfig, resolve
from ddcal.data.preprocessing import Normalisation
from ddcal.distill import SyntheticSet
from ddcal.pipeline import DatasetCache, Environment, TrialRunner, open_store
from ddcal.pipeline.compute.distill import DistillWork
from ddcal.pipeline.distilled_picture import MAX_CLASSES, MAX_IMAGES, DistilledPictures, draw_distilled


def synthetic_set(classes, ipc, side=8, channels=3):
    images = torch.rand(classes * ipc, channels, side, side, generator=torch.Generator().manual_seed(0))
    mean, std = torch.full((channels,), 0.5), torch.full((channels,), 0.25)
    normalised = Normalisation(mean, std)
    facts = {"preprocessing": "normalisation", "backbone": "dc"}
    tensors = normalised.to_tensors()
    return SyntheticSet(
        normalised.transform(images), torch.arange(classes).repeat_interleave(ipc), ipc, None, facts, tensors
    )


def stored(root, **sets):
    """A store with a distilled set for each name: its key is the name, repeated."""
    store = open_store(root / "store")

    def writer(synthetic):
        def write(folder):
            synthetic.save(folder)
            return {"curve": [], "seconds": 0.0}

        return write

    for name, synthetic in sets.items():
        store.publish("distill", name * 16, writer(synthetic))
    return store


def test_a_set_is_drawn_once(tmp_path):
    store = stored(tmp_path, once=synthetic_set(3, 2))
    pictures = DistilledPictures(tmp_path / "pictures")
    path = pictures.picture(store, "once" * 16, {})
    assert path.name == "distilled.png" and imread(path).std() > 0.1
    path.write_bytes(b"kept")
    assert pictures.picture(store, "once" * 16, {}).read_bytes() == b"kept"


def test_no_more_than_an_eye_can_take(tmp_path):
    sizes = []
    for name, classes, ipc in (("most", MAX_CLASSES, MAX_IMAGES), ("more", MAX_CLASSES + 5, MAX_IMAGES + 5)):
        store = stored(tmp_path, **{name: synthetic_set(classes, ipc)})
        path = DistilledPictures(tmp_path / "pictures").picture(store, name * 16, {})
        sizes.append(np.asarray(imread(path)).shape)
    assert sizes[0] == sizes[1]


def test_a_damaged_set_has_no_picture(tmp_path, caplog):
    store = stored(tmp_path, hurt=synthetic_set(3, 2))
    entry = store.get("distill", "hurt" * 16)
    (entry.folder / "synthetic.json").write_text("{")
    pictures = DistilledPictures(tmp_path / "pictures")
    assert pictures.picture(open_store(tmp_path / "store"), "hurt" * 16, {}) is None
    assert "is damaged" in caplog.text
    assert pictures.picture(store, "absent" * 11, {}) is None


def test_zca_is_undone_with_the_data(tmp_path):
    from ddcal.config import DataConfig
    from ddcal.data import load_dataset

    data = {"name": "digits", "zca": True}
    dataset = load_dataset(DataConfig.model_validate(data))
    images, labels = dataset.train.images[:20], dataset.train.labels[:20]
    order = [int((labels == label).nonzero()[0, 0]) for label in labels.unique()]
    zca = SyntheticSet(images[order], torch.arange(len(order)), 1, None, {"preprocessing": "zca"})
    plain = SyntheticSet(
        dataset.inverse_transform(images[order]), torch.arange(len(order)), 1, None,
        {"preprocessing": "normalisation"}, {"mean": torch.zeros(1), "std": torch.ones(1)},
    )  # fmt: skip
    store = stored(tmp_path, zca=zca, plain=plain)
    pictures = DistilledPictures(tmp_path / "pictures")
    drawn = [imread(pictures.picture(store, name * 16, data)) for name in ("zca", "plain")]
    assert np.abs(drawn[0] - drawn[1]).max() < 0.02


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A store with a distill stage of DC over 6 iterations, and the stage's key."""
    trial = TrialConfig.model_validate(TINY)
    runner = TrialRunner(trial, open_store(tmp_path_factory.mktemp("store")), Environment("cpu", 1), target="distill")
    runner.run()
    return runner


TINY = {
    "network": {"width": 4},
    "distill": {
        "backbone": "dc", "ipc": 2, "iterations": 6, "matching": {"outer": 1, "inner": 1, "image_lr": 10.0},
        "probe": {"points": 2, "epochs": 1},
    },
}  # fmt: skip


def test_the_way_of_a_set_is_drawn(distilled, tmp_path):
    pictures = DistilledPictures(tmp_path)
    path = pictures.progress(distilled.store, distilled.keys["distill"])
    assert path.name == "progress.png" and imread(path).std() > 0.1


def test_the_way_begins_at_the_start_and_ends_with_the_set(distilled):
    folder = distilled.entries["distill"].folder
    kept, synthetic = load_file(folder / "pictures.safetensors"), SyntheticSet.load(folder)
    assert kept["fractions"].tolist() == [0, 2 / 6, 3 / 6, 5 / 6, 1]  # the iterations at or after each quarter
    assert kept["progress"].shape == (5, 10, 1, 8, 8) and kept["progress"].dtype == torch.uint8
    last = (distilled.dataset.inverse_transform(synthetic.images[::2]) * 255).round().to(torch.uint8)
    assert torch.equal(kept["progress"][-1], last) and not torch.equal(kept["progress"][0], last)


def test_images_that_do_not_change_have_no_way(tmp_path):
    values = {**TINY, "distill": {"backbone": "real", "ipc": 2, "probe": {"points": 0}}}
    store = open_store(tmp_path / "store")
    runner = TrialRunner(TrialConfig.model_validate(values), store, Environment("cpu", 1), target="distill")
    runner.run()
    assert not (runner.entries["distill"].folder / "pictures.safetensors").exists()
    assert DistilledPictures(tmp_path / "pictures").progress(store, runner.keys["distill"]) is None


def test_a_restored_stage_keeps_what_it_had(tmp_path):
    """Also from a checkpoint that an earlier ddcal wrote, which had no pictures: then there are none."""
    trial = TrialConfig.model_validate(TINY)
    dataset = DatasetCache().get(trial.data)
    for kept in (True, False):
        first = DistillWork(resolve(trial), dataset, "cpu")
        for _ in range(4):
            first.step()
        state = first.state()
        if not kept:
            del state["pictures"]
        second = DistillWork(resolve(trial), dataset, "cpu")
        second.restore(state)
        while second.fraction < 1.0:
            second.step()
        (tmp_path / str(kept)).mkdir()
        second.write(tmp_path / str(kept))
        assert (tmp_path / str(kept) / "pictures.safetensors").exists() == kept


def test_a_whitened_set_is_drawn_without_the_data(tmp_path):
    values = {**TINY, "data": {"name": "digits", "zca": True}, "distill": {"backbone": "real", "ipc": 12}}
    store = open_store(tmp_path / "store")
    runner = TrialRunner(TrialConfig.model_validate(values), store, Environment("cpu", 1), target="distill")
    runner.run()
    entry = runner.entries["distill"]
    kept, synthetic = load_file(entry.folder / "pictures.safetensors"), SyntheticSet.load(entry.folder)
    shown = runner.dataset.inverse_transform(synthetic.images).unflatten(0, (10, 12))[:, :10]
    assert torch.equal(kept["grid"], (shown * 255).round().to(torch.uint8)) and list(kept) == ["grid"]
    nowhere = {"name": "npz", "root": str(tmp_path / "nowhere.npz")}
    assert DistilledPictures(tmp_path / "pictures").picture(store, entry.key, nowhere) is not None


def test_class_names_that_look_like_formulas_keep_their_picture(tmp_path):
    """Folders of classes may be called anything; matplotlib reads what is between two $ as a formula."""
    names = ["$\\frac{$", "a $b$ c", "\\$", "{}%", "plain"]
    synthetic = SyntheticSet(torch.zeros(5, 1, 4, 4), torch.arange(5), 1, provenance={"class_names": names})
    path = draw_distilled(synthetic, lambda images: images, tmp_path / "x.png")
    assert path.stat().st_size > 500
