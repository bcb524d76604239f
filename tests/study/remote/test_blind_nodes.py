"""A study on S3 on a cluster whose other node does not see the driver's folder: a mount of its own lies over it."""

import shutil
import signal
import subprocess
import time

import nodes
import pytest
import yaml
from comparing import finish, kill, running, start, trials_of

from ddcal.store.bucket import Bucket
from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import LEDGER
from ddcal.study.remote.parts import read_parts

pytestmark = pytest.mark.slow

MOUNT = 'mount -t tmpfs tmpfs "{}" && exec "$@"'


class BlindCluster(nodes.Cluster):
    """A head without CPUs, and one node that sees something else where the driver's folder is."""

    def __init__(self, hidden):
        super().__init__(1, cpus=0)
        self.through, self.cpus = ("unshare", "-m", "sh", "-c", MOUNT.format(hidden), "sh"), 2
        try:
            self.start_node()
        except BaseException:
            self.close()
            raise


@pytest.fixture
def url(s3_endpoint):
    from stores import make_bucket

    make_bucket(s3_endpoint, "blind")
    return f"s3://blind/runs?endpoint_override={s3_endpoint}&scheme=http&region=us-east-1"


def skip_without_mounts():
    tried = shutil.which("unshare") and subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=300)
    if not tried or tried.returncode:
        pytest.skip("no right to mount")


def test_a_node_that_does_not_see_the_folder_is_told_to_stop(tiny_study, tmp_path, url):
    """Its trial is far from its next report, and its first checkpoint would come after 30 seconds."""
    skip_without_mounts()
    address, _, options = url.partition("?")
    storage = {"output": url, "store": f"{address}/store?{options}", "cache": str(tmp_path / "cache")}
    study = tiny_study(base={"train.epochs": 1_000_000}, search={"searcher": "random", "trials": 1}, storage=storage)
    hidden = tmp_path / "driver"
    hidden.mkdir()
    file = hidden / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    bucket, store = Bucket.at(url, study.name), Bucket.at(study.storage.store)
    with BlindCluster(hidden) as cluster:
        command = ["run", file, "--resume", "--address", cluster.address, "--output", hidden / "runs"]
        with running(*command, RAY_AUTH_MODE="token") as process:
            while b"trial_started" not in read_parts(bucket).content or not store.names("distill"):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.3)
            time.sleep(3.0)  # it trains by then
            assert not store.names("partial")
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=500)
    assert process.returncode == 75, said
    assert store.names("partial")


@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_only_the_driver_needs_its_folder(tiny_study, tmp_path, url, scheduler):
    """The driver is killed, and followed by one in another folder on the same cluster."""
    skip_without_mounts()
    address, _, options = url.partition("?")
    sections = {
        "base": {"train.epochs": 200},
        "space": {"train.lr": {"loguniform": [0.01, 0.3]}},
        "search": {"searcher": "random", "trials": 6, "concurrency": 1},
        "scheduler": {"name": scheduler} | ({"metric": "val/nll"} if scheduler != "none" else {}),
    }
    storage = {"output": url.replace("/runs", f"/{scheduler}")}
    storage |= {"store": f"{address}/store?{options}", "cache": str(tmp_path / "cache")}
    study = tiny_study(**sections, storage=storage)
    hidden = tmp_path / "driver"
    hidden.mkdir()
    file = hidden / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    bucket = Bucket.at(study.storage.output, study.name)
    with BlindCluster(hidden) as cluster:
        command = ["run", file, "--resume", "--address", cluster.address]
        process = start(*command, "--output", hidden / "first", RAY_AUTH_MODE="token")
        while read_parts(bucket).content.count(b"trial_finished") < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.3)
        kill(process)
        finish(start(*command, "--output", hidden / "second", RAY_AUTH_MODE="token"))
    results = load_study(hidden / "second" / "tiny")
    assert read_parts(bucket).content == (results.directory / LEDGER).read_bytes()
    if scheduler == "none":
        whole = tiny_study(**sections)
        assert trials_of(results) == trials_of(run_study(whole, output=tmp_path / "whole", debug=True))
    assert all(trial.outcome in ("complete", "pruned") for trial in results.records) and len(results.records) == 6
    assert not list((results.directory / "logs").glob("*.log")), "they are on the node that ran the trials"
