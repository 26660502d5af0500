"""The command line: genrec-lite data list | fetch | show, train, evaluate, bench."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from genrec_lite.bench import BENCHMARKS, TABLES, measure, record_values
from genrec_lite.datasets import Interactions, InteractionsError, load
from genrec_lite.datasets.catalogue import CATALOGUE, locate
from genrec_lite.datasets.download import SOURCES, fetch
from genrec_lite.notebook.record import RESULTS, write_record
from genrec_lite.recipes import RECIPES, evaluate_run, run_recipe, summary_of
from genrec_lite.recipes.scaling import GRIDS, run_grid

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
    except (OSError, ValueError, FloatingPointError) as error:
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
    separator: Annotated[
        str | None,
        typer.Option(help="What parts the cells of a .csv, as ';' or '\\t'; a comma if not given."),
    ] = None,
) -> None:
    """Check a data set or your own file, and show what is in it."""
    with clean_errors():
        for key, value in _opened(name, text_ids, column or [], separator).report().items():
            if isinstance(value, dict):
                value = "  ".join(f"{level} {count:,}" for level, count in value.items())
            elif isinstance(value, list):
                value = ", ".join(value) or "none"
            typer.echo(f"{key:<24} {value:,}" if isinstance(value, int) else f"{key:<24} {value}")


def _opened(name: str, text_ids: bool, column: list[str], separator: str | None) -> Interactions:
    """The log of that name, or of that file."""
    path = Path(name)
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        if name not in CATALOGUE and path.exists():
            if path.is_dir():
                raise InteractionsError(f"{path} is a folder: name a file in it")
            raise InteractionsError(f"{path} is neither .csv nor .parquet: save it as one of them")
        if text_ids or column or separator:
            raise InteractionsError(
                f"{name} is no file: --text-ids, --column and --separator are for a .csv or "
                ".parquet file; leave them out for a data set that has a name"
            )
        return load(name)
    columns = {}
    for pair in column:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise InteractionsError(f"--column {pair}: write OURS=THEIRS, as user_id=customer")
        columns[ours] = theirs
    if kind == ".parquet":
        if separator:
            raise InteractionsError(f"{path} has no separator: leave --separator out")
        return Interactions.from_parquet(path, columns=columns, text_ids=text_ids)
    between = "," if separator is None else separator.replace("\\t", "\t")
    return Interactions.from_csv(path, columns=columns, text_ids=text_ids, separator=between)


@app.command("train")
def train_recipe(
    recipe: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(RECIPES)}; or a grid of runs: {', '.join(GRIDS)}."),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder, or with --seeds the folder of run folders seed-0, seed-1, ...; "
            "runs/RECIPE/seed-SEED unless given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed, or the first of --seeds.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=10, help="How many seeds to run.")] = 1,
    record: Annotated[
        bool, typer.Option("--record", help="Write book/results/RECIPE.json.")
    ] = False,
) -> None:
    """Train and test a recipe; an interrupted run goes on where it stopped."""
    if show_list:
        for name, one in RECIPES.items():
            typer.echo(f"{name:<24} {one.data}, {one.protocol} protocol, {one.epochs} epochs")
        for name, grid in GRIDS.items():
            typer.echo(f"{name:<24} {grid.data}, a grid of {len(grid.sizes)} sizes")
        return
    with clean_errors():
        if recipe is None:
            raise ValueError(f"name one with --recipe: {', '.join([*RECIPES, *GRIDS])}")
        if recipe in GRIDS:
            if seeds > 1:
                raise ValueError(f"{recipe} is a grid of one seed: leave out --seeds")
            _train_grid(recipe, out, seed, record)
            return
        folder = out or Path("runs", recipe)
        alone = seeds == 1 and out is not None
        folders = [folder if alone else folder / f"seed-{s}" for s in range(seed, seed + seeds)]
        command = f"genrec-lite train --recipe {recipe}"
        command += f" --seed {seed}" * (seed > 0) + f" --seeds {seeds}" * (seeds > 1)
        try:
            for number, run_folder in enumerate(folders, start=seed):
                found = run_recipe(recipe, run_folder, seed=number)
                hit_rate = f"hr@10 {found['hr@10']:.4f}"
                typer.echo(f"seed {number}: {hit_rate}, {run_folder}", err=True)
        except KeyboardInterrupt:
            again = command + f" --out {out}" * (out is not None) + " --record" * record
            typer.echo(
                f"interrupted; to go on from the last of the five-minute checkpoints: {again}",
                err=True,
            )
            raise typer.Exit(130) from None
        summary = summary_of(folders)
        _print_metrics(summary)
        if record:
            command += " --record"
            typer.echo(write_record(recipe, summary, seed=seed, command=command, folder=RESULTS))


def _train_grid(recipe: str, out: Path | None, seed: int, record: bool) -> None:
    """All sizes of a grid, and the power laws through them."""
    command = f"genrec-lite train --recipe {recipe}" + f" --seed {seed}" * (seed > 0)
    try:
        found = run_grid(
            GRIDS[recipe],
            out or Path("runs", recipe),
            seed=seed,
            say=lambda line: typer.echo(line, err=True),
        )
    except KeyboardInterrupt:
        again = command + f" --out {out}" * (out is not None) + " --record" * record
        typer.echo(f"interrupted; to go on with the runs left: {again}", err=True)
        raise typer.Exit(130) from None
    _print_metrics(found)
    if record:
        command += " --record"
        typer.echo(write_record(recipe, found, seed=seed, command=command, folder=RESULTS))


@app.command("evaluate")
def evaluate(
    run_folder: Annotated[Path, typer.Argument(help="A run folder of `genrec-lite train`.")],
) -> None:
    """Measure the weights of a finished run on the test questions again."""
    with clean_errors():
        _print_metrics(evaluate_run(run_folder))


@app.command("bench")
def bench(
    name: Annotated[
        str | None,
        typer.Argument(help=f"One of {', '.join(dict.fromkeys([*BENCHMARKS, *TABLES]))}."),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the benchmarks.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The last line of output is one JSON object.")
    ] = False,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="How often each way is timed.", show_default=False)
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write book/results/bench-NAME.json.")
    ] = False,
    config: Annotated[
        str | None, typer.Option(help="Of benchmarks with two sizes: small or large.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help=f"Of {', '.join(TABLES)}, tables of many settings: cpu or cuda."),
    ] = None,
) -> None:
    """Time our way beside others', in turns, at equal results."""
    if show_list:
        for one in BENCHMARKS.values():
            typer.echo(f"{one.name:<16} {one.about}")
        for table in TABLES:
            typer.echo(f"{table:<16} with --device: a table of many settings")
        return
    with clean_errors():
        if device is not None or name in TABLES.keys() - BENCHMARKS.keys():
            _bench_table(name, device or "cpu", repeats, as_json, record)
            return
        if config not in (None, "small", "large"):
            raise ValueError(f"config is {config!r}: choose small or large")
        if config is not None and name in BENCHMARKS and f"{name}-large" not in BENCHMARKS:
            raise ValueError(f"{name} has one size: leave out --config")
        if config == "large" and name in BENCHMARKS:
            name = f"{name}-large"
        if name not in BENCHMARKS:
            raise ValueError(
                f"no benchmark is called {name!r}: choose from {', '.join(BENCHMARKS)}"
            )
        found = measure(BENCHMARKS[name], repeats)
        if record:
            values, command = record_values(found), f"genrec-lite bench {name}"
            command += f" --repeats {repeats}" * (repeats is not None) + " --record"
            typer.echo(
                write_record(f"bench-{name}", values, seed=0, command=command, folder=RESULTS)
            )
    if as_json:
        typer.echo(json.dumps(found))
        return
    machine = found["machine"]
    for key, value in found["setting"].items():
        typer.echo(f"{key:<24} {f'{value:.2g}' if 'difference' in key else value}")
    typer.echo(f"{'':<40}{'CPU s':>10}{'wall s':>10}{'CPU / ours':>12}")
    for way, cost in {"ours": found["ours"], **found["peers"]}.items():
        times = cost["cpu_s"] / found["ours"]["cpu_s"]
        typer.echo(f"{way:<40}{cost['cpu_s']:>10.3f}{cost['wall_s']:>10.3f}{times:>12.2f}")
    for rate, value in found["ours"].items():
        if rate.endswith("_per_s"):
            typer.echo(f"ours: {value:,.0f} {rate.removesuffix('_per_s')} per CPU second")
    if machine["busy"]:
        typer.echo(
            f"the machine is busy (load {machine['load']}, {machine['cores']} cores): "
            "repeat it when it is quiet"
        )


