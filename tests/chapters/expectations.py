"""What the records of each chapter must show at smoke size: bounds that a broken model fails.

One function a chapter, called with its records {name: value}; EXPECTATIONS maps stem to function.
"""

from collections.abc import Callable
from typing import Any

Records = dict[str, Any]


def preface(found: Records) -> None:
    assert found["liked"] == 3 and found["recommended"] == 5
    assert found["overlap"] == 0  # nothing that was just named is recommended again


def interactions(found: Records) -> None:
    # The embedded data is fixed, so are these.
    assert (found["num_events"], found["num_users"], found["num_items"]) == (100_004, 671, 9_066)
    assert found["num_questions"] == 671
    # Chance is 10 of about 9,000; popularity and item-kNN on top of one another, in this order.
    assert found["chance"] < 0.012 < 0.035 < found["popularity"] < 0.05 < 0.07 < found["knn"] < 0.1
    # An order by time alone would change no target; a random order nearly all of them.
    assert 0.05 < found["changed"] < 0.2
    assert found["unstable_high"] < found["knn"] + 0.02
    # The two kinds of item-kNN change places among a hundred rivals.
    assert found["lazy"] > found["knn"] and found["lazy_sampled"] < found["knn_sampled"]
    assert found["popularity_sampled"] > 10 * found["popularity"]
    assert 0.3 < found["later"] < 0.7
    # 10 of 100 rivals ahead is an even bet near the 100 * 9.67 / 100th of the corpus.
    assert 800 < found["even_bet"] < 950


def sequential_baseline(found: Records) -> None:
    # No model that ignores order can beat the coin toss on the walkers.
    assert found["walk_knn"] < 0.65 and found["walk_sasrec"] > 0.85
    # One epoch on MovieLens: it has learned, and finds more than chance (0.001) many times over.
    assert found["final_loss"] < found["untrained_loss"] - 1.5
    assert found["sasrec"] > 0.015
    # A trained model knows the newest event; without any order it knows less.
    assert found["sasrec"] > found["shuffled"] > 0.001
    assert found["negatives_needed"] == 6284


EXPECTATIONS: dict[str, Callable[[Records], None]] = {
    "preface": preface,
    "01_interactions": interactions,
    "02_sequential_baseline": sequential_baseline,
}
