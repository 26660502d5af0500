"""Recipes: what a training gets, what a ranking leaves out, which model is made."""

import math
from dataclasses import replace

import polars as pl
import pytest
import safetensors.torch
import torch
from tiny_recipes import TINY, tiny_log

from genrec_lite import recipes
from genrec_lite.datasets import Interactions, leave_last_out
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.recipes import (
    RECIPES,
    Mixture,
    Recipe,
    baselines_of,
    build_model,
    course,
    evaluate_run,
    load_trained,
    metrics_of,
    ranks_of,
    run_recipe,
    trained,
)
from genrec_lite.recipes import recipe as recipe_module
from genrec_lite.recipes.course import thirds_of
from genrec_lite.recipes.trained import write_trained
from genrec_lite.retrieval.baselines import ItemKNN, Popularity
from genrec_lite.training import TrainingRun

ODD = Recipe(
    "tiny-log", dim=12, num_blocks=3, num_heads=2, max_length=5, dropout=0.37, num_negatives=7,
    window="any", epochs=9, batch_size=11, learning_rate=0.0123, evaluate_every=2,
)  # fmt: skip


@pytest.mark.parametrize("protocol, kind", [("validated", "validation"), ("published", "test")])
def test_training_gets_the_training_part_and_every_number_of_the_recipe(
    monkeypatch, protocol, kind
):
    handed: dict = {}

    def spy(model, loss, batches, optimizer, **options):
        handed.update(options, model=model, batches=batches, optimizer=optimizer)
        return TrainingRun()

    monkeypatch.setattr(course, "fit", spy)
    validated = protocol == "validated"
    recipe = replace(ODD, protocol=protocol, patience=4 if validated else None)
    sequences = tiny_log("tiny-log").sequences()
    split = recipes.train(recipe, sequences, seed=3, progress=False)[1]
    expected_split = leave_last_out(sequences, validation=validated)
    trained = [row for row in expected_split.train.items.to_lists() if len(row) > 1]
    batches, (group,) = handed["batches"], handed["optimizer"].param_groups
    assert batches.items.to_lists() == trained
    assert (batches.batch_size, batches.max_length, batches.window, batches.seed) == (
        11, 5, "any", 3,
    )  # fmt: skip
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.0123, (0.9, 0.98), 0)
    assert (handed["epochs"], handed["seed"], handed["patience"]) == (9, 3, recipe.patience)
    assert handed["select"] == ("validation hr@10" if validated else None)
    model, encoder = handed["model"], handed["model"].encoder
    assert (model.num_negatives, encoder.dropout, encoder.max_length) == (7, 0.37, 5)
    assert (len(encoder.blocks), encoder.blocks[0].num_heads) == (3, 2)
    assert encoder.item_embedding.weight.shape == (30, 12)
    for seed, same in ((3, True), (4, False)):
        other = recipes.build_model(recipe, 30, seed).encoder.item_embedding.weight
        assert torch.equal(other, encoder.item_embedding.weight) == same
    assert handed["evaluate"](0) == {}
    measured = metrics_of(ranks_of(recipe, model, getattr(split, kind)))
    assert handed["evaluate"](1) == {f"{kind} {key}": value for key, value in measured.items()}
    assert getattr(split, kind).targets.tolist() == getattr(expected_split, kind).targets.tolist()


def test_baselines_learn_from_the_training_part_alone(monkeypatch):
    split = leave_last_out(tiny_log("tiny-log").sequences())
    learned = []
    for kind in (Popularity, ItemKNN):
        real = kind.fit
        monkeypatch.setattr(
            kind, "fit", lambda self, part, real=real: learned.append(part) or real(self, part)
        )
    baselines_of(TINY, split)
    assert [part is split.train for part in learned] == [True, True]


