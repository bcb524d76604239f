import math

import pytest
import torch
import torch.nn.functional as F

from ddcal.config import NetworkConfig
from ddcal.data.augment import OPERATIONS, Augmentation, augment, draw_augmentation, draw_crop_flip
from ddcal.networks import build_network
from ddcal.seeding import generator


def images(count=5, channels=3, size=8, index=0):
    return torch.rand((count, channels, size, size), generator=generator(0, "test", "images", index))


def drawn(operation, *, siamese, count=5, size=8):
    """The first draw of the operation among the generators 0, 1, 2 …"""
    for index in range(1000):
        augmentation = draw_augmentation(count, size, generator(0, "test", "augment", index), siamese=siamese)
        if augmentation.operation == operation:
            return augmentation
    raise AssertionError(f"{operation} is never drawn")


def given(operation, *rows, size=8, siamese=True):
    return Augmentation(operation, torch.tensor(rows, dtype=torch.float32), size, siamese)


def test_every_operation_is_drawn_and_flip_only_where_allowed():
    def operations(flip):
        return [
            draw_augmentation(1, 8, generator(0, "test", "ops", i), siamese=True, flip=flip).operation
            for i in range(600)
        ]

    for flip, expected in ((True, set(OPERATIONS)), (False, set(OPERATIONS) - {"flip"})):
        names = operations(flip)
        assert set(names) == expected
        assert all(abs(names.count(name) - 600 / len(expected)) < 60 for name in expected)


def test_some_of_the_operations_are_drawn_and_no_other():
    def operations(some, flip=True):
        streams = (generator(0, "test", "ops", i) for i in range(300))
        return [draw_augmentation(1, 8, s, siamese=True, flip=flip, operations=some).operation for s in streams]

    names = operations(("crop", "scale", "rotate"))
    assert set(names) == {"crop", "scale", "rotate"}
    assert all(abs(names.count(name) - 100) < 40 for name in set(names))
    assert set(operations(("flip", "rotate"), flip=False)) == {"rotate"}
    for some in ((), ("flip",)):
        with pytest.raises(ValueError, match="leave nothing to draw"):
            operations(some, flip=False)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_siamese_does_the_same_to_batches_of_any_size(operation):
    augmentation = drawn(operation, siamese=True)
    assert len(augmentation.parameters) == 1
    first, second = images(5), images(3, index=1)
    both = augment(torch.cat([first, second]), augmentation)
    torch.testing.assert_close(both, torch.cat([augment(first, augmentation), augment(second, augmentation)]))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_otherwise_every_image_has_its_own_parameters(operation):
    augmentation = drawn(operation, siamese=False, count=40)
    assert len(augmentation.parameters) == 40
    assert len(augmentation.parameters.unique(dim=0)) > 1
    batch = images(1).expand(40, -1, -1, -1)
    assert len(augment(batch, augmentation).flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_image_at_a_time_gives_what_the_batch_gives(operation):
    augmentation, batch = drawn(operation, siamese=False), images()
    singles = [
        augment(batch[i : i + 1], Augmentation(operation, augmentation.parameters[i : i + 1], 8, True))
        for i in range(5)
    ]
    torch.testing.assert_close(augment(batch, augmentation), torch.cat(singles))


@pytest.mark.parametrize(
    ("operation", "size", "low", "high", "whole"),
    [
        ("color", 32, (-0.5, 0.0, 0.5), (0.5, 2.0, 1.5), False),
        ("crop", 32, (-4, -4), (4, 4), True),
        ("crop", 8, (-1, -1), (1, 1), True),
        ("crop", 28, (-4, -4), (4, 4), True),
        ("cutout", 32, (0, 0), (32, 32), True),
        ("flip", 32, (0,), (1,), True),
        ("scale", 32, (1 / 1.2, 1 / 1.2), (1.2, 1.2), False),
        ("rotate", 32, (-math.radians(15),), (math.radians(15),), False),
    ],
)
def test_parameters_fill_their_ranges(operation, size, low, high, whole):
    parameters = drawn(operation, siamese=False, count=4000, size=size).parameters
    low, high = torch.tensor(low), torch.tensor(high)
    assert parameters.shape == (4000, len(low)) and parameters.dtype == torch.float32
    reach = torch.zeros(len(low)) if whole else (high - low) * 0.01
    assert bool((parameters.amin(0) >= low - 1e-6).all() and (parameters.amin(0) <= low + reach).all())
    assert bool((parameters.amax(0) <= high + 1e-6).all() and (parameters.amax(0) >= high - reach).all())
    assert torch.allclose(parameters.mean(0), (low + high) / 2, atol=0.05 * float((high - low).max()))


@pytest.mark.parametrize(
    ("operation", "identity"),
    [("color", (0, 1, 1)), ("crop", (0, 0)), ("flip", (0,)), ("scale", (1, 1)), ("rotate", (0,))],
)
@pytest.mark.parametrize("siamese", [True, False])
def test_identity_parameters_change_nothing(operation, identity, siamese):
    batch = images(2)
    augmented = augment(batch, given(operation, *[identity] * (1 if siamese else 2), siamese=siamese))
    torch.testing.assert_close(augmented, batch, atol=1e-5, rtol=0)


def test_color_of_known_values():
    batch = images(2)
    torch.testing.assert_close(augment(batch, given("color", (0.3, 1, 1))), batch + 0.3)
    grey = augment(batch, given("color", (0, 0, 1)))
    torch.testing.assert_close(grey, batch.mean(1, keepdim=True).expand_as(batch))
    flat = augment(batch, given("color", (0, 1, 0)))
    torch.testing.assert_close(flat, batch.mean((1, 2, 3), keepdim=True).expand_as(batch))


def test_color_goes_brightness_saturation_contrast():
    batch = images(1)
    steps = [given("color", row) for row in ((0.2, 1, 1), (0, 0.5, 1), (0, 1, 1.4))]
    one_by_one = batch
    for step in steps:
        one_by_one = augment(one_by_one, step)
    torch.testing.assert_close(augment(batch, given("color", (0.2, 0.5, 1.4))), one_by_one)


@pytest.mark.parametrize("siamese", [True, False])
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -1), (-1, 1), (0, 0)])
def test_crop_shifts_and_fills_with_zero(down, right, siamese):
    batch = images(1)
    padded = F.pad(batch, (1, 1, 1, 1))
    expected = padded[:, :, 1 - down : 9 - down, 1 - right : 9 - right]
    assert torch.equal(augment(batch, given("crop", (down, right), siamese=siamese)), expected)


