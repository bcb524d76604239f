"""What a backbone is: everything that is asked about one that needs no tensor, in one place.

A backbone has two files: ``config/backbones/NAME.py`` says what it is, free of torch, and ``distill/NAME.py`` computes
it. Nobody else compares a backbone's name: whoever wants to know something asks ``trial.distill.spec``.

A user's own is a subclass of `Backbone` in a package of theirs, of which an instance is named in a config by its import
path (``distill.backbone: my_lab.herding:SPEC``) or by the name of an entry point in the group ``ddcal.backbones``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ddcal.config.backbones.formation import formation_values, formed_per_class
from ddcal.config.base import Config

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig, TrialConfig

Momentum = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]

OWN_SECTION = "settings"
"""The section of ``distill`` that holds the settings of a user's own backbone."""

NO_STATISTICS = "its weights move through an unrolled loop, which has no place for running statistics"
"""Why a distilling network that is unrolled cannot have batch norm."""

REFERENCE = {
    "source": "the public codes of DC, DSA, DM and MTT",
    "any": {"all": {"train.schedule": "step_reference"}},
}
"""What these codes do and their papers do not say."""

REFERENCE_OF_DC = {
    **REFERENCE,
    # Their augmentation for DC on MNIST is a code of its own (one operation an image, rotations up to 45 degrees,
    # scales 0.8 to 1.2, filled with the mean); here it is DSA's crop, scale and rotation.
    "mnist": {"all": {"train.epochs": 1000, "train.augment": "crop_scale_rotate"}},
}
"""How they train on sets of DC, and on random real images."""


class NoSettings(Config):
    """The settings of a backbone that has none of its own."""