def test_a_models_ranking_leaves_out_what_the_protocol_says():
    split = leave_last_out(tiny_log("tiny-log").sequences(), validation=False)
    model = recipes.build_model(TINY, 30, 0)
    seen = split.test.history
    for protocol, left_out in {"validated": seen, "published": seen.last(3)}.items():
        recipe = replace(TINY, protocol=protocol, max_length=3)
        expected = model.ranks(split.test, exclude=left_out)
        assert torch.equal(ranks_of(recipe, model, split.test), expected)
    assert not torch.equal(expected, model.ranks(split.test))


def test_an_unknown_encoder_or_bias_is_told_the_names():
    with pytest.raises(ValueError, match="no encoder is called 'hsut': choose sasrec or hstu"):
        replace(TINY, encoder="hsut")
    with pytest.raises(ValueError, match="bias is 'clock': choose from both, time, position, none"):
        replace(TINY, bias="clock")


def test_an_unknown_protocol_is_told_the_names():
    with pytest.raises(ValueError, match="'tested': choose from validated, published"):
        replace(TINY, protocol="tested")


def test_what_a_ranking_leaves_out_is_the_protocols_choice_for_baselines_too():
    # Item 9 is the target; item 0 is popular and was seen longer ago than the model looks back.
    rows = [[0, 1, 2, 3, 9], [0, 5, 0, 6, 7], [0, 5, 0, 9, 8]]
    events = [(user, item) for user, row in enumerate(rows) for item in row]
    frame = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row")
    sequences = Interactions.from_frame(frame, name="three users").sequences()
    split = leave_last_out(sequences, validation=False)
    scores = Popularity().fit(split.train).scores(split.test.history)[0]
    assert int((scores > scores[split.test.targets[0]]).sum()) == 2  # items 0 and 5
    # Ahead of item 9: item 5, item 6 by a tie, and item 0 unless it is left out.
    for protocol, expected in {"validated": 3, "published": 4}.items():
        recipe = replace(TINY, protocol=protocol, max_length=3)
        one = split._replace(
            test=replace(
                split.test,
                rows=split.test.rows[:1],
                history=split.test.history[:1],
                targets=split.test.targets[:1],
            )
        )
        assert baselines_of(recipe, one)["popularity mrr"] == pytest.approx(1 / expected)


def test_metrics_of_ranks_are_those_of_the_public_tables():
    found = metrics_of(torch.tensor([1, 20, 300, 3]))
    assert found["hr@10"] == 0.5 and found["hr@50"] == found["hr@200"] == 0.75
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2) / 4)
    assert found["ndcg@50"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(21)) / 4)
    assert found["mrr"] == pytest.approx((1 + 1 / 20 + 1 / 300 + 1 / 3) / 4)


MIXED = replace(
    TINY, mixture=Mixture(2, 2, 4, 8, user_buckets=50, balance_weight=0.5), coarse_dim=4,
    num_negatives=4, num_positions=20, weight_decay=1e-3,
)  # fmt: skip


