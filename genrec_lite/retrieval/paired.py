"""Similarity heads on frozen embeddings, learned from pairs of a question and its passage.

A passage comes as several vectors, (N, V, d): that of its whole text, then those of its parts.
The heads differ in what they may do with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.datasets.question_answering import QuestionAnswering, QuestionSplit
from genrec_lite.metrics import full_corpus_ranks, hit_rate_at_k, mean_reciprocal_rank
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.projected_dot_product import ProjectedDotProduct
from genrec_lite.similarity.sides import MixtureSide
from genrec_lite.training import TrainingRun, fit, without_dropout

__all__ = [
    "HEADS",
    "PassageDotProduct",
    "PassageMixture",
    "WholeTextMixture",
    "cosine_ranks",
    "fit_pairs",
    "pair_ranks",
    "retrieval_metrics",
]

BATCH = 128  # questions a step
RIVALS = 1024  # passages that a step's questions choose among, at most
CHUNK = 256  # questions ranked together


class PassageDotProduct(ProjectedDotProduct):
    """Cosine of a linear map of the question and a linear map of a passage's vectors.

    Starts at the encoder's own cosine: both sides have the same orthogonal map, and the mean of
    the parts counts as much as the whole text.

    Args:
        dim: d, width of the embeddings.
        vectors: of a passage that the map may see: 1 is the whole text only.
        coarse_dim: width of the vectors compared, at most d.
        temperature: see `DotProduct`.
        seed: of the map.
    """

    def __init__(
        self, dim: int, vectors: int, coarse_dim: int, temperature: float = 0.05, seed: int = 0
    ) -> None:
        super().__init__(dim, coarse_dim, temperature, seed)
        self.vectors = vectors
        shares = [1.0] if vectors == 1 else [0.5] + [0.5 / (vectors - 1)] * (vectors - 1)
        with torch.no_grad():
            start = _orthogonal(coarse_dim, dim, seed)
            self.query_map.weight.copy_(start)
            self.item_map = nn.Linear(vectors * dim, coarse_dim, bias=False)
            self.item_map.weight.copy_(torch.cat([share * start for share in shares], 1))

    def items(self, embeddings: Tensor) -> Tensor:
        """Item side (N, coarse_dim) of passages (N, V, d)."""
        return super().items(embeddings[:, : self.vectors].flatten(1))


class WholeTextMixture(MixtureOfLogits):
    """The textbook's mixture of logits, from random weights, on the vector of the whole text."""

    def items(self, embeddings: Tensor) -> MixtureSide:
        """Item side of passages (N, V, d)."""
        return super().items(embeddings[:, 0])


class PassageMixture(MixtureOfLogits):
    """A mixture of logits whose item components are the passage's own vectors.

    One linear map turns each of the V vectors into a component, so P = V, with one query
    component. Starts near the encoder's own cosine: both sides have the same orthogonal map, and
    the gate looks at the component logits alone and favours large ones.

    Args:
        dim: d, width of the embeddings.
        vectors: V.
        component_dim: width of a component, at most d.
        gate_dim: hidden width of the gate's networks, at least V.
        sharpness: slope of the gate at the start: 0 averages the components, 1 nearly takes the
            largest.
        seed: of the initial weights.
    """

    def __init__(
        self,
        dim: int,
        vectors: int,
        component_dim: int,
        *,
        gate_dim: int = 32,
        sharpness: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dim,
            query_components=1,
            item_components=vectors,
            component_dim=component_dim,
            gate_dim=gate_dim,
            query_hidden=1,
            item_dropout=0,
            seed=seed,
        )
        self.query_map = nn.Linear(dim, component_dim, bias=False)
        self.item_map = nn.Linear(dim, component_dim, bias=False)
        del self.query_projection, self.item_projection
        with torch.no_grad():
            start = _orthogonal(component_dim, dim, seed)
            self.query_map.weight.copy_(start)
            self.item_map.weight.copy_(start)
            self.item_gate.contract.weight.zero_()
            self.pair_gate.expand.weight[:vectors] = torch.eye(vectors)
            self.pair_gate.contract.weight.zero_()
            self.pair_gate.contract.weight[:, :vectors] = sharpness * torch.eye(vectors)

    def queries(self, x: Tensor, users: Tensor | None = None) -> MixtureSide:
        """Query side of questions (B, d)."""
        component = F.normalize(self.query_map(x), dim=-1, eps=1e-6)
        return MixtureSide(component[:, None], self.query_gate(x))

    def items(self, embeddings: Tensor) -> MixtureSide:
        """Item side of passages (N, V, d)."""
        components = F.normalize(self.item_map(embeddings), dim=-1, eps=1e-6)
        return MixtureSide(components, self.item_gate(embeddings[:, 0]))


Head = PassageDotProduct | PassageMixture | WholeTextMixture

