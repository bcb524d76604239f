"""Nobody but its owner may read the token that protects a Ray, whoever made the file."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from ddcal.errors import ResourceError
from ddcal.study.run.ray_token import guard_token, token_file

OTHER = 54321
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture
def token(tmp_path, monkeypatch):
    """Where a new user's token is."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def write(path, mode, owner=None):
    path.parent.mkdir(exist_ok=True)
    path.write_text("ab" * 32)
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner, owner)


def test_a_new_token_is_its_owners_alone(token):
    guard_token(make=True)
    assert rights(token) == 0o600 and rights(token.parent) == 0o700
    made = token.read_text()
    assert len(made) == 64 and int(made, 16) and list(token.parent.iterdir()) == [token]
    guard_token(make=True)
    assert token.read_text() == made


def test_several_processes_at_once_have_one_token(token):
    threads = [threading.Thread(target=guard_token, kwargs={"make": True}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(token.parent.iterdir()) == [token] and len(token.read_text()) == 64


def test_one_that_ray_made_is_tightened(token):
    """Ray leaves 0644 in a folder of 0755."""
    write(token, 0o644)
    token.parent.chmod(0o755)
    guard_token(make=False)
    assert rights(token) == 0o600 and rights(token.parent) == 0o700 and token.read_text() == "ab" * 32


def test_a_named_file_is_tightened_and_its_folder_is_not(token, tmp_path, monkeypatch):
    named = tmp_path / "shared" / "token"
    write(named, 0o640)
    named.parent.chmod(0o755)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    guard_token(make=True)
    assert rights(named) == 0o600 and rights(named.parent) == 0o755 and not token.exists()


def test_a_named_file_that_is_missing_is_left_to_ray(tmp_path, monkeypatch, token):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    guard_token(make=True)
    assert not (tmp_path / "none").exists()


def test_a_token_in_the_environment_needs_no_file(token, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ab" * 32)
    assert token_file() is None
    guard_token(make=True)
    assert not token.exists()


@root_only
def test_a_token_of_another_user_that_all_can_read_is_refused(token):
    write(token, 0o644, OTHER)
    with pytest.raises(ResourceError, match=f"uid {OTHER}.*chmod o-rwx {token}"):
        guard_token(make=False)
    assert rights(token) == 0o644, "not ours to change"
    token.chmod(0o440)  # a mounted secret, read through the group
    guard_token(make=False)


def test_a_ray_that_ddcal_starts_has_such_a_token(tmp_path):
    """As Ray makes it itself: readable for everybody under the usual umask."""
    code = (
        "import os; os.umask(0o022)\n"
        "from ddcal.study.run.ray_executor import ray_runtime\n"
        "with ray_runtime(None) as ray: assert ray.get(ray.remote(lambda: 1).remote()) == 1"
    )
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", code], env=inherited | {"HOME": str(tmp_path)}, check=True, timeout=300)
    token = tmp_path / ".ray" / "auth_token"
    assert rights(token) == 0o600 and rights(token.parent) == 0o700
