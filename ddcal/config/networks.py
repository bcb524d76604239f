"""The networks: their names and settings, what each of them has, and which images it can take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ddcal.config.base import Config, PositiveInt

NetworkName = Literal["convnet", "mlp", "lenet", "alexnet", "vgg11", "resnet18"]
NetworkNorm = Literal["instance", "batch", "none"]
NetworkDepth = Annotated[int, Field(ge=1, le=8)]

GREY_28_SIDE = 32
"""28-px grey images are padded to this side by the first convolution (LeNet apart, which keeps 28)."""


@dataclass(frozen=True)
class Architecture:
    """What a network has.

    Attributes:
        width: Its own width: channels of the first convolution, hidden units of the MLP. The other layers keep their
            ratio to it. None: the widths are fixed.
        norms: The norms that it can have, its own first.
        depth: Whether its depth may be chosen.
    """

    width: int | None
    norms: tuple[NetworkNorm, ...] = ("instance", "batch", "none")
    depth: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "convnet": Architecture(width=128, depth=True),
    "mlp": Architecture(width=128, norms=("none",)),
    "lenet": Architecture(width=None, norms=("none",)),
    "alexnet": Architecture(width=128),
    "vgg11": Architecture(width=64),
    "resnet18": Architecture(width=64),
}

IMAGES = {
    "digits": (1, 8),
    "mnist": (1, 28),
    "fashion-mnist": (1, 28),
    "cifar10": (3, 32),
    "cifar100": (3, 32),
    "tiny-imagenet": (3, 64),
    "imagenette": (3, 128),
}
"""Dataset → (channels, side in pixels) where the name says it; other data is looked at when a network is built."""


class NetworkConfig(Config):
    """A network: the ConvNet of method.md, or one of those that sets are evaluated on across architectures.

    What is left out, or null, is the network's own (`ARCHITECTURES`). ``depth`` is the ConvNet's alone and follows the
    image size (2 at 8 px, 3 at 28 and 32, 4 at 64, 5 at 128). MLP and LeNet have no norm: theirs is ``none``.
    """

    name: NetworkName = "convnet"
    width: PositiveInt | None = 128
    depth: NetworkDepth | None = None
    norm: NetworkNorm = "instance"

    @model_validator(mode="before")
    @classmethod
    def _own(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("name", "convnet"), str):
            return values
        architecture = ARCHITECTURES.get(values.get("name", "convnet"))
        if architecture is None:
            return values
        own = {"width": architecture.width, "norm": architecture.norms[0]}
        return values | {key: value for key, value in own.items() if values.get(key) is None}

    @model_validator(mode="after")
    def _check(self) -> NetworkConfig:
        if problems := setting_problems(self.name, self):
            raise ValueError("; ".join(problems))
        return self


class NetworkOverride(Config):
    """A network for one stage alone: what is left out is as in the trial's ``network``.

    Another ``name`` than there begins anew: width and depth are that network's own, and the norm carries over where
    both networks have norms.
    """

    name: NetworkName | None = None
    width: PositiveInt | None = None
    depth: NetworkDepth | None = None
    norm: NetworkNorm | None = None

    @model_validator(mode="after")
    def _check(self) -> NetworkOverride:
        if self.name is not None and (problems := setting_problems(self.name, self)):
            raise ValueError("; ".join(problems))
        return self

    def over(self, base: NetworkConfig) -> NetworkConfig:
        """Return ``base`` with this override's values in it, or another network altogether."""
        given = self.model_dump(exclude_none=True)
        if self.name in (None, base.name):
            return base.model_copy(update=given)
        norms, before = ARCHITECTURES[str(self.name)].norms, ARCHITECTURES[base.name].norms
        carried = {"norm": base.norm} if len(before) > 1 and base.norm in norms else {}
        return NetworkConfig.model_validate(carried | given)


