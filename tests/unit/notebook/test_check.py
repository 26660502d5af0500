"""Exercise checks: right, plausibly wrong, unfinished and broken answers."""

import pytest
import torch

from genrec_lite import JaggedTensor
from genrec_lite.notebook.check import Case, exercise, interactions, sequential_baseline


def test_row_lengths_accepts_the_difference_of_offsets(capsys):
    assert interactions.row_lengths(lambda offsets: offsets[1:] - offsets[:-1]) is True
    assert capsys.readouterr().out == "✓ row lengths: right\n"


def test_row_lengths_rejects_offsets_without_the_first(capsys):
    assert interactions.row_lengths(lambda offsets: offsets[1:]) is False
    said = capsys.readouterr().out
    assert "gave [3, 10, 10, 11]; expected [3, 7, 0, 1]" in said
    assert said.startswith("✗ row_lengths(tensor([0, 3, 10, 10, 11]))")


def test_causal_mask_accepts_the_lower_triangle():
    assert sequential_baseline.causal_mask(lambda n: torch.ones(n, n).tril().bool())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda n: torch.ones(n, n).triu().bool(),
        lambda n: torch.ones(n, n).tril(-1).bool(),
        lambda n: torch.ones(n, n).bool(),
    ],
    ids=["transposed", "without itself", "sees the future"],
)
def test_causal_mask_rejects_plausible_slips(wrong):
    assert sequential_baseline.causal_mask(wrong) is False


@pytest.mark.parametrize("answer", [None, ..., lambda offsets: None, lambda offsets: ...])
def test_an_unfinished_answer_is_told_so(answer, capsys):
    assert interactions.row_lengths(answer) is False
    assert "not done yet" in capsys.readouterr().out


def test_an_answer_that_raises_is_reported_and_not_passed_on(capsys):
    assert interactions.row_lengths(lambda offsets: offsets[99]) is False
    said = capsys.readouterr().out
    assert "raised IndexError" in said and "expected [3, 7, 0, 1]" in said


def test_an_answer_of_the_wrong_kind_is_reported():
    assert interactions.row_lengths(42) is False


@pytest.mark.parametrize(
    ("got", "expected", "right"),
    [
        (0.33334, 1 / 3, True),
        (0.334, 1 / 3, False),
        (float("nan"), 1.0, False),
        (torch.tensor(2.0), 2, True),
        (torch.tensor([[1, 2]]), [1, 2], False),
        ((1, 2), [1, 2], True),
        ([1, 2], {"a": 1}, False),
        ({"a": 1.0}, {"a": 1}, True),
        ({"b": 1.0}, {"a": 1}, False),
        ("item-kNN", "item-kNN", True),
        ("popularity", "item-kNN", False),
        (JaggedTensor.from_lists([[1], [], [2, 3]]), [[1], [], [2, 3]], True),
        (JaggedTensor.from_lists([[1], [2, 3]]), [[1], [], [2, 3]], False),
    ],
)
def test_results_are_compared_by_value_and_shape(got, expected, right, capsys):
    @exercise
    def compare(answer):
        yield Case("compare()", lambda: answer, expected)

    assert compare(got) is right
