"""Times that a store's entries tell: files that others may have written."""

import sys
from types import SimpleNamespace

import pytest

from ddcal.pipeline import Environment, stage_keys
from ddcal.pipeline.costs import Kind
from ddcal.study.plan.time import recorded_kinds

WANTED = [Kind("train", "networks", "epoch", "{}")]
PLANNER = SimpleNamespace(keys=lambda config: stage_keys(config, "0" * 64, Environment("cpu", 1)))


@pytest.mark.parametrize(
    "config",
    [
        {"distill": {"backbone": "evil:SPEC"}},
        {"calibrate": {"method": "evil:SPEC"}},
        {"network": {"name": "evil:SPEC"}},
        {"data": {"name": "evil:SPEC"}},
    ],
)
def test_an_entry_of_a_store_never_has_code_run(tmp_path, monkeypatch, config):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    entry = SimpleNamespace(stage="train", key="0" * 64, seconds=1.0, config=config)
    assert recorded_kinds([entry], WANTED, PLANNER) is None
    assert "evil" not in sys.modules and not (tmp_path / "ran").exists()


def test_an_entry_that_names_something_else_is_passed_over():
    """What it names is imported, and is no component: the plan of who uses the store goes on."""
    entries = [
        SimpleNamespace(stage="train", key="0" * 64, seconds=1.0, config=config)
        for config in ({"distill": {"backbone": "os:getcwd"}}, {"calibrate": {"method": "sys:path"}})
    ]
    assert recorded_kinds(entries, WANTED, PLANNER) is None
