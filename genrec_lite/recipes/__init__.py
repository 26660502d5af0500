"""Named, complete runs: data, model, loss, sizes in; a run folder out."""

from genrec_lite.recipes.course import baselines_of, metrics_of, ranks_of, train
from genrec_lite.recipes.folders import evaluate_run, half_interval, run_recipe, summary_of
from genrec_lite.recipes.recipe import PROTOCOLS, RECIPES, Mixture, Recipe, build_model
from genrec_lite.recipes.trained import load_trained

__all__ = [
    "PROTOCOLS",
    "RECIPES",
    "Mixture",
    "Recipe",
    "baselines_of",
    "build_model",
    "evaluate_run",
    "half_interval",
    "load_trained",
    "metrics_of",
    "ranks_of",
    "run_recipe",
    "summary_of",
    "train",
]
