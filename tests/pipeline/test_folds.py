"""The folds stage: every distilled image predicted by a network that has not seen it."""

import pytest
import torch
from safetensors.torch import load_file

from ddcal.config import resolve
from ddcal.distill import SyntheticSet, distill
from ddcal.errors import BadInput
from ddcal.pipeline import TrialRunner, open_store, stage_keys
from ddcal.pipeline.compute.folds import FoldsWork, split_folds
from ddcal.pipeline.compute.train import training_images
from ddcal.seeding import derive_seed
from ddcal.store.base import file_sha256
from ddcal.training import DDNNTraining

BASE = {"distill__backbone": "real", "distill__ipc": 5, "calibrate__method": "ts_cv", "calibrate__folds": 3}


@pytest.fixture(scope="module")
def begin(make_trial, datasets):
    """begin(**changes) -> a FoldsWork that has done nothing."""

    def make(**changes):
        trial = resolve(make_trial(**{**BASE, **changes}))
        dataset = datasets.get(trial.data)
        return FoldsWork(trial, dataset, distill(dataset, trial.distill, trial.seed), "cpu")

    return make


def finished(work):
    while work.fraction < 1.0:
        work.step()
    return work


@pytest.mark.parametrize(("per_class", "folds"), [(2, 2), (5, 3), (5, 5), (10, 4)])
def test_every_fold_has_its_share_of_every_class(per_class, folds):
    labels = torch.arange(7).repeat(per_class)
    found = split_folds(labels, folds, 0)
    for label in range(7):
        counts = torch.bincount(found[labels == label], minlength=folds)
        assert counts.sum() == per_class and counts.min() >= 1 and counts.max() - counts.min() <= 1
    assert not torch.equal(found, split_folds(labels, folds, 1))


def test_a_fold_is_predicted_by_a_network_trained_on_the_rest(begin):
    work = finished(begin())
    for fold in range(3):
        kept = work.fold_of != fold
        training = DDNNTraining(
            work.images[kept],
            work.labels[kept],
            work.recipe,
            num_classes=10,
            flip=False,
            seed=derive_seed(0, "folds", "fold", fold),
            stream="folds",
        )
        while training.epoch < training.epochs:
            training.step()
        assert torch.equal(training.predict(0, work.images[~kept]), work.logits[~kept])


def test_the_recipe_is_that_of_the_networks(begin):
    work = begin(train__epochs=7, train__lr=0.02, train__networks=4)
    assert (work.recipe.epochs, work.recipe.lr, work.recipe.networks) == (7, 0.02, 1)


def test_a_learned_rate_is_taken(begin, make_trial, datasets):
    trial = resolve(make_trial(**BASE))
    trial = trial.model_copy(update={"train": trial.train.model_copy(update={"lr": None})})
    dataset = datasets.get(trial.data)
    made = distill(dataset, trial.distill, trial.seed)
    learned = SyntheticSet(**{**made.__dict__, "learning_rate": 0.037})
    assert FoldsWork(trial, dataset, learned, "cpu").recipe.lr == 0.037


@pytest.mark.parametrize("stop", range(9))
def test_stopped_anywhere_it_goes_on_to_the_same_bits(begin, stop, tmp_path):
    whole, part = finished(begin()), begin()
    for _ in range(stop):
        part.step()
    torch.save(part.state(), tmp_path / "state.pt")
    resumed = begin()
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.fraction == part.fraction == pytest.approx(stop / 9)
    digests = []
    for name, work in (("whole", whole), ("resumed", finished(resumed))):
        (tmp_path / name).mkdir()
        work.write(tmp_path / name)
        digests.append(file_sha256(tmp_path / name / "folds.safetensors"))
    assert digests[0] == digests[1]


def test_never_more_folds_than_images_of_a_class(begin):
    assert begin(distill__ipc=2, calibrate__folds=5).folds == 2


def test_a_single_image_a_class_is_refused_where_only_the_set_shows_it(begin, make_trial, datasets):
    trial = resolve(make_trial(**BASE))
    dataset = datasets.get(trial.data)
    made = distill(dataset, trial.distill, trial.seed)
    first = torch.tensor([int((made.labels == k).nonzero()[0]) for k in range(10)])
    one = SyntheticSet(**{**made.__dict__, "images": made.images[first], "labels": made.labels[first]})
    with pytest.raises(BadInput, match="there is 1 distilled image a class"):
        FoldsWork(trial, dataset, one, "cpu")


def test_folds_are_checkpointed_and_cached(make_trial, environment, tmp_path):
    store = open_store(tmp_path)
    runner = TrialRunner(make_trial(**BASE), store, environment)
    while runner._plan[0] != "folds":
        runner.advance()
    for _ in range(4):
        runner.advance()
    runner.close()
    again = TrialRunner(make_trial(**BASE), store, environment)
    while again._plan[0] != "folds":
        again.advance()
    again.advance()
    assert again._work.fraction == pytest.approx(5 / 9)
    again.run()
    third = TrialRunner(make_trial(**{**BASE, "calibrate__method": "mts_distilled"}), store, environment)
    third.run()
    assert "folds" in third.cache_hits
    tensors = load_file(third.entries["folds"].folder / "folds.safetensors")
    assert tensors["logits"].shape == (50, 10) and tensors["labels"].tolist() == [i // 5 for i in range(50)]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"train__networks": 5}, True),
        ({"calibrate__method": "mts_distilled"}, True),
        ({"calibrate__t_max": 9.0}, True),
        ({"calibrate__draws": 9}, True),
        ({"evaluate__bins": 9}, True),
        ({"calibrate__folds": 5}, False),
        ({"train__epochs": 9}, False),
        ({"train__loss": "focal"}, False),
        ({"train__holdout": 0.2}, False),
        ({"distill__ipc": 6}, False),
        ({"seed": 1}, False),
    ],
    ids=str,
)
def test_folds_depend_on_the_images_and_the_recipe_alone(change, same, make_trial, environment):
    keys = [stage_keys(make_trial(**{**BASE, **values}), "0" * 64, environment) for values in ({}, change)]
    assert (keys[0]["folds"] == keys[1]["folds"]) == same


def test_folds_beyond_the_images_of_a_class_change_nothing(make_trial, environment):
    keys = [
        stage_keys(make_trial(**{**BASE, "calibrate__folds": folds}), "0" * 64, environment) for folds in (5, 6, 100)
    ]
    assert keys[0] == keys[1] == keys[2]


def test_a_set_of_which_all_is_held_out_is_refused(make_trial, datasets):
    config = resolve(make_trial(train__holdout=0.5, calibrate__method="ts_holdout"))
    dataset = datasets.get(config.data)
    size = dataset.image_size
    one = SyntheticSet(torch.zeros(10, 1, size, size), torch.arange(10), ipc=1)
    with pytest.raises(BadInput, match=r"train\.holdout 0\.5 leaves none of the 1 distilled images of a class"):
        training_images(config, dataset, one)