def test_cutout_cuts_a_square_of_half_the_side_and_may_overlap_the_border():
    ones = torch.ones(2, 3, 8, 8)
    cut = augment(ones, given("cutout", (4, 5), (0, 8), siamese=False)) == 0
    inside, corner = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    inside[:, 2:6, 3:7] = True
    corner[:, 0:2, 6:8] = True
    assert torch.equal(cut, torch.stack([inside, corner]))


def test_flip_mirrors_left_and_right():
    batch = images(2)
    assert torch.equal(
        augment(batch, given("flip", (1,), (0,), siamese=False)), torch.stack([batch[0].flip(2), batch[1]])
    )


def test_scale_samples_positions_multiplied_by_the_factor():
    ramp = torch.linspace(-0.875, 0.875, 8).expand(1, 1, 8, 8)  # each pixel holds its own x in [-1, 1]
    torch.testing.assert_close(augment(ramp, given("scale", (1.0, 0.85))), ramp * 0.85)
    torch.testing.assert_close(augment(ramp, given("scale", (0.85, 1.0))), ramp)
    assert augment(torch.ones(1, 1, 8, 8), given("scale", (1.2, 1.2)))[0, 0, 0, 0] < 1  # what comes in is zero


def test_a_quarter_turn_is_exact():
    batch = images(2)
    turned = augment(batch, given("rotate", (math.pi / 2,)))
    assert any(torch.allclose(turned, torch.rot90(batch, k, (2, 3)), atol=1e-5) for k in (1, 3))
    assert augment(torch.ones(1, 1, 8, 8), given("rotate", (0.26,)))[0, 0, 0, 0] < 1


