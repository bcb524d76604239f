import sys
from dataclasses import dataclass

import pytest

from ddcal.config.components import ComponentError, find_component, source_of


@dataclass
class Spec:
    name: str


KNOWN = {"dsa": Spec("dsa"), "dm": Spec("dm")}
PACKAGE = "from test_components import Spec\nMINE = Spec('mine')\nNOT_ONE = 3\n"


@pytest.fixture
def my_lab(tmp_path, monkeypatch):
    """A package of a user's, on the path and not imported yet."""
    (tmp_path / "my_lab.py").write_text(PACKAGE.replace("test_components", __name__))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "my_lab.py"
    sys.modules.pop("my_lab", None)


def find(name):
    return find_component("backbone", name, KNOWN, Spec)


def test_a_name_is_ddcals_or_an_import_path(my_lab):
    assert find("dsa") is KNOWN["dsa"]
    assert find("my_lab:MINE") == Spec("mine")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dsaa", r"'dsaa' is no backbone: it must be one of dsa, dm, or the import path.*did you mean 'dsa'"),
        ("my_lab:NOT_ONE", "'my_lab:NOT_ONE' is no backbone: it is of type int, and must be a Spec"),
        ("my_lab:NOTHING", "my_lab has no NOTHING"),
        ("not_there.at_all:SPEC", r"not_there.at_all cannot be imported \(No module named 'not_there'\): install"),
    ],
)
def test_what_is_no_component_is_said_with_its_cure(my_lab, name, said):
    with pytest.raises(ComponentError, match=said):
        find(name)


def test_a_module_that_raises_is_one_sentence(my_lab):
    my_lab.write_text("1 / 0")
    with pytest.raises(ComponentError, match=r"my_lab cannot be imported \(ZeroDivisionError: division by zero\)"):
        find("my_lab:MINE")


def test_the_source_tells_one_version_from_another(my_lab):
    before = source_of("backbone", "my_lab:MINE")
    assert before["path"] == "my_lab:MINE" and len(before["sha256"]) == 64
    my_lab.write_text(my_lab.read_text() + "# changed\n")
    source_of.cache_clear()  # as in another process: what was imported here is what computes here
    assert source_of("backbone", "my_lab:MINE")["sha256"] != before["sha256"]


def test_an_installed_package_is_named_with_its_version():
    told = source_of("backbone", "pydantic.fields:Field")
    assert told["package"] == "pydantic" and told["version"][0].isdigit()
