from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from genrec_lite.datasets import InteractionsError, catalogue, leave_last_out, load, load_titles


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that GENREC_LITE_DATA points to; the user's own cache is out of sight."""
    monkeypatch.setenv("GENREC_LITE_DATA", str(tmp_path))
    monkeypatch.setattr(catalogue, "default_cache_dir", lambda: tmp_path / "cache")
    return tmp_path


def test_the_embedded_log_is_what_its_card_says() -> None:
    log = load("movielens-small")
    assert (len(log), log.num_users, log.num_items) == (100_004, 671, 9_066)
    assert log.duplicates_dropped == 0
    report = log.report()
    assert report["events per user"]["min"] == 20
    assert report["first event"].startswith("1995-01-09")
    assert report["last event"].startswith("2016-10-16")


def test_every_embedded_item_has_a_row_of_titles() -> None:
    titles = load_titles("movielens-small")
    assert titles.columns == ["item_id", "title", "year", "genres"]
    assert titles["item_id"].to_list() == load("movielens-small").sequences().item_ids.to_list()
    assert titles.row(0) == (
        1, "Toy Story", 1995, "Adventure|Animation|Children|Comedy|Fantasy",
    )  # fmt: skip


def test_every_embedded_user_is_asked_once() -> None:
    split = leave_last_out(load("movielens-small").sequences())
    assert split.validation is not None
    assert len(split.test) == len(split.validation) == 671
    assert len(split.train.items.values) == 100_004 - 2 * 671


def test_an_unknown_name_lists_the_names_there_are() -> None:
    with pytest.raises(InteractionsError, match="'movielens'.*movielens-small, ml-100k, ml-1m"):
        load("movielens")


def test_a_data_set_that_is_nowhere_says_where_it_was_sought_and_what_to_run(
    own_data: Path,
) -> None:
    with pytest.raises(InteractionsError) as caught:
        load("ml-1m")
    assert f"no file ml-1m/ratings.dat in {catalogue.REPOSITORY_DATA}, {own_data}" in str(
        caught.value
    )
    assert "genrec-lite data fetch ml-1m" in str(caught.value)
    assert "GENREC_LITE_DATA" in str(caught.value)


def test_movielens_folders_are_found_below_own_data_with_titles(own_data: Path) -> None:
    (own_data / "ml-1m").mkdir()
    (own_data / "ml-1m" / "ratings.dat").write_text("1::10::5::100\n1::11::4::90\n")
    (own_data / "ml-1m" / "movies.dat").write_text("10::Heat (1995)::Action\n11::Untitled::\n")
    log = load("ml-1m")
    assert (log.name, log.table["item_id"].to_list()) == ("ml-1m", [11, 10])
    assert load_titles("ml-1m").rows() == [(10, "Heat", 1995, "Action"), (11, "Untitled", None, "")]


def test_the_cache_is_searched_after_own_data(own_data: Path) -> None:
    for folder, film in (("cache", 10), (".", 20)):
        target = own_data / folder / "ml-100k"
        target.mkdir(parents=True)
        (target / "u.data").write_text(f"1\t{film}\t5\t100\n")
    assert load("ml-100k").table["item_id"].to_list() == [20]
    (own_data / "ml-100k" / "u.data").unlink()
    assert load("ml-100k").table["item_id"].to_list() == [10]


def test_ordered_logs_follow_their_column_pos_and_have_no_times(own_data: Path) -> None:
    frame = pl.DataFrame({"userId": [1, 1, 2], "movieId": [7, 8, 9], "pos": [1, 0, 0]})
    frame.with_columns(rating=pl.Series([4, 5, 3])).write_parquet(
        own_data / "ml-1m-ordered.parquet"
    )
    log = load("ml-1m-ordered")
    assert not log.has_timestamps
    assert log.columns_not_used == ()
    assert log.table.rows() == [(1, 8, 5.0), (1, 7, 4.0), (2, 9, 3.0)]


def test_an_ordered_log_without_its_column_pos_is_refused(own_data: Path) -> None:
    frame = pl.DataFrame({"user_id": [1], "item_id": [7]})
    frame.write_parquet(own_data / "amazon-beauty-ordered.parquet")
    with pytest.raises(InteractionsError, match="no column 'pos'; columns found: user_id, item_id"):
        load("amazon-beauty-ordered")


def test_a_data_set_without_titles_says_so() -> None:
    with pytest.raises(InteractionsError, match="amazon-beauty-ordered has no titles"):
        load_titles("amazon-beauty-ordered")


def test_an_invoice_of_the_shop_is_a_request_with_each_product_once(own_data: Path) -> None:
    pl.DataFrame(
        {
            "InvoiceNo": ["536365", "536365", "536365", "C536379"],
            "StockCode": ["85123A", "71053", "85123A", "71053"],
            "Quantity": [6.0, 2.0, 1.0, -2.0],
            "InvoiceDate": [datetime(2010, 12, 1, 8, minute) for minute in (26, 27, 27, 40)],
            "CustomerID": [17850.0] * 4,
        }
    ).write_parquet(own_data / "online-retail.parquet")
    assert load("online-retail-invoices").table.rows(named=False) == [
        ("17850", "85123A", 1291191960, 7.0, "536365"),
        ("17850", "71053", 1291191960, 2.0, "536365"),
        ("17850", "71053", 1291192800, -2.0, "C536379"),
    ]


def test_online_retail_leaves_cancellations_out_and_has_text_ids_and_titles(
    own_data: Path,
) -> None:
    pl.DataFrame(
        {
            "StockCode": ["85123A", "71053", "71053"],
            "Description": ["HOLDER", "LANTERN", "LANTERN"],
            "InvoiceDate": [datetime(2010, 12, 1, 8, minute) for minute in (27, 26, 28)],
            "CustomerID": [17850.0, 17850.0, 13047.0],
            "cancel": [False, False, True],
        }
    ).write_parquet(own_data / "online-retail.parquet")
    log = load("online-retail")
    assert log.table.rows() == [("17850", "71053", 1291191960), ("17850", "85123A", 1291192020)]
    assert load_titles("online-retail").rows() == [("71053", "LANTERN"), ("85123A", "HOLDER")]
