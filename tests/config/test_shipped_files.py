"""The files beside the package: every study validates and says how to launch itself; the cluster file is one."""

import subprocess
from pathlib import Path

import pytest
import yaml

from ddcal.config.reading.loading import study_problems

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "studies" / "cluster" / "kuberay.yaml"  # tests/config/test_kuberay.py
CLOUDS = sorted(path for path in (ROOT / "studies" / "cluster").glob("*.yaml") if path != KUBERNETES)
NO_STUDIES = [
    *(ROOT / "studies" / folder / "scales.yaml" for folder in ("paper", "scoreboard")),  # what studies become elsewhere
    ROOT / "studies" / "scoreboard" / "sets.yaml",
]
STUDIES = sorted(path for path in (ROOT / "studies").rglob("*.yaml") if path not in (*CLOUDS, KUBERNETES, *NO_STUDIES))
CLUSTER = ROOT / "ray_cluster.yaml"
CLUSTERS = [CLUSTER, *CLOUDS]


def test_ray_down_finds_ray_on_the_hosts(tmp_path):
    """It calls plain `ray stop` in a login shell: not found, Ray went on and `ray down` said that no node was left."""
    (command,) = (line for line in yaml.safe_load(CLUSTER.read_text())["setup_commands"] if ".bashrc" in line)
    for folder, name in (("ddcal-venv/bin", "ray"), ("", ".bashrc")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text("#!/bin/sh\necho found\n" if name == "ray" else "")
        (tmp_path / folder / name).chmod(0o700)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=300)
    assert (tmp_path / ".bashrc").read_text().count("\n") == 1
    called = ["bash", "-c", "source ~/.bashrc; ray stop"]
    assert subprocess.run(called, env=environment, capture_output=True, text=True, timeout=300).stdout == "found\n"


def test_there_are_studies():
    assert ROOT / "studies" / "quickstart.yaml" in STUDIES
    assert [path.name for path in CLOUDS] == ["aws.yaml"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_validates(path):
    study, problems = study_problems(path)
    assert problems == [] and study is not None
    searched = {*study.objectives} - {"val/accuracy"}
    assert not searched or "val/accuracy" in study.constraints, "a chance-level network is calibrated"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_is_opened_by_its_manual(path):
    lines = path.read_text().splitlines()
    header = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    for word in ("# Shows ", "# Cost ", "# Launch ", "# Debug ", "# Export "):
        assert sum(line.startswith(word) for line in header) == 1, word
    name = path.relative_to(ROOT)
    study, _ = study_problems(path)
    assert f"ddcal run {name}" in next(line for line in header if line.startswith("# Launch "))
    assert f"ddcal run {name} " in next(line for line in header if line.startswith("# Debug "))
    assert "--debug" in next(line for line in header if line.startswith("# Debug "))
    assert f"ddcal export runs/{study.name} " in next(line for line in header if line.startswith("# Export "))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_ray_accepts_a_cluster_file(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_ray_refuses_a_cluster_file_with_a_typing_error(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    config["max_worker"] = config.pop("max_workers")
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_a_cluster_asks_for_the_token_and_keeps_its_dashboard_on_loopback(path):
    config = yaml.safe_load(path.read_text())
    assert "~/.ray/auth_token" in config["file_mounts"]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in config[key] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start and "--disable-usage-stats" in start
        assert "0.0.0.0" not in start
    (head,) = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in path.read_text()


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_a_cluster_pins_the_ray_that_is_tested(path):
    import ray

    (install,) = [command for command in yaml.safe_load(path.read_text())["setup_commands"] if "'ray[" in command]
    assert f"ray[default,tune]=={ray.__version__}'" in install and "[cluster]'" in install


def test_on_aws_workers_are_on_the_spot_market_and_nothing_else_is_open():
    config = yaml.safe_load(CLOUDS[0].read_text())
    types = config["available_node_types"]
    spot = {"MarketType": "spot"}
    markets = {name: node["node_config"].get("InstanceMarketOptions") for name, node in types.items()}
    assert markets == {"head": None, "one_gpu": spot, "four_gpus": spot}
    families = {node["node_config"]["InstanceType"].partition(".")[0] for node in types.values()}
    assert families == {"g6"}, "one GPU model: it is part of every stage's key"
    (rule,) = config["provider"]["security_group"]["IpPermissions"]
    assert rule["FromPort"] == rule["ToPort"] == 22
    (mlflow,) = [command for command in config["head_start_ray_commands"] if "mlflow server" in command]
    assert "--host 127.0.0.1" in mlflow
