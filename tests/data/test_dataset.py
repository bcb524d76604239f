import numpy as np
import pytest
import torch

from ddcal.config import DataConfig
from ddcal.data import DataError, Split, load_dataset
from ddcal.data.dataset import split_by_class
from ddcal.data.sources import data_root


@pytest.fixture(scope="module")
def digits():
    return load_dataset(DataConfig())


def rows(images):
    return {row.numpy().tobytes() for row in images}


def test_digits(digits):
    assert (digits.name, digits.num_classes, digits.channels, digits.image_size) == ("digits", 10, 1, 8)
    assert len(digits.train) + len(digits.val) + len(digits.test) == 1797
    assert digits.class_names == tuple("0123456789")
    for split in (digits.train, digits.val, digits.test):
        assert split.images.dtype == torch.float32 and split.images.shape == (len(split), 1, 8, 8)
        assert split.labels.dtype == torch.int64 and split.labels.unique().tolist() == list(range(10))


def test_splits_take_their_share_of_every_class(digits):
    for label in range(10):
        train, val, test = (len(split.indices_of(label)) for split in (digits.train, digits.val, digits.test))
        assert test == round(0.3 * (train + val + test))
        assert val == round(0.3 * (train + val))


def test_splits_are_disjoint_and_complete_and_repeat(arrays, write_npz):
    config = DataConfig(name="npz", root=str(write_npz(arrays)), validation_fraction=0.3)
    dataset, again = load_dataset(config), load_dataset(config)
    train, val, test = (rows(split.images) for split in (dataset.train, dataset.val, dataset.test))
    assert (len(train), len(val), len(test)) == (21, 9, 6)
    assert not train & val and not train & test and not val & test
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(dataset, name).images, getattr(again, name).images)
        assert torch.equal(getattr(dataset, name).labels, getattr(again, name).labels)


