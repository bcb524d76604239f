"""The differentiable augmentation of DSA (method.md, DSA operations): one operation a call, drawn first, applied after.

Drawing and applying are apart so that one draw can be applied to several batches (siamese augmentation). Two of the
operations together, for every image on its own, are the usual augmentation of full data: `draw_crop_flip`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddcal.config.augmentations import OPERATIONS
from ddcal.data.warp import warp
from ddcal.moving import move_together

FLIP_PROBABILITY = 0.5
SCALE = 1.2
"""Factors along x and y lie in [1/SCALE, SCALE]."""
ROTATE_DEGREES = 15.0
CROP = 0.125
"""Largest shift, as a share of the image side."""
CUTOUT = 0.5
"""Side of the cut-out square, as a share of the image side."""
BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5


@dataclass(frozen=True, eq=False)
class Augmentation:
    """One drawn operation and its parameters.

    Attributes:
        operation: One of `OPERATIONS`.
        parameters: float32 (1, P) if siamese, else (count, P). The columns of each operation:
            color: added brightness, saturation factor, contrast factor;
            crop: shift down and right, in whole pixels;
            cutout: centre row and column, in whole pixels (0 … side, so that the square may overlap the border);
            flip: 1 to mirror left and right, 0 to leave;
            scale: factor of the sampled height and width (below 1 enlarges);
            rotate: angle in radians.
        image_size: Height and width of the images it was drawn for, in pixels.
        siamese: Whether the one parameter vector holds for every image, however many there are.
        shift: Of a siamese crop: (down, right) in pixels, known without a look at the device.
    """

    operation: str
    parameters: Tensor
    image_size: int
    siamese: bool
    shift: tuple[int, int] | None = None


def draw_augmentation(
    count: int,
    image_size: int,
    generator: torch.Generator,
    *,
    siamese: bool,
    flip: bool = True,
    device: str | torch.device = "cpu",
    operations: Sequence[str] = OPERATIONS,
) -> Augmentation:
    """Draw one operation for a batch, and its parameters.

    Args:
        count: Images in the batch; without effect if siamese.
        image_size: Height and width of the images, in pixels.
        generator: Source of every draw, on any device (a CPU generator gives the same draw for every ``device``).
        siamese: True draws one parameter vector that holds for any number of images, False one per image.
        flip: False leaves the flip out of the operations (images of digits).
        device: Where the parameters are put.
        operations: Those among which is drawn, each as likely.

    Raises:
        ValueError: if count or image_size is below 1, or no operation is left.
    """
    _check_sizes(count, image_size)
    operations = [operation for operation in operations if flip or operation != "flip"]
    if not operations:
        raise ValueError(
            "operations leave nothing to draw: name at least one, and one besides flip where flip is False"
        )
    index = torch.randint(len(operations), (1,), generator=generator, device=generator.device)
    operation = operations[int(index)]
    parameters = _draw(operation, 1 if siamese else count, image_size, generator)
    shift = None
    if siamese and operation == "crop":
        down, right = (int(value) for value in parameters[0].tolist())
        shift = down, right
    return Augmentation(operation, parameters.to(device), image_size, siamese, shift)


def move_augmentations(drawn: Sequence[Augmentation], device: torch.device) -> list[Augmentation]:
    """Return augmentations that were drawn on the CPU with their parameters on a device, moved together."""
    moved = move_together([one.parameters for one in drawn], device)
    return [replace(one, parameters=parameters) for one, parameters in zip(drawn, moved, strict=True)]


def draw_crop_flip(
    count: int, image_size: int, generator: torch.Generator, *, flip: bool = True, device: str | torch.device = "cpu"
) -> tuple[Augmentation, ...]:
    """Draw a random crop and a horizontal flip for every image: the usual augmentation of training on full data.

    The crop is one of the padded image, S/8 pixels of zeros on every side (4 at S = 32): a shift of up to so much down
    and right. Apply each of what is returned with `augment`.

    Args:
        count: Images in the batch.
        image_size: Height and width S of the images, in pixels.
        generator: Source of every draw.
        flip: False leaves the flip out (images of digits).
        device: Where the parameters are put.

    Raises:
        ValueError: if count or image_size is below 1.
    """
    _check_sizes(count, image_size)
    operations = ("crop", "flip") if flip else ("crop",)
    return tuple(
        Augmentation(operation, _draw(operation, count, image_size, generator).to(device), image_size, siamese=False)
        for operation in operations
    )


def augment(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Apply a drawn augmentation; differentiable with respect to the images, zero fill outside of them.

    Args:
        images: float (N, C, S, S); not changed.
        augmentation: As drawn for images of side S, and for N images unless siamese.

    Raises:
        ValueError: if the images are not of the side or the number that the augmentation was drawn for.
    """
    size, parameters = augmentation.image_size, augmentation.parameters
    if images.dim() != 4 or tuple(images.shape[2:]) != (size, size):
        raise ValueError(f"images are {tuple(images.shape)}; the augmentation was drawn for (N, C, {size}, {size})")
    if not augmentation.siamese and len(parameters) != len(images):
        raise ValueError(
            f"there are {len(images)} images, but the augmentation was drawn for {len(parameters)}: "
            "draw with that count, or siamese=True for any number"
        )
    parameters = parameters.to(images.device)
    match augmentation.operation:
        case "color":
            return _color(images, parameters)
        case "crop":
            return _crop(images, parameters, augmentation.shift)
        case "cutout":
            return _cutout(images, parameters)
        case "flip":
            return torch.where(parameters[:, :, None, None] > 0, images.flip(3), images)
        case "scale":
            return warp(images, _scale_matrix(parameters))
        case "rotate":
            return warp(images, _rotation_matrix(parameters))
    raise ValueError(f"operation is {augmentation.operation!r}; it must be one of {', '.join(OPERATIONS)}")