def setting_problems(name: str, config: NetworkConfig | NetworkOverride, place: str = "") -> list[str]:
    """Return which settings a network has not, each as a sentence.

    Args:
        name: The network.
        config: Its settings; None stands for the network's own.
        place: What goes before the settings' names, for example ``train.network.``.
    """
    architecture, problems = ARCHITECTURES[name], []
    if config.width is not None and architecture.width is None:
        problems.append(f"{place}width is {config.width}, but the layers of {name} have fixed widths: leave it out")
    if config.depth is not None and not architecture.depth:
        problems.append(f"{place}depth is {config.depth}, but {name} has a fixed depth: leave it out")
    if config.norm is not None and config.norm not in architecture.norms:
        problems.append(f"{place}norm is {config.norm!r}, but {name} has no norm: leave it out, or say 'none'")
    return problems


def network_problems(
    base: NetworkConfig, overrides: Mapping[str, NetworkOverride], dataset: str, resolution: int | None
) -> list[str]:
    """Return why the networks of a trial's stages cannot be, each as a sentence that names the keys.

    Args:
        base: The trial's ``network``.
        overrides: Stage → its own ``network``.
        dataset: As ``data.name``.
        resolution: As ``data.resolution``.
    """
    problems = []
    channels, size = IMAGES.get(dataset, (0, 0))
    for stage, override in overrides.items():
        own = any(value is not None for value in (override.name, override.width, override.depth, override.norm))
        place = f"{stage}.network." if own else "network."
        if override.name is None:
            problems += setting_problems(base.name, override, place)
        if size:
            side = resolution or size
            images = f"the {side}-px images of data.name {dataset!r}"
            if why := size_problem(override.over(base), channels, side, place, images):
                problems.append(why)
    return list(dict.fromkeys(problems))


def size_problem(config: NetworkConfig, channels: int, size: int, place: str = "network.", images: str = "") -> str:
    """Return why a network cannot take images, or an empty string.

    Args:
        config: The network.
        channels: Channels of the images.
        size: Their height and width, in pixels.
        place: What goes before the settings' names.
        images: What to call the images.
    """
    name, images = config.name, images or f"{size}-px images"
    side = padded_side(channels, size)
    cure = "set data.resolution, or take another network"
    if name == "convnet":
        depth = default_depth(size) if config.depth is None else config.depth
        if side >> depth < 1:
            most = int(math.log2(side))
            return (
                f"{place}depth is {depth}, but {depth} poolings of 2×2 leave nothing of {images}: take at most {most}"
            )
    elif name == "lenet" and lenet_side(channels, size) < 1:
        return f"{place}name is lenet: two 5×5 convolutions and poolings leave nothing of {images}; 16 px do: {cure}"
    elif name == "alexnet" and side >> 3 < 1:
        return f"{place}name is alexnet: three poolings of 2×2 leave nothing of {images}; 8 px do: {cure}"
    elif name == "vgg11" and side >> 5 < 1:
        return f"{place}name is vgg11: five poolings of 2×2 leave nothing of {images}; 32 px do: {cure}"
    elif name == "resnet18" and config.norm == "instance" and size < 9:
        return (
            f"{place}name is resnet18: its last maps of {images} are one pixel, of which instance norm leaves nothing: "
            f"set {place}norm to 'batch' or 'none', or data.resolution to 9 or more"
        )
    return ""


def padded_side(channels: int, size: int) -> int:
    """Return the side that blocks of convolutions begin with: 28-px grey images are padded to 32 px."""
    return GREY_28_SIDE if (channels, size) == (1, 28) else size


def lenet_side(channels: int, size: int) -> int:
    """Return the side of what the two convolutions and poolings of LeNet leave of images, at most 0 for nothing."""
    first = size if (channels, size) == (1, 28) else size - 4
    return (first // 2 - 4) // 2


def default_depth(image_size: int) -> int:
    """Return the ConvNet's depth where the config gives none: max(2, round(log2(image_size)) − 2).

    That is 2 at 8 and 16 px, 3 at 28 and 32, 4 at 64, 5 at 128 (method.md, ConvNet): blocks end on about 4×4 pixels.
    """
    return max(2, round(math.log2(image_size)) - 2)
