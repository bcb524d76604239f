"""The base of every config model, and the numbers that they share."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, lt=3.4e38, allow_inf_nan=False)]  # fits into float32
NonNegativeFloat = Annotated[float, Field(ge=0.0, lt=3.4e38, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]


RECORDED = "recorded"
"""Key of a validation context: true where a config is read that has run, so that its results can be seen anywhere."""


def recorded(info: ValidationInfo) -> bool:
    """Return whether a config is read that has run (`RECORDED`)."""
    return bool((info.context or {}).get(RECORDED))


def checked_name(known: Container[str], find: Callable[[str], object]) -> BeforeValidator:
    """Return the check of a name that may be a user's own: ``find`` raises ValueError unless there is one.

    What was recorded is not looked for: its package may not be here.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str) and value not in known and not recorded(info):
            find(value)
        return value

    return BeforeValidator(check)


class Config(BaseModel):
    """Base of every config model: immutable, strict about unknown keys and about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
