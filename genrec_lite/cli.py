"""The command line: genrec-lite data list | fetch | show."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from genrec_lite.datasets import Interactions, InteractionsError, load
from genrec_lite.datasets.catalogue import CATALOGUE, locate
from genrec_lite.datasets.download import SOURCES, fetch

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="Data sets: list, fetch, look at.")
app.add_typer(data_app, name="data")


@app.callback()
def main() -> None:
    """Generative recommenders, small enough to read."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


@contextmanager
def clean_errors() -> Iterator[None]:
    """Prints an error of the user's input or surroundings as one line on stderr; exit code 1."""
    try:
        yield
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@data_app.command("list")
def list_data() -> None:
    """List the data sets that have a name, and where each lies or how to get it."""
    for name, one in CATALOGUE.items():
        try:
            where = str(locate(name))
        except InteractionsError:
            where = f"not here; genrec-lite data fetch {name}" if name in SOURCES else "not here"
        typer.echo(f"{name:<22} {one.about}\n{'':<22} {where}")


@data_app.command("fetch")
def fetch_data(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SOURCES)}.")],
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Folder to keep it in; set GENREC_LITE_DATA to it afterwards."),
    ] = None,
) -> None:
    """Download a data set from its publisher; an interrupted download goes on where it stopped."""
    with clean_errors():
        typer.echo(fetch(name, cache_dir))


@data_app.command("show")
def show_data(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A name, a .csv or a .parquet.")],
    text_ids: Annotated[bool, typer.Option("--text-ids", help="Ids are text.")] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(help="OURS=THEIRS, for a file's column of another name; repeatable."),
    ] = None,
) -> None:
    """Check a data set or your own file, and show what is in it."""
    with clean_errors():
        for key, value in _opened(name, text_ids, column or []).report().items():
            if isinstance(value, dict):
                value = "  ".join(f"{level} {count:,}" for level, count in value.items())
            typer.echo(f"{key:<24} {value:,}" if isinstance(value, int) else f"{key:<24} {value}")


def _opened(name: str, text_ids: bool, column: list[str]) -> Interactions:
    """The log of that name, or of that file."""
    path = Path(name)
    if path.suffix not in (".csv", ".parquet"):
        if name not in CATALOGUE and path.exists():
            raise InteractionsError(f"{path} is neither .csv nor .parquet: save it as one of them")
        return load(name)
    columns = {}
    for pair in column:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise InteractionsError(f"--column {pair}: write OURS=THEIRS, as user_id=customer")
        columns[ours] = theirs
    read = Interactions.from_csv if path.suffix == ".csv" else Interactions.from_parquet
    return read(path, columns=columns, text_ids=text_ids)


if __name__ == "__main__":
    app()
