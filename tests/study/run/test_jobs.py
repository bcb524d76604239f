"""The same study file through Ray's job server, with the token and without."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from comparing import trials_of
from nodes import Cluster

from ddcal.study import load_study, run_study

pytest.importorskip("opencensus", reason="the job server needs ray[default]")


def ray(cluster, *arguments, **environment):
    code = "from ray.scripts.scripts import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=cluster.environment | environment,
        cwd=cluster.folder,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_a_study_file_goes_through_the_job_server(tiny_study, tmp_path):
    study = tiny_study()
    expected = run_study(study, output=tmp_path / "here", debug=True)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    ddcal = [sys.executable, "-c", "from ddcal.cli import main; main()", "run", file]
    with Cluster(1, cpus=2, dashboard=True) as cluster:
        submit = ["job", "submit", "--address", cluster.dashboard, "--"]

        refused = ray(cluster, *submit, *ddcal, "--output", tmp_path / "refused", RAY_AUTH_MODE="disabled")
        assert refused.returncode != 0 and "Unauthorized" in refused.stderr
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{cluster.dashboard}/api/jobs/", timeout=300)
        assert not (tmp_path / "refused").exists()

        done = ray(cluster, *submit, *ddcal, "--output", tmp_path / "job")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert "winner: tiny-000" in done.stdout and "succeeded" in done.stdout
        token = (Path(os.environ["HOME"]) / ".ray" / "auth_token").read_text().strip()
        assert token not in done.stdout + done.stderr
    assert trials_of(load_study(tmp_path / "job" / "tiny")) == trials_of(expected)
