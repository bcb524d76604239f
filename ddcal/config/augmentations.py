"""Names of augmentations: DSA's operations, some of them, and what is neither."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""Of DSA, in the order in which its authors name them (method.md, DSA operations)."""

_WHOLE = ("none", "dsa")
_OF_TRAINING = (*_WHOLE, "crop_flip")
_BOTH = ("crop", "flip")


def operations_of(name: str) -> tuple[str, ...]:
    """Return the DSA operations of which ``name`` draws one a batch: all for ``dsa``, none for ``none``.

    Args:
        name: As a setting has it: ``none``, ``dsa``, or operations joined by ``_``. Not ``crop_flip``, which is no draw
            of one operation.
    """
    if name in _WHOLE:
        return OPERATIONS if name == "dsa" else ()
    return tuple(name.split("_"))


def flip_problem(key: str, name: str, dataset: str) -> str:
    """Return why a dataset whose images may not be mirrored cannot have an augmentation that names ``flip``, or "".

    Args:
        key: The setting's dotted name.
        name: Its value; ``dsa`` and ``crop_flip`` leave the flip out by themselves there.
        dataset: As ``data.name``, one of those without flip.
    """
    if name in _OF_TRAINING or "flip" not in operations_of(name):
        return ""
    rest = "_".join(operation for operation in operations_of(name) if operation != "flip") or "none"
    return f"{key} is {name!r}, but mirrored images of {dataset} are other digits: use {rest!r}"


def _checked(value: Any, whole: tuple[str, ...]) -> Any:
    if value is None or value in whole:
        return value
    parts = value.split("_") if isinstance(value, str) else []
    named = tuple(operation for operation in OPERATIONS if operation in parts)
    spelled = "dsa" if named == OPERATIONS else "_".join(named)
    if parts and set(parts) <= set(OPERATIONS) and spelled != "crop_flip":
        if value != spelled:
            raise ValueError(f"{value!r} must be written {spelled!r}: each operation once, in DSA's order")
        return value
    also = " (crop_flip is not a draw of one of the two, but both: train.augment has it)" if named == _BOTH else ""
    raise ValueError(
        f"{value!r} must be one of {', '.join(whole)}, or some of DSA's operations in their order "
        f"({', '.join(OPERATIONS)}) joined by _, for example crop_scale_rotate{also}"
    )


TrainAugment = Annotated[
    Literal["none", "dsa", "crop_flip"] | str, BeforeValidator(lambda value: _checked(value, _OF_TRAINING))
]
"""Of training: ``crop_flip`` is a crop and a flip of every image, the usual augmentation of full data."""

DistillAugment = Annotated[Literal["none", "dsa"] | str, BeforeValidator(lambda value: _checked(value, _WHOLE))]
"""Of distillation."""
