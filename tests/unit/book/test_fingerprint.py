import pytest

from fingerprint import ModuleGraph, changes, dependencies
from layout import BookError


def all_dependencies(book):
    fresh = book.fresh()
    return {c.stem: dependencies(fresh, c, "smoke") for c in fresh.chapters()}


def changed_by(book, name, text):
    """Return {chapter: what changed} for the chapters that an edit concerns."""
    before = all_dependencies(book)
    book.write(name, text)
    now = all_dependencies(book)
    found = {stem: changes(before[stem], now[stem]) for stem in now}
    return {stem: names for stem, names in found.items() if names}


def test_editing_a_module_concerns_only_the_chapters_that_import_it_through_others(book):
    assert changed_by(book, "genrec_lite/metrics.py", "K = 11\n") == {
        "01_ranks": ["genrec_lite/metrics.py"]
    }
    assert changed_by(book, "genrec_lite/pairs/table.py", "ROWS = 3\n") == {
        "02_pairs": ["genrec_lite/pairs/table.py"]
    }


def test_editing_a_module_that_nobody_imports_concerns_no_chapter(book):
    assert changed_by(book, "genrec_lite/lonely.py", "X = 1\n") == {}


def test_editing_the_package_itself_concerns_every_chapter(book):
    assert set(changed_by(book, "genrec_lite/__init__.py", "X = 1\n")) == {"01_ranks", "02_pairs"}


def test_editing_a_chapter_concerns_only_that_chapter(book):
    text = book.chapters()[0].text + "\nOne more line.\n"
    assert changed_by(book, "chapters/01_ranks.md", text) == {"01_ranks": ["chapters/01_ranks.md"]}


def test_editing_a_profile_concerns_only_the_chapter_whose_parameter_it_is(book):
    profiles = "01_ranks:\n  smoke: {NUM_USERS: 8}\n  book: {SEED: 1}\n"
    assert changed_by(book, "chapters/profiles.yml", profiles) == {
        "01_ranks": ["parameter NUM_USERS"]
    }


def test_data_files_count_when_listed_or_named_by_an_imported_module(book):
    book.write("data/clicks.csv", "1,2\n")
    book.write("data/listed.csv", "1,2\n")
    book.write("data/unused.csv", "1,2\n")
    book.write("genrec_lite/pairs/table.py", "ROWS = open('data/clicks.csv')\n")
    book.write("chapters/profiles.yml", "01_ranks:\n  data: [data/listed.csv]\n")
    assert changed_by(book, "data/clicks.csv", "3,4\n") == {"02_pairs": ["data/clicks.csv"]}
    assert changed_by(book, "data/listed.csv", "3,4\n") == {"01_ranks": ["data/listed.csv"]}
    assert changed_by(book, "data/unused.csv", "3,4\n") == {}


def test_a_data_file_counts_in_a_folder_of_data_too(book):
    book.write("data/deep/clicks.csv", "1,2\n")
    book.chapter("02_pairs", "open('../data/deep/clicks.csv')")
    assert changed_by(book, "data/deep/clicks.csv", "3\n") == {"02_pairs": ["data/deep/clicks.csv"]}


@pytest.mark.parametrize("place", ["variable", "cache"])
def test_a_data_set_outside_the_repository_counts_where_its_file_is_named(
    book, tmp_path, monkeypatch, place
):
    outside, nowhere = tmp_path / "outside", tmp_path / "nowhere"
    monkeypatch.setenv("GENREC_LITE_DATA", str(outside if place == "variable" else nowhere))
    cache = outside if place == "cache" else nowhere
    monkeypatch.setattr("fingerprint.pooch.os_cache", lambda name: cache)
    book.write("genrec_lite/pairs/table.py", "ROWS = f'{name}/ratings.dat', 'ml-1m'\n")
    fetched = "outside/ml-1m/ratings.dat"
    book.write("outside/ml-1m/other.dat", "1,2\n")
    expected = {"02_pairs": [str(tmp_path / fetched)]}
    assert changed_by(book, fetched, "1,2\n") == expected
    assert changed_by(book, fetched, "1,2\n3,4\n") == expected
    assert changed_by(book, "outside/ml-1m/other.dat", "3,4\n5,6\n") == {}


