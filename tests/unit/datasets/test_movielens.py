from __future__ import annotations

from pathlib import Path

import pytest

from genrec_lite.datasets import InteractionsError
from genrec_lite.datasets.movielens import read_ratings, read_titles

RATINGS = {
    "ratings.csv": "userId,movieId,rating,timestamp\n2,31,2.5,1260759179\n1,1029,3.0,1260759144\n",
    "ratings.dat": "2::31::2.5::1260759179\n1::1029::3::1260759144\n",
    "u.data": "2\t31\t2.5\t1260759179\n1\t1029\t3\t1260759144\n",
}


@pytest.mark.parametrize("name", RATINGS)
def test_all_movielens_formats_give_the_same_log(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(RATINGS[name])
    log = read_ratings(tmp_path / name, name="films")
    assert log.table.rows() == [(1, 1029, 1260759144, 3.0), (2, 31, 1260759179, 2.5)]
    assert log.name == "films"


@pytest.mark.parametrize("name", ["ratings.dat", "u.data"])
def test_in_a_file_without_a_header_line_the_first_row_is_line_1(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(RATINGS[name].replace("2.5", "good"))
    with pytest.raises(InteractionsError, match="line 1, column 'rating': 'good'"):
        read_ratings(tmp_path / name, name="films")


def test_movielens_ratings_without_their_times_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n2,31,2.5\n")
    with pytest.raises(InteractionsError, match="ratings.csv has no column 'timestamp'"):
        read_ratings(tmp_path / "ratings.csv", name="films")


def test_a_cut_line_of_a_file_without_a_header_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("2\t31\t2.5\n1\t1029\t3\n")
    with pytest.raises(InteractionsError, match="u.data, line 1 has 3 cells, not 4"):
        read_ratings(tmp_path / "u.data", name="films")


def test_a_file_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="give ratings.csv, ratings.dat or u.data"):
        read_ratings(tmp_path / "tags.csv", name="films")


TITLES = {
    "movies.csv": 'movieId,title,genres\n260,"Star Wars: Épisode, IV (1977)",Action|Sci-Fi\n',
    "movies.dat": "260::Star Wars: Épisode, IV (1977)::Action|Sci-Fi\n",
    "u.item": "260|Star Wars: Épisode, IV (1977)|01-Jan-1977||http://x|"
    "0|1|0|0|0|0|0|0|0|0|0|0|0|0|0|1|0|0|0\n",
}


@pytest.mark.parametrize("name", TITLES)
def test_titles_of_all_formats_are_read_with_their_genres(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TITLES[name], "utf-8" if name == "movies.csv" else "latin-1")
    assert read_titles(tmp_path).rows() == [(260, "Star Wars: Épisode, IV (1977)", "Action|Sci-Fi")]


def test_a_folder_without_titles_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none of movies.csv"):
        read_titles(tmp_path)


def test_the_byte_0x85_of_latin_1_ends_no_line(tmp_path: Path) -> None:
    (tmp_path / "movies.dat").write_bytes(b"1::Wait\x85 (1990)::Drama\r\n\n2::Heat::Action\n")
    found = read_titles(tmp_path).rows()
    assert found == [(1, "Wait\x85 (1990)", "Drama"), (2, "Heat", "Action")]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("movies.csv", "id,title,genres\n1,Heat,Action\n", "not all of the columns movieId"),
        ("movies.csv", "movieId,title,genres\none,Heat,A\n", "line 2, column 'item_id': 'one'"),
        ("movies.dat", "1::Heat::Action\n\n2::Heat\n", "line 3 has 2 cells parted by '::', not 3"),
        ("movies.dat", "1::Heat::A\n\none::Heat::A\n", "line 3, column 'item_id': 'one'"),
        ("u.item", "1|Heat\n", "line 1 has 2 cells"),
    ],
)
def test_titles_that_cannot_be_used_are_named_with_their_line(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InteractionsError, match=f"{name}.*{told}"):
        read_titles(tmp_path)
