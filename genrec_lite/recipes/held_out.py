"""Questions at the last places of histories, and how well a model answers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.datasets.batches import NextItemBatch
from genrec_lite.datasets.dirichlet_stream import DirichletStream
from genrec_lite.datasets.splits import Queries
from genrec_lite.jagged import JaggedTensor
from genrec_lite.losses import full_softmax_loss
from genrec_lite.metrics import full_corpus_ranks, hit_rate_at_k
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.training import without_dropout

__all__ = ["HeldOut", "hit_rates", "stream_parts", "stream_reference"]

BATCH = 512  # histories encoded at once
STREAM_SHARE = 0.1  # of a stream's records, the last ones
STREAM_PLACES = 16  # last places of such a record that ask for their next item
NOT_YET = 1e-3  # what a category counts for that a record has not had


@dataclass(frozen=True)
class HeldOut:
    """Histories, and the items that came next at their last places.

    Args:
        inputs: B histories, none shorter than `places`.
        targets: (B * places,) int64, row by row.
        places: of each history that ask.
        exclude: B * places rows of items to leave out of each ranking; None for none.
    """

    inputs: JaggedTensor
    targets: Tensor
    places: int = 1
    exclude: JaggedTensor | None = None

    @classmethod
    def of_queries(cls, queries: Queries) -> HeldOut:
        """Leave-last-out's questions, ranked without the items that the user has seen."""
        return cls(queries.history, queries.targets, exclude=queries.history)

    def ranks(self, scores: Callable[[slice], Tensor]) -> Tensor:
        """(Q,) ranks of the targets by the scores (q, N) of a slice of the questions."""
        return full_corpus_ranks(scores, self.targets, self.exclude)

    @torch.no_grad()
    def measure(self, model: NextItemModel) -> dict[str, float]:
        """ "loss", the mean cross-entropy against the whole corpus, "hr@10" and "hr@50".

        Args:
            model: with a dot product, and an encoder that needs no times.
        """
        similarity = model.similarity
        assert isinstance(similarity, DotProduct)
        with without_dropout(model):
            encoded = [
                model.encoder(self.inputs[start : start + BATCH]).last(self.places).values
                for start in range(0, len(self.inputs), BATCH)
            ]
        queries = similarity.queries(torch.cat(encoded))
        items = similarity.items(model.encoder.item_embedding.weight)
        loss = full_softmax_loss(queries, items, self.targets, temperature=similarity.temperature)
        ranks = self.ranks(lambda some: similarity.score(queries[some], items))
        return {"loss": float(loss)} | hit_rates(ranks)


def hit_rates(ranks: Tensor) -> dict[str, float]:
    """ "hr@10" and "hr@50"."""
    return {f"hr@{k}": float(hit_rate_at_k(ranks, k)) for k in (10, 50)}


def stream_parts(stream: DirichletStream, batch_size: int) -> tuple[list[NextItemBatch], HeldOut]:
    """A stream's batches in order of time, and the last places of its last tenth.

    Ranked are all items, also those that a record has already: it may well have them again.

    Args:
        stream: of at least two records, of 17 events or more.
        batch_size: records a batch.
    Raises:
        ValueError: if the stream is smaller.
    """
    first = len(stream) - max(1, round(STREAM_SHARE * len(stream)))
    length = stream.items.max_length
    if first < 1 or length <= STREAM_PLACES:
        raise ValueError(
            f"a stream of {len(stream)} records of {length} events: at least 2 records of "
            f"{STREAM_PLACES + 1} events are learned from and asked about"
        )
    batches = []
    for start in range(0, first, batch_size):
        rows = stream.items[start : min(first, start + batch_size)]
        batches.append(NextItemBatch(rows.drop_last(), rows.drop_first().values))
    rows = stream.items[first:]
    asked = HeldOut(rows.drop_last(), rows.last(STREAM_PLACES).values, STREAM_PLACES)
    return batches, asked


def stream_reference(stream: DirichletStream, asked: HeldOut) -> dict[str, float]:
    """ "loss", "hr@10" and "hr@50" of one who knows what nobody in the race does.

    He knows each item's category and arrival. He takes a category to be as likely as it was
    often in the record, and its items that have arrived by now as likely as each other, which
    they are: an estimate from the record alone, somewhat above the stream's entropy. A model that
    sees item numbers cannot reach it, as it has not met the latest items.

    Args:
        stream: all of it.
        asked: about its last records.
    """
    places = asked.inputs.max_length - asked.places + torch.arange(asked.places)  # (A,)
    categories = stream.categories[asked.inputs.to_padded()]  # (E, L - 1)
    kinds = int(stream.categories.max()) + 1
    came = F.one_hot(categories, kinds).cumsum(1)[:, places].double()  # (E, A, C)
    came += NOT_YET
    records = torch.arange(len(stream))[-len(asked.inputs) :]
    here = stream.arrivals <= records[:, None]  # (E, N)
    arrived = torch.zeros(len(here), kinds, dtype=torch.float64)
    arrived.index_add_(1, stream.categories, here.double())
    chances = came / came.sum(-1, keepdim=True) / arrived[:, None]
    chances = chances.flatten(0, 1)  # (Q, C) of an item of each category

    def scores(some: slice) -> Tensor:
        rows = torch.arange(some.start, some.stop) // asked.places
        return chances[some][:, stream.categories].masked_fill(~here[rows], -1.0)

    of_target = chances.gather(1, stream.categories[asked.targets][:, None])
    return {"loss": float(-of_target.log().mean())} | hit_rates(asked.ranks(scores))
