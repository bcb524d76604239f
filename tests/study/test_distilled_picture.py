import numpy as np
import torch
from matplotlib.image import imread

from ddcal.data.preprocessing import Normalisation
from ddcal.distill import SyntheticSet
from ddcal.pipeline import open_store
from ddcal.study.distilled_picture import MAX_CLASSES, MAX_IMAGES, DistilledPictures


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
