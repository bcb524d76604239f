"""What ``evaluate.shift`` adds to an evaluation: corrupted images and other data, and keys that do not move."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

from ddcal.calibration import score
from ddcal.config import TrialConfig, resolve
from ddcal.config.metrics import better, possible
from ddcal.data import DataError
from ddcal.data.corruptions import PARAMETERS, STRENGTHS, corrupted
from ddcal.data.other import drawn_rows, matched
from ddcal.networks import predict_logits
from ddcal.pipeline import Environment, open_store, stage_keys
from ddcal.pipeline.compute.diagram import draw_shift, trained_on
from ddcal.pipeline.compute.evaluate import measure
from ddcal.pipeline.compute.train import networks_of
from ddcal.pipeline.stages.evaluate import EVALUATE
from ddcal.pipeline.trial import TrialRunner
from ddcal.seeding import generator

BASE = {"distill__backbone": "real", "distill__ipc": 3, "train__epochs": 10, "train__lr": 0.1, "train__networks": 2}
EVERY = list(PARAMETERS)
CALIBRATIONS = ("", "raw/", "ts_train/", "ts_val/")  # the own one has its name, too


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Coloured noise of 12 px: other data, of another shape."""
    path, random = tmp_path_factory.mktemp("other") / "coloured.npz", np.random.default_rng(0)
    images = random.integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)
    np.savez(path, x_train=images[:20], y_train=np.arange(20) % 2, x_test=images[20:], y_test=np.zeros(40, int))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(tmp_path_factory.mktemp("shift"))


@pytest.fixture(scope="module")
def run(store, make_trial, environment, datasets):
    def finished(**changes):
        runner = TrialRunner(
            make_trial(**{"calibrate__method": "ts_val", **BASE, **changes}), store, environment, datasets=datasets
        )
        runner.run()
        return runner

    return finished


@pytest.fixture(scope="module")
def pair(run, coloured):
    asked = {"evaluate__shift__corruptions": EVERY, "evaluate__shift__datasets": [str(coloured)]}
    return run(), run(**asked, evaluate__shift__images=150)


def test_corruptions_are_measured_for_every_calibration(pair):
    plain, more = pair
    assert "train" in more.cache_hits and more.metrics.items() > plain.metrics.items()
    added = more.metrics.keys() - plain.metrics.keys()
    kinds = ["clean", "all", *EVERY, *(f"{name}-{strength}" for name in EVERY for strength in STRENGTHS)]
    names = {
        f"test/{c}shift/{kind}/{name}" for c in CALIBRATIONS for kind in kinds for name in ("accuracy", "ece", "nll")
    }
    names |= {f"test/{c}ood/coloured/{name}" for c in CALIBRATIONS for name in ("auroc", "fpr95")}
    assert added == names | {f"test/raw/ood/coloured/energy/{name}" for name in ("auroc", "fpr95")}
    assert set(more.entries["evaluate"].files) >= {"evaluation.json", "shift.png"}
    for calibration in CALIBRATIONS:
        for name in ("accuracy", "ece", "nll"):
            at = f"test/{calibration}shift"
            means = [np.mean([more.metrics[f"{at}/{kind}-{s}/{name}"] for s in STRENGTHS]) for kind in EVERY]
            assert [more.metrics[f"{at}/{kind}/{name}"] for kind in EVERY] == pytest.approx(means)
            assert more.metrics[f"{at}/all/{name}"] == pytest.approx(np.mean(means))


def test_they_are_the_scores_of_the_networks_on_corrupted_images(pair):
    runner, place = pair[1], pair[1].place
    dataset, networks = place.dataset, networks_of(place)
    rows = drawn_rows(len(dataset.test), 150)
    pixels, labels = dataset.inverse_transform(dataset.test.images[rows]), dataset.test.labels[rows]
    temperatures = runner.entries["evaluate"].meta["values"]["temperatures"]["ts_val"]
    for kind, strength in (("noise", 4), ("contrast", 5)):
        changed = corrupted(pixels, kind, strength, generator(0, "evaluate", f"shift-{kind}", strength))
        logits = [predict_logits(network, dataset.preprocessing.transform(changed)) for network in networks]
        for calibration, at in (("raw/", [1.0, 1.0]), ("", temperatures)):
            each = [score(one, labels, temperature) for one, temperature in zip(logits, at, strict=True)]
            for name in ("accuracy", "ece", "nll"):
                found = runner.metrics[f"test/{calibration}shift/{kind}-{strength}/{name}"]
                assert found == pytest.approx(np.mean([one[name] for one in each]), abs=1e-9)
    clean = load_file(runner.entries["train"].folder / "logits.safetensors")["test_logits"][:, rows]
    expected = np.mean([score(one, labels)["nll"] for one in clean])
    assert runner.metrics["test/raw/shift/clean/nll"] == pytest.approx(expected, abs=1e-9)


