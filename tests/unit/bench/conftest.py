"""What the comparisons' tests share."""

import pytest

from genrec_lite.bench import trainings


@pytest.fixture(autouse=True)
def a_commit(monkeypatch):
    """A commit without changes, as what is kept is taken again at one only."""
    monkeypatch.setattr(trainings, "current_commit", lambda: "0123456789ab")
