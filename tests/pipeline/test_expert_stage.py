"""The experts of MTT in a trial: what is shared, what is trained, who waits for whom."""

import json
import logging
import time

import pytest
import torch

from ddcal.distill import SyntheticSet, distill
from ddcal.distill.experts import Experts
from ddcal.errors import DivergedError
from ddcal.pipeline import TrialRunner, open_store
from ddcal.pipeline.compute.experts import ExpertsWork
from ddcal.pipeline.stages.experts import expert_keys
from ddcal.pipeline.upkeep import DAY, list_entries, prune_store
from ddcal.store.leases import FreeLease, NoLeases

EXPERTS = {"count": 2, "epochs": 3}
MTT = {
    "distill__backbone": "mtt",
    "distill__mtt": {"student_steps": 2, "max_start": 2, "expert_epochs": 1, "image_lr": 10.0, "experts": EXPERTS},
}


@pytest.fixture
def start(make_trial, environment, datasets):
    def make(root, leases=None, target="distill", ipc=2, **changes):
        changes = {f"distill__mtt__{name}": value for name, value in changes.items()} | {"distill__ipc": ipc}
        return TrialRunner(
            make_trial(**{**MTT, **changes}),
            open_store(root),
            environment,
            datasets=datasets,
            leases=leases,
            target=target,
        )

    return make


def entries(root):
    return [(entry.key, entry.what) for entry in list_entries(open_store(root)) if entry.stage == "experts"]


@pytest.fixture(autouse=True)
def log_is_on(caplog):
    """The log is on all the time, as a worker of another test may have turned it on: tests clear it."""
    caplog.set_level(logging.INFO, "ddcal")


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("experts: ")]


def test_a_trial_gives_what_distill_gives(start, tmp_path):
    runner = start(tmp_path, target="ddnn")
    runner.run()
    synthetic = SyntheticSet.load(runner.entries["distill"].folder)
    direct = distill(runner.dataset, runner.config.distill, runner.config.seed)
    assert torch.equal(synthetic.images, direct.images)
    assert synthetic.learning_rate == direct.learning_rate
    assert list(runner.seconds) == ["experts", "distill", "train", "calibrate", "evaluate"]
    assert runner.metrics["experts/relative_error"] == 0.0 and runner.metrics["experts/loss"] > 0.0


def test_another_ipc_computes_no_expert(start, tmp_path, caplog):
    first = start(tmp_path)
    first.run()
    before = entries(tmp_path)
    caplog.clear()
    second = start(tmp_path, ipc=3)
    second.run()
    assert second.cache_hits == ["experts"]
    assert second.seconds["experts"] == first.entries["experts"].meta["seconds"]
    assert second.keys["distill"] != first.keys["distill"]
    assert entries(tmp_path) == before and not any("trained" in text for text in said(caplog))


def test_more_experts_train_the_new_ones_alone(start, tmp_path, caplog):
    start(tmp_path).run()
    caplog.clear()
    more = start(tmp_path, experts={**EXPERTS, "count": 3})
    more.run()
    assert "experts: 1 trained by this process, 2 were in the store" in said(caplog)
    assert more.cache_hits == []
    assert [what for _, what in entries(tmp_path)] == [
        *("digits expert 0 seed 0", "digits expert 1 seed 0", "digits list of 2 experts seed 0"),
        *("digits expert 2 seed 0", "digits list of 3 experts seed 0"),
    ]
    listed = more.entries["experts"]
    seconds = [e.seconds for e in list_entries(open_store(tmp_path)) if e.key in listed.meta["members"]]
    assert listed.meta["seconds"] == pytest.approx(sum(seconds))  # of all three, whoever trained them
    alone = start(tmp_path / "alone", experts={**EXPERTS, "count": 3})
    alone.run()
    assert alone.entries["experts"].files == listed.files and alone.metrics == more.metrics


class Others(NoLeases):
    """Leases of which another process has some."""

    def __init__(self):
        self.theirs, self.taken = set(), []

    def take(self, key):
        self.taken.append(key)
        return None if key in self.theirs else FreeLease()


def test_experts_that_another_trial_trains_are_left_to_it(start, tmp_path):
    """The other trial has the first one; this one trains the second meanwhile, waits, and takes it from the store."""
    leases = Others()
    runner = start(tmp_path, leases=leases)
    first, second = expert_keys(runner.config, runner.fingerprint, runner.environment)
    leases.theirs.add(first)
    advance = runner.advance()
    while not advance.waiting:
        assert advance.stage == "experts"
        advance = runner.advance()
    assert [key for key, _ in entries(tmp_path)] == [second]
    assert advance.fraction == 0.5 and runner.waited > 0.0
    other = start(tmp_path)
    other.run()
    assert other.entries["experts"].meta["members"] == [first, second]
    runner.run()
    assert runner.metrics == other.metrics


