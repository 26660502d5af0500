"""Interaction logs: checked, in a stable order, split without leaks."""

from genrec_lite.datasets.catalogue import load, load_titles
from genrec_lite.datasets.columns import InteractionsError
from genrec_lite.datasets.interactions import Interactions
from genrec_lite.datasets.splits import Queries, Sequences, Split, leave_last_out

__all__ = [
    "Interactions",
    "InteractionsError",
    "Queries",
    "Sequences",
    "Split",
    "leave_last_out",
    "load",
    "load_titles",
]
