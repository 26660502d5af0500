"""Ranking metrics over the whole corpus, and probability metrics for ranking models."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor

__all__ = [
    "auc",
    "full_corpus_ranks",
    "hit_rate_at_k",
    "mean_reciprocal_rank",
    "ndcg_at_k",
    "normalized_entropy",
    "popularity_thirds",
    "recall_at_k",
    "target_ranks",
]


def target_ranks(scores: Tensor, targets: Tensor, exclude: JaggedTensor | None = None) -> Tensor:
    """The place of each query's target in the whole corpus, best first (HSTU paper, 4.1.1).

    Ties go to the lower item index, as in every `TopK` of this package, so that a rank does not
    depend on the sort. The target itself is never excluded, even if the user met it before.

    Args:
        scores: (B, N) float, score of each of the N items for each query; larger is better.
        targets: (B,) int64 in [0, N), the item to be found.
        exclude: B rows of int64 item indices to leave out of the ranking (items already seen).
    Returns:
        (B,) int64, 1-based rank.
    Raises:
        ValueError: if a score is NaN (it would win every comparison), the shapes differ, or an
            item to exclude is not among the N.
    """
    num_queries, num_items = scores.shape
    _check_targets(targets, num_queries, num_items)
    if bool(scores.isnan().any()):
        query, item = scores.isnan().nonzero()[0].tolist()
        raise ValueError(f"the score of query {query}, item {item} is NaN: no rank can be given")
    own = scores.gather(1, targets[:, None])  # (B, 1)
    ahead = scores > own  # (B, N)
    tied = scores == own
    if int(tied.sum()) > num_queries:  # rare: each target ties at least with itself
        items = torch.arange(num_items, device=scores.device)
        ahead |= tied & (items < targets[:, None])
    if exclude is not None:
        _check_exclude(exclude, num_queries)
        seen = exclude.values
        if len(seen) and (int(seen.min()) < 0 or int(seen.max()) >= num_items):
            wrong = int(((seen < 0) | (seen >= num_items)).nonzero()[0])
            raise ValueError(
                f"item {int(seen[wrong])}, to be excluded for query "
                f"{int(exclude.row_ids()[wrong])}, is outside the {num_items} items scored"
            )
        ahead[exclude.row_ids(), exclude.values] = False
    return ahead.sum(1) + 1


def full_corpus_ranks(
    score: Callable[[slice], Tensor],
    targets: Tensor,
    exclude: JaggedTensor | None = None,
    *,
    chunk_size: int = 512,
) -> Tensor:
    """The ranks of all targets, holding the scores of only `chunk_size` queries at a time.

    Args:
        score: given a slice of the queries, their (b, N) scores for all items.
        targets: (B,) int64, the item to be found by each query.
        exclude: B rows of item indices to leave out of each ranking.
        chunk_size: queries scored together, at least 1; memory grows as chunk_size * N.
    Returns:
        (B,) int64, 1-based ranks.
    Raises:
        ValueError: as `target_ranks`.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: score at least 1 query at a time")
    if exclude is not None:
        _check_exclude(exclude, len(targets))
    ranks = []
    for start in range(0, len(targets), chunk_size):
        rows = slice(start, min(start + chunk_size, len(targets)))
        seen = exclude[rows] if exclude is not None else None
        ranks.append(target_ranks(score(rows), targets[rows], seen))
    return torch.cat(ranks) if ranks else targets.new_empty(0)


def hit_rate_at_k(ranks: Tensor, k: int) -> Tensor:
    """Fraction of queries whose target is among the first `k` items (HR@k; HSTU paper, 4.1.1).

    Args:
        ranks: (B,) int64, 1-based rank of each query's target in the full corpus.
        k: cut-off, at least 1.
    Returns:
        scalar float32 in [0, 1].
    Raises:
        ValueError: if `ranks` is empty or holds a rank below 1, or k is below 1.
    """
    _check_ranks(ranks, k)
    return (ranks <= k).float().mean()


def ndcg_at_k(ranks: Tensor, k: int) -> Tensor:
    """Mean of 1 / log2(1 + rank) over the queries, 0 beyond rank `k` (NDCG@k, one target each).

    Args, Returns, Raises: as `hit_rate_at_k`.
    """
    _check_ranks(ranks, k)
    return ((ranks <= k) / torch.log2(ranks.float() + 1)).mean()


def mean_reciprocal_rank(ranks: Tensor) -> Tensor:
    """Mean of 1 / rank over the queries (MRR); Args, Returns, Raises: as `hit_rate_at_k`."""
    _check_ranks(ranks, 1)
    return ranks.float().reciprocal().mean()


