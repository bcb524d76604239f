"""Labels that are probabilities: which are classes after all, and what each image stands for."""

import pytest
import torch

from ddcal.soft_labels import SUM_SLACK, classes_in_order, hard_labels, probability_problem, repeated, targets

SOFT = torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.5, 0.5]])


def test_one_hot_rows_are_classes_and_nothing_else_is():
    one_hot = torch.eye(3)[[2, 0, 1]]
    assert targets(one_hot).tolist() == [2, 0, 1] and targets(one_hot).dtype == torch.int64
    for other in (one_hot * 0.999, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])):
        assert targets(other) is other
    nearly = one_hot.clone()
    nearly[1] = torch.tensor([1.0 - 2.0**-24, 0.0, 0.0])
    assert targets(nearly) is nearly, "to the bit"
    classes = torch.tensor([1, 0])
    assert targets(classes) is classes


def test_the_class_of_a_label_and_the_class_that_an_image_stands_for():
    assert hard_labels(SOFT).tolist() == [0, 1, 0, 0], "the first of equals"
    assert classes_in_order(SOFT).tolist() == [0, 0, 1, 1], "two images of each class, in their order"
    shuffled = torch.eye(2)[[1, 0, 0, 1]]
    assert classes_in_order(shuffled).tolist() == [1, 0, 0, 1]
    assert classes_in_order(torch.tensor([1, 0])).tolist() == [1, 0]
    assert classes_in_order(torch.eye(2)[[1, 1, 0, 1]]).tolist() == [0, 0, 1, 1], "one-hot, not as many of each"


def test_labels_are_repeated_one_after_the_other():
    assert repeated(torch.tensor([2, 0]), 2).tolist() == [2, 0, 2, 0]
    assert torch.equal(repeated(SOFT, 3), torch.cat([SOFT, SOFT, SOFT]))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0.25, 0.75], ""),
        ([0.25, 0.75 + 5e-5], ""),
        ([0.25, 0.7502], "row 1 sums to 1.0002"),
        ([float("nan"), 1.0], "row 1 has nan for class 0"),
        ([float("inf"), 1.0], "row 1 has inf for class 0"),
        ([1.1, -0.1], "row 1 has -0.1 for class 1; probabilities must be at least 0"),
    ],
)
def test_what_is_no_row_of_probabilities_is_named(row, said):
    found = probability_problem(torch.tensor([[0.5, 0.5], row]))
    assert bool(found) == bool(said) and said in found


def test_rows_may_be_off_by_the_rounding_of_their_dtype():
    row = torch.full((1, 3), 1 / 3)
    assert probability_problem(row.half()) == probability_problem(row.bfloat16()) == ""
    assert float(row.bfloat16().double().sum()) - 1.0 > SUM_SLACK
    assert "sums to 1.00195" in probability_problem(row.bfloat16().float())
    assert "sums to 1.1" in probability_problem(torch.tensor([[0.6, 0.5]]).half())
