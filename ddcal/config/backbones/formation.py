"""Several smaller images in one stored image: the multi-formation decoder of IDC, for backbones that learn images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ddcal.config.base import Config
from ddcal.errors import BadInput

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig


class FormationConfig(Config):
    """Several images in one (IDC, multi-formation): ``factor`` × ``factor`` tiles of a stored image, each enlarged.

    The storage of ``ipc`` images a class decodes to ipc·factor² images of the full size. 1, the default, is off. For
    ``dc``, ``dsa``, ``dm``, ``mtt`` and ``datm`` alone.
    """

    factor: Annotated[int, Field(ge=1, le=8)] = 1


def formed_per_class(ipc: int, factor: int, size: int) -> int:
    """Return how many images a class ``ipc`` stored ones decode to: ipc·factor².

    Args:
        ipc: Stored images a class.
        factor: Tiles a side.
        size: Height and width of an image, in pixels.

    Raises:
        BadInput: if there are more tiles a side than pixels.
    """
    if factor > size:
        raise BadInput(
            f"distill.formation.factor is {factor}, but images have {size} pixels a side: a tile needs one, so it must "
            f"be at most {size}"
        )
    return ipc * factor**2


def formation_values(distill: DistillConfig) -> dict[str, Any]:
    """Return the setting where it is on, as a part of what images and their costs depend on."""
    return {"formation": {"factor": distill.formation.factor}} if distill.formation.factor > 1 else {}
