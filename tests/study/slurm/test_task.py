"""Where the tasks of a SLURM job meet: in a folder of their cluster's, which no other cluster's jobs take away."""

from ddcal.study.slurm.task import Task, sweep


def environment(cluster, number):
    names = {"JOB_ID": number, "CLUSTER_NAME": cluster, "PROCID": "0", "NTASKS": "1"}
    return {f"SLURM_{name}": value for name, value in names.items()}


def test_folders_of_ended_jobs_go_and_those_of_other_clusters_stay(tmp_path, monkeypatch):
    """A stand-in prints what SLURM prints of a job that it does not know any more."""
    (tmp_path / "scontrol").write_text(
        '#!/bin/sh\n[ "$2" = config ] && echo "ClusterName = here" || echo "Invalid job id specified"\n'
    )
    (tmp_path / "scontrol").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in environment("here", "200").items():
        monkeypatch.setenv(name, value)
    root = tmp_path / "runs"
    ended = Task.here(root, environment("here", "123")).meeting
    others = [Task.here(root, environment(cluster, "123")).meeting for cluster in ("elsewhere", "here-5", "a/b", "")]
    others += [root / ".slurm-123-0-0", root / ".slurm-here-x"]  # of an earlier version; of nobody
    for folder in (ended, *others):
        folder.mkdir(parents=True)
    sweep(root)
    assert {*root.iterdir()} == {*others}
