"""Packing as arithmetic: which stages need the same memory, and which fraction holds them."""

import itertools

import pytest

from ddcal.config import resolve, trial_from
from ddcal.study.gpu.packing import FRACTIONS, MIB, Packing, fitting_fraction, larger_fraction, memory_groups

STAGES = ("distill", "train", "calibrate", "evaluate")


@pytest.mark.parametrize(
    ("peak", "context", "fraction"),
    [
        (0, 0, 0.125),
        (10, 1, 0.125),
        (10, 2, 0.1666),
        (15, 1, 0.25),
        (20, 0, 0.25),
        (20, 3, 0.3333),
        (28, 1, 0.3333),
        (40, 4, 0.5),
        (43, 1, 1.0),
        (90, 1, 1.0),
    ],
)
def test_a_fraction_holds_the_peak_the_margin_and_a_context(peak, context, fraction):
    assert fitting_fraction(peak, context, 100) == fraction


def test_processes_at_a_fraction_fit_together_into_the_memory():
    for peak, context in itertools.product(range(1, 80, 3), range(0, 10, 2)):
        fraction = fitting_fraction(peak, context, 100)
        if fraction < 1.0:
            assert int(1 / fraction + 0.01) * (peak * 1.15 + context) <= 100


@pytest.mark.parametrize(
    ("fraction", "larger"),
    [(0.125, 0.1666), (0.25, 0.3333), (0.3, 0.3333), (0.3333, 0.5), (1 / 3, 0.5), (0.5, 1.0), (1.0, None), (2.0, None)],
)
def test_the_next_larger_fraction(fraction, larger):
    assert larger_fraction(fraction) == larger


def test_ray_takes_every_fraction_and_as_many_as_its_name_says():
    for fraction, name in FRACTIONS.items():
        assert round(fraction, 4) == fraction and fraction * int(name.partition("/")[2] or 1) <= 1.0


def groups_of(changes, stages=STAGES):
    base = {"data.name": "digits", "distill.backbone": "dsa", "distill.ipc": 10}
    return memory_groups(resolve(trial_from(base, changes)), stages)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"seed": 7}, set()),
        ({"distill.mask.ratio": 0.3}, {"distill"}),  # a mask is memory too; which ratio is not
        ({"distill.iterations": 7}, set()),
        ({"distill.matching.image_lr": 0.7}, set()),
        ({"train.lr": 0.3, "train.epochs": 3}, set()),
        ({"calibrate.mask.ratio": 0.4}, set()),
        ({"calibrate.method": "ts_val"}, {"calibrate"}),
        ({"distill.matching.real_batch": 64}, {"distill"}),
        ({"train.batch_size": 64}, {"train"}),
        ({"train.networks": 2}, {"train", "calibrate"}),
        ({"distill.ipc": 1}, {"distill", "train", "calibrate"}),
        ({"distill.backbone": "dc", "train.augment": "dsa", "distill.matching.init": "real"}, {"distill"}),
        ({"network.width": 32}, {"distill", "train", "calibrate"}),
        ({"train.network.width": 32}, {"train", "calibrate"}),
        ({"train.network.name": "alexnet"}, {"train", "calibrate"}),
        ({"distill.network.name": "mlp"}, {"distill"}),
        ({"data.resolution": 16}, {"distill", "train", "calibrate"}),
    ],
)
def test_a_change_makes_another_group_of_the_stages_whose_memory_it_changes(change, changed):
    before, after = groups_of({}), groups_of(change)
    assert set(before) == set(after) == {"distill", "train", "calibrate"}
    assert {stage for stage in before if before[stage] != after[stage]} == changed


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"max_start": 30}, True),
        ({"expert_epochs": 3}, True),
        ({"min_start": 2, "first_max_start": 5, "expand_until": 9}, True),
        ({"student_steps": 4}, False),
        ({"batch": 50}, False),
    ],
)
def test_which_epochs_of_experts_are_read_is_no_memory(change, same):
    datm = {"distill.backbone": "datm"}
    before, after = groups_of(datm), groups_of(datm | {f"distill.mtt.{name}": value for name, value in change.items()})
    assert (before["distill"] == after["distill"]) == same
    assert before["train"] == after["train"]


def test_two_ratios_of_a_mask_are_one_group():
    assert groups_of({"distill.mask.ratio": 0.3}) == groups_of({"distill.mask.ratio": 0.5})


def test_folds_need_what_one_network_needs_however_many_there_are():
    def group(**changes):
        folds = {"distill.ipc": 10, "calibrate.method": "ts_cv"}
        return groups_of({**folds, **{name.replace("__", "."): value for name, value in changes.items()}}, ["folds"])

    assert group() == group(train__networks=9) == group(calibrate__folds=3) == group(train__epochs=9)
    assert group() != group(distill__ipc=11) and group() != group(train__network__width=32)


def test_stages_of_one_trial_are_groups_of_their_own():
    assert len(set(groups_of({}).values())) == 3


def measured(total=1000, context=40, **peaks):
    return {"total": total * MIB, "context": None if context is None else context * MIB, "peaks": {
        stage: peak * MIB for stage, peak in peaks.items()}}  # fmt: skip


def test_a_trial_is_measured_when_all_it_computes_is():
    groups = groups_of({})
    packing = Packing()
    assert packing.fraction(groups) is None
    assert packing.learn(groups, measured(distill=300, train=100)) is True
    assert packing.fraction(groups) is None, "calibrate is not known"
    assert packing.fraction({"train": groups["train"]}) == 0.1666
    assert packing.learn(groups, measured(calibrate=10)) is True
    assert packing.fraction(groups) == 0.5
    assert packing.fraction(groups_of({"distill.ipc": 1})) is None
    assert packing.fraction({}) == 0.125, "the store has it all"
    assert packing.learn(groups, measured(distill=200)) is False, "less than known is no news"


def test_the_smallest_gpu_and_the_smallest_context_count():
    groups = groups_of({})
    packing = Packing()
    packing.learn(groups, measured(total=2000, context=90, train=100))
    packing.learn(groups, measured(total=1000, context=40, train=90))
    packing.learn(groups, measured(total=3000, context=None, train=90))
    assert (packing.total, packing.context) == (1000 * MIB, 40 * MIB)
    (row,) = packing.table()
    assert {name: row[name] for name in ("stage", "peak_mib", "context_mib", "gpu_mib", "fraction")} == {
        "stage": "train", "peak_mib": 100, "context_mib": 40, "gpu_mib": 1000, "fraction": "1/6",
    }  # fmt: skip
    assert row["group"]["data.name"] == "digits"


@pytest.mark.parametrize("fraction", [fraction for fraction in FRACTIONS if fraction < 1.0])
def test_what_ran_out_of_memory_gets_more(fraction):
    groups = {"train": groups_of({})["train"]}
    packing = Packing()
    packing.learn(groups, measured(train=1))
    cap = int((fraction - 0.04) * 1000)  # as the worker has it
    packing.learn(groups, measured(context=None, train=cap))
    assert packing.fraction(groups) == larger_fraction(fraction)
