"""The files beside the package: every study validates and says how to launch itself; the cluster file is one."""

from pathlib import Path

import pytest
import yaml

from ddcal.config.loading import study_problems

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").rglob("*.yaml"))
CLUSTER = ROOT / "ray_cluster.yaml"


def test_there_are_studies():
    assert ROOT / "studies" / "quickstart.yaml" in STUDIES


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_validates(path):
    study, problems = study_problems(path)
    assert problems == [] and study is not None
    assert any(metric == "val/accuracy" for metric in study.constraints), "a chance-level network is calibrated"


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


def test_ray_accepts_the_cluster_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(CLUSTER.read_text())))


def test_ray_refuses_a_cluster_file_with_a_typing_error():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(CLUSTER.read_text())
    config["min_worker"] = config.pop("min_workers")
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(config))


def test_the_cluster_asks_for_the_token_and_keeps_its_dashboard_on_loopback():
    config = yaml.safe_load(CLUSTER.read_text())
    assert "~/.ray/auth_token" in config["file_mounts"]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in config[key] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start and "--disable-usage-stats" in start
        assert "0.0.0.0" not in start
    (head,) = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in CLUSTER.read_text()
