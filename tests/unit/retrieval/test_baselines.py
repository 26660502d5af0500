from __future__ import annotations

import math

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lite.datasets import Interactions, Sequences
from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval import baselines
from genrec_lite.retrieval.baselines import ItemKNN, Popularity


def made(rows: list[list[int]], num_items: int) -> Sequences:
    """Sequences of the given item indices; items nobody met are in the corpus, too."""
    return Sequences(
        items=JaggedTensor.from_lists(rows, dtype=torch.int64),
        timestamps=None,
        ratings=None,
        user_ids=pl.Series(range(len(rows))),
        item_ids=pl.Series(range(num_items)),
    )


def by_definition(
    rows: list[list[int]], num_items: int, history: list[int], last: int, shrinkage: float
) -> list[float]:
    """Item-kNN scores in plain Python floats (64 bits), from sets of users."""
    users = [{u for u, row in enumerate(rows) if item in row} for item in range(num_items)]
    scores = []
    for candidate in range(num_items):
        score = 0.0
        for item in history[-last:]:
            together = len(users[item] & users[candidate])
            if together:
                norm = math.sqrt(len(users[item]) * len(users[candidate]))
                score += together / (norm + shrinkage)
        scores.append(score)
    return scores


def test_popularity_counts_events_the_same_for_everyone() -> None:
    scores = (
        Popularity()
        .fit(made([[0, 2], [2], []], 4))
        .scores(JaggedTensor.from_lists([[1], []], dtype=torch.int64))
    )
    assert scores.tolist() == [[1, 0, 2, 0], [1, 0, 2, 0]]


def test_item_knn_on_three_users_equals_the_sums_done_by_hand() -> None:
    model = ItemKNN(last=2, shrinkage=1.0).fit(made([[0, 1], [0, 1, 2], [2]], 3))
    scores = model.scores(JaggedTensor.from_lists([[2, 0, 1]], dtype=torch.int64))
    # Items 0, 1, 2 have 2 users each; 0 and 1 share 2, each shares 1 with item 2.
    assert scores[0].tolist() == pytest.approx([2 / 3 + 2 / 3, 2 / 3 + 2 / 3, 1 / 3 + 1 / 3])


ROWS = st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=8)


@given(ROWS, ROWS, st.integers(1, 4), st.sampled_from([0.0, 0.5, 20.0]), st.integers(1, 9))
def test_item_knn_equals_its_definition_in_float64(
    rows: list[list[int]], histories: list[list[int]], last: int, shrinkage: float, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "BLOCK_ITEMS", block)
        model = ItemKNN(last=last, shrinkage=shrinkage).fit(made(rows, 6))
    found = model.scores(JaggedTensor.from_lists(histories, dtype=torch.int64))
    expected = [by_definition(rows, 6, history, last, shrinkage) for history in histories]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64))


def test_item_knn_of_an_empty_history_scores_nothing() -> None:
    model = ItemKNN().fit(made([[0, 1]], 2))
    assert model.scores(JaggedTensor.from_lists([[]], dtype=torch.int64)).tolist() == [[0, 0]]


def test_a_repeated_event_counts_once_for_item_knn() -> None:
    once, twice = (ItemKNN().fit(made([row, [1]], 2)) for row in ([0, 1], [0, 1, 1]))
    history = JaggedTensor.from_lists([[0]], dtype=torch.int64)
    assert torch.equal(once.scores(history), twice.scores(history))


@pytest.mark.parametrize("model", [Popularity(), ItemKNN()])
def test_scores_before_fit_say_to_fit(model: Popularity | ItemKNN) -> None:
    with pytest.raises(RuntimeError, match=r"call \.fit\(train\) first"):
        model.scores(JaggedTensor.from_lists([[0]], dtype=torch.int64))


@pytest.mark.parametrize("options", [{"last": 0}, {"shrinkage": -1.0}])
def test_options_outside_their_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        ItemKNN(**options)  # type: ignore[arg-type]


def test_both_rank_on_a_log_read_from_a_table() -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 2, 2, 3], "item_id": [7, 9, 7, 9, 8]})
    train = Interactions.from_frame(frame, name="made").sequences()
    history = train.items[2:]
    assert ItemKNN().fit(train).scores(train.items[:1]).argmin() == 1  # item 8 was met alone
    assert Popularity().fit(train).scores(history).tolist() == [[2, 1, 2]]
