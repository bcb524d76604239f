"""Corruptions: plain loops and an independent filter, and what must hold of any of them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ddcal.config import DataConfig
from ddcal.config.trial import ShiftConfig
from ddcal.data import load_dataset
from ddcal.data.corruptions import PARAMETERS, STRENGTHS, corrupted

KINDS = [(name, strength) for name in PARAMETERS for strength in STRENGTHS]


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, channels, side):
    """Random pictures whose spectrum falls as that of natural ones does, in [0, 1]."""
    waves = torch.randn(count, channels, side, side, generator=drawn(1), dtype=torch.float64)
    y, x = torch.meshgrid(torch.fft.fftfreq(side), torch.fft.fftfreq(side), indexing="ij")
    falling = 1.0 / (y.square() + x.square()).sqrt().clamp(min=1.0 / side)
    images = torch.fft.ifft2(torch.fft.fft2(waves) * falling).real
    return (0.5 + 0.25 * images / images.std((2, 3), keepdim=True)).clamp(0.0, 1.0).float()


def test_a_config_can_ask_for_each():
    every = list(PARAMETERS)
    assert ShiftConfig(corruptions=every).corruptions == every and {len(p) for p in PARAMETERS.values()} == {5}


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_strengths_go_further_and_pixels_stay_pixels(side):
    images = pictures(20, 3, side)
    for name in PARAMETERS:
        distances = []
        for strength in STRENGTHS:
            changed = corrupted(images, name, strength, drawn())
            assert changed.shape == images.shape and changed.dtype == torch.float32
            assert changed.min() >= 0.0 and changed.max() <= 1.0
            distances.append(float((changed - images).square().mean()))
        assert distances[0] > 0.0 and distances == sorted(set(distances)), (name, distances)


def test_strengths_go_further_on_real_pictures():
    dataset = load_dataset(DataConfig())
    images = dataset.inverse_transform(dataset.test.images)
    for name in PARAMETERS:
        at = [float((corrupted(images, name, s, drawn()) - images).square().mean()) for s in STRENGTHS]
        assert at == sorted(set(at)), (name, at)


@pytest.mark.parametrize(("name", "strength"), KINDS)
def test_neither_batches_nor_threads_change_a_bit(name, strength, threads_as_before):
    images = pictures(37, 3, 32)
    whole = corrupted(images, name, strength, drawn())
    stream = drawn()
    parts = [corrupted(part, name, strength, stream) for part in images.split([1, 5, 31])]
    assert torch.equal(torch.cat(parts), whole)
    torch.set_num_threads(2)
    assert torch.equal(corrupted(images, name, strength, drawn()), whole)


@pytest.fixture
def threads_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_noise_is_what_it_says():
    grey = torch.full((50, 3, 32, 32), 0.5)
    for strength, deviation in zip(STRENGTHS, PARAMETERS["noise"], strict=True):
        noise = (corrupted(grey, "noise", strength, drawn()) - 0.5).double()
        assert float(noise.mean()) == pytest.approx(0.0, abs=5 * deviation / noise.numel() ** 0.5)
        assert float(noise.std()) == pytest.approx(deviation, rel=0.02)
    first, other = corrupted(grey, "noise", 3, drawn()), corrupted(grey, "noise", 3, drawn(1))
    assert not torch.equal(first, other) and not torch.equal(first[0], first[1])
    assert torch.equal(first, corrupted(grey, "noise", 3, drawn()))


@pytest.mark.parametrize(("side", "scale"), [(8, 1.0), (32, 1.0), (64, 2.0)])
def test_blur_is_scipys(side, scale):
    images = torch.rand(3, 2, side, side, generator=drawn())
    for strength, deviation in zip(STRENGTHS, PARAMETERS["blur"], strict=True):
        expected = gaussian_filter(
            images.double().numpy(), (0, 0, scale * deviation, scale * deviation), mode="nearest", truncate=4.0
        )
        np.testing.assert_allclose(corrupted(images, "blur", strength, drawn()), expected, atol=1e-6)


def test_contrast_in_plain_loops():
    images = torch.rand(2, 3, 9, 9, generator=drawn())
    for strength, share in zip(STRENGTHS, PARAMETERS["contrast"], strict=True):
        changed = corrupted(images, "contrast", strength, drawn())
        for image, out in zip(images.tolist(), changed.tolist(), strict=True):
            for channel, shown in zip(image, out, strict=True):
                values = [value for row in channel for value in row]
                mean = sum(values) / len(values)
                assert [v for row in shown for v in row] == pytest.approx([mean + share * (v - mean) for v in values])


@pytest.mark.parametrize("side", [8, 13])
def test_pixelate_in_plain_loops(side):
    """On a grid so fine that it divides pixels and blocks, a mean is over whole points."""
    images = torch.rand(1, 1, side, side, generator=drawn())
    for strength, share in zip(STRENGTHS, PARAMETERS["pixelate"], strict=True):
        blocks = round(share * side)

        def resized(line, count):
            fine = [line[point // count] for point in range(len(line) * count)]
            return [sum(fine[len(line) * part : len(line) * (part + 1)]) / len(line) for part in range(count)]

        def there_and_back(lines, blocks=blocks):
            return [resized(resized(line, blocks), side) for line in lines]

        turned = zip(*there_and_back(images[0, 0].tolist()), strict=True)
        expected = list(zip(*there_and_back(list(turned)), strict=True))
        np.testing.assert_allclose(corrupted(images, "pixelate", strength, drawn())[0, 0], expected, atol=1e-6)


def test_plain_pictures_stay_as_they_are():
    for value in (0.0, 0.25, 1.0):
        plain = torch.full((2, 3, 16, 16), value)
        for name in ("blur", "contrast", "pixelate"):
            torch.testing.assert_close(corrupted(plain, name, 5, drawn()), plain, atol=1e-6, rtol=0.0)


def test_what_there_is_not_is_refused():
    images = pictures(1, 1, 8)
    with pytest.raises(ValueError, match="corruption is 'fog'; it must be one of noise, blur, contrast, pixelate"):
        corrupted(images, "fog", 1, drawn())
    with pytest.raises(ValueError, match="strength is 0; it must be 1 to 5"):
        corrupted(images, "noise", 0, drawn())
