"""Metrics against brute force in Python and closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lite.jagged import JaggedTensor
from genrec_lite.metrics import (
    auc,
    full_corpus_ranks,
    hit_rate_at_k,
    mean_reciprocal_rank,
    ndcg_at_k,
    normalized_entropy,
    popularity_thirds,
    recall_at_k,
    target_ranks,
)


def rank_by_sorting(scores: list[float], target: int, seen: set[int]) -> int:
    corpus = [i for i in range(len(scores)) if i not in seen or i == target]
    return sorted(corpus, key=lambda i: (-scores[i], i)).index(target) + 1


@st.composite
def rankings(draw):
    num_items = draw(st.integers(1, 8))
    # Few distinct values, so that ties are the rule.
    row = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=num_items, max_size=num_items)
    rows = draw(st.lists(row, min_size=1, max_size=5))
    item = st.integers(0, num_items - 1)
    targets = draw(st.lists(item, min_size=len(rows), max_size=len(rows)))
    seen = draw(st.lists(st.lists(item, max_size=9), min_size=len(rows), max_size=len(rows)))
    return rows, targets, seen


@given(rankings())
def test_ranks_equal_a_stable_sort_with_ties_and_excluded_items(case):
    rows, targets, seen = case
    expected = [rank_by_sorting(s, t, set(x)) for s, t, x in zip(rows, targets, seen, strict=True)]
    exclude = JaggedTensor.from_lists(seen, dtype=torch.int64)
    assert target_ranks(torch.tensor(rows), torch.tensor(targets), exclude).tolist() == expected


@given(rankings(), st.integers(1, 4))
def test_chunks_change_no_rank(case, chunk_size):
    rows, targets, seen = case
    scores, exclude = torch.tensor(rows), JaggedTensor.from_lists(seen, dtype=torch.int64)
    whole = target_ranks(scores, torch.tensor(targets), exclude)
    chunked = full_corpus_ranks(
        lambda rows: scores[rows], torch.tensor(targets), exclude, chunk_size=chunk_size
    )
    assert chunked.tolist() == whole.tolist()


def test_no_query_gives_no_rank():
    assert full_corpus_ranks(lambda rows: torch.zeros(0, 3), torch.zeros(0).long()).shape == (0,)


def test_a_nan_score_is_named_instead_of_ranked_first():
    with pytest.raises(ValueError, match="query 1, item 2 is NaN"):
        target_ranks(torch.tensor([[1.0, 2, 3], [1, 2, math.nan]]), torch.tensor([0, 2]))


def test_a_target_outside_the_corpus_is_named():
    with pytest.raises(ValueError, match="target 3 of query 1 is outside the 3 items"):
        target_ranks(torch.zeros(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize("item", [-1, 3])
def test_an_excluded_item_outside_the_corpus_is_named(item):
    exclude = JaggedTensor.from_lists([[0], [1, item]])
    with pytest.raises(ValueError, match=f"item {item}, to be excluded for query 1, is outside"):
        target_ranks(torch.zeros(2, 3), torch.tensor([0, 2]), exclude)


def test_rows_to_exclude_are_one_a_query_and_a_chunk_holds_at_least_one():
    exclude, targets = JaggedTensor.from_lists([[0], [1], [2]]), torch.tensor([0, 2])
    with pytest.raises(ValueError, match="3 rows to exclude for 2 queries"):
        full_corpus_ranks(lambda rows: torch.zeros(2, 3)[rows], targets, exclude)
    with pytest.raises(ValueError, match="chunk_size is -1"):
        full_corpus_ranks(lambda rows: torch.zeros(2, 3)[rows], targets, chunk_size=-1)


def test_infinite_scores_of_other_items_do_not_confuse_the_rank():
    scores = torch.tensor([[math.inf, -math.inf, 0.0]])
    assert target_ranks(scores, torch.tensor([2])).tolist() == [2]


def test_hand_counted_metrics():
    ranks = torch.tensor([1, 3, 11])
    assert hit_rate_at_k(ranks, 10).item() == pytest.approx(2 / 3)
    assert ndcg_at_k(ranks, 10).item() == pytest.approx((1 + 0.5) / 3)
    assert hit_rate_at_k(ranks, 3).item() == pytest.approx(2 / 3)  # a rank of exactly k is a hit
    assert ndcg_at_k(ranks, 3).item() == pytest.approx((1 + 0.5) / 3)
    assert mean_reciprocal_rank(ranks).item() == pytest.approx((1 + 1 / 3 + 1 / 11) / 3)


def test_random_scores_hit_as_often_as_chance():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(4000, 100, generator=generator)
    ranks = target_ranks(scores, torch.randint(100, (4000,), generator=generator))
    assert hit_rate_at_k(ranks, 10).item() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 4000))


@pytest.mark.parametrize("metric", [lambda r: hit_rate_at_k(r, 10), lambda r: ndcg_at_k(r, 10)])
def test_metrics_refuse_no_rank_and_rank_zero(metric):
    with pytest.raises(ValueError, match="no ranks"):
        metric(torch.zeros(0).long())
    with pytest.raises(ValueError, match="rank 0"):
        metric(torch.tensor([0, 1]))


def test_recall_counts_the_share_of_the_exact_top_k():
    exact = torch.tensor([[1, 2], [3, 4]])
    assert recall_at_k(torch.tensor([[2, 9, 1], [4, 8, 7]]), exact).item() == 0.75
    with pytest.raises(ValueError, match="expected"):
        recall_at_k(torch.zeros(1, 2), torch.zeros(2, 2))


def test_normalized_entropy_of_the_prior_is_one_and_of_the_truth_is_zero():
    labels = torch.tensor([1, 0, 0, 0])
    assert normalized_entropy(torch.full((4,), 0.25), labels).item() == pytest.approx(1)
    assert normalized_entropy(labels.float(), labels).item() < 1e-6
    with pytest.raises(ValueError, match="both kinds"):
        normalized_entropy(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("wrong", [3.0, -0.1, math.nan])
def test_a_probability_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=f"probability 1 is {wrong:g}"):
        normalized_entropy(torch.tensor([0.5, wrong]), torch.tensor([0, 1]))


@pytest.mark.parametrize("metric", [normalized_entropy, auc])
def test_predictions_and_labels_have_one_shape_and_labels_two_values(metric):
    with pytest.raises(ValueError, match=r"predictions \(2, 1\) and labels \(2,\)"):
        metric(torch.full((2, 1), 0.5), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="label 1 is 2: expected 0 or 1"):
        metric(torch.full((3,), 0.5), torch.tensor([0, 2, 1]))


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=12))
def test_auc_is_the_share_of_pairs_in_order(pairs):
    scores = torch.tensor([float(s) for s, _ in pairs])
    labels = torch.tensor([y for _, y in pairs])
    up = [s for s, y in pairs if y]
    down = [s for s, y in pairs if not y]
    if not up or not down:
        with pytest.raises(ValueError, match="both are needed"):
            auc(scores, labels)
        return
    won = sum((u > d) + 0.5 * (u == d) for u in up for d in down)
    assert auc(scores, labels).item() == pytest.approx(won / (len(up) * len(down)))


def test_thirds_of_popularity_hold_a_third_of_the_events_each():
    # 12 events: 5 | 3, 2 | 1, 1, 0: what comes before an item decides, so 5 is the head alone
    # (0 < 4), then 5 and 8 events lie before the items of 3 and 2: torso 3, tail from 8 on.
    counts = torch.tensor([1, 5, 0, 2, 3, 1])
    assert popularity_thirds(counts).tolist() == [2, 0, 2, 2, 1, 2]
    # Equal counts: the lower index first; 9 events, 3 items a third.
    assert (
        popularity_thirds(torch.ones(9, dtype=torch.int64)).tolist() == [0] * 3 + [1] * 3 + [2] * 3
    )
    for wrong in ([], [0, 0], [3, -1]):
        with pytest.raises(ValueError, match="numbers of events"):
            popularity_thirds(torch.tensor(wrong, dtype=torch.int64))