def test_an_ended_runner_gives_back_the_expert_that_it_trains(start, tmp_path):
    released = []

    class Lease(FreeLease):
        def __init__(self, key):
            self.key = key

        def release(self):
            released.append(self.key)

    class Counted(NoLeases):
        def take(self, key):
            return Lease(key)

    runner = start(tmp_path, leases=Counted())
    while runner.advance().fraction == 0.0:
        pass
    runner.close()
    assert released == [expert_keys(runner.config, runner.fingerprint, runner.environment)[0], runner.keys["experts"]]
    undisturbed = start(tmp_path / "undisturbed")
    undisturbed.run()
    assert runner.run() == undisturbed.metrics


def test_a_damaged_expert_is_trained_again_for_the_distilled_set(start, tmp_path, caplog):
    first = start(tmp_path)
    first.run()
    key = first.entries["experts"].meta["members"][1]
    path = tmp_path / "experts" / key / "trajectory.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"0000")
    other = start(tmp_path, student_steps=3)
    caplog.clear()
    other.run()
    assert other.cache_hits == ["experts"] and path.read_bytes() == content
    assert any("2 of 2 trained" in text for text in said(caplog))


def test_pruning_keeps_the_experts_of_a_list_that_is_kept(start, tmp_path):
    few, more = start(tmp_path), start(tmp_path, experts={**EXPERTS, "count": 3})
    few.run()
    more.run()
    store = open_store(tmp_path)
    prune_store(store, {few.keys["experts"]})
    assert {key for key, _ in entries(tmp_path)} == {few.keys["experts"], *few.entries["experts"].meta["members"]}
    prune_store(store, set())
    assert entries(tmp_path) == []


def test_pruning_keeps_the_experts_of_an_unfinished_stage(start, tmp_path):
    """No list names them yet; what a study has noted is the key of the list."""
    runner, store = start(tmp_path), open_store(tmp_path)
    while not entries(tmp_path):
        runner.advance()
    before = entries(tmp_path)
    assert len(before) == 1 and prune_store(store, {runner.keys["experts"]}) == [] and entries(tmp_path) == before
    runner.close()
    assert [entry.part for entry in prune_store(store, set(), now=time.time() + 2 * DAY)] == [True]


@pytest.mark.parametrize(("precision", "bytes_each"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_precision_halves_the_file_and_its_error_is_recorded(precision, bytes_each, start, tmp_path):
    runner = start(tmp_path, experts={**EXPERTS, "precision": precision})
    while "experts" not in runner.entries:
        runner.advance()
    entry = runner.entries["experts"]
    listed = json.loads((entry.folder / "experts.json").read_text())["experts"]
    errors = [error for one in listed for error in one["relative_errors"]]
    assert entry.meta["facts"]["experts/relative_error"] == max(errors)
    assert max(errors) <= {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}[precision]
    assert (max(errors) > 0.0) == (precision != "float32")
    folder = tmp_path / "experts" / entry.meta["members"][0]
    parameters = len(Experts([folder]).weights(0, 0))
    assert (folder / "trajectory.safetensors").stat().st_size == pytest.approx(4 * parameters * bytes_each, abs=200)


def test_the_cosine_of_the_approximation_is_a_metric(start, tmp_path):
    runner, points = start(tmp_path, gradient="tesla"), []
    runner.run(lambda advance: points.append(advance.point) if advance.point else None)
    seen = [point["distill/gradient_cosine"] for point in points if point["stage"] == "distill"]
    assert len(seen) == 2 and all(0.5 < value < 1.0 for value in seen)
    assert 0.5 < runner.metrics["distill/gradient_cosine"] <= min(seen)
    exact = start(tmp_path, gradient="exact")
    assert "distill/gradient_cosine" not in exact.run()
    assert exact.cache_hits == ["experts"]


def test_the_last_expert_of_a_checkpoint_may_be_there_by_now(start, tmp_path):
    """It was lost when the checkpoint was taken up, and another process has published it before the first step."""
    runner = start(tmp_path)

    def work():
        keys = expert_keys(runner.config, runner.fingerprint, runner.environment)
        return ExpertsWork(runner.config, runner.dataset, "cpu", keys, open_store(tmp_path), NoLeases())

    stopped = work()
    while stopped.fraction <= 0.5 or stopped.state()["index"] < 0 or stopped.state()["expert"]["epoch"] == 0:
        stopped.step()
    late = work()
    late.restore(stopped.state())
    assert late.state()["index"] == 1 and list(late.entries) == [0]
    runner.run()
    late.step()
    assert late.fraction == 1.0 and late.state() == {"index": -1}


def test_a_distilling_target_has_experts_and_their_metrics(start, tmp_path):
    runner = start(tmp_path)
    metrics = runner.run()
    assert list(runner.entries) == ["experts", "distill"]
    assert {"val/ece", "experts/loss"} <= metrics.keys() and not any(name.startswith("test/") for name in metrics)


def test_an_expert_that_diverges_ends_the_trial(start, tmp_path):
    with pytest.raises(DivergedError, match=r"expert 1 diverged.*lower distill\.mtt\.experts\.lr \(1e\+30\)"):
        start(tmp_path, experts={**EXPERTS, "lr": 1e30}).run()
    assert entries(tmp_path) == []
