"""What `ddcal confirm` has measured, as the study's folder keeps it in ``confirmation.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddcal.untrusted import read_json

CONFIRMATION = "confirmation.json"


class _Leader(BaseModel):
    """One metric of one leader; other versions of ddcal may say more of it."""

    model_config = ConfigDict(extra="allow", strict=True)

    trial_key: str
    metric: str
    searched: float
    mean: float
    low: float
    high: float
    seeds: Annotated[int, Field(ge=1)]


class _Confirmation(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    seeds: Annotated[int, Field(ge=1)]
    study: str
    leaders: list[_Leader]


def read_confirmation(directory: Path) -> list[dict[str, Any]]:
    """Return the file's records, one a leader and metric.

    Raises:
        FileNotFoundError: if the study was not confirmed.
        OSError: if the file cannot be read.
        ValueError: if it is not as it was written, in a few words.
    """
    content = read_json(directory / CONFIRMATION, links=True, nan=True)
    try:
        return [leader.model_dump() for leader in _Confirmation.model_validate(content).leaders]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None