@pytest.mark.parametrize(
    ("cell", "counts"),
    [
        ('load_record(\n    "ml_1m")', True),
        ('names = ["ml_1m"]\nrows = [load_record(name) for name in names]', True),
        ('load_record(f"ml_{n}m")', True),
        ('load_record("other")', False),
        ('names = ["ml_1m"]', False),
    ],
)
def test_a_record_counts_for_a_cell_that_loads_it_by_whatever_name(book, cell, counts):
    book.chapter("02_pairs", cell)
    name = "book/results/ml_1m.json"
    book.write(name, "[]")
    assert changed_by(book, name, "{}") == ({"02_pairs": [name]} if counts else {})


def test_a_record_counts_for_the_chapter_that_loads_it(book):
    book.chapter("02_pairs", 'row = load_record("ml_1m")')
    name = "book/results/ml_1m.json"
    assert changed_by(book, name, "{}") == {"02_pairs": [name]}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import genrec_lite.pairs.table", {"", ".pairs", ".pairs.table"}),
        ("from genrec_lite.pairs import table", {"", ".pairs", ".pairs.table"}),
        ("from genrec_lite import metrics as m", {"", ".metrics"}),
        ("if True:\n    %time from genrec_lite import metrics\n!ls", {"", ".metrics"}),
        ("%%time\n%timeit -n 3 import genrec_lite.pairs", {"", ".pairs"}),
        ("run('python', '-m', 'genrec_lite.metrics')", {"", ".metrics"}),
        ("read('import genrec_lite.pairs.table as t')", {"", ".pairs", ".pairs.table"}),
        ("import torch, genrec_lite_other", set()),
    ],
)  # fmt: skip
def test_every_form_of_import_is_found(book, source, found):
    graph = ModuleGraph(book.root / "genrec_lite")
    assert graph.named_in(source) == {f"genrec_lite{name}" for name in found}


def test_a_cell_that_is_not_plain_python_or_computes_imports_depends_on_the_whole_package(book):
    graph = ModuleGraph(book.root / "genrec_lite")
    assert graph.named_in("from importlib import import_module as i\ni(x)") == set(graph.files)
    assert graph.named_in("%%bash\nfor f in *; do echo $f; done") == set(graph.files)


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("genrec_lite.losses", "from . import metrics", {"", ".metrics"}),
        ("genrec_lite.pairs", "from .table import ROWS", {"", ".pairs", ".pairs.table"}),
        ("genrec_lite.pairs.table", "from ..metrics import K", {"", ".metrics"}),
        ("genrec_lite.pairs.table", "from . import table", {"", ".pairs", ".pairs.table"}),
    ],
)
def test_relative_imports_are_resolved_from_their_module(book, module, source, found):
    graph = ModuleGraph(book.root / "genrec_lite")
    assert graph.named_in(source, module) == {f"genrec_lite{name}" for name in found}


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ("01_ranks:\n  book: {NUM_USER: 1}",
         "chapter 01_ranks, profile book: unknown parameter 'NUM_USER'. Did you mean NUM_USERS?"
         " The chapter's parameters cell declares: NUM_USERS, SEED."),
        ("01_rank:\n  book: {SEED: 1}", "no chapter '01_rank'. Did you mean 01_ranks?"),
        ("01_ranks:\n  smok: {SEED: 1}", "unknown key 'smok'; expected one of smoke, book"),
        ("01_ranks:\n  data: [data/none.csv]", "no data file 'data/none.csv'"),
    ],
)  # fmt: skip
def test_a_profile_that_names_what_does_not_exist_is_refused(book, profiles, message):
    book.write("chapters/profiles.yml", profiles)
    with pytest.raises(BookError) as error:
        book.parameters("02_pairs", "smoke")
    assert message in str(error.value)


def test_a_chapter_asked_for_by_a_name_that_none_has_is_an_error_that_lists_all(book):
    with pytest.raises(BookError, match="No chapter is called '3_x'.*01_ranks, 02_pairs"):
        book.chapters(["3_x"])
