"""The predicted size of stages: never below the files of a real trial, and not far above."""

import pytest

from ddcal.config import NetworkConfig, resolve
from ddcal.data import dataset_shape
from ddcal.errors import BadInput
from ddcal.pipeline import TrialRunner, open_store
from ddcal.pipeline.footprint import parameter_bytes, whitening_bytes
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.upkeep import list_entries

SLACK = 16_384
"""What text may take less than predicted, in bytes; the evaluation has a picture too."""


AT_MOST = ("mts_distilled", "isotonic_val")
"""Calibrations of which only the data shows how many ratios they look at, or where their functions bend."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distill__backbone": "real", "distill__ipc": 40, "network__width": 64, "network__norm": "none"},
        {"distill__backbone": "real", "train__holdout": 0.5, "calibrate__method": "ts_holdout"},
        {"distill__backbone": "full", "calibrate__method": "mts", "calibrate__draws": 100, "train__epochs": 1},
        {"distill__backbone": "real", "data__zca": True, "evaluate__bins": 200, "train__network__norm": "batch"},
        {"distill__backbone": "rtp", "distill__rtp": {"bases": 4, "steps": 2, "batch_per_class": 2}},
        {"distill__backbone": "real", "train__network": {"name": "resnet18", "width": 4, "norm": "batch"}},
        {"distill__backbone": "real", "distill__ipc": 9, "calibrate__method": "ts_cv"},
        {"distill__backbone": "real", "calibrate__method": "mts_distilled", "calibrate__draws": 50},
        {"distill__backbone": "real", "calibrate__method": "vs_val"},
        {"distill__backbone": "real", "calibrate__method": "isotonic_val"},
        {
            "distill__backbone": "real",
            "distill__ipc": 30,
            "labels": {"source": "experts", "experts": 2, "epoch": 1},
            "calibrate__method": "ts_cv",
        },
        {"distill__backbone": "real", "distill__ipc": 20, "labels": {"source": "experts", "epoch": 1}},
        {
            "distill__backbone": "mtt",
            "distill__mtt": {"student_steps": 2, "max_start": 1, "expert_epochs": 1, "label_lr": 1.0},
            "distill__mtt__experts": {"count": 1},
            "train__lr": 0.05,
        },
    ],
    ids=[
        "dc",
        "wide",
        "holdout",
        "full",
        "zca",
        "rtp",
        "resnet18",
        "cv",
        "distilled",
        "vs",
        "iso",
        "soft cv",
        "soft",
        "learned",
    ],
)
def test_stages_take_at_most_what_is_predicted(changes, make_trial, tmp_path, environment):
    trial = resolve(make_trial(**changes))
    shape = dataset_shape(trial.data)
    runner = TrialRunner(trial, open_store(tmp_path), environment)
    sizes = {}
    while not runner.done:
        runner.advance()
        if runner._work is not None and 0.3 < runner._work.fraction < 0.7:
            runner.checkpoint()
        for path in (tmp_path / "partial").glob("*.pt"):
            assert path.stat().st_size <= STAGES[runner._plan[0]].checkpoint_size(trial, shape)
    for entry in list_entries(runner.store):
        stage = "calibrate" if entry.stage == "masked" else entry.stage  # of which they are a part
        sizes[stage] = sizes.get(stage, 0) + entry.bytes
    assert sizes.keys() == runner.keys.keys()
    for stage, real in sizes.items():
        predicted = STAGES[stage].size(trial, shape)
        text = trial.evaluate.bins * 1000 + 60_000 if stage == "evaluate" else 0
        draws = 100 * trial.calibrate.draws if stage == "calibrate" else 0
        assert real <= predicted, stage
        if stage != "calibrate" or trial.calibrate.method not in AT_MOST:
            assert predicted <= 1.25 * real + SLACK + text + draws, stage


def test_data_that_only_a_look_shows_to_be_too_small_for_a_network(make_trial):
    shape = dataset_shape(make_trial().data)
    with pytest.raises(BadInput, match="vgg11: five poolings of 2×2 leave nothing of 8-px images"):
        parameter_bytes(NetworkConfig(name="vgg11"), shape)


def test_bases_that_take_all_of_the_storage(make_trial):
    trial = resolve(make_trial(distill__backbone="rtp", distill__ipc=1, distill__rtp={"bases": 40}))
    with pytest.raises(BadInput, match="bases is 40: they take all of the storage of 1 images a class"):
        STAGES["distill"].size(trial, dataset_shape(trial.data))


def test_whitening_matrices(make_trial, arrays_32=(3, 32)):
    trial = resolve(make_trial(data__name="cifar10", data__zca=True))
    shape = dataset_shape(resolve(make_trial()).data)
    shape = type(shape)(45000, 5000, 10000, 10, *arrays_32)
    assert 75_000_000 < whitening_bytes(trial, shape) < 76_000_000
    assert whitening_bytes(resolve(make_trial()), shape) == 0