@pytest.mark.parametrize("siamese", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_in_double_precision(operation, siamese):
    batch = images(2, 2, 5).double().requires_grad_()
    augmentation = drawn(operation, siamese=siamese, count=2, size=5)
    assert torch.autograd.gradcheck(lambda x: augment(x, augmentation), batch)


@pytest.mark.parametrize("siamese", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_gradient_of_a_loss_gradient_reaches_the_images(operation, siamese):
    """Gradient matching: d/dimages of a function of d loss/d weights, against finite differences."""
    network = build_network(NetworkConfig(width=2, depth=1), 2, 8, 3, generator(0, "test", "net")).double()
    augmentation = drawn(operation, siamese=siamese, count=2)
    labels = torch.tensor([0, 2])

    def matched(x):
        loss = F.cross_entropy(network(augment(x, augmentation)), labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        return sum(gradient.pow(2).sum() for gradient in gradients)

    batch = images(2, 2).double().requires_grad_()
    (gradient,) = torch.autograd.grad(matched(batch), batch)
    direction = images(2, 2, index=7).double() - 0.5
    step = 1e-6
    numeric = (matched(batch + step * direction) - matched(batch - step * direction)) / (2 * step)
    assert abs(float((gradient * direction).sum()) - float(numeric.detach())) < 1e-4 * max(
        1e-3, abs(float(numeric.detach()))
    )


@pytest.mark.parametrize("siamese", [True, False])
def test_a_generator_gives_the_same_bits_and_the_images_are_left_alone(siamese):
    batch = images()
    copy = batch.clone()
    for index in range(12):
        one, two = (draw_augmentation(5, 8, generator(3, "test", "augment", index), siamese=siamese) for _ in range(2))
        assert one.operation == two.operation and torch.equal(one.parameters, two.parameters)
        assert torch.equal(augment(batch, one), augment(batch, two))
    assert torch.equal(batch, copy)


def test_images_that_do_not_fit_the_draw_are_refused():
    augmentation = draw_augmentation(5, 8, generator(0, "test", "augment"), siamese=False)
    with pytest.raises(ValueError, match=r"4 images.*drawn for 5"):
        augment(images(4), augmentation)
    with pytest.raises(ValueError, match=r"\(5, 3, 9, 9\).*\(N, C, 8, 8\)"):
        augment(images(size=9), augmentation)
    with pytest.raises(ValueError, match=r"'blur'.*color"):
        augment(images(), given("blur", (0,)))
    with pytest.raises(ValueError, match="count is 0"):
        draw_augmentation(0, 8, generator(0, "test", "augment"), siamese=False)


@pytest.mark.parametrize(("size", "pad"), [(32, 4), (28, 4), (8, 1)])
def test_crop_flip_is_a_crop_of_the_padded_image_then_a_flip(size, pad):
    """Written out for every image: pad, cut at the drawn place, mirror."""
    batch = images(60, size=size)
    drawn = draw_crop_flip(60, size, generator(0, "test", "crop-flip"))
    assert [one.operation for one in drawn] == ["crop", "flip"]
    (shifts, mirrored), found = (one.parameters.long() for one in drawn), batch
    for one in drawn:
        found = augment(found, one)
    padded = F.pad(batch, (pad,) * 4)
    for index, ((down, right), (mirror,)) in enumerate(zip(shifts.tolist(), mirrored.tolist(), strict=True)):
        top, left = pad - down, pad - right
        expected = padded[index, :, top : top + size, left : left + size]
        assert torch.equal(found[index], expected.flip(2) if mirror else expected)
    assert shifts.min() == -pad and shifts.max() == pad and 15 < int(mirrored.sum()) < 45


def test_crop_flip_of_digits_has_no_flip_and_the_same_crops():
    plain, with_flip = (draw_crop_flip(9, 8, generator(0, "test", "crop-flip"), flip=flip) for flip in (False, True))
    assert len(plain) == 1 and plain[0].operation == "crop"
    assert torch.equal(plain[0].parameters, with_flip[0].parameters)
    with pytest.raises(ValueError, match="count is 0"):
        draw_crop_flip(0, 8, generator(0, "test", "crop-flip"))
