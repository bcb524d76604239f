import numpy as np
import pytest
import torch

import ddcal.data.preprocessing as module
from ddcal.data import DataError
from ddcal.data.preprocessing import (
    cached_whitening,
    fit_normalisation,
    fit_whitening,
    from_tensors,
    unit_images,
)
from ddcal.seeding import generator


def images(count=300, channels=2, size=4):
    uniform = torch.rand((count, channels, size, size), generator=generator(0, "test", "images"))
    return uniform * torch.tensor([0.2, 1.0])[:channels, None, None]


def test_normalised_channels_have_mean_zero_and_std_one():
    inputs = fit_normalisation(images()).transform(images())
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3), correction=0), torch.ones(2))


def test_a_constant_channel_keeps_its_scale():
    flat = torch.full((5, 1, 4, 4), 0.3)
    fit = fit_normalisation(flat)
    assert fit.std.item() == 1.0
    assert fit.transform(flat).abs().max() < 1e-6


def test_whitening_is_kornias_and_decorrelates():
    from kornia.enhance import ZCAWhitening

    kornia = ZCAWhitening(eps=0.1, compute_inv=True).fit(images())
    whitening = fit_whitening(images())
    torch.testing.assert_close(whitening.transform(images()), kornia(images()))
    covariance = torch.cov(images().flatten(1).T)
    # (C + eps)^-1/2 C (C + eps)^-1/2 has the eigenvalues s / (s + eps).
    expected = torch.linalg.eigvalsh(covariance)
    actual = torch.linalg.eigvalsh(torch.cov(whitening.transform(images()).flatten(1).T))
    torch.testing.assert_close(actual, expected / (expected + 0.1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("fit", [fit_normalisation, fit_whitening])
def test_inverse_and_tensors_give_everything_back(fit):
    preprocessing = fit(images())
    inputs = preprocessing.transform(images())
    torch.testing.assert_close(preprocessing.inverse_transform(inputs), images(), atol=1e-5, rtol=0)
    again = from_tensors(preprocessing.kind, preprocessing.to_tensors())
    assert torch.equal(again.transform(images()), inputs)
    assert preprocessing.transform(images()[:0]).shape == (0, 2, 4, 4)


def test_unknown_kinds_and_tensors_are_refused():
    with pytest.raises(DataError, match=r"'pca'.*'normalisation' or 'zca'"):
        from_tensors("pca", {})
    with pytest.raises(DataError, match=r"\['mean'\].*\['inverse', 'matrix', 'mean'\]"):
        from_tensors("zca", {"mean": torch.zeros(1)})


def test_stored_images_become_unit_images_in_the_order_asked_for():
    stored = np.arange(3 * 4 * 4 * 2, dtype=np.uint8).reshape(3, 4, 4, 2)
    unit = unit_images(stored, torch.tensor([2, 0]), None)
    assert unit.shape == (2, 2, 4, 4) and unit.dtype == torch.float32
    np.testing.assert_allclose(unit[0, 1], stored[2, :, :, 1] / 255, rtol=1e-6)
    np.testing.assert_allclose(unit_images(stored / np.float32(255), torch.tensor([2, 0]), None), unit, rtol=1e-6)


def test_resizing_keeps_constants_and_antialiases():
    constant = np.full((1, 32, 32, 1), 255, dtype=np.uint8)
    for resolution in (8, 64):
        assert torch.allclose(
            unit_images(constant, torch.tensor([0]), resolution), torch.ones(1, 1, resolution, resolution)
        )
    stripes = np.zeros((1, 32, 32, 1), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    inner = unit_images(stripes, torch.tensor([0]), 8)[..., 1:-1]
    assert (inner - 0.5).abs().max() < 0.05  # without antialiasing the stripes would be sampled, not averaged


def test_whitening_is_fitted_once_and_kept(tmp_path, monkeypatch):
    first = cached_whitening(images(), tmp_path / ".ddcal", "identity")
    (file,) = (tmp_path / ".ddcal").iterdir()
    assert file.name.startswith("zca-") and file.suffix == ".safetensors"
    cached_whitening(images(), tmp_path / ".ddcal", "another identity")
    assert len(list((tmp_path / ".ddcal").iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_whitening", None)
        again = cached_whitening(images(), tmp_path / ".ddcal", "identity")
    assert all(torch.equal(a, b) for a, b in zip(first.to_tensors().values(), again.to_tensors().values(), strict=True))
    file.write_bytes(b"damaged")
    assert torch.equal(cached_whitening(images(), tmp_path / ".ddcal", "identity").matrix, first.matrix)
    assert file.stat().st_size > 100


def test_an_unwritable_folder_keeps_nothing(tmp_path):
    (tmp_path / ".ddcal").write_text("a file where the folder would be")
    whitening = cached_whitening(images(), tmp_path / ".ddcal", "identity")
    assert torch.equal(whitening.matrix, fit_whitening(images()).matrix)


def test_whitening_of_too_little_or_too_much_is_refused():
    for refused in (images(1), torch.zeros(2, 3, 65, 65)):
        with pytest.raises(DataError, match=r"data\.zca is true for .*data\.resolution"):
            fit_whitening(refused)
