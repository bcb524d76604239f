"""What a study notes of the code that runs it."""

import subprocess
from pathlib import Path

import pytest

import ddcal
from ddcal.study.record.provenance import git_commit

ROOT = Path(ddcal.__file__).absolute().parents[1]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="ddcal does not run from a checkout")
def test_the_commit_of_a_checkout_is_noted():
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    noted, _, changes = (git_commit() or "").partition("+")
    assert noted == head.stdout.strip() and changes in ("", "changes")
