"""Random real images of every class: the reference row of every table; and all of them, which are not distilled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddcal.config.backbones.base import REFERENCE_OF_DC, Backbone

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig


class Real(Backbone):
    """``real``: ``ipc`` random training images of every class."""

    name = "real"
    distiller = "ddcal.distill.real:RandomRealSubset"
    no_formation = "its images are real ones"
    section = ""
    learns = False
    presets = {  # noqa: RUF012 - never changed
        "published": {
            "source": "random real images, evaluated as DC's (Zhao, Mopuri, Bilen, ICLR 2021)",
            "any": {"all": {"distill.iterations": 1, "train.epochs": 300, "train.augment": "none"}},
        },
        "reference": REFERENCE_OF_DC,
    }


class Full(Backbone):
    """``full``: all training images, which nothing is distilled from."""

    name = "full"
    no_formation = "its images are real ones"
    section = ""
    distills = False
    learns = False
    presets = {  # noqa: RUF012 - never changed
        # Measured (training.md, Networks on full data) at 8 epochs of 12,000 images; 50 epochs of all are not.
        "published": {
            "source": "ddcal's own, for full-data networks",
            "any": {
                "all": {
                    "distill.iterations": 1,
                    "train.epochs": 50,
                    "train.lr": 0.03,
                    "train.schedule": "cosine",
                    "train.batch_size": 128,
                    "train.augment": "crop_flip",
                }
            },
        },
    }

    def draws_real_images(self, distill: DistillConfig) -> bool:
        """Return False: ``ipc`` means nothing."""
        return False


SPECS = (Real(), Full())
