"""The arrows between the rooms, and what must not be imported for what."""

import ast
import collections
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddcal

PACKAGE = Path(ddcal.__file__).parent
FLOORS = {
    "credentials": 0,
    "untrusted": 1,
    "allocator": 1,
    "errors": 1,
    "divergence": 1,
    "seeding": 1,
    "soft_labels": 1,
    "masking": 1,
    "moving": 1,
    "versions": 1,
    "collecting": 1,
    "compiling": 2,
    "pickled": 2,
    "pictures": 1,
    "precision": 1,
    "statistics": 1,
    "config": 2,
    "data": 3,
    "networks": 3,
    "distill": 4,
    "training": 4,
    "calibration": 4,
    "store": 5,
    "pipeline": 6,
    "study": 7,
    "analysis": 8,
    "cli": 9,
    "__main__": 10,
}
RAY_ROOM = "study"
MLFLOW_ROOM = "study/mlflow"
MLFLOW_FILES = {"study/export/mlflow_model.py", "study/export/registry.py", "study/export/served_model.py"}
MOST_FILES, MOST_LINES = 20, 400


def imported(path, text=None):
    """Every module that a file imports anywhere in it, relative imports made absolute: (dotted name, line)."""
    package = ["ddcal", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text() if text is None else text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, node.module] if node.module else base)
            # `from ddcal import x` names a room by its alias
            yield from ((f"{base}.{alias.name}" if base == "ddcal" else base, node.lineno) for alias in node.names)


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} <= FLOORS.keys()
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path):
    room, wrong = room_of(path), []
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] != "ddcal" or parts == ["ddcal", "__version__"] or parts[1] == room:
            continue
        if FLOORS[parts[1]] >= FLOORS[room]:
            wrong.append(f"line {line}: {room} (floor {FLOORS[room]}) imports {name} (floor {FLOORS[parts[1]]})")
    assert wrong == []


ARROWS = {
    "pickled": "untrusted",
    "errors": "credentials",
    "config": "credentials errors untrusted",
    "data": "config errors moving precision seeding untrusted",
    "compiling": "errors",
    "networks": "compiling config moving",
    "calibration": "config masking networks pictures seeding soft_labels untrusted",
    "distill": "allocator compiling config data divergence errors masking moving networks pickled precision seeding "
    "soft_labels untrusted",
    "training": "compiling config data divergence errors moving networks precision seeding soft_labels",
    "store": "config errors pickled untrusted",
    "pipeline": "allocator calibration compiling config data distill errors networks pictures precision seeding "
    "soft_labels store training versions",
    "study": "allocator collecting config credentials data distill errors pipeline seeding statistics store untrusted "
    "versions",
    "analysis": "calibration config data distill errors masking networks pictures pipeline seeding statistics study "
    "untrusted",
    "cli": "analysis collecting config errors pipeline store study",
    "__main__": "cli",
}


def test_the_arrows_between_rooms_are_these():
    """A new one is a decision: it is written down here, and the fewer the better."""
    found = {}
    for path in FILES:
        rooms = {name.split(".")[1] for name, _ in imported(path) if name.startswith("ddcal.")} & FLOORS.keys()
        found.setdefault(room_of(path), set()).update(rooms - {room_of(path)})
    assert {room: " ".join(sorted(rooms)) for room, rooms in found.items() if rooms} == ARROWS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_their_own_rooms_know_ray_and_mlflow(path):
    tops = {name.partition(".")[0] for name, _ in imported(path)}
    assert "ray" not in tops or room_of(path) == RAY_ROOM
    place = str(path.relative_to(PACKAGE))
    assert "mlflow" not in tops or place in MLFLOW_FILES or place.startswith(MLFLOW_ROOM)