def _bench_table(
    name: str | None, device: str, repeats: int | None, as_json: bool, record: bool
) -> None:
    """A line for each way of each setting: its seconds, and how many times ours."""
    if name not in TABLES:
        if name in BENCHMARKS:
            raise ValueError(f"{name} runs on a CPU only: leave out --device")
        raise ValueError(f"no table is called {name!r}: choose from {', '.join(TABLES)}")
    found = TABLES[name](device, 5 if repeats is None else repeats)
    if record:
        title = f"bench-{name}-{device}"
        command = f"genrec-lite bench {name} --device {device}"
        command += f" --repeats {repeats}" * (repeats is not None) + " --record"
        typer.echo(write_record(title, found, seed=0, command=command, folder=RESULTS))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for key in (key.removesuffix("seconds") for key in found if key.endswith(" seconds")):
        line = f"{key:<64}{1e3 * found[key + 'seconds']:>10.2f} ms"
        line += f"{found[key + 'times ours']:>8.2f} times ours"
        if key + "predicted" in found:
            line += f"{found[key + 'predicted']:>8.2f} predicted"
            line += f"{found[key + 'bytes'] / 2**20:>10.1f} MiB"
        typer.echo(line)
    if found["busy"]:
        typer.echo("the machine was busy: repeat it when it is quiet")


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    """One line a number; with several seeds, the half-width of its 95% interval behind it."""
    for key, value in metrics.items():
        if isinstance(value, (int, float)) and not key.endswith(" interval"):
            text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
            half = metrics.get(f"{key} interval")
            typer.echo(f"{key:<24} {text}" + (f" ± {half:.4f}" if half is not None else ""))


if __name__ == "__main__":
    app()
