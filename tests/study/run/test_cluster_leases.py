"""Leases on S3: the table that the actor keeps, the actor on a real Ray, and a study whose trials share stages."""

import json
import time
import uuid

import pytest
from stores import make_place

from ddcal.pipeline import open_store
from ddcal.pipeline.upkeep import verify_store
from ddcal.store.leases import FileLeases, FreeLease, NoLeases
from ddcal.store.lock_holder import Holder
from ddcal.study import run_study
from ddcal.study.run.cluster_leases import NAMESPACE, ActorLeases, cluster_leases, lease_table


def test_the_table_gives_a_lease_once_until_it_ends():
    table = lease_table()(60.0)
    assert table.take("k", "a", None) is None and table.take("k", "a", None) is None
    assert table.take("k", "b", None) == "a" and table.holder("k") == "a" and table.take("other", "b", None) is None
    table.release("k", "b")
    assert table.holder("k") == "a", "only its holder gives a lease back"
    assert table.take("k", "b", "c") == "a"
    assert table.take("k", "b", "a") is None and table.holder("k") == "b", "a is proved dead"
    table.beat("k", "a")
    table.release("k", "a")
    assert table.holder("k") == "b"
    table.release("k", "b")
    assert table.holder("k") is None
    table.beat("k", "a")
    assert table.holder("k") == "a", "a table that was made anew learns from beats"


def test_silence_ends_a_lease_and_beats_keep_it():
    table = lease_table()(0.3)
    table.take("slow", "a", None)
    table.take("silent", "a", None)
    for _ in range(6):
        time.sleep(0.1)
        table.beat("slow", "a")
    assert table.holder("slow") == "a" and table.holder("silent") is None
    assert table.take("silent", "b", None) is None


def test_which_leases_a_store_has(tmp_path, ray_session):
    assert isinstance(cluster_leases(open_store(tmp_path)), FileLeases)
    assert isinstance(cluster_leases(open_store("s3://bucket/x")), ActorLeases)


def test_without_ray_there_are_none(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert isinstance(cluster_leases(open_store("s3://bucket/x")), NoLeases)


@pytest.fixture
def leases(ray_session, monkeypatch):
    """The leases of a store of their own; on a busy machine the actor's first answer takes its time."""
    monkeypatch.setattr("ddcal.study.run.cluster_leases.ANSWER_SECONDS", 60.0)
    return ActorLeases(f"s3://bucket/{uuid.uuid4().hex}", beat=0.2)


def other_leases(leases, **changes):
    """The same ones as another process sees them."""
    other = ActorLeases("", beat=0.2)
    other.name = leases.name
    other._me = json.dumps({**vars(Holder.here()), "host": "elsewhere", **changes}, sort_keys=True)
    return other


def test_leases_over_an_actor(leases):
    other = other_leases(leases)
    lease = leases.take("k")
    assert other.take("k") is None and other.held("k") and not leases.held("k")
    lease.release()
    deadline = time.monotonic() + 300
    while other.held("k"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    theirs = other.take("k")
    assert leases.take("k") is None
    theirs.release()


def test_a_dead_holder_on_this_machine_has_no_lease_at_once(leases):
    dead = other_leases(leases, host=Holder.here().host, pid=2**22 + 1)
    lease = dead.take("k")
    assert not leases.held("k")
    mine = leases.take("k")
    assert not isinstance(mine, FreeLease | None)
    lease.release()
    mine.release()


def test_an_actor_that_died_is_made_again_and_learns_from_beats(leases, ray_session):
    other = other_leases(leases)
    lease = leases.take("k")
    assert other.held("k")
    actor = ray_session.get_actor(leases.name, namespace=NAMESPACE)
    process = ray_session.get(actor.__ray_call__.remote(lambda table: Holder.here()))
    ray_session.kill(actor)
    deadline = time.monotonic() + 600
    while not process.dead:
        assert time.monotonic() < deadline, "until then the old table may still answer"
        time.sleep(0.02)
    while not other.held("k"):
        assert time.monotonic() < deadline, "the holder's next beats tell the new one"
        time.sleep(0.1)
    assert other.take("k") is None
    lease.release()


def test_no_answer_is_no_lease(leases, monkeypatch):
    monkeypatch.setattr(leases, "_actor", lambda: 1 / 0)
    assert isinstance(leases.take("k"), FreeLease) and not leases.held("k")


@pytest.mark.slow
def test_a_study_on_ray_and_s3(tiny_study, tmp_path, request, ray_session):
    """Four trials, two at a time, on two distilled sets: no stage is computed twice."""
    place = make_place("s3", tmp_path, request)
    study = tiny_study(
        base={"train.epochs": 60},
        space={"distill.ipc": {"choice": [1, 2]}, "calibrate.mask.ratio": {"choice": [0.25, 0.5]}},
        search={
            "trials": 4,
            "concurrency": 2,
            "enqueue": [{"distill.ipc": ipc, "calibrate.mask.ratio": ratio} for ipc in (1, 2) for ratio in (0.25, 0.5)],
        },
        storage={"store": place.where, "cache": str(place.cache)},
    )
    results = run_study(study, output=tmp_path / "runs")
    assert [trial.outcome for trial in results.records] == ["complete"] * 4
    hits = [trial.cache_hits for trial in results.records]
    assert sorted(hits) == [(), (), ("distill", "train"), ("distill", "train")]
    local = tiny_study(**{**study.model_dump(mode="json"), "name": "local", "storage": {}})
    assert [t.metrics for t in run_study(local, output=tmp_path / "runs", debug=True).records] == [
        trial.metrics for trial in results.records
    ]
    assert [fault for _, _, fault in verify_store(place.open(cache="cold"))] == [None] * 16  # masked logits among them
