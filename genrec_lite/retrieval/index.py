"""What all indexes share: a similarity, a corpus, checked questions, files."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.corpus import Corpus
from genrec_lite.retrieval.top_k import TopK, require_k
from genrec_lite.similarity.interface import Similarity
from genrec_lite.similarity.sides import MixtureSide, Side, tensors_of
from genrec_lite.training import without_dropout

__all__ = ["Index", "check_queries", "describe", "require_side"]


class Index(ABC):
    """Items that can be searched, added to, taken from, saved and loaded.

    Args:
        similarity: scores query sides against item sides.
        items: item sides of N items, in the precision to be kept (`items.to(torch.bfloat16)`).
        ids: (N,) int64, distinct and at least 0; 0 to N - 1 unless given.
    Raises:
        ValueError: as `Corpus`; also if the items are not what the similarity scores.
    """

    def __init__(self, similarity: Similarity, items: Side, ids: Tensor | None = None) -> None:
        require_side(similarity, items)
        self.similarity = similarity
        self.corpus = Corpus(items, ids)

    def __len__(self) -> int:
        return len(self.corpus)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the items, by formula."""
        return self.corpus.memory_bytes

    def search(self, queries: Side, k: int, exclude: JaggedTensor | None = None) -> TopK:
        """The k best items of each query.

        Args:
            queries: B query sides; scored in float32, without the similarity's dropout.
            k: at least 1.
            exclude: B rows of ids that must not be found; ids of no item are passed over.
        Raises:
            ValueError: if there is no query, a query holds NaN or has other sizes than the items,
                `exclude` has other rows, or fewer than `k` items are left for a query.
        """
        if k > len(self):
            raise ValueError(f"k is {k}, but the index holds {len(self)} items: lower k")
        return require_k(self.search_up_to(queries, k, exclude), k)

    def search_up_to(self, queries: Side, k: int, exclude: JaggedTensor | None = None) -> TopK:
        """As `search`, but a row with fewer than k items ends in scores of -inf and ids of -1."""
        if k < 1:
            raise ValueError(f"k is {k}: search for at least 1 item")
        self._check_queries(queries)
        if exclude is not None and len(exclude) != len(queries):
            raise ValueError(
                f"exclude has {len(exclude)} rows for {len(queries)} queries: one row for each, "
                "empty where nothing is excluded"
            )
        with torch.no_grad(), without_dropout(self.similarity):
            return self._search(queries.to(torch.float32), k, exclude)

    def _check_queries(self, queries: Side) -> None:
        """Raises a ValueError unless the queries can be scored against the items."""
        check_queries(queries, self.corpus.template.items)

    @abstractmethod
    def _search(self, queries: Side, k: int, exclude: JaggedTensor | None) -> TopK:
        """What `search_up_to` returns, its arguments checked."""

    def add(self, items: Side, ids: Tensor) -> None:
        """Takes in items; see `Corpus.add`."""
        self.corpus.add(items, ids)

    def remove(self, ids: Tensor) -> None:
        """Takes out the items of these ids (E,) int64; see `Corpus.remove`."""
        self.corpus.remove(ids)

    def save(self, path: Path | str) -> None:
        """Writes the items to a safetensors file, whole or not at all; not the similarity."""
        self.corpus.save(path, describe(self.similarity))

    @classmethod
    def load(cls, path: Path | str, similarity: Similarity, **options: Any) -> Self:
        """The index of a file that `save` wrote.

        Args:
            path: the file.
            similarity: the one that the items were made with.
            options: further arguments of the index.
        Raises:
            ValueError: if the file is cut short, no index, of another version, or made with a
                similarity of another class or other sizes or weights.
        """
        corpus = Corpus.load(path, describe(similarity))
        index = cls(similarity, corpus.template.items, **options)
        index.corpus = corpus.beside_of(lambda _: {})  # what another index kept beside the items
        return index


def describe(similarity: Similarity) -> dict[str, Any]:
    """Class, temperature, the shape of each weight and a digest of all of a similarity, as JSON.

    With other weights of the same sizes, a file's items would be scored without an error, and
    without a meaning.
    """
    weights = {name: weight.detach().cpu() for name, weight in similarity.state_dict().items()}
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().view(torch.uint8).numpy().data)
    return {
        "similarity": type(similarity).__name__,
        "temperature": similarity.temperature,
        "sizes": {name: list(weight.shape) for name, weight in weights.items()},
        "weights": digest.hexdigest(),
    }


def require_side(similarity: Similarity, items: Side) -> None:
    """Raises a ValueError unless the items are of the kind that the similarity scores."""
    if not isinstance(items, similarity.side):
        raise ValueError(
            f"items are a {type(items).__name__}, but a {type(similarity).__name__} scores a "
            f"{similarity.side.__name__}: make them with its own `items`"
        )


def check_queries(queries: Side, items: Side) -> None:
    """Raises a ValueError unless `queries` can be scored against `items`: number, sizes, NaN."""
    if not len(queries):
        raise ValueError("there is no query: give at least 1")
    given, expected = tensors_of(queries), tensors_of(items)
    if given.keys() != expected.keys():
        raise ValueError(
            f"a query is made of {' and '.join(given)}, an item of {' and '.join(expected)}: "
            "make both with the same similarity"
        )
    if isinstance(queries, MixtureSide) and isinstance(items, MixtureSide):
        of_query, of_item = queries.components.shape[1], items.components.shape[1]
        pairs = items.gate.shape[1]
        if queries.gate.shape[1] == pairs != of_query * of_item:
            raise ValueError(
                f"a query has {of_query} components, an item {of_item}, the gate {pairs} pairs: "
                "make both sides with the same similarity"
            )
    for name, tensor in given.items():
        if tensor.ndim != expected[name].ndim:
            raise ValueError(
                f"{name} of the queries have shape {tuple(tensor.shape)}: expected "
                f"{expected[name].ndim} dimensions, the first one of B queries"
            )
        if tensor.shape[-1] != expected[name].shape[-1]:
            raise ValueError(
                f"{name} of a query are {tensor.shape[-1]} wide, those of an item "
                f"{expected[name].shape[-1]}: make both with the same similarity"
            )
        finite = tensor.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            query = int((~finite).nonzero()[0])
            raise ValueError(
                f"{name} of query {query} hold NaN or inf: look at what encoded the query"
            )
