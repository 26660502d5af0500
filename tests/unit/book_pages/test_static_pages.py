"""Notation, glossary and references: complete, each entry once."""

import re
from collections import Counter
from pathlib import Path

BOOK = Path(__file__).resolve().parents[3] / "book"


def test_every_symbol_has_one_meaning():
    text = (BOOK / "notation.md").read_text(encoding="utf-8")
    symbols = re.findall(r"^\| (\$[^|]+\$) \|", text, re.MULTILINE)
    assert len(symbols) >= 20
    assert [s for s, count in Counter(symbols).items() if count > 1] == []


def test_the_glossary_is_sorted_and_says_something_about_each_term():
    text = (BOOK / "glossary.md").read_text(encoding="utf-8")
    body = text.partition(":::{glossary}\n")[2].partition(":::")[0]
    entries = re.findall(r"^(\S.*)\n  (\S.*)$", body, re.MULTILINE)
    terms = [term for term, _ in entries]
    assert len(terms) >= 25 and len(terms) == len(set(terms))
    assert terms == sorted(terms, key=str.lower)
    assert [term for term, meaning in entries if len(meaning.split()) < 5] == []


def test_every_citation_of_the_book_has_its_reference():
    references = (BOOK / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{(\S+),$", references, re.MULTILINE)
    assert len(keys) == len(set(keys))
    pages = [*BOOK.glob("*.md"), *(BOOK.parent / "chapters").glob("*.md")]
    cited = {
        key.strip()
        for page in pages
        for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page.read_text(encoding="utf-8"))
        for key in group.split(",")
    }
    assert cited <= set(keys)
