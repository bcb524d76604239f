"""Studies on a real cluster of three nodes, with nodes that die."""

import re
import time

import pytest
import yaml
from comparing import assert_each_trial_once, assert_same, finish, kill, start
from nodes import Cluster, free_port
from own_packages import forget
from servers import mlflow_server

from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import begun
from ddcal.study.record.lock import LOCK

TRIALS, NODES = 10, 3
FIRST_WIDTH = 4

WAITING = {
    "waiting.py": """
from ddcal.config.networks import Architecture

WAITING = Architecture("my_lab.layers:Waiting", width=8, norms=("none",))
""",
    "layers.py": f"""
import time
from pathlib import Path

from torch import nn

from ddcal.networks import Network


class Gate(nn.Module):
    '''In the middle of training it waits until it may go on.'''

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        if self.calls == 20:
            while not Path(__file__).parents[1].joinpath("go").exists():
                time.sleep(0.05)
        return images


class Waiting(Network):
    def __init__(self, channels, image_size, num_classes, *, width):
        super().__init__()
        layers = [nn.Conv2d(channels, width, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
        self.blocks = nn.ModuleList([nn.Sequential(*layers, *([] if width == {FIRST_WIDTH} else [Gate()]))])
        self.classifier = nn.Linear(4 * width, num_classes)
""",
}
"""A network that waits while it is trained, so that a cluster can be killed then, however fast the machine is."""


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """The file with which networks that wait go on; their package is on the path of this process and of every node."""
    place = tmp_path_factory.mktemp("packages")
    (place / "my_lab").mkdir()
    for name, text in {"__init__.py": "", **WAITING}.items():
        (place / "my_lab" / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.setenv("PYTHONPATH", str(place), prepend=":")
        yield place / "go"
    forget()


@pytest.fixture(scope="module")
def study(tiny_study, gate):
    """The first trial ends; the others wait at the gate, one on each node."""
    return tiny_study(
        base={"network.name": "my_lab.waiting:WAITING", "train.epochs": 40, "train.networks": 2},
        space={"network.width": {"choice": list(range(FIRST_WIDTH, FIRST_WIDTH + TRIALS))}},
        search={"searcher": "grid", "trials": TRIALS, "concurrency": NODES},
        tracking={},
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, study, gate):
    gate.touch()
    return run_study(study, output=tmp_path_factory.mktemp("undisturbed"), debug=True)


@pytest.fixture
def tracked(study, tmp_path):
    """The study's file, with a served MLflow."""
    with mlflow_server(tmp_path, free_port()) as uri:
        yield written(study, tmp_path, uri)


def written(study, folder, uri):
    file = folder / "tiny.yaml"
    values = study.model_dump(mode="json") | {"tracking": {"uri": uri}}
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def nodes_of(directory):
    """Trial number → the nodes on which it began, in order."""
    return {
        int(log.stem[-4:]): re.findall(r"trial \S+ begins on \S+/(\w{8})", log.read_text())
        for log in directory.glob("logs/*.log")
    }


def wait_until(process, condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.05)


def finished(directory):
    return sum(trial.outcome is not None for trial in load_study(directory).records)


def is_running_on_all_nodes(directory, count=NODES):
    """Whether a trial has ended and every node is at one that has not."""
    if not begun(directory) or not finished(directory):
        return False
    nodes = nodes_of(directory)
    running = [nodes.get(trial.number, []) for trial in load_study(directory).records if trial.outcome is None]
    return len({began[-1] for began in running if began}) == count


@pytest.mark.slow
def test_a_raylet_is_killed(tracked, undisturbed, gate, tmp_path):
    directory = tmp_path / "runs" / "tiny"
    gate.unlink()
    with Cluster(NODES) as cluster:
        process = start(
            "run", tracked, "--output", directory.parent, "--address", cluster.address, **cluster.environment
        )
        wait_until(process, lambda: is_running_on_all_nodes(directory))
        cluster.kill_node(NODES - 1)
        before = finished(directory)
        gate.touch()
        finish(process)
    results = load_study(directory)
    assert before < TRIALS and results.sessions == 1 and not results.interrupted
    assert_each_trial_once(directory)
    assert_same(results, undisturbed)
    nodes = nodes_of(directory)
    assert len({node for began in nodes.values() for node in began}) == NODES
    moved = {number for number, began in nodes.items() if len(set(began)) > 1}
    assert len(moved) == 1, f"the killed node's trial went on elsewhere: {nodes}"
    for trial in results.records:
        assert trial.node.endswith(f"/{nodes[trial.number][-1]}")


@pytest.mark.slow
def test_everything_is_killed(tracked, undisturbed, gate, tmp_path):
    """Driver, raylets, GCS and workers; the study goes on on another cluster."""
    directory = tmp_path / "runs" / "tiny"
    gate.unlink()
    with Cluster(NODES) as cluster:
        process = start(
            "run", tracked, "--output", directory.parent, "--address", cluster.address, **cluster.environment
        )
        wait_until(process, lambda: is_running_on_all_nodes(directory))
        kill(process)
    gate.touch()
    former = nodes_of(directory)
    stopped = load_study(directory)
    assert stopped.interrupted and finished(directory) < TRIALS
    with Cluster(2) as cluster:
        finish(start("resume", directory, "--address", cluster.address, **cluster.environment))
    results = load_study(directory)
    assert results.sessions == 2
    assert_each_trial_once(directory)
    assert_same(results, undisturbed)
    for trial in stopped.records:
        again = results.records[trial.number]
        assert again.attempt == (2 if trial.outcome is None else 1)
        assert again.outcome == "complete" and (trial.outcome is None or again.node == trial.node)
    later = {node for began in nodes_of(directory).values() for node in began}
    assert later - {node for began in former.values() for node in began}


@pytest.mark.slow
def test_a_cluster_whose_head_is_killed_is_submitted_again_with_the_same_command(study, gate, tmp_path):
    """The driver says so and ends, its folder is free, the command goes on in another cluster, and then it is done."""
    trials, nodes = 6, 2
    search = study.search.model_copy(update={"trials": trials, "concurrency": nodes})
    study = study.model_copy(update={"search": search})
    gate.touch()
    undisturbed = run_study(study, output=tmp_path / "undisturbed", debug=True)
    gate.unlink()
    directory = tmp_path / "runs" / "tiny"
    file = written(study, tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    command = ("run", "--resume", file, "--output", directory.parent)
    with Cluster(nodes) as cluster:
        process = start(*command, **cluster.environment | {"RAY_ADDRESS": cluster.address})
        wait_until(process, lambda: is_running_on_all_nodes(directory, nodes), 500)
        cluster.kill_node(0)
        _, error = process.communicate(timeout=300)
        port = cluster.address.rpartition(":")[2]
    gate.touch()
    before = finished(directory)
    assert process.returncode == 1 and 0 < before < trials, error.decode()
    how_far = f"the study stops ({before} of {trials} trials are finished, the others go on later)"
    why = rf"{re.escape(how_far)}: Ray's head at [\w.]+:{port} does not answer any more"
    assert len(re.findall(why, error.decode())) == 1, error.decode()
    assert f"then go on with `ddcal resume {directory}`" in error.decode() and "Traceback" not in error.decode()
    stopped = load_study(directory)
    assert stopped.interrupted and not (directory / LOCK).exists()
    with Cluster(nodes) as cluster:
        finish(start(*command, **cluster.environment | {"RAY_ADDRESS": cluster.address}))
    results = load_study(directory)
    assert results.sessions == 2 and not results.interrupted
    assert_each_trial_once(directory)
    assert_same(results, undisturbed)
    for trial in stopped.records:
        again = results.records[trial.number]
        assert again.attempt == 1 if trial.outcome is not None else again.attempt > 1
    ledger = (directory / "ledger.jsonl").read_bytes()
    finish(start(*command, RAY_ADDRESS="127.0.0.1:1"))  # nothing is left to do: no Ray is asked
    assert (directory / "ledger.jsonl").read_bytes() == ledger