@pytest.mark.slow
def test_no_two_files_import_each_other_in_a_circle():
    modules = {".".join(["ddcal", *path.relative_to(PACKAGE).with_suffix("").parts]): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        named = set()
        for node in ast.walk(without_type_checking(ast.parse(path.read_text()))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        graph[module] = named & modules.keys() - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def without_type_checking(tree):
    """The tree without what is imported for type checkers alone."""
    for node in ast.walk(tree):
        for field in ("body", "orelse"):
            children = getattr(node, field, None)
            if isinstance(children, list):
                setattr(node, field, [c for c in children if not (isinstance(c, ast.If) and is_type_checking(c.test))])
    return tree


def is_type_checking(test):
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def test_no_room_is_crowded_and_no_file_is_long():
    rooms = collections.Counter(path.parent for path in FILES)
    assert {str(room): count for room, count in rooms.items() if count > MOST_FILES} == {}
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


STAGE_HOMES = ("pipeline/stages", "pipeline/compute")
STAGE = r"(experts|distill|train|folds|calibrate|evaluate)"
COMPARED = re.compile(rf"\bstage\w*(\.name)? (==|!=|in \() ?\"{STAGE}\"")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_compares_the_name_of_a_stage(path):
    if str(path.relative_to(PACKAGE)).startswith(STAGE_HOMES):
        return
    assert [line for line in path.read_text().splitlines() if COMPARED.search(line)] == []


BACKBONE_COMPARED = re.compile(r"""\bbackbone\w*["')\]]* (==|!=|in|not in) ?\(?"(real|full|dc|dsa|dm|mtt|rtp|file)\"""")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_compares_the_name_of_a_backbone(path):
    """But the report of the paper, whose tables are those of certain backbones."""
    if not str(path.relative_to(PACKAGE)).startswith(("config/backbones", "analysis")):
        assert [line for line in path.read_text().splitlines() if BACKBONE_COMPARED.search(line)] == []


def test_no_test_imports_a_conftest():
    """Which of several that would be depends on the folders that pytest is given."""
    for path in Path(__file__).parent.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) conftest\b", path.read_text(), re.MULTILINE), path


def test_the_walk_sees_imports_in_functions_and_relative_ones():
    text = "from . import keys\nfrom ..study import x\nfrom ddcal import cli\ndef f():\n    import ray.tune\n"
    names = [name for name, _ in imported(PACKAGE / "pipeline" / "imaginary.py", text)]
    assert names == ["ddcal.pipeline", "ddcal.study", "ddcal.cli", "ray.tune"]


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


HEAVY = "{'torch', 'ray', 'mlflow', 'pandas', 'sklearn', 'scipy', 'matplotlib', 'optuna', 'numpy'} & sys.modules.keys()"


@pytest.mark.parametrize(
    "code",
    [
        "import ddcal.config",
        "import ddcal.seeding, ddcal.errors",
        "from ddcal.cli import main; sys.argv = ['ddcal', '--help']; main()",
        "from ddcal.cli import main; sys.argv = ['ddcal', 'run', '--help']; main()",
    ],
)
def test_config_and_help_import_nothing_heavy(code):
    result = run_python(f"import sys, atexit\natexit.register(lambda: print(sorted({HEAVY}), file=sys.stderr))\n{code}")
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip() == "[]"


WITHOUT_RAY = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "mlflow"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from ddcal.config import TrialConfig
from ddcal.pipeline import Environment, run_trial
for name in ("ray", "mlflow"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is not blocked")
trial = {"network": {"width": 4}, "distill": {"backbone": "dsa", "ipc": 1, "iterations": 2, "probe": {"epochs": 1}},
         "train": {"epochs": 2, "networks": 1}}
metrics = run_trial(TrialConfig.model_validate(trial), sys.argv[1], environment=Environment("cpu", 1))
print(metrics["test/ece"], sorted({"ray", "mlflow"} & sys.modules.keys()))
"""


def test_a_trial_runs_without_ray_and_mlflow(tmp_path):
    result = run_python(WITHOUT_RAY, tmp_path / "store")
    assert result.returncode == 0, result.stderr
    ece, modules = result.stdout.split(maxsplit=1)
    assert 0.0 <= float(ece) <= 1.0
    assert modules.strip() == "[]"
