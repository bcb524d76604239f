"""The networks: their names and settings, what each of them has, and which images it can take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from ddcal.config.base import Config, PositiveInt, checked_name, recorded
from ddcal.config.components import ComponentError, find_component
from ddcal.config.datasets import dataset_spec

NetworkNorm = Literal["instance", "batch", "none"]
NetworkDepth = Annotated[int, Field(ge=1, le=8)]

GREY_28_SIDE = 32
"""28-px grey images are padded to this side by the first convolution (LeNet apart, which keeps 28)."""

_CURE = "set data.resolution, or take another network"


@dataclass(frozen=True)
class Architecture:
    """What a network is. A user's own is one of these in a package of theirs (own-components.md).

    Attributes:
        builder: Import path ``package.module:NAME`` of the `ddcal.networks.Network`: called with (channels, image_size,
            num_classes) and, by their names, with those of ``width``, ``depth`` and ``norm`` that it has.
        width: Its own width: channels of the first convolution, hidden units of the MLP. The other layers keep their
            ratio to it. None: the widths are fixed.
        norms: The norms that it can have, its own first.
        depth: Whether its depth may be chosen.
        too_small: Says why it cannot take images of some (config, channels, size), or "": what follows the place of a
            setting, with ``{images}`` for the images.
        version: Of a user's own: raised where numbers change.
        cpu_version: Of how one of ddcal's own computes on a CPU: raised where last bits change there alone. What a GPU
            has computed keeps its keys.
    """

    builder: str
    width: int | None = None
    norms: tuple[NetworkNorm, ...] = ("instance", "batch", "none")
    depth: bool = False
    too_small: Callable[[NetworkConfig, int, int], str] = lambda *_: ""
    version: int = 1
    cpu_version: int = 1


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


def _poolings(count: int, words: str, least: int) -> Callable[[NetworkConfig, int, int], str]:
    """Return the check of a network whose ``count`` poolings of 2×2 must leave something."""

    def check(config: NetworkConfig, channels: int, size: int) -> str:
        if padded_side(channels, size) >> count:
            return ""
        return f"name is {config.name}: {words} poolings of 2×2 leave nothing of {{images}}; {least} px do: {_CURE}"

    return check


def _convnet(config: NetworkConfig, channels: int, size: int) -> str:
    depth, side = default_depth(size) if config.depth is None else config.depth, padded_side(channels, size)
    if side >> depth:
        return ""
    return (
        f"depth is {depth}, but {depth} poolings of 2×2 leave nothing of {{images}}: take at most "
        f"{int(math.log2(side))}"
    )


def _lenet(config: NetworkConfig, channels: int, size: int) -> str:
    if lenet_side(channels, size) >= 1:
        return ""
    return f"name is lenet: two 5×5 convolutions and poolings leave nothing of {{images}}; 16 px do: {_CURE}"


def _resnet18(config: NetworkConfig, channels: int, size: int) -> str:
    if config.norm != "instance" or size >= 9:
        return ""
    return (
        "name is resnet18: its last maps of {images} are one pixel, of which instance norm leaves nothing: set "
        "{place}norm to 'none', or data.resolution to 9 or more (batch norm takes such maps, but no batch of one image)"
    )


_PLACE = "ddcal.networks"

ARCHITECTURES: dict[str, Architecture] = {
    "convnet": Architecture(
        f"{_PLACE}.convnet:ConvNet", 128, depth=True, too_small=_convnet, cpu_version=2
    ),  # 2 since pooling adds up rows first, and blocks their derivatives part by part
    "mlp": Architecture(f"{_PLACE}.mlp:MLP", 128, ("none",)),
    "lenet": Architecture(f"{_PLACE}.lenet:LeNet", None, ("none",), too_small=_lenet),
    "alexnet": Architecture(f"{_PLACE}.alexnet:AlexNet", 128, too_small=_poolings(3, "three", 8)),
    "vgg11": Architecture(f"{_PLACE}.vgg:VGG11", 64, too_small=_poolings(5, "five", 32)),
    "resnet18": Architecture(f"{_PLACE}.resnet:ResNet18", 64, too_small=_resnet18),
}
"""Every ``network.name`` of ddcal; a new one is its file in ``ddcal/networks/`` and a row here."""


def architecture(name: str) -> Architecture:
    """Return what a network is.

    Args:
        name: One of `ARCHITECTURES`, or a user's own (`ddcal.config.components`).

    Raises:
        ddcal.config.components.ComponentError: if there is none, or the package of a user's own is missing.
    """
    return find_component("network", name, ARCHITECTURES, Architecture)


def _recorded(name: str, info: ValidationInfo) -> bool:
    return name not in ARCHITECTURES and recorded(info)


if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Annotated[Literal[tuple(ARCHITECTURES)] | str, checked_name(ARCHITECTURES, architecture)]


class NetworkConfig(Config):
    """A network: the ConvNet of method.md, or one of those that sets are evaluated on across architectures.

    What is left out, or null, is the network's own (`ARCHITECTURES`). ``depth`` is the ConvNet's alone and follows the
    image size (2 at 8 px, 3 at 28 and 32, 4 at 64, 5 at 128). MLP and LeNet have no norm: theirs is ``none``. ``name``
    may be your own, by its import path or entry point (own-components.md).
    """

    name: NetworkName = "convnet"
    width: PositiveInt | None = 128
    depth: NetworkDepth | None = None
    norm: NetworkNorm = "instance"

    @model_validator(mode="before")
    @classmethod
    def _own(cls, values: Any, info: ValidationInfo) -> Any:
        name = values.get("name", "convnet") if isinstance(values, dict) else None
        if not isinstance(name, str) or _recorded(name, info):
            return values
        try:
            found = architecture(name)
        except ComponentError:  # the name is checked for itself
            return values
        own = {"width": found.width, "norm": found.norms[0]}
        return values | {key: value for key, value in own.items() if values.get(key) is None}

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> NetworkConfig:
        if not _recorded(self.name, info) and (problems := setting_problems(self.name, self)):
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
    def _check(self, info: ValidationInfo) -> NetworkOverride:
        if self.name is None or _recorded(self.name, info):
            return self
        if problems := setting_problems(self.name, self):
            raise ValueError("; ".join(problems))
        return self

    def over(self, base: NetworkConfig) -> NetworkConfig:
        """Return ``base`` with this override's values in it, or another network altogether."""
        given = self.model_dump(exclude_none=True)
        if self.name in (None, base.name):
            return base.model_copy(update=given)
        norms, before = architecture(str(self.name)).norms, architecture(base.name).norms
        carried = {"norm": base.norm} if len(before) > 1 and base.norm in norms else {}
        return NetworkConfig.model_validate(carried | given)


def setting_problems(name: str, config: NetworkConfig | NetworkOverride, place: str = "") -> list[str]:
    """Return which settings a network has not, each as a sentence.

    Args:
        name: The network.
        config: Its settings; None stands for the network's own.
        place: What goes before the settings' names, for example ``train.network.``.
    """
    found, problems = architecture(name), []
    if config.width is not None and found.width is None:
        problems.append(f"{place}width is {config.width}, but the layers of {name} have fixed widths: leave it out")
    if config.depth is not None and not found.depth:
        problems.append(f"{place}depth is {config.depth}, but {name} has a fixed depth: leave it out")
    if config.norm is not None and config.norm not in found.norms:
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
    channels, size = dataset_spec(dataset).channels, dataset_spec(dataset).side
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
    why = architecture(config.name).too_small(config, channels, size)
    said = why.replace("{images}", images or f"{size}-px images").replace("{place}", place)
    return f"{place}{said}" if why else ""
