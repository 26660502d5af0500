"""Next-item retrieval: an encoder and a similarity, trained and ranked as one model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec_lite.datasets.batches import NextItemBatch
from genrec_lite.datasets.splits import Queries
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor
from genrec_lite.losses import full_softmax_loss, sampled_softmax_loss, uniform_negatives
from genrec_lite.metrics import full_corpus_ranks
from genrec_lite.similarity.dot_product import DotProduct

__all__ = ["NextItemModel"]


class NextItemModel(nn.Module):
    """Scores every item of the corpus as the next event of a history.

    Args:
        encoder: item sequences to query embeddings; owns the item table.
        similarity: query and item embeddings to scores.
        num_negatives: R uniform negatives a position, or None for the full softmax.
    """

    def __init__(
        self, encoder: SASRec, similarity: DotProduct, *, num_negatives: int | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.similarity, self.num_negatives = encoder, similarity, num_negatives

    def items(self) -> Tensor:
        """(N, d) the item side of the whole corpus."""
        return self.similarity.items(self.encoder.item_embedding.weight)

    def loss(self, batch: NextItemBatch) -> Tensor:
        """Mean cross-entropy of the batch's targets; negatives come from torch's generator.

        Raises:
            ValueError: if a row is longer than the encoder looks back.
        """
        longest, looked_at = batch.inputs.max_length, self.encoder.max_length
        if longest > looked_at:
            raise ValueError(
                f"a row of the batch has {longest} events, but the encoder looks at {looked_at}: "
                f"give NextItemBatches(max_length={looked_at})"
            )
        queries = self.similarity.queries(self.encoder(batch.inputs).values)
        items, temperature = self.items(), self.similarity.temperature
        if self.num_negatives is None:
            return full_softmax_loss(queries, items, batch.targets, temperature=temperature)
        negatives = uniform_negatives(
            len(queries), self.num_negatives, len(items), device=queries.device
        )
        return sampled_softmax_loss(
            queries, items, batch.targets, negatives, temperature=temperature
        )

    @torch.no_grad()
    def scores(self, history: JaggedTensor) -> Tensor:
        """(B, N) score of every item as the next event of each history.

        Raises:
            ValueError: if a history is empty.
        """
        was_training = self.training
        self.eval()
        try:
            queries = self.similarity.queries(self.encoder.last(history))
            return self.similarity.score(queries, self.items())
        finally:
            self.train(was_training)

    def ranks(
        self, queries: Queries, *, exclude: JaggedTensor | None = None, batch_size: int = 1024
    ) -> Tensor:
        """(Q,) rank of each query's target in the whole corpus.

        Args:
            queries: histories and targets.
            exclude: rows of items to leave out of each ranking; the whole history unless given.
            batch_size: queries encoded and scored together.
        """
        return full_corpus_ranks(
            lambda rows: self.scores(queries.history[rows]),
            queries.targets,
            queries.history if exclude is None else exclude,
            chunk_size=batch_size,
        )
