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
