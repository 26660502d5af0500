"""One training step of SASRec: ours beside the textbook's."""

from __future__ import annotations

from genrec_lite.bench.textbook import TextbookSASRec, movielens_1m_like
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.bench.training_step import compare_steps
from genrec_lite.datasets import Sequences, leave_last_out
from genrec_lite.datasets.batches import NextItemBatches
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct

__all__ = ["BENCHMARK", "compare"]


def compare(
    sequences: Sequences,
    data: str,
    *,
    batch_size: int = 128,
    num_negatives: int = 128,
    max_length: int = 200,
    dim: int = 50,
) -> Comparison:
    """The steps (forward, loss, backward, AdamW), after loss and gradients were found equal.

    Args:
        sequences: all users' items.
        data: what they are, for the output.
        batch_size: users.
        num_negatives: a position.
        max_length: events a user, and what the textbook pads to.
        dim: d, of the embeddings.
    Raises:
        AssertionError: if loss or a gradient differs, see `compare_steps`.
    """
    train = leave_last_out(sequences, validation=False).train
    batch = NextItemBatches(train, batch_size=batch_size, max_length=max_length)(0)[0]
    encoder = SASRec(train.num_items, dim=dim, num_blocks=2, max_length=max_length, dropout=0.2)
    ours = NextItemModel(encoder, DotProduct(0.05), num_negatives=num_negatives)
    return compare_steps(ours, TextbookSASRec(encoder), batch, {"data": data, "dim": dim})


BENCHMARK = Benchmark(
    "sasrec-step",
    "MovieLens 1M: a training step of SASRec, 128 users, 128 sampled negatives a position",
    lambda: compare(*movielens_1m_like()),
    repeats=5,
)
