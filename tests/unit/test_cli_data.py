from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from genrec_lite.cli import app
from genrec_lite.datasets import catalogue, download


@pytest.fixture(autouse=True)
def no_data_beyond_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENREC_LITE_DATA", raising=False)
    monkeypatch.setattr(catalogue, "default_cache_dir", lambda: tmp_path / "cache")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def assert_one_clean_line(result: Result, *told: str) -> None:
    """An error is one line on stderr, with nothing on stdout, and exit code 1."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for words in told:
        assert words in result.stderr


def test_list_names_each_data_set_with_its_place_or_the_command_to_get_it() -> None:
    result = run("list")
    assert result.exit_code == 0
    for name in catalogue.CATALOGUE:
        assert name in result.stdout
    assert str(catalogue.REPOSITORY_DATA / "movielens_small.parquet") in result.stdout
    assert "not here; genrec-lite data fetch ml-1m" in result.stdout


def test_show_prints_counts_lengths_and_the_span_of_time() -> None:
    result = run("show", "movielens-small")
    assert result.exit_code == 0
    lines = {line[:25].strip(): line[25:] for line in result.stdout.splitlines()}
    assert (lines["interactions"], lines["users"], lines["items"]) == ("100,004", "671", "9,066")
    assert lines["events per user"].startswith("min 20  10% 24  50% 71")
    assert lines["last event"].startswith("2016-10-16")


def test_show_reads_an_own_file_with_mapped_columns_and_text_ids(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("who,item_id\nal,tea\nbo,tea\n")
    result = run("show", path, "--text-ids", "--column", "user_id=who")
    assert result.exit_code == 0, result.stderr
    assert "shop" in result.stdout
    assert re.search("^columns not used +none$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(("given", "between"), [(";", ";"), ("\\t", "\t"), ("\t", "\t")])
def test_show_reads_a_file_with_another_separator(tmp_path: Path, given: str, between: str) -> None:
    path = tmp_path / "SHOP.CSV"
    path.write_text("user_id,item_id,where,when\n1,2,3,4\n".replace(",", between))
    result = run("show", path, "--separator", given)
    assert result.exit_code == 0, result.stderr
    assert re.search("^columns not used +where, when$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "options", [["--text-ids"], ["--column", "user_id=nothing"], ["--separator", ";"]]
)
def test_an_option_for_files_is_refused_with_the_name_of_a_data_set(options: list[str]) -> None:
    assert_one_clean_line(run("show", "movielens-small", *options), "is no file", options[0])


def test_a_separator_is_refused_with_a_parquet_file(tmp_path: Path) -> None:
    result = run("show", tmp_path / "log.parquet", "--separator", ";")
    assert_one_clean_line(result, "log.parquet has no separator")


@pytest.mark.parametrize("name", ["d.csv", "d.PARQUET", "d"])
def test_show_of_a_folder_says_that_it_is_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert_one_clean_line(run("show", tmp_path / name), name, "is a folder")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("user_id,item_id,timestamp\n1,2,1260759144000\n", ["line 2", "divide by 1000"]),
        ("userId,item_id\n1,2\n", ["--column user_id=userId"]),
        ("", ["is empty"]),
    ],
)
def test_show_names_what_is_wrong_with_an_own_file_in_one_line(
    tmp_path: Path, text: str, told: list[str]
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(text)
    assert_one_clean_line(run("show", path), str(path), *told)


def test_show_of_an_unknown_name_lists_the_names() -> None:
    assert_one_clean_line(run("show", "ml-2m"), "'ml-2m'", "movielens-small, ml-100k")


def test_show_of_a_file_that_is_not_there_names_it(tmp_path: Path) -> None:
    assert_one_clean_line(run("show", tmp_path / "no.csv"), "no file", "no.csv")


def test_show_of_a_file_of_another_kind_names_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "log.xlsx").touch()
    assert_one_clean_line(run("show", tmp_path / "log.xlsx"), "neither .csv nor .parquet")


def test_a_column_option_without_equals_is_explained(tmp_path: Path) -> None:
    (tmp_path / "log.csv").touch()
    assert_one_clean_line(run("show", tmp_path / "log.csv", "--column", "who"), "write OURS=THEIRS")


def test_fetch_prints_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").touch()
    result = run("fetch", "ml-1m", "--cache-dir", tmp_path)
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "ml-1m"))


def test_fetch_without_a_connection_is_one_clean_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = download.Source("http://127.0.0.1:9/ml-1m.zip", "0" * 32)
    monkeypatch.setitem(download.SOURCES, "ml-1m", source)
    assert_one_clean_line(run("fetch", "ml-1m", "--cache-dir", tmp_path), "no connection")


def test_fetch_of_an_unknown_name_lists_the_names() -> None:
    assert_one_clean_line(run("fetch", "ml-2m"), "'ml-2m'", "ml-20m")
