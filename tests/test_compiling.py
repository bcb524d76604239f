"""What is compiled: the same bits in every process, nothing compiled twice, and refusals before anything runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.compiling import compile_folder, compile_network, compiler_problem, is_compiled, prepare_compiling
from ddcal.config import ConfigError
from ddcal.errors import ResourceError
from ddcal.networks.norm import InstanceNorm
from ddcal.networks.pooling import HalvingPool, _by_views
from ddcal.study import load_study, run_study
from ddcal.study.export.export import export_trial
from ddcal.study.export.replay import replay

PROCESS = Path(__file__).with_name("compiled_process.py")
COMPILE = {"compile": True}


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_what_is_missing_is_said_with_its_cure(no_compiler):
    assert "no-such-compiler" in compiler_problem() and "apt install g++" in compiler_problem()


def test_a_compiler_that_is_there_is_no_problem(monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # some program
    assert compiler_problem() is None or "Python.h" in compiler_problem()


@pytest.mark.parametrize("verb", ["validate", "plan", "run"])
def test_without_a_compiler_nothing_begins(verb, write_study, tmp_path, no_compiler):
    result = CliRunner().invoke(app, [verb, str(write_study(resources=COMPILE)), *_more(verb, tmp_path)])
    said = result.output + str(result.exception)
    assert result.exit_code == 2 or isinstance(result.exception, ConfigError)  # the program makes 2 of it
    assert "resources.compile" in said and "apt install g++" in said
    assert not (tmp_path / "runs").exists()


def _more(verb, tmp_path):
    return {"validate": [], "plan": [], "run": ["--debug", "--output", str(tmp_path / "runs")]}[verb]


def test_a_study_that_compiles_nothing_needs_no_compiler(write_study, no_compiler):
    assert CliRunner().invoke(app, ["validate", str(write_study())]).exit_code == 0


def test_compiled_code_lies_in_the_users_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back at the end
    monkeypatch.setenv("CXX", sys.executable)
    if compiler_problem():
        pytest.skip("no headers of Python here")
    prepare_compiling(1)
    folder = tmp_path / "ddcal" / "compile"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(compile_folder(1)) != str(compile_folder(2))
    assert torch.__version__ in compile_folder(1).name and compile_folder(1).parent == folder
    folder.chmod(0o770)
    with pytest.raises(ResourceError, match="written by others"):
        prepare_compiling(1)


def test_a_compiled_network_has_the_names_of_one_that_is_not():
    network = torch.nn.Sequential(InstanceNorm(2), HalvingPool())
    names = list(network.state_dict())
    assert not is_compiled(network)
    compile_network(network)
    assert is_compiled(network) and list(network.state_dict()) == names


@pytest.mark.parametrize("size", [(4, 4), (7, 6), (5, 5)])
def test_the_pool_that_a_compiler_gets_is_the_same(size):
    maps = torch.randn(2, 3, *size)
    torch.testing.assert_close(_by_views(maps), torch.nn.functional.avg_pool2d(maps, 2))


def in_a_process(folder, name, *arguments):
    out = folder / f"{name}.json"
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / name.partition("-")[0]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(PROCESS), str(out), *arguments], env=environment, check=True, timeout=1200)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_every_process_gives_the_same_bits_and_compiles_each_form_once(tmp_path):
    if problem := compiler_problem():
        pytest.skip(problem)
    first, cached = in_a_process(tmp_path, "a"), in_a_process(tmp_path, "a-again")
    anew, eager = in_a_process(tmp_path, "b"), in_a_process(tmp_path, "eager", "eager")
    assert first == cached == anew
    assert first["compiled"] == 2 and first["graphs"] == 4  # a training step and a prediction; DM's two embeddings
    for name in ("losses", "logits", "distilled"):
        np.testing.assert_allclose(first[name], eager[name], rtol=1e-4, atol=1e-5)
    assert first["losses"] != eager["losses"]  # it did compile


@pytest.mark.slow
def test_an_export_of_a_compiled_run_replays_to_the_last_bit(tiny_study, tmp_path, monkeypatch):
    if problem := compiler_problem():
        pytest.skip(problem)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run_study(tiny_study(resources=COMPILE, search={"trials": 1}), output=tmp_path, debug=True)
    results = load_study(tmp_path / "tiny")
    assert results.started["environment"]["compile"] is True
    export_trial(results, results.records[0], tmp_path / "export")
    compared = replay(tmp_path / "export")
    assert compared and all(one.same and one.tolerance == 0 for one in compared)
