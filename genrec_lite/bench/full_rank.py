"""Evaluation over the whole corpus: ours beside the textbook's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.bench.textbook import TextbookSASRec, movielens_1m_like
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.datasets import Queries, Sequences, leave_last_out
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct

__all__ = ["BENCHMARK", "compare"]

# Of all ranks: two ways of computing a score round differently, and neighbours may change places.
EQUAL_AT_LEAST = 0.999


@torch.no_grad()
def textbook_ranks(
    model: TextbookSASRec, temperature: float, queries: Queries, *, batch_size: int = 128
) -> Tensor:
    """(Q,) ranks as commonly computed: everything encoded, rows masked in a loop, all sorted."""
    found = []
    for start in range(0, len(queries), batch_size):
        history = queries.history[start : start + batch_size]
        recent = history.last(model.max_length)
        encoded = model(recent.to_padded(length=model.max_length))  # (B, L, d)
        last = encoded[torch.arange(len(recent)), recent.lengths - 1]
        table = F.normalize(model.item_embedding.weight, dim=-1, eps=1e-6)
        scores = F.normalize(last, dim=-1, eps=1e-6) @ table.t() / temperature  # (B, N)
        for row, seen in enumerate(history):
            scores[row, seen] = float("-inf")
        order = scores.argsort(dim=1, descending=True)
        targets = queries.targets[start : start + batch_size, None]
        found.append((order == targets).nonzero()[:, 1] + 1)
    return torch.cat(found)


def compare(sequences: Sequences, data: str, *, max_length: int = 200, dim: int = 50) -> Comparison:
    """Both evaluations of an untrained SASRec on each user's last item, after equal ranks.

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
    temperature = ours.similarity.temperature
    difference = (ours.ranks(queries) - textbook_ranks(textbook, temperature, queries)).abs()
    equal = float((difference == 0).float().mean())
    if equal < EQUAL_AT_LEAST:
        raise AssertionError(
            f"only {equal:.2%} of {len(queries)} ranks are equal; the largest difference is "
            f"{int(difference.max())}"
        )
    setting = {
        "data": data,
        "users": len(queries),
        "items": sequences.num_items,
        "padded_to": max_length,
        "dim": dim,
        "equal_ranks": equal,
        "largest_rank_difference": int(difference.max()),
    }
    return Comparison(
        lambda: ours.ranks(queries),
        {"textbook": lambda: textbook_ranks(textbook, temperature, queries)},
        setting,
    )


BENCHMARK = Benchmark(
    "full-rank",
    "MovieLens 1M: encode 6,040 histories, score 3,706 films, leave out the seen, rank",
    lambda: compare(*movielens_1m_like()),
    repeats=3,
)
