"""The running top k against a sort of everything, ties and gaps included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lite.retrieval.top_k import NO_ID, RunningTopK, TopK, mask_excluded, require_k

NONE = float("-inf")


def sorted_by_hand(scores: list[float], ids: list[int], k: int) -> list[tuple[float, int]]:
    pairs = sorted(
        ((s, i) for s, i in zip(scores, ids, strict=True) if s > NONE), key=lambda p: (-p[0], p[1])
    )
    return (pairs + [(NONE, NO_ID)] * k)[:k]


def pairs_of(best: RunningTopK, row: int) -> list[tuple[float, int]]:
    return list(zip(best.scores[row].tolist(), best.ids[row].tolist(), strict=True))


@given(st.data())
def test_any_cut_into_blocks_gives_the_sorted_whole(data):
    rows, n = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 300))
    k = data.draw(st.integers(1, 40))
    levels = data.draw(st.sampled_from([2, 7, 100_000]))  # few levels: ties everywhere
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    scores = torch.randint(levels, (rows, n), generator=generator) / 7
    scores[torch.rand(rows, n, generator=generator) < data.draw(st.sampled_from([0, 0.5]))] = NONE
    ids = torch.randperm(2 * n, generator=generator)[:n]
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    best = RunningTopK(rows, k)
    own_ids = data.draw(st.booleans())
    for start, end in zip([0, *cuts], [*cuts, n], strict=True):
        block = ids[start:end]
        best.add(scores[:, start:end], block.expand(rows, -1) if own_ids else block)
    for row in range(rows):
        assert pairs_of(best, row) == sorted_by_hand(scores[row].tolist(), ids.tolist(), k)


def test_the_order_of_blocks_makes_no_difference_when_all_scores_are_equal():
    ids = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    best = RunningTopK(3, 10)
    for block in ids.split(997):
        best.add(torch.ones(3, len(block)), block)
    assert best.ids.tolist() == [list(range(10))] * 3


def test_rows_that_reach_their_threshold_and_rows_that_do_not_are_kept_apart():
    best = RunningTopK(3, 2)
    best.add(torch.tensor([[5.0, 4, 1], [0, 0, 0], [NONE, 3, NONE]]), torch.tensor([7, 8, 9]))
    best.add(torch.tensor([[3.0, 4.0], [1, NONE], [3, 2]]), torch.tensor([1, 2]))
    assert best.ids.tolist() == [[7, 2], [1, 7], [1, 8]]
    assert best.scores.tolist() == [[5, 4], [1, 0], [3, 3]]


@pytest.mark.parametrize("first", [True, False], ids=["first block", "later block"])
@pytest.mark.parametrize("column", [0, 63, 98])
def test_a_score_that_is_nan_names_query_and_item_and_nothing_is_taken_in(first, column):
    best = RunningTopK(2, 3)
    if not first:
        best.add(torch.full((2, 50), 9.0), torch.arange(1000, 1050))
    before = best.scores.clone(), best.ids.clone()
    scores = torch.rand(2, 99)
    scores[1, column] = float("nan")
    with pytest.raises(ValueError, match=f"query 1 and item {column + 200} is NaN"):
        best.add(scores, torch.arange(200, 299))
    assert torch.equal(best.scores, before[0]) and torch.equal(best.ids, before[1])


def test_too_few_items_are_named_with_their_number():
    ids = torch.tensor([[4, 2, 0], [4, NO_ID, NO_ID]])
    found = TopK(torch.zeros(2, 3), ids, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="k is 3, but only 1 items .* query 1"):
        require_k(found, 3)
    narrow = TopK(torch.zeros(1, 2), ids[:1, :2], torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="k is 3, but only 2 items"):
        require_k(narrow, 3)
    assert require_k(narrow, 2) is narrow


def test_masking_passes_over_columns_that_are_no_item():
    scores = torch.zeros(2, 3)
    mask_excluded(scores, torch.tensor([0, 1, 1]), torch.tensor([2, -1, 0]))
    assert scores.tolist() == [[0, 0, NONE], [NONE, 0, 0]]
