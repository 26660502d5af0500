"""Next-item retrieval: an encoder and a similarity, trained and ranked as one model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from genrec_lite.datasets.batches import NextItemBatch
from genrec_lite.datasets.splits import Queries
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.encoders.pooled import PooledHistory
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor
from genrec_lite.losses import (
    full_softmax_loss,
    grouped_softmax_loss,
    load_balancing_loss,
    sampled_softmax_loss,
    uniform_negatives,
)
from genrec_lite.metrics import full_corpus_ranks
from genrec_lite.retrieval.scoring import score_block
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.interface import Similarity
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.projected_dot_product import ProjectedDotProduct
from genrec_lite.similarity.sides import Side
from genrec_lite.training import without_dropout

__all__ = ["NextItemModel"]

# Consecutive positions that share their negatives where the similarity is a mixture: 64 x 128
# pairs and their hidden layer of 128 are 4 MB, which one core's cache holds; measured faster than
# 16 and 32, and no slower than 128.
GROUP = 64
# Weight of the mean squared length of the user component (public code of the MoL paper).
USER_PENALTY = 0.1


class NextItemModel(nn.Module):
    """Scores every item of the corpus as the next event of a history.

    Args:
        encoder: item sequences to query embeddings; owns the item table.
        similarity: query and item embeddings to scores.
        num_negatives: R uniform negatives, or None for the full softmax: drawn for each position
            with a dot product, for each group of 64 positions with a mixture of logits.
        num_positions: positions of a batch, drawn at random, that the loss looks at; None for all.
        coarse: a cheap similarity trained beside the other, stage one of an h-indexer.
        balance_weight: of the load-balancing loss of a mixture's gate, on the targets.
    """

    def __init__(
        self,
        encoder: SASRec | HSTU | PooledHistory,
        similarity: DotProduct | MixtureOfLogits,
        *,
        num_negatives: int | None = None,
        num_positions: int | None = None,
        coarse: ProjectedDotProduct | None = None,
        balance_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        self.encoder, self.similarity, self.coarse = encoder, similarity, coarse
        self.num_negatives, self.num_positions = num_negatives, num_positions
        self.balance_weight = balance_weight

    def items(self) -> Side:
        """The item side of the whole corpus, N items, without dropout or gradient."""
        with self._evaluating():
            return self.similarity.items(self.encoder.item_embedding.weight)

    def coarse_items(self) -> Tensor:
        """(N, coarse_dim) the first stage's item side of the whole corpus, as `items`."""
        with self._evaluating():
            return self._coarse().items(self.encoder.item_embedding.weight)

    def queries(
        self,
        history: JaggedTensor,
        users: Tensor | None = None,
        times: JaggedTensor | None = None,
    ) -> Side:
        """The query side of each history, without dropout or gradient.

        Args:
            history: B rows of item indices, none empty.
            users: (B,) who asks, if the similarity has a user component.
            times: when the events happened and, last in each row, when it is asked, if the
                encoder has a time bias; see `HSTU.forward`.
        """
        with self._evaluating():
            return self.similarity.queries(self.encoder.last(history, times), users)

    def coarse_queries(self, history: JaggedTensor, times: JaggedTensor | None = None) -> Tensor:
        """(B, coarse_dim) the first stage's query side of each history, as `queries`."""
        with self._evaluating():
            return self._coarse().queries(self.encoder.last(history, times))

    def loss(self, batch: NextItemBatch) -> Tensor:
        """Mean cross-entropy of the batch's targets, and what else the similarity learns from.

        Positions, negatives and dropout come from torch's generator.

        Raises:
            ValueError: if a row is longer than the encoder looks back.
        """
        longest, looked_at = batch.inputs.max_length, self.encoder.max_length
        if longest > looked_at:
            raise ValueError(
                f"a row of the batch has {longest} events, but the encoder looks at {looked_at}: "
                f"give NextItemBatches(max_length={looked_at})"
            )
        encoded, targets = self.encoder(batch.inputs, batch.times).values, batch.targets
        users = None if batch.users is None else batch.users[batch.inputs.row_ids()]
        if self.num_positions is not None and self.num_positions < len(targets):
            drawn = torch.randperm(len(targets))[: self.num_positions].to(targets.device)
            encoded, targets = encoded[drawn], targets[drawn]
            users = None if users is None else users[drawn]
        if isinstance(self.similarity, MixtureOfLogits):
            loss = self._mixture_loss(self.similarity, encoded, targets, users)
        else:
            loss = self._dot_product_loss(self.similarity, encoded, targets)
        if self.coarse is not None:
            loss = loss + self._dot_product_loss(self.coarse, encoded, targets)
        return loss

    def scores(
        self,
        history: JaggedTensor,
        users: Tensor | None = None,
        times: JaggedTensor | None = None,
    ) -> Tensor:
        """(B, N) float32 score of every item as the next event of each history.

        Args:
            history, users, times: as in `queries`.
        Raises:
            ValueError: if a history is empty.
        """
        if not len(history):
            return torch.empty(0, self.encoder.item_embedding.num_embeddings)
        queries = self.queries(history, users, times)
        items, similarity = self.items(), cast(Similarity, self.similarity)
        with self._evaluating():
            few = (queries[at : at + GROUP] for at in range(0, len(queries), GROUP))
            return torch.cat([score_block(similarity, some, items) for some in few])

    def ranks(
        self, queries: Queries, *, exclude: JaggedTensor | None = None, batch_size: int = 1024
    ) -> Tensor:
        """(Q,) rank of each query's target in the whole corpus.

        Args:
            queries: histories and targets.
            exclude: rows of items to leave out of each ranking; the whole history unless given.
            batch_size: queries encoded and scored together.
        """
        times = queries.times
        return full_corpus_ranks(
            lambda rows: self.scores(
                queries.history[rows], queries.rows[rows], None if times is None else times[rows]
            ),
            queries.targets,
            queries.history if exclude is None else exclude,
            chunk_size=batch_size,
        )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Neither dropout nor gradients inside the block."""
        with torch.no_grad(), without_dropout(self):
            yield

    def _coarse(self) -> ProjectedDotProduct:
        if self.coarse is None:
            raise ValueError("this model has no first stage: give NextItemModel(coarse=...)")
        return self.coarse

    def _dot_product_loss(self, similarity: DotProduct, encoded: Tensor, targets: Tensor) -> Tensor:
        queries = similarity.queries(encoded)
        items = similarity.items(self.encoder.item_embedding.weight)
        if self.num_negatives is None:
            return full_softmax_loss(queries, items, targets, temperature=similarity.temperature)
        negatives = uniform_negatives(
            len(queries), self.num_negatives, len(items), device=queries.device
        )
        return sampled_softmax_loss(
            queries, items, targets, negatives, temperature=similarity.temperature
        )

    def _mixture_loss(
        self, similarity: MixtureOfLogits, encoded: Tensor, targets: Tensor, users: Tensor | None
    ) -> Tensor:
        queries = similarity.queries(encoded, users)
        items = similarity.items(self.encoder.item_embedding.weight)
        groups = -(-len(targets) // GROUP)
        if self.num_negatives is None:
            every = torch.arange(len(items), device=targets.device)
            negatives = every.expand(groups, -1)
        else:
            negatives = uniform_negatives(
                groups, self.num_negatives, len(items), device=targets.device
            )
        own = similarity.score_pairs(queries, items[targets])
        loss = grouped_softmax_loss(similarity, queries, items, targets, own.scores, negatives)
        loss = loss + self.balance_weight * load_balancing_loss(own.weights)
        if users is not None:
            loss = loss + USER_PENALTY * similarity.user_penalty(users)
        return loss
