from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from torch.nn import functional as F

from genrec_lite.datasets import InteractionsError
from genrec_lite.datasets import question_answering as module
from genrec_lite.datasets.question_answering import (
    MAX_PARTS,
    Pair,
    QuestionAnswering,
    embed,
    has_encoder,
    load_wordnet_questions,
    pack,
    parts_of,
    read_pairs,
    unpack,
)

SQUAD = {
    "data": [
        {
            "title": "Normans",
            "paragraphs": [
                {
                    "context": "The Normans came. They stayed.",
                    "qas": [
                        {"question": "Who came?", "is_impossible": False},
                        {"question": "Who left?", "is_impossible": True},
                    ],
                },
                {"context": "Rollo led them.", "qas": [{"question": "Who led them?"}]},
            ],
        }
    ]
}
PAIRS = [
    Pair("Who came?", "The Normans came. They stayed.", "Normans"),
    Pair("Who led them?", "Rollo led them.", "Normans"),
]


def letters(texts: list[str]) -> torch.Tensor:
    """Stands in for the encoder: how often each letter occurs."""
    counts = [[text.lower().count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts]
    return F.normalize(torch.tensor(counts), dim=1)


def test_a_squad_file_gives_its_answerable_questions(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text(json.dumps(SQUAD))
    assert read_pairs(tmp_path / "dev.json") == PAIRS


@pytest.mark.parametrize(("passage", "document"), [("paragraph", "article"), ("context", "title")])
def test_a_table_gives_the_same_pairs_as_squads_own_format(
    tmp_path: Path, passage: str, document: str
) -> None:
    rows = [*PAIRS, Pair("Who left?", PAIRS[0].passage, "Normans")]
    frame = pl.DataFrame(rows, schema=["question", passage, document], orient="row")
    frame = frame.with_columns(answerable=pl.Series([True, True, False]))
    frame.write_parquet(tmp_path / "dev.parquet")
    assert read_pairs(tmp_path / "dev.parquet") == PAIRS


def test_passages_of_no_known_document_are_each_their_own(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"question": ["a?", "b?", "c?"], "context": ["A.", "B.", "C."], "title": ["T", None, None]}
    )
    frame.write_parquet(tmp_path / "dev.parquet")
    pairs = read_pairs(tmp_path / "dev.parquet")
    assert [pair.document for pair in pairs] == ["T", "B.", "C."]


def test_a_bare_name_is_looked_for_in_the_readers_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(SQUAD))
    monkeypatch.setenv("GENREC_LITE_DATA", str(tmp_path))
    assert read_pairs("mine.json") == PAIRS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"data": [{"title": "A"}]}', "not in SQuAD's format.*paragraphs"),
        ("[1, 2]", "not in SQuAD's format"),
        ('{"data": ', "not in SQuAD's format"),
        ('{"data": []}', "no question with an answer"),
    ],
)
def test_a_file_that_is_not_squads_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "dev.json").write_text(text)
    with pytest.raises(InteractionsError, match=told):
        read_pairs(tmp_path / "dev.json")