def test_labels_stay_with_their_images_and_test_keeps_its_order(arrays, write_npz):
    for label in range(3):
        for part in ("train", "test"):
            arrays[f"x_{part}"][arrays[f"y_{part}"] == label, 0, 0, 0] = label
    dataset = load_dataset(DataConfig(name="npz", root=str(write_npz(arrays)), validation_fraction=0.2))
    for split in (dataset.train, dataset.val, dataset.test):
        stored = (dataset.inverse_transform(split.images)[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(stored, split.labels)
    assert dataset.test.labels.tolist() == arrays["y_test"].tolist()
    assert dataset.train.labels.tolist() != sorted(dataset.train.labels.tolist())


def test_train_images_keeps_the_same_share_of_every_class_and_leaves_val_and_test(digits):
    part, smaller = (load_dataset(DataConfig(train_images=count)) for count in (200, 100))
    share = 200 / len(digits.train)
    for label in range(10):
        assert len(part.train.indices_of(label)) == round(share * len(digits.train.indices_of(label)))
    pixels = [rows((one.inverse_transform(one.train.images) * 16).round()) for one in (smaller, part, digits)]
    assert pixels[0] < pixels[1] < pixels[2]
    for split in ("val", "test"):
        assert torch.equal(getattr(part, split).labels, getattr(digits, split).labels)
    whole = load_dataset(DataConfig(train_images=10**9))
    assert torch.equal(whole.train.images, digits.train.images)


def test_train_images_that_leave_a_class_empty_are_refused():
    with pytest.raises(DataError, match=r"data\.train_images 3 leaves no training image of class 0; raise it"):
        load_dataset(DataConfig(train_images=3))


def test_smaller_fractions_are_nested_in_larger_ones():
    labels = np.arange(300) % 3
    everything = torch.arange(300)
    taken = [set(split_by_class(labels, everything, fraction, "val-split")[1].tolist()) for fraction in (0.1, 0.2, 0.5)]
    assert [len(part) for part in taken] == [30, 60, 150]
    assert taken[0] < taken[1] < taken[2]
    kept, half = split_by_class(labels, everything, 0.5, "val-split")
    assert torch.equal(torch.cat([kept, half]).sort().values, everything)


def test_fraction_zero_gives_an_empty_val():
    dataset = load_dataset(DataConfig(validation_fraction=0.0))
    assert len(dataset.val) == 0 and dataset.val.images.shape == (0, 1, 8, 8)
    assert len(dataset.val.indices_of(3)) == 0


def test_the_test_split_does_not_depend_on_val(digits):
    other = load_dataset(DataConfig(validation_fraction=0.5))
    torch.testing.assert_close(
        other.inverse_transform(other.test.images), digits.inverse_transform(digits.test.images), atol=1e-6, rtol=0
    )


def test_preprocessing_sees_the_training_images_alone(arrays, write_npz):
    arrays["x_train"][:] = 51
    arrays["x_train"][0, :4], arrays["x_train"][0, 4:] = 102, 0
    dataset = load_dataset(DataConfig(name="npz", root=str(write_npz(arrays))))
    torch.testing.assert_close(dataset.preprocessing.mean, torch.full((3,), 0.2))
    whole = load_dataset(DataConfig(validation_fraction=0.0)).preprocessing.mean
    part = load_dataset(DataConfig(validation_fraction=0.5))
    assert whole != part.preprocessing.mean
    assert abs(part.train.images.mean()) < 1e-5 < abs(part.val.images.mean())


@pytest.mark.parametrize("zca", [False, True])
def test_inverse_transform_gives_the_digits_back_and_clamps(zca):
    dataset = load_dataset(DataConfig(zca=zca))
    pictures = dataset.inverse_transform(dataset.train.images)
    torch.testing.assert_close(pictures * 16, (pictures * 16).round(), atol=2e-4, rtol=0)
    assert pictures.min() == 0 and pictures.max() <= 1
    beyond = dataset.inverse_transform(dataset.train.images * 100)
    assert beyond.min() == 0 and beyond.max() == 1
    assert dataset.preprocessing.kind == ("zca" if zca else "normalisation")


def test_resolution():
    dataset = load_dataset(DataConfig(resolution=16))
    assert dataset.image_size == 16 and dataset.test.images.shape[1:] == (1, 16, 16)


def test_a_kept_whitening_gives_the_same_bits(arrays, write_npz, tmp_path):
    config = DataConfig(name="npz", root=str(write_npz(arrays)), zca=True)
    first = load_dataset(config)
    assert list((tmp_path / ".ddcal").glob("zca-*.safetensors"))
    assert torch.equal(load_dataset(config).train.images, first.train.images)
    load_dataset(config.model_copy(update={"validation_fraction": 0.3}))
    assert len(list((tmp_path / ".ddcal").glob("zca-*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("per_class", "fraction", "message"), [(1, 0.9, "no training image of class 0"), (3, 0.1, "no image at all")]
)
def test_too_few_images_for_the_split(arrays, write_npz, per_class, fraction, message):
    arrays["x_train"], arrays["y_train"] = arrays["x_train"][: 3 * per_class], arrays["y_train"][: 3 * per_class]
    path = write_npz(arrays)
    with pytest.raises(DataError, match=message) as error:
        load_dataset(DataConfig(name="npz", root=str(path), validation_fraction=fraction))
    assert str(path) in str(error.value) and f"validation_fraction {fraction}" in str(error.value)


def test_indices_of_a_class():
    split = Split(torch.zeros(5, 1, 1, 1), torch.tensor([2, 0, 2, 0, 2]))
    assert [split.indices_of(label).tolist() for label in range(4)] == [[1, 3], [], [0, 2, 4], []]
    assert split.indices_of(2) is split.indices_of(2)
    assert len(split) == 5
    with pytest.raises(ValueError, match="label is -1"):
        split.indices_of(-1)


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_dataset(DataConfig(zca=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not (data_root(DataConfig()) / "cifar10.npz").is_file(), reason="no cifar10.npz in the data root")
def test_the_real_cifar10():
    dataset = load_dataset(DataConfig(name="cifar10"))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (45_000, 5_000, 10_000)
    assert all(len(dataset.val.indices_of(label)) == 500 for label in range(10))
    assert dataset.class_names[0] == "airplane"
    torch.testing.assert_close(dataset.preprocessing.mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3, rtol=0)