def _check_sizes(count: int, image_size: int) -> None:
    for name, value in (("count", count), ("image_size", image_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")


def _draw(operation: str, rows: int, size: int, generator: torch.Generator) -> Tensor:
    def uniform(columns: int) -> Tensor:
        return torch.rand((rows, columns), generator=generator, device=generator.device)

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (rows, 2), generator=generator, device=generator.device).float()

    if operation == "color":
        offset = torch.tensor([-0.5 * BRIGHTNESS, 0.0, CONTRAST], device=generator.device)
        factor = torch.tensor([BRIGHTNESS, SATURATION, 1.0], device=generator.device)
        return uniform(3) * factor + offset
    if operation == "crop":
        shift = int(size * CROP + 0.5)
        return integers(-shift, shift)
    if operation == "cutout":
        side = int(size * CUTOUT + 0.5)
        # An even square has its centre between pixels, hence one position more.
        return integers(0, size - side % 2)
    if operation == "flip":
        return (uniform(1) < FLIP_PROBABILITY).float()
    if operation == "scale":
        return uniform(2) * (SCALE - 1.0 / SCALE) + 1.0 / SCALE
    return (uniform(1) - 0.5) * (2.0 * math.radians(ROTATE_DEGREES))


def _color(images: Tensor, parameters: Tensor) -> Tensor:
    brightness, saturation, contrast = parameters.to(images.dtype)[:, :, None, None, None].unbind(1)
    images = images + brightness
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * saturation + grey
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - level) * contrast + level


def _crop(images: Tensor, parameters: Tensor, shift: tuple[int, int] | None) -> Tensor:
    size = images.shape[2]
    if shift is not None:
        down, right = shift
        # Negative padding cuts off what moves out on the other side.
        return F.pad(images, (right, -right, down, -down))
    positions = torch.arange(size, device=images.device)
    rows, columns = (positions - parameters.long()[:, :, None]).unbind(1)  # where each output pixel comes from
    outside_rows, outside_columns = ((index < 0) | (index >= size) for index in (rows, columns))
    source = rows.clamp(0, size - 1)[:, :, None] * size + columns.clamp(0, size - 1)[:, None, :]
    flat = images.flatten(2)
    moved = flat.gather(2, source.flatten(1)[:, None, :].expand_as(flat)).view_as(images)
    return moved.masked_fill((outside_rows[:, :, None] | outside_columns[:, None, :])[:, None], 0.0)


def _cutout(images: Tensor, parameters: Tensor) -> Tensor:
    size = images.shape[2]
    side = int(size * CUTOUT + 0.5)
    first = parameters[:, :, None] - side // 2
    positions = torch.arange(size, device=images.device)
    rows, columns = ((positions >= first) & (positions < first + side)).unbind(1)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _scale_matrix(parameters: Tensor) -> Tensor:
    vertical, horizontal = parameters.unbind(1)
    zero = torch.zeros_like(vertical)
    return torch.stack([horizontal, zero, zero, zero, vertical, zero], dim=1).view(-1, 2, 3)


def _rotation_matrix(parameters: Tensor) -> Tensor:
    angle = parameters[:, 0]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
