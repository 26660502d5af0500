"""Training on subsequences: what is left out, and what is compared."""

from dataclasses import replace

import pytest

from genrec_lite.bench import shorter_histories
from genrec_lite.bench.shorter_histories import ARMS, compare
from genrec_lite.recipes.recipe import RECIPES, sequences_of

RECIPE = replace(RECIPES["movielens-small-hstu"], epochs=1, dim=8, head_dim=8, max_length=60)


def test_arms_are_measured_on_the_same_questions_and_go_on_where_they_stopped(
    tmp_path, monkeypatch
):
    sequences = sequences_of(RECIPE)
    monkeypatch.setattr(shorter_histories, "ARMS", {name: ARMS[name] for name in ("all", "1.4")})
    finished = tmp_path / "done.json"
    found = compare(sequences, RECIPE, 2, finished=finished, progress=False)
    assert found["all sparsity"] == found["all pairs"] == 0
    assert 0.3 < found["1.4 sparsity"] < found["1.4 pairs"] < 1
    assert found["1.4 cpu_s an epoch"] < found["all cpu_s an epoch"]
    steps = [a - b for a, b in zip(found["1.4 hr@10 by seed"], found["all hr@10 by seed"],
                                   strict=True)]  # fmt: skip
    assert found["1.4 step"] == pytest.approx(sum(steps) / 2)
    assert found["all hr@200"] > 200 / sequences.num_items  # more than chance finds
    monkeypatch.setattr(shorter_histories, "_measured", lambda *_: pytest.fail("trained again"))
    assert compare(sequences, RECIPE, 2, finished=finished, progress=False) == found
