"""Listings are the package's own lines."""

import inspect
import re

import pytest

from genrec_lite import JaggedTensor
from genrec_lite.notebook import show_source
from genrec_lite.notebook.source import source_listing


@pytest.mark.parametrize("thing", [JaggedTensor, JaggedTensor.to_padded, source_listing])
def test_a_listing_is_identical_to_the_source(thing):
    listing = source_listing(thing)
    fence = re.search(r"^(`{3,})python$", listing, re.MULTILINE).group(1)
    shown = listing.split(f"{fence}python\n")[1].rsplit(f"\n{fence}\n")[0]
    assert shown == inspect.getsource(thing).rstrip()


def test_a_listing_says_where_it_stands():
    lines, first = inspect.getsourcelines(JaggedTensor)
    place = f"`genrec_lite/jagged.py`, lines {first} to {first + len(lines) - 1}:"
    assert source_listing(JaggedTensor).startswith(place)


def test_the_source_is_displayed_as_markdown(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    show_source(JaggedTensor)
    assert shown[0].data == source_listing(JaggedTensor)