def test_other_data_are_told_apart_by_confidence(pair, coloured):
    runner, place = pair[1], pair[1].place
    images = torch.from_numpy(np.load(coloured)["x_test"]).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.interpolate(images, size=(8, 8), mode="bilinear", antialias=True).clamp(0, 1)
    inputs = place.dataset.preprocessing.transform(matched(small, 1))
    clean = load_file(runner.entries["train"].folder / "logits.safetensors")["test_logits"]
    clean = clean[:, drawn_rows(clean.shape[1], 150)].double().numpy()
    other = np.stack([predict_logits(one, inputs).double().numpy() for one in networks_of(place)])
    truth = np.r_[np.ones(150), np.zeros(40)]
    temperatures = runner.entries["evaluate"].meta["values"]["temperatures"]["ts_val"]
    for name, at in (("raw/ood/coloured", [1.0, 1.0]), ("ood/coloured", temperatures)):
        largest = [
            np.r_[softmax(own / t, axis=1).max(1), softmax(foreign / t, axis=1).max(1)]
            for own, foreign, t in zip(clean, other, at, strict=True)
        ]
        expected = np.mean([roc_auc_score(truth, scores) for scores in largest])
        assert runner.metrics[f"test/{name}/auroc"] == pytest.approx(expected, abs=1e-3)
    energies = [
        np.r_[logsumexp(own, axis=1), logsumexp(foreign, axis=1)] for own, foreign in zip(clean, other, strict=True)
    ]
    expected = np.mean([roc_auc_score(truth, scores) for scores in energies])
    assert runner.metrics["test/raw/ood/coloured/energy/auroc"] == pytest.approx(expected, abs=1e-3)


def test_all_images_are_the_test_set_itself(run):
    runner = run(evaluate__shift__corruptions=["contrast"], evaluate__shift__images=10_000)
    for name in ("accuracy", "ece", "nll"):
        assert runner.metrics[f"test/shift/clean/{name}"] == pytest.approx(runner.metrics[f"test/{name}"], abs=1e-12)


def test_a_calibration_of_more_than_a_temperature(run):
    runner = run(calibrate__method="vs_val", evaluate__shift__corruptions=["noise"], evaluate__shift__images=100)
    assert 0.0 < runner.metrics["test/shift/all/nll"] < np.inf
    assert runner.metrics["test/shift/noise-5/ece"] != runner.metrics["test/raw/shift/noise-5/ece"]


def test_what_is_not_asked_for_is_not_written(make_trial):
    assert make_trial(**BASE).model_dump(mode="json")["evaluate"] == {"bins": 15}
    also = make_trial(**BASE, evaluate__also=["signs"]).model_dump(mode="json")["evaluate"]
    assert also == {"bins": 15, "also": ["signs"], "coverage": 0.9}
    asked = make_trial(**BASE, evaluate__shift__corruptions=["blur"])
    written = asked.model_dump(mode="json")
    shift = {"corruptions": ["blur"], "datasets": [], "images": 2000}
    assert written["evaluate"] == {"bins": 15, "shift": shift} and TrialConfig.model_validate(written) == asked


def test_keys_move_with_what_is_asked_for_alone(make_trial, coloured, tmp_path):
    def keys(**changes):
        changes = {f"evaluate__shift__{name}": value for name, value in changes.items()}
        config = resolve(make_trial(calibrate__method="mts", **{**BASE, **changes}))
        return stage_keys(config, "0" * 64, Environment("cpu", 1))

    plain = keys()
    assert keys(images=7) == plain == keys(corruptions=[])
    noise = keys(corruptions=["noise"])
    others = [noise, keys(corruptions=["noise"], images=7), keys(datasets=[str(coloured)])]
    assert len({key["evaluate"] for key in [plain, *others]}) == 4
    assert all({**key, "evaluate": 0} == {**plain, "evaluate": 0} for key in others)  # networks are not trained anew
    assert keys(corruptions=["noise", "blur"]) == keys(corruptions=["blur", "noise", "blur"])
    moved = tmp_path / "coloured.npz"
    moved.write_bytes(coloured.read_bytes())
    assert keys(datasets=[str(moved)]) == others[2]
    np.savez(moved, **{**np.load(coloured), "x_test": np.zeros((40, 12, 12, 3), np.uint8)})
    assert keys(datasets=[str(moved)]) != others[2]


