import numpy as np
import torch
from matplotlib.image import imread

from ddcal.data.preprocessing import Normalisation
from ddcal.distill import SyntheticSet
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


def test_a_set_is_drawn_once(tmp_path):
    synthetic_set(3, 2).save(tmp_path / "entry")
    pictures = DistilledPictures(tmp_path / "pictures")
    path = pictures.picture(tmp_path / "entry", "k" * 64, {})
    assert path.name == "distilled.png" and imread(path).std() > 0.1
    path.write_bytes(b"kept")
    assert pictures.picture(tmp_path / "entry", "k" * 64, {}).read_bytes() == b"kept"


def test_no_more_than_an_eye_can_take(tmp_path):
    sizes = []
    for name, classes, ipc in (("most", MAX_CLASSES, MAX_IMAGES), ("more", MAX_CLASSES + 5, MAX_IMAGES + 5)):
        synthetic_set(classes, ipc).save(tmp_path / name)
        path = DistilledPictures(tmp_path / "pictures").picture(tmp_path / name, name * 16, {})
        sizes.append(np.asarray(imread(path)).shape)
    assert sizes[0] == sizes[1]


def test_a_damaged_set_has_no_picture(tmp_path, caplog):
    (tmp_path / "entry").mkdir()
    pictures = DistilledPictures(tmp_path / "pictures")
    assert pictures.picture(tmp_path / "entry", "k" * 64, {}) is None
    assert "not a distilled set" in caplog.text
    assert pictures.picture(tmp_path / "absent", "a" * 64, {}) is None


def test_zca_is_undone_with_the_data(tmp_path):
    from ddcal.config import DataConfig
    from ddcal.data import load_dataset

    data = {"name": "digits", "zca": True}
    dataset = load_dataset(DataConfig.model_validate(data))
    images, labels = dataset.train.images[:20], dataset.train.labels[:20]
    order = [int((labels == label).nonzero()[0, 0]) for label in labels.unique()]
    zca = SyntheticSet(images[order], torch.arange(len(order)), 1, None, {"preprocessing": "zca"})
    zca.save(tmp_path / "zca")
    plain = SyntheticSet(
        dataset.inverse_transform(images[order]), torch.arange(len(order)), 1, None,
        {"preprocessing": "normalisation"}, {"mean": torch.zeros(1), "std": torch.ones(1)},
    )  # fmt: skip
    plain.save(tmp_path / "plain")
    pictures = DistilledPictures(tmp_path / "pictures")
    drawn = [imread(pictures.picture(tmp_path / name, name * 16, data)) for name in ("zca", "plain")]
    assert np.abs(drawn[0] - drawn[1]).max() < 0.02
