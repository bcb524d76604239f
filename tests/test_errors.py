"""What errors say is safe to print."""

import pytest

from ddcal.config.problems import problem_at
from ddcal.errors import BadInput, StoreError, TrackingError, cut


@pytest.mark.parametrize("kind", [BadInput, StoreError, TrackingError])
def test_names_that_somebody_chose_command_no_terminal(kind):
    error = kind("run.yaml: \x1b[2J\x07a\0b\u202ec é 猫\nsecond line")
    assert str(error) == "run.yaml: \\x1b[2J\\x07a\\x00b\\u202ec é 猫\nsecond line"


def test_of_a_long_text_the_middle_is_left_out():
    path = f"/{'folder/' * 40}numbers.npz"
    assert cut(path, len(path)) == path
    short = cut(path, 80)
    assert len(short) == 80 and short.startswith("/folder/") and short.endswith("folder/numbers.npz")
    said = str(problem_at(("data", "root"), "there is no such file", path))
    assert "numbers.npz' is not allowed" in said and len(said) < 150
