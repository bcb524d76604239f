"""DATM: its windows by brute force, its first images by a plain loop, and MTT to the bit where all of it is off."""

import math

import pytest
import torch
from torch.func import functional_call

from ddcal.config import TrialConfig, resolve
from ddcal.config.presets import preset
from ddcal.config.resolved import resolve_distill
from ddcal.distill import make_distiller, synthetic_set
from ddcal.distill.experts import Experts, train_experts, unflatten
from ddcal.pipeline import Environment, TrialRunner, open_store
from ddcal.pipeline.stages import STAGES
from ddcal.seeding import generator

SEED = 5
CPU = torch.device("cpu")
OFF = {"min_start": 0, "first_max_start": 2, "label_lr": 0.0, "first_images": "any"}
ON = {"min_start": 1, "first_max_start": 3, "max_start": 6, "expand_until": 20, "label_lr": 2.0, "label_momentum": 0.9}


def datm(make_config, **settings):
    config = make_config("datm", mtt={"first_images": "any", **settings.pop("mtt", {})}, **settings)
    return resolve_distill(config, "digits")


class Watched(Experts):
    """Notes which epochs are read."""

    def __init__(self, trajectories):
        super().__init__(trajectories)
        self.read = []

    def weights(self, expert, epoch):
        self.read.append((expert, epoch))
        return super().weights(expert, epoch)


@pytest.mark.parametrize(
    ("low", "first", "last", "until"), [(0, 2, 5, 10), (1, 3, 6, 20), (0, 4, 4, None), (2, 3, 7, 3), (0, 1, 9, 30)]
)
def test_a_start_comes_from_the_window_of_its_iteration(low, first, last, until, dataset, make_config):
    """Every epoch of every window is reached, and none beside it; the last window is the whole of it."""
    mtt = {"min_start": low, "first_max_start": first, "max_start": last, "expand_until": until, "label_lr": 0.0}
    config = datm(make_config, iterations=100, mtt=mtt)
    distiller = make_distiller(dataset, config, SEED, experts=Experts([torch.zeros(last + 1, 331)]))
    for iteration in range(0, 3 * (until or 10)):
        grown = math.floor((last - first) * iteration / until) if until else 0
        end = min(first + grown, last)
        assert distiller.window(iteration) == (low, end)
        distiller.iteration = iteration
        ends = iteration in (0, 3 * (until or 10) - 1)
        draws = (generator(0, "test", f"start-{n}", iteration) for n in range(12 * (end - low) if ends else 2))
        drawn = {distiller.drawn_start(one) for one in draws}
        assert drawn <= set(range(low, end))
        if ends:
            assert drawn == set(range(low, end))
    assert distiller.window(0)[1] == first and distiller.window(until or 0)[1] == last


def test_epochs_that_are_read_are_kept_and_within_the_windows(dataset, make_config):
    config = datm(make_config, iterations=30, mtt=ON)
    assert config.mtt.kept_epochs == 6
    experts = Watched(train_experts(dataset, config, SEED, CPU)._trajectories)
    distiller = make_distiller(dataset, config, SEED, experts=experts)
    starts = []
    for _ in range(30):
        experts.read.clear()
        distiller.step()
        (expert, begin), (other, end) = experts.read
        assert expert == other and end == begin + 1
        starts.append(begin)
    assert all(1 <= begin < min(6, 3 + 3 * iteration // 20) for iteration, begin in enumerate(starts))
    assert {min(starts), max(starts)} == {1, 5}


@pytest.mark.parametrize("formation", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_the_first_images_are_those_that_an_expert_has_right(count, formation, make_dataset, make_config):
    dataset = make_dataset(per_class=40)
    experts_config = {"count": count, "batch_size": 8, "lr": 0.05, "augment": "none"}
    mtt = {**ON, "first_images": "correct", "experts": experts_config}
    config = datm(make_config, ipc=3, formation={"factor": formation}, mtt=mtt)
    experts = train_experts(dataset, config, SEED, CPU)
    distiller = make_distiller(dataset, config, SEED, experts=experts)

    names, answers = [name for name, _ in distiller.network.named_parameters()], []
    for expert in range(count):
        weights = dict(zip(names, unflatten(experts.weights(expert, 6), distiller.network), strict=True))
        answers.append(functional_call(distiller.network, weights, (dataset.train.images,)).detach())
    wanted, by, needed = [], [], 3 * formation**2
    for label in range(3):
        members = dataset.train.indices_of(label)
        members = members[torch.randperm(len(members), generator=generator(SEED, "distill", "subset", label))].tolist()
        found = []
        for expert in [*range(count), None]:
            for member in members:
                right = expert is None or int(answers[expert][member].argmax()) == label
                if right and member not in [one for one, _ in found] and len(found) < needed:
                    found.append((member, -1 if expert is None else expert))
        wanted += [member for member, _ in found]
        by += [expert for _, expert in found]
    images, labels = distiller.first_images()
    assert torch.equal(images, dataset.train.images[wanted])
    assert torch.equal(labels, torch.arange(3).repeat_interleave(needed))
    assert distiller.choosers.tolist() == by
    provenance = synthetic_set(distiller, dataset, config, SEED).provenance["first_images"]
    assert provenance == {"classified_correctly": sum(one >= 0 for one in by), "of": len(by)}
    if formation == 1:
        logits = torch.stack([answers[max(one, 0)][member] for member, one in zip(wanted, by, strict=True)])
        torch.testing.assert_close(distiller.label_logits, logits, rtol=1e-4, atol=1e-5)
        right = torch.tensor(by) >= 0
        assert torch.equal(distiller.labels.argmax(1)[right], labels[right])


def test_a_class_that_no_expert_knows_is_filled_up(make_dataset, make_config):
    """An expert that says class 0 to everything: its images are right, and the others are taken as they come."""
    dataset = make_dataset(per_class=9)
    config = datm(make_config, mtt={**ON, "first_images": "correct"})
    trained = train_experts(dataset, config, SEED, CPU)
    trajectories = [one.clone() for one in trained._trajectories]
    for trajectory in trajectories:
        trajectory[-1, -3:] = torch.tensor([1e4, 0.0, 0.0])  # the biases of the classifier
    distiller = make_distiller(dataset, config, SEED, experts=Experts(trajectories))
    assert distiller.choosers.tolist() == [0, 0, -1, -1, -1, -1]
    plain = make_distiller(dataset, datm(make_config, mtt=ON), SEED, experts=trained)
    assert torch.equal(distiller.stored, plain.stored), "in the order of a random subset"


@pytest.mark.parametrize("settings", [{}, {"batch": 4, "remainder": "first"}, {"gradient": "tesla"}], ids=str)
@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_with_everything_off_it_is_mtt_to_the_bit(ratio, settings, dataset, make_config):
    mask = {"ratio": ratio}
    ours, theirs = datm(make_config, mask=mask, mtt={**OFF, **settings}), make_config("mtt", mask=mask, mtt=settings)
    one, other = (make_distiller(dataset, config, SEED) for config in (ours, theirs))
    for _ in range(3):
        assert one.step() == other.step()
    state = other.state()
    assert all(torch.equal(value, state[name]) for name, value in one.state().items())
    assert torch.equal(one.labels, other.labels) and one.learning_rate == other.learning_rate


def test_labels_alone_are_those_of_mtt_too(dataset, make_config):
    ours = datm(make_config, mtt={**OFF, "label_lr": 2.0, "label_momentum": 0.5})
    one, other = (make_distiller(dataset, c, SEED) for c in (ours, make_config("mtt", mtt={"label_lr": 2.0})))
    for _ in range(3):
        assert one.step() == other.step()
    assert torch.equal(one.labels, other.labels) and torch.equal(one.images, other.images)


def test_labels_have_a_momentum_of_their_own(dataset, make_config):
    """Two steps: v₂ = 0.9·v₁ + g₂, where images have 0.5."""
    config = datm(make_config, mtt={**OFF, "label_lr": 1e-6, "label_momentum": 0.9, "image_lr": 1e-6})
    distiller = make_distiller(dataset, config, SEED)
    states = []
    for _ in range(2):
        distiller.step()
        states.append(distiller.label_velocity.clone())
    plain = make_distiller(dataset, datm(make_config, mtt={**OFF, "label_lr": 1e-6, "image_lr": 1e-6}), SEED)
    plain.step()
    plain.label_velocity.zero_()
    plain.step()
    torch.testing.assert_close(states[1], 0.9 * states[0] + plain.label_velocity, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("formation", [1, 2])
def test_an_interrupted_run_ends_on_the_same_bits(formation, make_dataset, make_config):
    dataset = make_dataset(per_class=12)
    mtt = {**ON, "expand_until": 3, "first_images": "correct"}
    config = datm(make_config, iterations=4, mask={"ratio": 0.2}, formation={"factor": formation}, mtt=mtt)
    experts = train_experts(dataset, config, SEED, CPU)
    whole = make_distiller(dataset, config, SEED, experts=experts)
    first, second = (make_distiller(dataset, config, SEED, experts=experts) for _ in range(2))
    for _ in range(4):
        whole.step()
    first.step()
    first.step()
    second.restore(first.state())
    while second.iteration < 4:
        second.step()
    assert torch.equal(second.images, whole.images) and torch.equal(second.labels, whole.labels)


# Configs


@pytest.mark.parametrize(
    ("dataset", "ipc", "row"),
    [  # student steps, expert epochs, T-, T, T+, grown at, batch, rates of images, of the rate, of labels
        ("cifar10", 1, (80, 2, 0, 4, 4, 1000, None, 100.0, 1e-7, 5.0)),
        ("cifar10", 10, (80, 2, 0, 10, 20, 1000, None, 100.0, 1e-5, 2.0)),
        ("cifar10", 50, (80, 2, 0, 20, 40, 2000, None, 1000.0, 1e-5, 2.0)),
        ("cifar10", 500, (40, 2, 40, 60, 60, None, 1000, 50.0, 1e-5, 10.0)),
        ("cifar10", 1000, (100, 2, 40, 60, 60, None, 1000, 50.0, 1e-5, 10.0)),
        ("cifar100", 1, (40, 3, 0, 20, 30, 1000, None, 1000.0, 1e-5, 10.0)),
        ("cifar100", 10, (80, 2, 0, 30, 50, 2000, 1000, 1000.0, 1e-5, 10.0)),
        ("cifar100", 50, (80, 2, 20, 70, 70, None, 1000, 1000.0, 1e-5, 10.0)),
        ("cifar100", 100, (80, 2, 30, 70, 70, None, 1000, 50.0, 1e-5, 10.0)),
        ("tiny-imagenet", 1, (40, 2, 0, 15, 20, 2000, None, 10000.0, 1e-4, 10.0)),
        ("tiny-imagenet", 10, (40, 2, 10, 50, 50, None, 500, 100.0, 1e-4, 10.0)),
        ("tiny-imagenet", 50, (20, 2, 40, 70, 70, None, 1000, 100.0, 1e-4, 10.0)),
    ],
)
def test_published_rows(dataset, ipc, row):
    row_of_dataset = preset("published", "datm", dataset, ipc)
    assert row_of_dataset.notes == (), "a row as it stands"
    found = row_of_dataset.values
    names = ("student_steps", "expert_epochs", "min_start", "first_max_start", "max_start", "expand_until", "batch")
    names += ("image_lr", "rate_lr", "label_lr")
    assert tuple(found.get(f"distill.mtt.{name}") for name in names) == row
    assert found["distill.iterations"] == 10000 and found["distill.mtt.label_momentum"] == 0.9
    assert found["distill.mtt.first_images"] == ("any" if (dataset, ipc) == ("cifar100", 50) else "correct")


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny-imagenet", "digits"])
def test_every_ipc_resolves_to_windows_that_can_be(dataset):
    for ipc in (1, 2, 5, 9, 10, 20, 49, 50, 75, 100, 300, 499, 500, 700, 2000):
        trial = resolve(
            TrialConfig.model_validate({"data": {"name": dataset}, "distill": {"backbone": "datm", "ipc": ipc}})
        )
        mtt = trial.distill.mtt
        assert 0 <= mtt.min_start < mtt.first_max_start <= mtt.max_start, ipc
        assert resolve(trial) == trial and trial.soft_labels


@pytest.mark.parametrize(
    ("mtt", "words"),
    [
        ({"min_start": 10}, r"min_start is 10, but .*first_max_start is 10 \(the preset of distill\.ipc 10\), before"),
        (
            {"max_start": 5},
            r"first_max_start is 10 \(the preset of distill\.ipc 10\), but .*max_start is 5:.*at most 5",
        ),
        (
            {"init": "noise"},
            r"label_lr is 2 .*but distill\.mtt\.init is 'noise'.*use 'real', or set distill\.mtt\.label_lr",
        ),
        ({"init": "noise", "label_lr": 0.0, "first_images": "correct"}, r"first_images is 'correct' but .* 'noise'"),
    ],
)
def test_what_cannot_be_is_said(mtt, words):
    values = {"data": {"name": "cifar10"}, "distill": {"backbone": "datm", "ipc": 10, "mtt": mtt}}
    with pytest.raises(ValueError, match=words):
        TrialConfig.model_validate(values)


@pytest.mark.parametrize(
    ("iterations", "until", "end"),
    [(10000, None, None), (1001, None, None), (1000, None, 19), (100, None, 10), (100, 50, None)],
)
def test_a_plan_says_of_a_window_that_does_not_grow_to_its_end(iterations, until, end, dataset, make_config):
    """The note's epoch is the end of the last iteration's window: the row of ipc 10 has 10 to 20 by iteration 1,000."""
    mtt = {} if until is None else {"expand_until": until}
    values = {"backbone": "datm", "ipc": 10, "iterations": iterations, "mtt": mtt}
    distill = resolve(TrialConfig.model_validate({"data": {"name": "cifar10"}, "distill": values})).distill
    notes = distill.spec.notes(distill)
    assert len(notes) == (end is not None) and all(f"no student starts at epoch {end} or later" in one for one in notes)
    window = {"min_start": 0, "first_max_start": 10, "max_start": 20, "expand_until": until or 1000, "label_lr": 0.0}
    small = datm(make_config, iterations=iterations, mtt=window)
    distiller = make_distiller(dataset, small, SEED, experts=Experts([torch.zeros(21, 331)]))
    assert distiller.window(iterations - 1)[1] == (end or 20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_start", 1),
        ("first_max_start", 2),
        ("expand_until", 5),
        ("first_images", "correct"),
        ("label_momentum", 0.9),
    ],
)
def test_mtt_refuses_what_is_datms(name, value, make_config):
    with pytest.raises(ValueError, match=rf"mtt\.{name} is {value!r}, which mtt has not: set backbone to 'datm'"):
        make_config("mtt", mtt={name: value})
    assert name not in make_config("mtt").mtt.model_dump()


def test_a_rate_of_zero_leaves_labels_classes_and_is_in_no_key(make_config):
    def settings(**mtt):
        trial = {"data": {"name": "cifar10"}, "distill": {"backbone": "datm", "mtt": mtt}}
        return STAGES["distill"].settings(resolve(TrialConfig.model_validate(trial)))["mtt"]

    assert "label_lr" not in settings(label_lr=0.0) and settings()["label_lr"] == 2.0
    assert settings()["min_start"] == 0 and settings()["first_images"] == "correct"


def test_a_whole_trial_on_digits(tmp_path):
    values = {
        "network": {"width": 4},
        "distill": {
            **{"backbone": "datm", "ipc": 2, "iterations": 4, "probe": {"points": 2, "epochs": 1}},
            "mtt": {
                **{"min_start": 0, "first_max_start": 1, "max_start": 3, "expand_until": 3, "student_steps": 3},
                **{"expert_epochs": 1, "label_lr": 1.0, "experts": {"count": 2, "batch_size": 128}},
            },
        },
        "train": {"epochs": 3, "networks": 1},
    }
    config = TrialConfig.model_validate(values)
    runner = TrialRunner(config, open_store(tmp_path / "store"), Environment("cpu", 1))
    metrics = runner.run()
    assert 0.0 <= metrics["test/accuracy"] <= 1.0
    again = TrialRunner(config, open_store(tmp_path / "cut"), Environment("cpu", 1))
    for _ in range(10):
        again.advance()
    state = again.state()
    again.close()
    other = TrialRunner(config, open_store(tmp_path / "cut"), Environment("cpu", 1))
    other.restore(state)
    assert other.run() == metrics
    assert other.entries["distill"].files == runner.entries["distill"].files
    plain = {
        **values["distill"]["mtt"],
        "label_lr": 0.0,
        "first_max_start": None,
        "expand_until": None,
        "min_start": None,
    }
    mtt = TrialConfig.model_validate({**values, "distill": {**values["distill"], "backbone": "mtt", "mtt": plain}})
    shared = TrialRunner(mtt, open_store(tmp_path / "store"), Environment("cpu", 1))
    assert shared.keys["experts"] == runner.keys["experts"], "MTT and DATM share experts that are as long"
