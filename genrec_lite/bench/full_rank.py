"""Evaluation over the whole corpus: ours beside the textbook's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.bench.textbook import TextbookSASRec, movielens_1m_like
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.datasets import Queries, Sequences, leave_last_out
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct

__all__ = ["BENCHMARK", "compare"]

# Of all ranks: two ways of computing a score round differently, and neighbours may change places.
EQUAL_AT_LEAST = 0.999


def by_counting(scores: Tensor, seen: JaggedTensor, targets: Tensor) -> Tensor:
    """(B,) ranks by (B, N) scores: a mask of the seen items, then the larger scores counted."""
    num_queries, num_items = scores.shape
    own = scores.gather(1, targets[:, None])  # (B, 1)
    mask = torch.zeros(num_queries, num_items + 1, dtype=torch.bool)  # one column for the padding
    mask.scatter_(1, seen.to_padded(fill=num_items), True)
    return (scores.masked_fill(mask[:, :-1], float("-inf")) > own).sum(1) + 1


def by_sorting(scores: Tensor, seen: JaggedTensor, targets: Tensor) -> Tensor:
    """(B,) ranks by (B, N) scores: seen items masked user by user, then all items sorted."""
    for row, items in enumerate(seen):
        scores[row, items] = float("-inf")
    order = scores.argsort(dim=1, descending=True)
    return (order == targets[:, None]).nonzero()[:, 1] + 1


@torch.no_grad()
def textbook_ranks(
    model: TextbookSASRec,
    temperature: float,
    queries: Queries,
    rank: Callable[[Tensor, JaggedTensor, Tensor], Tensor],
    *,
    batch_size: int = 128,
) -> Tensor:
    """(Q,) ranks as commonly computed: every place of a padded history by every block."""
    found = []
    for start in range(0, len(queries), batch_size):
        history = queries.history[start : start + batch_size]
        recent = history.last(model.max_length)
        encoded = model(recent.to_padded(length=model.max_length))  # (B, L, d)
        last = encoded[torch.arange(len(recent)), recent.lengths - 1]
        table = F.normalize(model.item_embedding.weight, dim=-1, eps=1e-6)
        scores = F.normalize(last, dim=-1, eps=1e-6) @ table.t() / temperature  # (B, N)
        found.append(rank(scores, history, queries.targets[start : start + batch_size]))
    return torch.cat(found)


def compare(sequences: Sequences, data: str, *, max_length: int = 200, dim: int = 50) -> Comparison:
    """The evaluations of an untrained SASRec on each user's last item, after equal ranks.

    Args:
        sequences: all users' items.
        data: what they are, for the output.
        max_length: events looked at, and what the textbook pads to.
        dim: d, of the embeddings.
    Raises:
        AssertionError: if fewer than `EQUAL_AT_LEAST` of the ranks are equal.
    """
    queries = leave_last_out(sequences, validation=False).test
    encoder = SASRec(sequences.num_items, dim=dim, num_blocks=2, max_length=max_length)
    ours = NextItemModel(encoder.eval(), DotProduct(0.05))
    textbook = TextbookSASRec(encoder).eval()
    ranks_of = partial(textbook_ranks, textbook, ours.similarity.temperature, queries)
    peers = {
        "textbook": partial(ranks_of, by_counting),
        "textbook, one user at a time, argsort": partial(ranks_of, by_sorting),
    }
    our_ranks, equal, largest = ours.ranks(queries), 1.0, 0
    for name, way in peers.items():
        difference = (our_ranks - way()).abs()
        equal = min(equal, float((difference == 0).float().mean()))
        largest = max(largest, int(difference.max()))
        if equal < EQUAL_AT_LEAST:
            raise AssertionError(
                f"{name}: only {equal:.2%} of {len(queries)} ranks are equal; the largest "
                f"difference is {largest}"
            )
    setting = {
        "data": data,
        "users": len(queries),
        "items": sequences.num_items,
        "padded_to": max_length,
        "dim": dim,
        "equal_ranks": equal,
        "largest_rank_difference": largest,
    }
    return Comparison(lambda: ours.ranks(queries), peers, setting)


BENCHMARK = Benchmark(
    "full-rank",
    "MovieLens 1M: encode 6,040 histories, score 3,706 films, leave out the seen, rank",
    lambda: compare(*movielens_1m_like()),
    repeats=3,
)
