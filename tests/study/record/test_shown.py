"""What a prompt and a notebook show of a study, a trial and a distilled set."""

import base64
import io
import re
import subprocess
import sys

import pytest
from PIL import Image

from ddcal.config import TrialConfig
from ddcal.distill import SyntheticSet
from ddcal.study import load_study, run_study


@pytest.fixture(scope="module")
def finished(tiny_study, tmp_path_factory):
    """The folder of a finished study, with a front and a figure."""
    folder = run_study(tiny_study(), output=tmp_path_factory.mktemp("runs"), debug=True).directory
    Image.new("RGB", (3, 2)).save(_made(folder / "figures" / "history.png"))
    return folder


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def pictures(page):
    """The sizes of the pictures in a page, each of which is one."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))).size for one in found]


def test_the_winners_config_is_a_trial_config(finished):
    best = load_study(finished).best
    assert isinstance(best.config, TrialConfig)
    assert best.config.calibrate.mask.ratio == best.values["calibrate.mask.ratio"]


def test_a_study_is_a_line_and_a_page_with_its_figures(finished):
    study = load_study(finished)
    assert repr(study) == f"<Study tiny: 2 of 2 trials finished, winner {study.best.trial_key}>"
    page = study._repr_html_()
    assert f"<td>{study.best.trial_key} (winner)</td>" in page and "<th>calibrate.mask.ratio</th>" in page
    assert pictures(page) == [(3, 2)]


def test_a_trial_is_a_line_and_a_page_with_its_diagram(finished):
    best = load_study(finished).best
    assert re.fullmatch(rf"<Trial {best.trial_key}: complete, val/nll [\d.]+, val/ece [\d.]+>", repr(best))
    page = best._repr_html_()
    assert all(f"<td>{name}</td>" in page for name in ("raw", "mts (this trial)", "ts_val", "calibrate.mask.ratio"))
    assert len(pictures(page)) == 1


def test_text_of_others_is_no_markup_and_foreign_keys_are_no_paths(finished):
    study = load_study(finished)
    study.study = study.study.model_copy(update={"description": "<script>x</script>"})
    assert "<script>" not in study._repr_html_()
    trial = study.best
    object.__setattr__(trial, "error", "<b>no</b>")
    object.__setattr__(trial, "keys", {"evaluate": f"../../{'x' * 20}", "distill": "../.."})
    assert "<b>no</b>" not in trial._repr_html_() and pictures(trial._repr_html_()) == []


def test_a_distilled_set_is_a_line_and_a_picture(finished):
    study = load_study(finished)
    found = SyntheticSet.load(f"{study.store}/distill/{study.best.keys['distill']}")
    assert repr(found) == "<SyntheticSet real: 10 classes, 2 images of 1x8x8 each (ipc 2)>"
    page = found._repr_html_()
    assert pictures(page) == [(2 * 8 + 2, 10 * 8 + 9 * 2)] and "each from its lowest" not in page
    whitened = SyntheticSet(3 * found.images - 1, found.labels, 2, provenance={"preprocessing": "zca"})
    assert "each from its lowest" in whitened._repr_html_() and len(pictures(whitened._repr_html_())) == 1


def test_a_study_is_shown_without_torch(finished):
    code = (
        "import sys; from ddcal.study import load_study; study = load_study(sys.argv[1]); best = study.best; "
        "study._repr_html_(), best._repr_html_(), best.config; print({'torch', 'ray', 'mlflow'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code, finished], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr
