from dataclasses import replace

import pytest
from tiny_recipes import TINY, tiny_log

from genrec_lite.recipes import RECIPES
from genrec_lite.recipes import recipe as recipe_module


@pytest.fixture(autouse=True)
def tiny_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "load", tiny_log)
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    published = replace(TINY, protocol="published", num_negatives=4, evaluate_every=2)
    monkeypatch.setitem(RECIPES, "tiny-published", published)