def test_a_recipe_of_a_mixture_makes_that_mixture_and_leaves_a_complete_run(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny-mixed", MIXED)
    model = build_model(MIXED, 30, 0)
    similarity = model.similarity
    sizes = (similarity.query_components, similarity.item_components, similarity.component_dim)
    assert sizes == (2, 2, 4) and similarity.user_embedding.num_embeddings == 50
    assert (model.balance_weight, model.num_positions, model.num_negatives) == (0.5, 20, 4)
    assert model.coarse.item_map.weight.shape == (4, 8)
    found = run_recipe("tiny-mixed", tmp_path / "run", progress=False)
    assert evaluate_run(tmp_path / "run")["hr@10"] == found["hr@10"]
    # Entropies of a mixture of 4: between 0 and log 4, and the mean's is the larger one.
    assert 0 <= found["gate entropy"] <= found["gate use"] <= math.log(4) + 1e-6
    assert sum(found[f"{third} targets"] for third in ("head", "torso", "tail")) == 1
    plain = run_recipe("tiny", tmp_path / "plain", progress=False)
    assert "gate use" not in plain and "torso targets" in plain


def test_a_recipe_of_hstu_makes_that_encoder_and_leaves_a_complete_run(tmp_path, monkeypatch):
    recipe = replace(TINY, encoder="hstu", num_heads=2, head_dim=3, bias="position")
    monkeypatch.setitem(RECIPES, "tiny-hstu", recipe)
    encoder = build_model(recipe, 30, 0).encoder
    assert isinstance(encoder, HSTU) and len(encoder.blocks) == 1 and encoder.max_length == 6
    again, other = (build_model(recipe, 30, seed).encoder for seed in (0, 1))
    assert torch.equal(again.blocks[0].expand, encoder.blocks[0].expand)
    assert not torch.equal(other.blocks[0].expand, encoder.blocks[0].expand)
    block = encoder.blocks[0]
    assert block.expand.shape == (8, 4 * 2 * 3) and block.num_heads == 2
    assert block.bias.time_weights is None and block.bias.position_weights is not None
    found = run_recipe("tiny-hstu", tmp_path / "run", progress=False)
    assert evaluate_run(tmp_path / "run")["hr@10"] == found["hr@10"]
    # The log has no times: a time bias says so before anything is learned.
    monkeypatch.setitem(RECIPES, "tiny-timed", replace(recipe, bias="both"))
    with pytest.raises(ValueError, match="this encoder has a time bias: give the times"):
        run_recipe("tiny-timed", tmp_path / "timed", progress=False)


def test_hit_rates_of_the_thirds_add_up_to_the_whole():
    split = leave_last_out(tiny_log("tiny-log").sequences())
    ranks = torch.randint(1, 31, (len(split.test.targets),))
    found = thirds_of(ranks, split)
    whole = sum(
        found[f"{third} targets"] * found.get(f"{third} hr@10", 0.0)
        for third in ("head", "torso", "tail")
    )
    assert whole == pytest.approx(metrics_of(ranks)["hr@10"])
    counts = torch.bincount(split.train.items.values, minlength=30)
    most = int(counts.argmax())
    head = (split.test.targets == most).nonzero()
    ranks[:], ranks[head] = 30, 1
    assert thirds_of(ranks, split)["head hr@10"] > 0 == thirds_of(ranks, split)["tail hr@10"]


def test_trained_weights_come_back_as_the_model_of_their_recipe(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny-mixed", MIXED)
    monkeypatch.setattr(trained, "FOLDER", tmp_path)
    monkeypatch.setattr(recipe_module, "load", tiny_log)
    with pytest.raises(ValueError, match="no weights of 'tiny-mixed' come with the repository"):
        load_trained("tiny-mixed")
    run_recipe("tiny-mixed", tmp_path / "run", seed=3, progress=False)
    write_trained(tmp_path / "run")
    weights = safetensors.torch.load_file(tmp_path / "run" / "weights.safetensors")
    model, split = load_trained("tiny-mixed")
    assert not model.training
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[name].to(torch.bfloat16).float())
    assert len(split.test.targets) == len(
        leave_last_out(tiny_log("tiny-log").sequences()).test.rows
    )
    monkeypatch.setitem(RECIPES, "tiny-mixed", replace(MIXED, dim=10))
    with pytest.raises(ValueError, match="tiny_mixed.safetensors does not fit the recipe"):
        load_trained("tiny-mixed")


def test_a_recipe_without_repeats_learns_from_each_items_first_time(monkeypatch):
    events = [(0, item, 10 * at) for at, item in enumerate([4, 2, 4, 7, 2, 9])]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row")
    monkeypatch.setattr(
        recipe_module, "load", lambda name: Interactions.from_frame(frame, name=name)
    )
    whole = recipe_module.sequences_of(TINY)
    once = recipe_module.sequences_of(replace(TINY, repeats=False))
    assert whole.items.values.tolist() == [1, 0, 1, 2, 0, 3]  # 4, 2, 4, 7, 2, 9
    assert once.items.values.tolist() == [1, 0, 2, 3]
    assert once.timestamps.values.tolist() == [0, 10, 30, 50]
