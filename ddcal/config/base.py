"""The base of every config model, and the numbers that they share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, lt=3.4e38, allow_inf_nan=False)]  # fits into float32
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]


RECORDED = "recorded"
"""Key of a validation context: true where a config is read that has run, so that its results can be seen anywhere."""


class Config(BaseModel):
    """Base of every config model: immutable, strict about unknown keys and about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