def test_a_table_without_passages_lists_its_columns(tmp_path: Path) -> None:
    pl.DataFrame({"question": ["Who?"], "answer": ["I"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InteractionsError, match="columns found: question, answer"):
        read_pairs(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["none.json", "none.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        read_pairs(tmp_path / name)


def test_the_parts_of_a_text_are_all_of_it_in_order_in_equal_runs() -> None:
    text = "One. Two? Three! Four. Five. Six."
    assert parts_of(text) == ["One. Two?", "Three!", "Four.", "Five. Six."]
    assert " ".join(parts_of(text)) == text
    assert parts_of("No full stop, e.g. here") == ["No full stop, e.g. here"]
    assert parts_of("One. Two.") == ["One.", "Two."]


def test_pairs_are_embedded_once_a_passage_with_the_whole_text_as_filling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "embed", letters)
    again = Pair("Who stayed?", PAIRS[0].passage, "Normans")
    elsewhere = Pair("Where?", PAIRS[1].passage, "Vikings")
    qa = QuestionAnswering.from_pairs([*PAIRS, again, elsewhere], name="four")
    assert qa.answers.tolist() == [0, 1, 0, 2]  # the same text in another document is another one
    assert qa.documents.tolist() == [0, 0, 1]
    assert qa.passages[0] == ["The Normans came.", "They stayed."]
    assert qa.passage_vectors.shape == (3, 1 + MAX_PARTS, 26)
    whole, first, second = letters([PAIRS[0].passage, *qa.passages[0]])
    expected = torch.stack([whole, first, second, whole, whole])
    assert torch.equal(qa.passage_vectors[0], expected)
    assert torch.equal(qa.question_vectors, letters(qa.questions))


def made(num_passages: int, num_documents: int) -> QuestionAnswering:
    answers = torch.arange(3 * num_passages) // 3
    return QuestionAnswering(
        "made",
        ["?"] * len(answers),
        [["."]] * num_passages,
        answers,
        torch.arange(num_passages) % num_documents,
        torch.ones(len(answers), 2),
        torch.ones(num_passages, 5, 2),
    )


@pytest.mark.parametrize("by", ["passage", "document"])
def test_a_split_shares_no_passage_or_document_and_loses_no_question(by: str) -> None:
    qa = made(40, 10)
    split = qa.split(by=by, seed=3)
    assert [len(part) for part in split] == [72, 24, 24]
    assert torch.cat(list(split)).sort().values.tolist() == list(range(120))
    for unit in [qa.answers] if by == "passage" else [qa.answers, qa.documents[qa.answers]]:
        units = [set(unit[part].tolist()) for part in split]
        assert not (units[0] & units[1] or units[0] & units[2] or units[1] & units[2])
    assert not torch.equal(split.test, qa.split(by=by, seed=4).test)


def test_a_split_without_enough_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="2 documents leave a part without questions"):
        made(40, 2).split(by="document")
    with pytest.raises(ValueError, match="split by 'word'"):
        made(40, 2).split(by="word")


def test_four_bits_keep_the_direction_of_a_vector() -> None:
    vectors = F.normalize(torch.randn(50, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    packed = pack(vectors)
    assert packed.shape == (50, 192) and packed.dtype == torch.uint8
    assert float((unpack(packed) * vectors).sum(1).min()) > 0.985
    assert torch.allclose(unpack(packed).norm(dim=1), torch.ones(50))


def test_the_embedded_set_is_whole_and_its_questions_find_their_entries() -> None:
    qa = load_wordnet_questions()
    assert len(qa.passages) == 1000 and len(qa.questions) > 3000
    assert qa.question_vectors.shape == (len(qa.questions), 384)
    assert set(qa.answers.tolist()) == set(range(1000))
    assert {len(senses) for senses in qa.passages} == {3, 4}
    assert all(question.startswith('What does "') for question in qa.questions)
    similarity = qa.question_vectors @ qa.passage_vectors[:, 0].T
    own = similarity.gather(1, qa.answers[:, None])
    found = ((similarity > own).sum(1) < 10).float().mean()
    assert float(found) > 0.6  # chance is .01; vectors in another order than texts give that


def test_an_embedded_set_whose_files_do_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in module.REPOSITORY_DATA.glob("wordnet_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    questions = tmp_path / "wordnet_questions.parquet"
    pl.read_parquet(questions).head(7).write_parquet(questions)
    monkeypatch.setattr(module, "REPOSITORY_DATA", tmp_path)
    with pytest.raises(InteractionsError, match="vectors for .7, 1000"):
        load_wordnet_questions()
    vectors = tmp_path / "wordnet_questions.safetensors"
    vectors.write_bytes(vectors.read_bytes()[:1000])
    with pytest.raises(InteractionsError, match="cannot be read"):
        load_wordnet_questions()
    vectors.unlink()
    with pytest.raises(InteractionsError, match="make_wordnet_questions.py"):
        load_wordnet_questions()


def test_without_the_encoder_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ENCODER", "no_such_package")
    assert not has_encoder()
    with pytest.raises(ModuleNotFoundError, match=r"genrec-lite\[sentences\]"):
        embed(["Who?"])


@pytest.mark.skipif(not has_encoder(), reason="needs the extra `sentences`")
def test_the_encoder_gives_the_vectors_that_are_stored() -> None:
    qa = load_wordnet_questions()
    found = embed(qa.questions[:3])
    assert float((found * qa.question_vectors[:3]).sum(1).min()) > 0.97