def recall_at_k(found: Tensor, exact: Tensor) -> Tensor:
    """Share of the exact top-k that an approximate search has found, mean over the queries.

    Args:
        found: (B, k') int64 item indices returned by the search; k' may differ from k.
        exact: (B, k) int64 item indices of the exact top-k, k at least 1.
    Returns:
        scalar float32 in [0, 1].
    Raises:
        ValueError: if there is no query, k is 0, or the numbers of queries differ.
    """
    if found.ndim != 2 or exact.ndim != 2 or len(found) != len(exact) or exact.numel() == 0:
        raise ValueError(
            f"found {tuple(found.shape)} and exact {tuple(exact.shape)}: "
            "expected (B, k') and (B, k) with B and k at least 1"
        )
    return (exact[:, :, None] == found[:, None, :]).any(2).float().mean()


def popularity_thirds(counts: Tensor) -> Tensor:
    """Which third of all events each item belongs to: 0 head, 1 torso, 2 tail.

    The head is the fewest items that hold a third of the events together, the torso the fewest
    that add a second third, the tail all others, those without an event included.

    Args:
        counts: (N,) events of each item, at least one event in all.
    Returns:
        (N,) int64; of items with equal counts the lower index comes first.
    Raises:
        ValueError: if there is no event or a count is negative.
    """
    if counts.numel() == 0 or int(counts.min()) < 0 or int(counts.sum()) == 0:
        raise ValueError("counts: expected (N,) numbers of events, none below 0, not all 0")
    order = counts.argsort(descending=True, stable=True)
    before = counts[order].cumsum(0) - counts[order]  # events of all more popular items
    thirds = torch.empty_like(order)
    thirds[order] = (3 * before // counts.sum()).clamp(max=2).long()
    return thirds


def normalized_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the predictions over the entropy of the mean label (NE; below 1 is useful).

    Args:
        probabilities: (n,) in [0, 1]; clamped by 1e-7 from 0 and 1.
        labels: (n,) 0 or 1, not all equal.
    Returns:
        scalar float64; 1 is a model that always says the mean label.
    Raises:
        ValueError: if all labels are equal (the entropy of the prior is 0), a label or a
            probability is out of its range, or the shapes differ.
    """
    _check_labels(probabilities, labels)
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        wrong = int((~((probabilities >= 0) & (probabilities <= 1))).nonzero()[0])
        raise ValueError(
            f"probability {wrong} is {float(probabilities[wrong])}: expected 0 to 1 (a logit? "
            "give its sigmoid)"
        )
    rate = float(labels.double().mean())
    if not 0 < rate < 1:
        raise ValueError(f"the mean label is {rate}: normalised entropy needs both kinds of label")
    p = probabilities.double().clamp(1e-7, 1 - 1e-7)
    y = labels.double()
    cross_entropy = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    return cross_entropy / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    """Chance that a positive is scored above a negative, ties counting half (area under ROC).

    Args:
        scores: (n,) float, larger means more likely positive.
        labels: (n,) 0 or 1, both kinds present.
    Returns:
        scalar float64 in [0, 1].
    Raises:
        ValueError: if one kind of label is missing, a score is NaN, or the shapes differ.
    """
    _check_labels(scores, labels)
    if bool(scores.isnan().any()):
        raise ValueError(f"score {int(scores.isnan().nonzero()[0])} is NaN: no order can be given")
    positives = labels.bool()
    num_positives, num_negatives = int(positives.sum()), int((~positives).sum())
    if num_positives == 0 or num_negatives == 0:
        raise ValueError(
            f"{num_positives} positives and {num_negatives} negatives: both are needed"
        )
    _, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()  # 1-based rank of the last member of each group of ties
    mean_rank = last - (sizes.double() - 1) / 2
    rank_sum = mean_rank[group[positives]].sum()
    return (rank_sum - num_positives * (num_positives + 1) / 2) / (num_positives * num_negatives)


def _check_ranks(ranks: Tensor, k: int) -> None:
    if len(ranks) == 0:
        raise ValueError("no ranks: a mean over no query is not a number")
    if int(ranks.min()) < 1:
        raise ValueError(f"rank {int(ranks.min())} found: ranks start at 1")
    if k < 1:
        raise ValueError(f"k is {k}: at least the first item counts")


def _check_labels(predictions: Tensor, labels: Tensor) -> None:
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)}: "
            "expected (n,) both"
        )
    strange = ((labels != 0) & (labels != 1)).nonzero()
    if len(strange):
        raise ValueError(f"label {int(strange[0])} is {labels[strange[0]].item()}: expected 0 or 1")


def _check_exclude(exclude: JaggedTensor, num_queries: int) -> None:
    if len(exclude) != num_queries:
        raise ValueError(f"{len(exclude)} rows to exclude for {num_queries} queries")


def _check_targets(targets: Tensor, num_queries: int, num_items: int) -> None:
    if targets.shape != (num_queries,):
        raise ValueError(f"targets {tuple(targets.shape)} for {num_queries} rows of scores")
    if num_queries and (int(targets.min()) < 0 or int(targets.max()) >= num_items):
        wrong = int(((targets < 0) | (targets >= num_items)).nonzero()[0])
        raise ValueError(
            f"target {int(targets[wrong])} of query {wrong} is outside the {num_items} items scored"
        )
