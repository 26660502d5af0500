"""A log so small that a recipe on it trains in a blink."""

import polars as pl

from genrec_lite.datasets import Interactions
from genrec_lite.recipes import Recipe

TINY = Recipe("tiny-log", dim=8, num_blocks=1, max_length=6, epochs=3, batch_size=16)


def tiny_log(name: str) -> Interactions:
    """Forty users walking along a ring of thirty items, some of them for two steps only."""
    assert name == "tiny-log"
    events = [(u, (7 * u + step) % 30) for u in range(40) for step in range(2 + u % 9)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row")
    return Interactions.from_frame(frame, name=name)
