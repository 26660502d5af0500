"""A book of two tiny chapters in a folder of its own."""

from pathlib import Path

import pytest

from layout import Book

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# {title}

Some words that introduce the chapter to its reader.

```{{code-cell}} ipython3
:tags: [parameters, remove-cell]

NUM_USERS = 3  # int: users
SEED = 0  # int: seed
```
"""


class TinyBook(Book):
    """A book whose files a test writes."""

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def chapter(self, stem: str, *cells: str) -> Path:
        code = "".join(f"\n```{{code-cell}} ipython3\n{cell}\n```\n" for cell in cells)
        return self.write(f"chapters/{stem}.md", HEADER.format(title=stem) + code)

    def fresh(self) -> "TinyBook":
        """Return the same book, with nothing remembered of its files."""
        return TinyBook(self.root, self.build)


@pytest.fixture
def book(tmp_path: Path) -> TinyBook:
    """Two chapters: 01_ranks imports metrics through losses, 02_pairs imports neither."""
    book = TinyBook(tmp_path, tmp_path / "_build")
    book.write("genrec_lite/__init__.py", "")
    book.write("genrec_lite/metrics.py", "K = 10\n")
    book.write("genrec_lite/losses.py", "def k():\n    from .metrics import K\n    return K\n")
    book.write("genrec_lite/pairs/__init__.py", "")
    book.write("genrec_lite/pairs/table.py", "ROWS = 2\n")
    book.chapter("01_ranks", "from genrec_lite.losses import k\nprint(k(), NUM_USERS)")
    book.chapter("02_pairs", "from genrec_lite.pairs import table\nprint(table.ROWS)")
    book.write("chapters/profiles.yml", "01_ranks:\n  smoke: {NUM_USERS: 7}\n")
    return book