# What is compared, for embeddings of 384 numbers and 5 vectors a passage, by seed. All but the
# dot product of all vectors, which is three times larger, have about 295,000 parameters.
HEADS: dict[str, Callable[[int], Head]] = {
    "dot, whole": lambda seed: PassageDotProduct(384, 1, 384, seed=seed),
    "dot, all": lambda seed: PassageDotProduct(384, 5, 384, seed=seed),
    "MoL, whole": lambda seed: WholeTextMixture(
        384,
        query_components=4,
        item_components=4,
        component_dim=64,
        gate_dim=48,
        query_hidden=152,
        seed=seed,
    ),
    "MoL, all": lambda seed: PassageMixture(384, 5, 352, seed=seed),
}


def fit_pairs(
    head: Head,
    qa: QuestionAnswering,
    split: QuestionSplit,
    *,
    epochs: int,
    learning_rate: float = 3e-4,
    seed: int = 0,
    progress: bool = True,
) -> TrainingRun:
    """Trains a head in place; keeps the epoch with the best MRR on the validation questions.

    A question's negatives are passages that answer other training questions: no passage of the
    validation or test is seen, not even as a negative.

    Args:
        head: one of `HEADS`.
        qa: questions and passages.
        split: of `qa`.
        epochs: passes over the training questions.
        learning_rate: of AdamW, with betas .9 and .98, no weight decay.
        seed: of the order, the negatives and dropout.
        progress: show a bar.
    """
    questions, passages = _scaled(qa)
    seen = qa.answers[split.train].unique()
    between: Callable[[Any, Any], Tensor] = head.score
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0
    )

    def batches(epoch: int) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(split.train), generator=generator)
        return split.train[order].split(BATCH)

    def loss(batch: Tensor) -> Tensor:
        own = qa.answers[batch]
        rivals = seen if len(seen) <= RIVALS else seen[torch.randperm(len(seen))[:RIVALS]]
        candidates, places = torch.cat([own, rivals]).unique(return_inverse=True)
        scores = between(head.queries(questions[batch]), head.items(passages[candidates]))
        return F.cross_entropy(scores, places[: len(batch)])

    def evaluate(epoch: int) -> dict[str, float]:
        return {"mrr": retrieval_metrics(pair_ranks(head, qa, split.validation))["mrr"]}

    return fit(
        head,
        loss,
        batches,
        optimizer,
        epochs=epochs,
        seed=seed,
        evaluate=evaluate,
        select="mrr",
        progress=progress,
    )


@torch.no_grad()
def pair_ranks(head: Head, qa: QuestionAnswering, rows: Tensor) -> Tensor:
    """Rank of each asked question's passage among all N passages, (len(rows),) int64.

    Args:
        head: scores without its dropout.
        qa: questions and passages.
        rows: numbers of the questions asked.
    """
    questions, passages = _scaled(qa)
    asked = questions[rows]
    between: Callable[[Any, Any], Tensor] = head.score

    def score(some: slice) -> Tensor:
        return between(head.queries(asked[some]), items)

    with without_dropout(head):
        items = head.items(passages)
        return full_corpus_ranks(score, qa.answers[rows], chunk_size=CHUNK)


def cosine_ranks(qa: QuestionAnswering, rows: Tensor, *, best_part: bool = False) -> Tensor:
    """Ranks as `pair_ranks`, by the encoder's own cosine, nothing learned.

    Args:
        qa, rows: as there.
        best_part: take the largest cosine with any of the passage's vectors, not the whole's.
    """
    vectors = qa.passage_vectors if best_part else qa.passage_vectors[:, :1]
    asked = qa.question_vectors[rows]

    def score(some: slice) -> Tensor:
        return torch.einsum("bd,nvd->bnv", asked[some], vectors).amax(2)

    return full_corpus_ranks(score, qa.answers[rows], chunk_size=CHUNK)


def retrieval_metrics(ranks: Tensor) -> dict[str, float]:
    """Hit rate at 1 and 10, and mean reciprocal rank."""
    return {
        "hr@1": float(hit_rate_at_k(ranks, 1)),
        "hr@10": float(hit_rate_at_k(ranks, 10)),
        "mrr": float(mean_reciprocal_rank(ranks)),
    }


def _orthogonal(rows: int, columns: int, seed: int) -> Tensor:
    """(rows, columns) with orthonormal rows: maps that keep cosines, nearly if rows < columns."""
    if rows > columns:
        raise ValueError(f"{rows} orthogonal maps of {columns} numbers: at most {columns}")
    weights = torch.empty(rows, columns)
    return nn.init.orthogonal_(weights, generator=torch.Generator().manual_seed(seed))


def _scaled(qa: QuestionAnswering) -> tuple[Tensor, Tensor]:
    """Questions and passages with numbers of about 1, as the gate's networks expect them."""
    scale = qa.question_vectors.shape[1] ** 0.5
    return qa.question_vectors * scale, qa.passage_vectors * scale
