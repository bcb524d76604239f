"""Who may read what a study writes: by default its user alone, with `group` the group, with `umask` whoever may."""

import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from ddcal.study import run_study
from ddcal.study.mlflow.client import database_rights
from ddcal.study.mlflow.sync import sync_study
from ddcal.study.record.rights import make_folder
from ddcal.study.run.confirm import confirm
from ddcal.study.run.runner import resume_study

OTHERS, GROUP = stat.S_IRWXO, stat.S_IRWXG
OTHER = 54321
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    assert os.umask(before) == 0o022, "left as it was"


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def run(tiny_study, root, access=None, store=None, uri="none"):
    storage = {name: value for name, value in (("access", access), ("store", store)) if value is not None}
    storage = {name: str(value) for name, value in storage.items()}
    study = tiny_study(search={"trials": 1}, storage=storage, tracking={"uri": uri})
    return run_study(study, output=root, debug=True)


def test_by_default_nobody_else_gets_in(tiny_study, tmp_path):
    results = run(tiny_study, tmp_path / "runs", uri=None)
    root = results.directory.parent
    until = time.monotonic() + 600  # on a busy machine a study's end does not wait for MLflow
    while list(root.glob(".mlflow.db*")):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert {path.name: rights(path) for path in root.iterdir()} == {
        "tiny": 0o700, "store": 0o700, "mlartifacts": 0o700, "mlflow.db": 0o600,
    }  # fmt: skip
    assert rights(root) == 0o755, "which other studies use"


def test_a_store_that_is_named_is_for_others_too(tiny_study, tmp_path):
    results = run(tiny_study, tmp_path / "runs", store=tmp_path / "shared")
    assert list((tmp_path / "shared").rglob("*.safetensors"))
    for path in (tmp_path / "shared").rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044, path
    assert rights(tmp_path / "shared") == 0o755 and rights(results.directory) == 0o700


def test_a_group_may_read_and_write_everything(tiny_study, tmp_path):
    results = run(tiny_study, tmp_path / "runs", "group", store=tmp_path / "shared", uri=None)
    resume_study(results.directory, trials=2, debug=True)
    sync_study(results.directory)
    root = results.directory.parent
    assert {path.name: rights(path) for path in root.iterdir()} == {
        "tiny": 0o2770, "mlartifacts": 0o2770, "mlflow.db": 0o660,
    }  # fmt: skip
    assert rights(root) == rights(tmp_path / "shared") == 0o2775
    for path in (*root.rglob("*"), *(tmp_path / "shared").rglob("*")):
        needed = GROUP | stat.S_ISGID if path.is_dir() else 0o060
        assert path.is_symlink() or path.stat().st_mode & needed == needed, path


def test_as_the_umask_lets(tiny_study, tmp_path):
    results = run(tiny_study, tmp_path / "runs", "umask")
    assert {rights(path) for path in results.directory.parent.iterdir()} == {0o755}
    assert database_rights(results.study) is None


def test_what_is_there_keeps_its_rights(tiny_study, tmp_path):
    """Folders of an earlier version, or those that somebody has opened on purpose."""
    directory = run(tiny_study, tmp_path / "runs").directory
    for path in directory.parent.iterdir():
        path.chmod(0o755)
    resume_study(directory, trials=2, debug=True)
    assert {rights(path) for path in directory.parent.iterdir()} == {0o755}
    for access in ("private", "group"):
        make_folder(directory, access)
        assert rights(directory) == 0o755


def test_a_confirmation_has_the_rights_of_its_study(tiny_study, tmp_path):
    results = run(tiny_study, tmp_path / "runs", "group")
    confirm(results, top=1, seeds=2, debug=True)
    assert rights(results.directory.parent / "tiny-confirm") == 0o2770


@root_only
def test_another_user_reads_nothing(tiny_study):
    with tempfile.TemporaryDirectory() as folder:  # into which others may look
        Path(folder).chmod(0o755)
        root = run(tiny_study, Path(folder) / "runs").directory.parent
        files = [path for path in root.rglob("*") if path.is_file()]
        assert len(files) > 10 and read_by_another(files) == 0
        (root / "tiny").chmod(0o755)
        assert read_by_another(files) > 0, "the folder's rights were what kept them out"


def read_by_another(files):
    """How many of the files a process of another user can read."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(OTHER)
        os.setuid(OTHER)
        os._exit(min(100, sum(os.access(path, os.R_OK) for path in files)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_workers_of_ray_open_what_they_write_to_the_group(tmp_path, write_study):
    """Whatever the umask is that Ray's own processes have."""
    file = write_study(storage={"access": "group"}, search={"trials": 2}, tracking={})
    code = f"import os; os.umask(0o077)\nfrom ddcal.cli import main\nmain(['run', {str(file)!r}, '--output', 'runs'])"
    code = code.replace("main([", "import sys; sys.argv = ['ddcal', *[").replace("'runs'])", "'runs']]; main()")
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=inherited, check=True, timeout=500)
    root = tmp_path / "runs"
    assert yaml.safe_load((root / "tiny" / "study.yaml").read_text())["storage"]["access"] == "group"
    paths = list(root.rglob("*"))
    assert any(path.suffix == ".log" for path in paths)
    for path in paths:
        needed = GROUP if path.is_dir() else 0o060
        assert path.is_symlink() or path.stat().st_mode & needed == needed, path
