"""Questions at last places: the right targets, and the same numbers as the long way round."""

import math

import pytest
import torch
from tiny_recipes import TINY, tiny_log
from torch.nn import functional as F

from genrec_lite.datasets import leave_last_out
from genrec_lite.datasets.dirichlet_stream import dirichlet_stream
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.recipes import build_model, metrics_of, ranks_of
from genrec_lite.recipes.held_out import NOT_YET, HeldOut, stream_parts, stream_reference
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct

SMALL = dict(length=20, num_items=50, num_categories=5)


def test_a_stream_is_learned_in_order_and_its_last_tenth_asked_about():
    stream = dirichlet_stream(30, seed=0, **SMALL)
    batches, asked = stream_parts(stream, 8)
    assert [len(batch.inputs) for batch in batches] == [8, 8, 8, 3]
    rows = stream.items.to_padded()
    inputs = torch.cat([batch.inputs.to_padded() for batch in batches])
    assert torch.equal(inputs, rows[:27, :-1])
    assert torch.equal(torch.cat([batch.targets for batch in batches]), rows[:27, 1:].flatten())
    assert torch.equal(asked.inputs.to_padded(), rows[27:, :-1])
    assert torch.equal(asked.targets, rows[27:, 4:].flatten())
    assert asked.places == 16 and asked.exclude is None


def test_a_stream_too_small_to_learn_from_and_ask_about_is_refused():
    for records, length in ((1, 20), (30, 16)):
        stream = dirichlet_stream(records, **{**SMALL, "length": length})
        with pytest.raises(ValueError, match=f"{records} records of {length} events: at least 2"):
            stream_parts(stream, 8)


def test_places_are_measured_as_if_each_were_a_history_of_its_own():
    stream = dirichlet_stream(30, seed=0, **SMALL)
    _, asked = stream_parts(stream, 8)
    model = NextItemModel(
        HSTU(50, dim=8, head_dim=8, max_length=19, bias="none", dropout=0.5), DotProduct()
    )
    found = asked.measure(model)
    assert model.training and asked.measure(model) == found  # without dropout, and put back
    rows = stream.items.to_padded()[27:]
    losses, hits = [], []
    model.eval()
    for row in rows:
        for place in range(4, 20):
            encoder = model.encoder
            with torch.no_grad():
                history = stream.items[27:28].with_values(row[None].flatten()).drop_last(20 - place)
                query = F.normalize(encoder(history).values[-1], dim=0)
                scores = F.normalize(encoder.item_embedding.weight, dim=1) @ query / 0.05
            losses.append(float(F.cross_entropy(scores[None], row[place : place + 1])))
            hits.append(float((scores > scores[row[place]]).sum() < 10))
    assert found["loss"] == pytest.approx(sum(losses) / 48, rel=1e-5)
    assert found["hr@10"] == pytest.approx(sum(hits) / 48)
    assert found["hr@10"] < found["hr@50"] == 1.0


def test_leave_last_outs_questions_are_ranked_as_by_a_recipe():
    sequences = tiny_log("tiny-log").sequences()
    split = leave_last_out(sequences)
    model = build_model(TINY, sequences.num_items, seed=0)
    found = HeldOut.of_queries(split.test).measure(model)
    wanted = metrics_of(ranks_of(TINY, model, split.test))
    assert {key: found[key] for key in ("hr@10", "hr@50")} == {
        key: pytest.approx(wanted[key]) for key in ("hr@10", "hr@50")
    }


def test_the_reference_counts_what_came_before_each_question():
    stream = dirichlet_stream(
        60, length=40, num_items=60, num_categories=6, max_categories=3, seed=1
    )
    _, asked = stream_parts(stream, 8)
    found, losses, hits = stream_reference(stream, asked), [], []
    for record in range(54, 60):
        row = stream.items[record]
        here = stream.arrivals <= record
        for place in range(40 - 16, 40):
            before = stream.categories[row[:place]].tolist()
            chances = torch.tensor([
                (before.count(c) + NOT_YET) / (place + 6 * NOT_YET)
                / int((here & (stream.categories == c)).sum())
                for c in range(6)
            ]).double()  # fmt: skip
            losses.append(-chances[stream.categories[row[place]]].log())
            scores = torch.where(here, chances[stream.categories], -1.0)
            better = int((scores > scores[row[place]]).sum())
            ties = int((scores == scores[row[place]]).sum()) - 1
            hits.append((better, better + ties))
    assert found["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-6)
    assert bool((stream.arrivals > 54).any())  # some items are still to come
    for k in (10, 50):
        most = sum(first < k for first, _ in hits) / len(hits)
        least = sum(last < k for _, last in hits) / len(hits)
        assert least <= found[f"hr@{k}"] <= most
    assert found["loss"] < math.log(60) - 0.5  # any item, with equal chances
