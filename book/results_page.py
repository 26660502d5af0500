"""The results page and the README's table: what papers say beside what our records say.

.venv/bin/python book/results_page.py --readme    rewrites the table in README.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from genrec_lite.notebook.record import RecordError, load_record, read_records
from layout import toc_files

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = ROOT / "book" / "claims.yml"
RESULTS = ROOT / "book" / "results"
README = ROOT / "README.md"
TOC = ROOT / "_toc.yml"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

_KEYS = {"id", "chapter", "claim", "paper", "source", "published", "ours", "why"}
_INTRODUCTION = """\
# Results

Every number that a paper publishes and this book measures again, side by side, with the reason
for the difference.
Nothing under "we get" is typed in: it comes from the run that built these pages, or from the
record of a full-size run.
"""


class ClaimError(ValueError):
    """A line of claims.yml that cannot be drawn."""


@dataclass(frozen=True)
class Claim:
    """One published number and where ours is found."""

    id: str
    chapter: str
    claim: str
    paper: str
    source: str
    published: float | None
    ours: str
    why: str

    @property
    def record_name(self) -> str | None:
        """The full-size record that holds our number; None if a chapter's run holds it."""
        kind, _, place = self.ours.partition(":")
        return place.partition(".")[0] if kind == "result" else None


def read_claims() -> list[Claim]:
    """The claims of claims.yml, checked.

    Raises:
        ClaimError: if a claim lacks a key, has an unknown one, shares its id, names a chapter that
            is not in the table of contents, or publishes something that is no number.
    """
    claims: dict[str, Claim] = {}
    path = CLAIMS
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
        name = entry.get("id", "without an id")
        if set(entry) != _KEYS:
            lacks, unknown = sorted(_KEYS - set(entry)), sorted(set(entry) - _KEYS)
            raise ClaimError(f"{path.name}, claim {name}: lacks {lacks}, has unknown {unknown}")
        kind, _, place = str(entry["ours"]).partition(":")
        if kind not in ("record", "result") or not all(place.partition(".")[::2]):
            raise ClaimError(
                f"{path.name}, claim {name}: ours is {entry['ours']!r}; "
                "write record:CHAPTER.KEY or result:NAME.KEY"
            )
        if name in claims:
            raise ClaimError(f"{path.name}: two claims have the id {name!r}")
        if f"chapters/{entry['chapter']}" not in toc_files(TOC):
            raise ClaimError(
                f"{path.name}, claim {name}: there is no chapter {entry['chapter']!r} in _toc.yml"
            )
        if entry["published"] is not None:
            _checked(entry["published"], f"{path.name}, claim {name}: published")
        claims[name] = Claim(**entry)
    return list(claims.values())


def our_value(claim: Claim, executed: Path | None) -> float:
    """Our number for a claim.

    Args:
        claim: what is looked up.
        executed: folder of executed notebooks; needed for claims on a chapter's own run.
    Raises:
        ClaimError: if there is no such record, it lacks the key, or holds no number there.
    """
    place, _, key = claim.ours.partition(":")[2].partition(".")
    values: Mapping[str, Any]
    if claim.record_name is not None:
        try:
            values = load_record(place, RESULTS)["values"]
        except RecordError as error:
            raise ClaimError(f"claim {claim.id}: {error}") from error
    else:
        path = (executed or Path()) / f"{place}.ipynb"
        if executed is None or not path.exists():
            raise ClaimError(f"claim {claim.id}: {path} is missing: run chapter {place} first")
        values = read_records(nbformat.read(path, as_version=4))
    if key not in values:
        raise ClaimError(f"claim {claim.id}: {place} records no {key!r}; it has {sorted(values)}")
    return _checked(values[key], f"claim {claim.id}: {place}.{key}")


def _checked(value: Any, what: str) -> float:
    """`value`, if it is a number; raises ClaimError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ClaimError(f"{what} is {value!r}: name a value that is one number")
    return float(value)


def write(executed: Path, destination: Path) -> None:
    """Write the results page, as MyST Markdown, to the file `destination`."""
    parts = [_INTRODUCTION]
    by_chapter: dict[str, list[Claim]] = {}
    for claim in read_claims():
        by_chapter.setdefault(claim.chapter, []).append(claim)
    for chapter, claims in sorted(by_chapter.items()):
        rows = [
            (
                f"{claim.claim}, {claim.paper} {{cite}}`{claim.source}`",
                _number(claim.published),
                _number(our_value(claim, executed)),
                claim.why,
                f"[{claim.record_name}](result-{_label(claim.record_name)})"
                if claim.record_name
                else f"{{doc}}`/chapters/{chapter}`",
            )
            for claim in claims
        ]
        title = f"## {_title(executed / f'{chapter}.ipynb')}"
        parts.append(
            f"{title}\n\n{_table(('claim', 'paper', 'we get', 'why', 'measured in'), rows)}"
        )
    if not by_chapter:
        parts.append("No chapter has made a claim yet.\n")
    names = sorted(path.stem for path in RESULTS.glob("*.json"))
    if names:
        parts.append(
            "## Full-size runs\n\nToo long for a build of this book, so run by hand; "
            "each command repeats its run.\n"
        )
    parts += [_full_size(load_record(name, RESULTS)) for name in names]
    destination.write_text("\n".join(parts), encoding="utf-8")


def _title(notebook: Path) -> str:
    """The first heading of an executed chapter, or its name if it has not run."""
    if not notebook.exists():
        return notebook.stem
    cells = nbformat.read(notebook, as_version=4).cells
    lines = (line for cell in cells for line in cell.source.splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), notebook.stem)


def _full_size(record: Mapping[str, Any]) -> str:
    """One full-size record as a section."""
    name, machine = record["name"], record["machine"]
    values = _table(("what", "value"), [(f"`{k}`", _cell(v)) for k, v in record["values"].items()])
    device = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    return f"""\
(result-{_label(name)})=
### {name}

{values}
On {device}, {machine["memory_gib"]} GiB; Python {machine["python"]}, torch {machine["torch"]}, \
{machine["platform"]}. \\
{record["date"]}, commit `{record["commit"]}`, seed {record["seed"]}.

```bash
{record["command"]}
```
"""


def readme_table() -> str:
    """The README's table: the claims that full-size records answer."""
    rows = [
        (claim.claim, claim.paper, _number(claim.published), _number(our_value(claim, None)))
        for claim in read_claims()
        if claim.record_name
    ]
    if not rows:
        return "No full-size run is recorded yet.\n"
    return _table(("claim", "paper", "published", "we get"), rows)


def with_table(text: str, table: str) -> str:
    """`text` with `table` between the two result marks.

    Raises:
        ClaimError: if the marks are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ClaimError(f"README.md lacks {BEGIN} or, after it, {END}")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def _label(name: str | None) -> str:
    """A name as a cross-reference target."""
    return str(name).lower().replace(".", "-").replace("_", "-")


def _number(value: float | None) -> str:
    """A number with four digits that count, or a dash where a paper prints none."""
    return "–" if value is None else f"{value:.4g}"


def _cell(value: Any) -> str:
    """Any recorded value on one line of a table."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_cell(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_cell(part) for part in value)
    return _number(value) if isinstance(value, float) else str(value)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = ("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |\n" for row in lines)
    return "".join(escaped)


def main() -> int:
    """Rewrite the README's table."""
    parser = argparse.ArgumentParser(description="Rewrite the results table of README.md.")
    parser.add_argument("--readme", action="store_true", required=True)
    parser.parse_args()
    README.write_text(
        with_table(README.read_text(encoding="utf-8"), readme_table()), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