def test_data_that_is_missing_is_named_before_anything_runs(make_trial, store, environment, tmp_path, monkeypatch):
    monkeypatch.setenv("DDCAL_DATA", str(tmp_path))
    for entry, said in (("mnist", "there is neither .*mnist.npz"), (str(tmp_path / "no.npz"), "which does not exist")):
        with pytest.raises(DataError, match=rf"evaluate\.shift\.datasets has '{entry}': .*{said}"):
            TrialRunner(make_trial(**BASE, evaluate__shift__datasets=[entry]), store, environment)


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        (["mnst"], "has 'mnst'; it must be one of digits, mnist, .*did you mean 'mnist'"),
        (["npz"], "has 'npz'; it must be one of"),
        (["digits"], "has 'digits', on which the trial is trained"),
        (["mnist", "mnist"], "has 'mnist' twice"),
        (["a/mnist.npz", "mnist"], "has 'mnist' and 'a/mnist.npz', which metrics would call the same"),
        (["a/ö.npz"], "has 'a/ö.npz', after which metrics are called: rename it"),
    ],
)
def test_datasets_that_are_none_are_refused(make_trial, datasets, said):
    with pytest.raises(ValueError, match=rf"evaluate\.shift\.datasets {said}"):
        make_trial(**BASE, evaluate__shift__datasets=datasets)


def test_what_an_evaluation_costs_depends_on_what_it_measures(make_trial, datasets):
    def asked(**changes):
        return resolve(make_trial(**{**BASE, **changes}))

    plain = asked()
    shift = asked(evaluate__shift__corruptions=EVERY, evaluate__shift__images=200)
    assert EVALUATE.kind(plain) == EVALUATE.kind(asked(evaluate__shift__images=3)) != EVALUATE.kind(shift)
    assert EVALUATE.memory(plain) is None and EVALUATE.memory(shift) is not None
    dataset = datasets.get(plain.data)
    assert measure(shift, dataset, "cpu").step > measure(plain, dataset, "cpu").step


def test_the_bytes_are_bounded(pair):
    from ddcal.data.shapes import dataset_shape

    entry, config = pair[1].entries["evaluate"], pair[1].config
    written = sum(path.stat().st_size for path in entry.folder.iterdir())
    assert written <= EVALUATE.size(config, dataset_shape(config.data))


def test_a_calibration_that_changes_nothing_covers_no_other_line(make_trial, tmp_path):
    """That of ``none`` is the line of ``raw``, as that of ``ts_train`` is its own, which is there already."""
    random = np.random.default_rng(0)
    metrics = {
        f"test/{place}shift/{kind}/{name}": float(random.random())
        for place in CALIBRATIONS
        for kind in ("clean", *(f"noise-{strength}" for strength in STRENGTHS))
        for name in ("accuracy", "ece")
    }
    drawn = {}
    for method in ("none", "ts_train", "mts"):
        trial = make_trial(**{**BASE, "calibrate__method": method, "evaluate__shift__corruptions": ["noise"]})
        draw_shift(metrics, trial, tmp_path / f"{method}.png")
        drawn[method] = (tmp_path / f"{method}.png").read_bytes()
    assert drawn["none"] == drawn["ts_train"] != drawn["mts"]


def test_pictures_say_what_the_networks_were_trained_on(make_trial):
    assert trained_on(make_trial(distill__backbone="full")) == "digits, full, all training images"
    assert trained_on(make_trial(distill__backbone="real", distill__ipc=1)) == "digits, real, 1 image a class"
    assert trained_on(make_trial(distill__backbone="real", distill__ipc=3)) == "digits, real, 3 images a class"


def test_directions_of_the_metrics():
    assert better("test/ood/mnist/auroc") == "max" and better("test/raw/ood/mnist/energy/fpr95") == "min"
    assert better("test/shift/noise-3/accuracy") == "max" and better("test/shift/noise-3/ece") == "min"
    assert possible("test/ood/mnist/auroc", 0.9, 1.1) == (0.9, 1.0)
