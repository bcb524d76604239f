"""What errors say is safe to print."""

import pytest

from ddcal.errors import BadInput, StoreError, TrackingError


@pytest.mark.parametrize("kind", [BadInput, StoreError, TrackingError])
def test_names_that_somebody_chose_command_no_terminal(kind):
    error = kind("run.yaml: \x1b[2J\x07a\0b\u202ec é 猫\nsecond line")
    assert str(error) == "run.yaml: \\x1b[2J\\x07a\\x00b\\u202ec é 猫\nsecond line"