class Backbone:
    """What one distillation backbone is. Every ``distill`` is a section ``distill`` of a config; see each method.

    Attributes:
        name: Its name in a config; of a user's own what it is called in words.
        distiller: Import path ``package.module:NAME`` of what computes it: called with (dataset, distill, seed,
            device), with experts as a fifth where it takes them, it returns a `ddcal.distill.Distiller`.
        version: Of its algorithm: raised where numbers change, so that artefacts of before are not taken.
        section: Its section of ``distill``, "" for none. A user's own has ``distill.settings``.
        settings: The model that checks that section.
        presets: Family → {``source``, dataset or ``any`` → images per class or ``all`` → dotted name → value}: what a
            trial takes where its config is silent (`ddcal.config.presets`).
        distills: Whether there is a distilled set at all.
        learns: Whether images change in a loop, so that iterations, masks and pictures of progress mean something.
        imports: Whether the images are read from the file that ``distill.file`` names.
        takes_experts: Whether it needs those of the ``experts`` stage: their trajectories, or what they say of images.
        learns_rate: Whether the rate of training on the set is learned with it.
        two_passes: Whether synthetic images pass a network both to be matched and to train it (``mask.where``).
        no_batch_norm: Why its distilling network cannot have batch norm; "" where it can.
        no_formation: Why its stored images cannot hold several each (``distill.formation``); "" where they can.
        clip: The setting that is the largest norm of a gradient.
        usual: Setting of its section → values with which it is no part of the key, as stores are older than it.
        unused: Settings of its section that have no effect on it, as several backbones share the section.
        costless: Counts of its section that change neither the time nor the memory of an iteration.
    """

    name: str = ""
    distiller: str = ""
    version: int = 1
    section: str = OWN_SECTION
    settings: type[Config] = NoSettings
    presets: Mapping[str, Mapping[str, Any]] = {}
    distills: bool = True
    learns: bool = True
    imports: bool = False
    takes_experts: bool = False
    learns_rate: bool = False
    two_passes: bool = True
    no_batch_norm: str = ""
    no_formation: str = "its distiller decodes no stored images"
    clip: str = "distill.clip"
    usual: Mapping[str, tuple[object, ...]] = {}
    unused: tuple[str, ...] = ()
    costless: tuple[str, ...] = ()

    def own(self, distill: DistillConfig) -> Any:
        """Return its section of ``distill`` as the model that checks it."""
        if self.section == OWN_SECTION:
            return self.settings.model_validate(distill.settings)
        return getattr(distill, self.section) if self.section else NoSettings()

    def algorithm_version(self, distill: DistillConfig) -> int:
        """Return the version of the algorithm that a *resolved* ``distill`` asks for."""
        return self.version

    def images_per_class(self, distill: DistillConfig, classes: int, channels: int, size: int) -> int:
        """Return how many images of every class the set of a *resolved* ``distill`` holds.

        Args:
            distill: Resolved.
            classes: Classes of the dataset.
            channels: Channels of its images.
            size: Their height and width, in pixels.

        Raises:
            ValueError: if there can be no such set.
        """
        return formed_per_class(distill.ipc, distill.formation.factor, size)

    def fewest_per_class(self, distill: DistillConfig) -> int | None:
        """Return the fewest images of a class that its set has; None where the stage alone can count them."""
        return distill.ipc * distill.formation.factor**2

    def known_per_class(self, distill: DistillConfig) -> int | None:
        """Return how many images of a class its set has, where settings tell; `fewest_per_class` is part of keys."""
        return self.fewest_per_class(distill)

    def draws_real_images(self, distill: DistillConfig) -> bool:
        """Return whether it needs ``ipc`` real training images of every class, or as many as they decode to."""
        return True

    def real_images(self, distill: DistillConfig) -> int:
        """Return how many training images a class must have; 0 where the set has none of them."""
        return distill.ipc * distill.formation.factor**2 if self.draws_real_images(distill) else 0

    def experts(self, distill: DistillConfig) -> int:
        """Return how many experts it needs, where it ``takes_experts``."""
        return distill.mtt.experts.count

    def soft_labels(self, distill: DistillConfig) -> bool:
        """Return whether the labels of its set are probabilities."""
        return False

    def rate(self, distill: DistillConfig) -> float | None:
        """Return the rate of training that came with the set, None where none did."""
        return None

    def augment(self, distill: DistillConfig) -> str | None:
        """Return what trains on the set where ``train.augment`` is left out; None for the preset's."""
        return None

    def clip_now(self, distill: DistillConfig) -> float | None:
        """Return the value of `clip`; None where nothing is clipped."""
        return distill.clip

    def fill(self, section: dict[str, Any]) -> None:
        """Make explicit in its section what follows from other settings there, once presets are filled in."""

    def fill_distill(self, distill: dict[str, Any]) -> None:
        """Make explicit in ``distill`` what follows from other settings there: `fill` of its section."""
        if self.section:
            self.fill(distill[self.section])

    def section_problems(self, distill: DistillConfig) -> list[str]:
        """Return what is wrong within ``distill``, each as a sentence that begins with a name in it."""
        return []

    def problems(self, trial: TrialConfig, published: Mapping[str, Any]) -> list[str]:
        """Return what is wrong between its settings and the others of a trial, each as a sentence that names the keys.

        Args:
            trial: Not resolved.
            published: The preset's values, dotted name → value.
        """
        return []

    def cost_values(self, distill: DistillConfig) -> dict[str, Any]:
        """Return the settings of its section that change what an iteration costs: no rates, but counts."""
        values = self.own(distill).model_dump(exclude={*self.unused, *self.costless})
        counts = {self.section: {name: value for name, value in values.items() if isinstance(value, int)}}
        return counts | formation_values(distill)

    def image_values(self, distill: DistillConfig) -> dict[str, Any]:
        """Return what, beside ``ipc``, decides how many images its set has."""
        return formation_values(distill)

    def what_to_halve(self, distill: DistillConfig) -> list[str]:
        """Return settings that shrink its peak of memory, the one that counts most first: ``name (now → then)``."""
        return []

    def notes(self, distill: DistillConfig) -> list[str]:
        """Return sentences that a plan says of a *resolved* ``distill`` in which nothing is wrong."""
        return []

    def quiet(self, distill: DistillConfig, rate: float) -> DistillConfig:
        """Return ``distill`` with tiny learning rates, so that nothing diverges while an iteration is timed."""
        return distill
