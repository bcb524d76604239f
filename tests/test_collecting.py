"""The collector of garbage is off while things are imported alone."""

import gc
import subprocess
import sys

import pytest

from ddcal import collecting
from ddcal.cli.launch import collected
from ddcal.study.run.runner import Hooks, Start


@pytest.fixture(autouse=True)
def as_before():
    yield
    gc.enable()
    gc.unfreeze()


def test_it_is_off_meanwhile_and_on_afterwards():
    with collecting.held():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 0
    with pytest.raises(ValueError, match="no"), collecting.held():
        raise ValueError("no")
    assert gc.isenabled()


@pytest.mark.parametrize(("debug", "cpus", "on"), [(False, None, False), (False, 2.0, True), (True, None, True)])
def test_it_is_on_again_when_trials_begin(tiny_study, tmp_path, debug, cpus, on):
    seen = []
    hooks = collected(Hooks(on_start=lambda start: seen.append(gc.isenabled())), debug=debug)
    with collecting.held():
        hooks.on_start(Start(tiny_study(), tmp_path, 0, "somewhere", cpus=cpus))
    assert seen == [on]


def test_what_a_program_wrote_is_there_at_its_end(tmp_path):
    program = (
        "import atexit, sys; from ddcal.collecting import leave_all_at_the_end; leave_all_at_the_end();"
        f"file = open({str(tmp_path / 'told')!r}, 'w'); file.write('all of it'); print('said')"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert said.stdout == "said\n" and (tmp_path / "told").read_text() == "all of it"
