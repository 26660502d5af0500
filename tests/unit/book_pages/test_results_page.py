"""The results page and the README's table: drawn from records, or refused by name."""

import nbformat
import pytest
import yaml

import results_page
from genrec_lite.notebook import write_record
from genrec_lite.notebook.record import MIME
from results_page import BEGIN, END, ClaimError, readme_table, with_table, write

CLAIM = {
    "id": "sasrec-hr",
    "chapter": "02_sequential_baseline",
    "claim": "SASRec, HR@10 | ML-1M",
    "paper": "the official README",
    "source": "zhai2024actions",
    "published": 0.2853,
    "ours": "result:ml-1m_sasrec.hr_10",
    "why": "one seed",
}
LIVE = {**CLAIM, "id": "live", "published": None, "ours": "record:02_sequential_baseline.hr_10"}


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book with one full-size record and one executed chapter; returns a writer of claims."""
    results, executed = tmp_path / "results", tmp_path / "executed"
    executed.mkdir()
    write_record(
        "ml-1m_sasrec",
        {"hr_10": 0.28614, "by_seed": [0.285, 0.287], "1.6 step": 0.01257},
        seed=7,
        command="genrec-lite train --recipe sasrec-ml-1m",
        folder=results,
    )
    output = nbformat.v4.new_output("display_data", data={MIME: {"hr_10": 0.08123}})
    cell = nbformat.v4.new_code_cell("record(...)", outputs=[output])
    heading = nbformat.v4.new_markdown_cell("(label)=\n# A baseline to beat\n\nText.")
    notebook = nbformat.v4.new_notebook(cells=[heading, cell])
    nbformat.write(notebook, executed / "02_sequential_baseline.ipynb")
    monkeypatch.setattr(results_page, "RESULTS", results)

    def with_claims(*claims):
        path = tmp_path / "claims.yml"
        path.write_text(yaml.safe_dump(list(claims)))
        monkeypatch.setattr(results_page, "CLAIMS", path)
        return executed, tmp_path / "results.md"

    return with_claims


def test_the_page_shows_each_claim_with_our_number_and_the_run_behind_it(book):
    executed, page = book(CLAIM, LIVE)
    write(executed, page)
    text = page.read_text(encoding="utf-8")
    assert "## A baseline to beat\n" in text
    assert "| 0.2853 | 0.2861 | one seed | [ml-1m_sasrec](result-ml-1m-sasrec) |" in text
    assert "| – | 0.08123 | one seed | {doc}`/chapters/02_sequential_baseline` |" in text
    assert "SASRec, HR@10 \\| ML-1M, the official README {cite}`zhai2024actions`" in text
    assert "(result-ml-1m-sasrec)=" in text
    assert "seed 7" in text and "genrec-lite train --recipe sasrec-ml-1m" in text
    assert "| `by_seed` | 0.285, 0.287 |" in text


def test_a_key_may_hold_a_dot_which_a_records_name_may_not(book):
    executed, page = book({**CLAIM, "ours": "result:ml-1m_sasrec.1.6 step"})
    write(executed, page)
    assert "| 0.2853 | 0.01257 | one seed | [ml-1m_sasrec](result-ml-1m-sasrec) |" in (
        page.read_text(encoding="utf-8")
    )


def test_a_book_without_claims_says_so(book):
    executed, page = book()
    write(executed, page)
    assert "No chapter has made a claim yet." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ours": "result:ml-1m_sasrec.hr_50"}, r"claim sasrec-hr: .* records no 'hr_50'"),
        ({"ours": "result:ml-1m_hstu.hr_10"}, r"claim sasrec-hr: no record 'ml-1m_hstu'"),
        ({"ours": "record:03_missing.hr_10"}, r"claim sasrec-hr: .*run chapter 03_missing"),
        ({"ours": "0.2861"}, r"claim sasrec-hr: ours is '0.2861'"),
        ({"ours": "result:hr_10"}, r"claim sasrec-hr: ours is 'result:hr_10'"),
        ({"ours": "result:ml-1m_sasrec.by_seed"}, r"sasrec-hr: ml-1m_sasrec\.by_seed is \[0\.285"),
        ({"published": "28%"}, r"claim sasrec-hr: published is '28%': .*one number"),
        ({"chapter": "02_sasrec"}, r"claim sasrec-hr: there is no chapter '02_sasrec' in _toc"),
        ({"colour": "red"}, r"claim sasrec-hr: lacks \[\], has unknown \['colour'\]"),
    ],
)
def test_a_claim_that_cannot_be_drawn_is_refused_by_name(book, change, message):
    executed, page = book({**CLAIM, **change})
    with pytest.raises(ClaimError, match=message):
        write(executed, page)
    assert not page.exists()


def test_two_claims_may_not_share_an_id(book):
    executed, page = book(CLAIM, CLAIM)
    with pytest.raises(ClaimError, match="two claims have the id 'sasrec-hr'"):
        write(executed, page)


def test_the_readme_shows_full_size_claims_only(book):
    book(CLAIM, LIVE)
    table = readme_table()
    assert "0.2861" in table and "0.08123" not in table
    text = f"# Title\n{BEGIN}\nold\n{END}\nrest\n"
    assert with_table(text, table) == f"# Title\n{BEGIN}\n{table}{END}\nrest\n"
    assert with_table(with_table(text, table), table) == with_table(text, table)


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ClaimError, match=r"README\.md lacks"):
        with_table(f"{END} {BEGIN}", "table")


def test_the_readme_is_up_to_date_with_the_records():
    """Mend with `.venv/bin/python book/results_page.py --readme`."""
    text = results_page.README.read_text(encoding="utf-8")
    assert text == with_table(text, readme_table())
