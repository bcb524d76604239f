"""What the bytes of stages are made of, from shapes alone: bounds that are never less than what a stage writes.

Tensors are counted exactly. What is text (JSON, the reliability diagram, headers) is bounded from above; the bounds
were measured on digits and CIFAR-10 and are checked by a test against a finished study.
"""

from __future__ import annotations

from ddcal.config import NetworkConfig, TrialConfig
from ddcal.config.networks import NetworkOverride
from ddcal.config.trial import held_out_per_class
from ddcal.data.shapes import DatasetShape
from ddcal.errors import BadInput
from ddcal.networks import network_on_meta
from ddcal.pipeline.stages.masked import KEPT_BYTES, MASKED_RATIOS

TENSOR_HEADER_BYTES = 130
"""One tensor in the header of a safetensors file: its name, type, shape and place."""

MANIFEST_BYTES = 8192
"""manifest.json without what grows: the resolved config, the sums of the files, a curve of four points."""

POINT_BYTES = 640
"""One fidelity point in a manifest."""

DESCRIPTION_BYTES = 2048
"""synthetic.json without class names."""

FIT_BYTES = 320
"""One network's temperature fit as JSON, without mask draws; and twenty-odd bytes a mask draw."""

CALIBRATOR_BYTES = 1024
"""The JSON of one saved calibrator, and the header of its tensors."""

RATIO_BYTES = 1024
"""How the ratio of ``mts_distilled`` was chosen, as JSON."""

BIN_BYTES = 120
"""One bin of one reliability diagram as JSON: its count, confidence and accuracy, indented."""

METRICS_BYTES = 10_240
"""The metrics and temperatures of an evaluation as JSON."""

SHIFT_BYTES = 8_192
"""The metrics of one corruption at its strengths, or of other data, of up to five calibrations as JSON."""

DIAGRAM_BYTES = 90_000
"""reliability.png with up to five calibrations."""

EPOCH_BYTES = 60
"""One epoch of an expert as JSON: its loss and its rounding error."""

MEMBER_BYTES = 240
"""One expert in the list of them, as JSON: its key and the sum of its trajectory."""

SMALL_PREPROCESSING = 4096
"""Preprocessing tensors of at most so many numbers are kept in a distilled set."""


def parameter_bytes(network: NetworkConfig, shape: DatasetShape) -> tuple[int, int]:
    """Return (bytes, number of tensors) of one network's weights.

    Raises:
        BadInput: if the network cannot take images of that size.
    """
    try:
        tensors = network_on_meta(network, shape.channels, shape.size, shape.classes).state_dict().values()
    except ValueError as error:
        raise BadInput(str(error)) from error
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors), len(tensors)


def train_images(config: TrialConfig, shape: DatasetShape) -> tuple[int, int]:
    """Return how many images networks are trained on, and how many are held out of that."""
    if not config.distill.spec.distills:
        return shape.train, 0
    count = config.distill.spec.images_per_class(config.distill, shape.classes, shape.channels, shape.size)
    held = held_out_per_class(count, config.train.holdout) * shape.classes
    return count * shape.classes - held, held


def label_bytes(config: TrialConfig, shape: DatasetShape) -> int:
    """Return the size of the label of one image that networks are trained on: a class, or probabilities."""
    return 4 * shape.classes if config.soft_labels else 8


def masked_bytes(config: TrialConfig, shape: DatasetShape) -> int:
    """Return the size of the logits of masked images that a calibration leaves: entries of their own."""
    settings = config.calibrate
    if not settings.spec.masks or (settings.mask.ratio == 0.0 and not settings.spec.finds_ratio):
        return 0
    images = shape.val if not config.distill.spec.distills else train_images(config, shape)[0]
    logits = 4 * config.train.networks * settings.draws * images * shape.classes
    if logits > KEPT_BYTES:  # not kept, unless classes of unequal size leave few enough of the images
        logits = KEPT_BYTES if not config.distill.spec.distills else 0
    entry = logits + label_bytes(config, shape) * images + 2 * TENSOR_HEADER_BYTES + MANIFEST_BYTES if logits else 0
    return entry * (MASKED_RATIOS if settings.spec.finds_ratio else 1)


def calibrator_bytes(config: TrialConfig, shape: DatasetShape) -> int:
    """Return the size of one network's calibrator, where it is more than a temperature."""
    spec = config.calibrate.spec
    return 8 * spec.numbers(shape.classes, _fitted_images(config, shape)) + CALIBRATOR_BYTES if spec.calibrator else 0


def _fitted_images(config: TrialConfig, shape: DatasetShape) -> int:
    """Return the most images that a calibrator is fitted on; an image counts once a mask."""
    spec = config.calibrate.spec
    if spec.real_labels:
        return shape.val
    trained, held = train_images(config, shape)
    if spec.masks:
        return config.calibrate.draws * (trained if config.distill.spec.distills else shape.val)
    return held if spec.sees == "held" else trained


def trajectory_bytes(config: TrialConfig, shape: DatasetShape) -> int:
    """Return the size of one expert's weights before its first epoch and after each."""
    weights, _ = parameter_bytes(config.distill.network.over(NetworkConfig()), shape)  # float32, and no buffers
    share = 1 if config.distill.mtt.experts.precision == "float32" else 2
    return (config.distill.mtt.kept_epochs + 1) * (weights // share)


def momentum_bytes(network: NetworkOverride, shape: DatasetShape) -> int:
    """Return the size of an unfinished network in a checkpoint: its weights, their momentum and their headers."""
    weights, parts = parameter_bytes(network.over(NetworkConfig()), shape)
    return 2 * weights + 2 * parts * 512


def whitening_bytes(config: TrialConfig, shape: DatasetShape) -> int:
    """Return the size of the ZCA matrices that are kept beside the data; 0 without ZCA."""
    features = shape.channels * shape.size**2
    return 4 * (2 * features**2 + features) + 4 * TENSOR_HEADER_BYTES if config.data.zca else 0
