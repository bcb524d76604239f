import pytest
import torch

from ddcal.distill import matching_distance

WEIGHT = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
BIAS = torch.tensor([1.0, -1.0])


@pytest.mark.parametrize(
    ("other", "distance"),
    [
        (WEIGHT, 0.0),
        (5.0 * WEIGHT, 0.0),  # only directions count
        (-WEIGHT, 4.0),  # 2 a row
        (torch.tensor([[-4.0, 3.0], [0.0, 2.0]]), 2.0),  # orthogonal: 1 a row
        (torch.tensor([[4.0, 3.0], [1.0, 1.0]]), (1 - 24 / 25) + (1 - 0.5**0.5)),
        (torch.zeros(2, 2), 2.0),  # a zero row has no direction
    ],
)
def test_distance_is_one_minus_cosine_a_row(other, distance):
    assert float(matching_distance([WEIGHT], [other])) == pytest.approx(distance, abs=1e-5)


def test_one_dimensional_gradients_count_zero():
    with_bias = matching_distance([WEIGHT, BIAS], [WEIGHT, -BIAS])
    assert float(with_bias) == pytest.approx(0.0, abs=1e-5)


def test_a_convolution_has_a_row_an_output_channel_and_layers_are_summed():
    kernel = torch.arange(1.0, 17.0).view(2, 2, 2, 2)
    flipped = kernel * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    assert float(matching_distance([kernel], [flipped])) == pytest.approx(2.0, abs=1e-5)
    assert float(matching_distance([kernel, WEIGHT], [flipped, -WEIGHT])) == pytest.approx(6.0, abs=1e-5)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError):
        matching_distance([WEIGHT, BIAS], [WEIGHT])
