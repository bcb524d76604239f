"""The packages of the guide's tutorials, on the path of this process, of its children and of Ray's workers."""

import re
import sys
from pathlib import Path

import pytest

import ddcal
from ddcal.config import components as config_components
from ddcal.data import fingerprint

GUIDE = Path(ddcal.__file__).parent / "guide"


def code_of(page):
    """The Python of a page of the guide, in its order."""
    return re.findall(r"```python\n(.*?)```", (GUIDE / page).read_text(), re.DOTALL)


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """own_package({file name: text}) -> the folder of a package my_lab with these files."""
    place = tmp_path / "packages"

    def make(files):
        (place / "my_lab").mkdir(parents=True)
        (place / "my_lab" / "__init__.py").touch()
        for name, text in files.items():
            (place / "my_lab" / name).write_text(text)
        return place / "my_lab"

    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", str(place), prepend=":")
    yield make
    forget()


def forget():
    """What another process would not have: the package as it was imported here."""
    fingerprint._array_hash.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]
    config_components.source_of.cache_clear()
    config_components._entry_points.cache_clear()


@pytest.fixture
def herding(own_package):
    """The backbone of the tutorial."""
    spec, images = code_of("own-backbone.md")
    return own_package({"herding.py": spec, "images.py": images})


@pytest.fixture
def components(own_package):
    """The calibrator, the network and the data of the guide."""
    names = ("calibrations.py", "bias.py", "wide.py", "layers.py", "data.py")
    return own_package(dict(zip(names, code_of("own-components.md"), strict=True)))
