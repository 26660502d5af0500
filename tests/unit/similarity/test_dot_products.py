"""The dot product and its projected form: cosines of loops, one interface with the mixture."""

import math

import pytest
import torch

from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.projected_dot_product import ProjectedDotProduct
from genrec_lite.similarity.sides import MixtureSide, concatenate, side_of, tensors_of


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: list[float], b: list[float]) -> float:
    product = sum(v * w for v, w in zip(a, b, strict=True))
    return product / math.sqrt(sum(v * v for v in a) * sum(w * w for w in b))


def test_a_dot_product_is_the_cosine_over_the_temperature():
    similarity, q, x = DotProduct(0.1), drawn(3, 4), drawn(5, 4, seed=1)
    found = similarity.score(similarity.queries(q), similarity.items(x))
    expected = [[cosine(a, b) / 0.1 for b in x.tolist()] for a in q.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    pairs = similarity.score_pairs(similarity.queries(q), similarity.items(x[:3]))
    torch.testing.assert_close(pairs.scores, found[:, :3].diagonal())
    assert pairs.weights.tolist() == [[1.0]] * 3


def test_a_projected_dot_product_is_the_cosine_of_two_linear_maps():
    similarity = ProjectedDotProduct(4, 3, 0.1, seed=2).double()
    q, x = drawn(2, 4), drawn(5, 4, seed=1)
    a, b = similarity.query_map.weight, similarity.item_map.weight
    expected = [
        [cosine((a @ q_row).tolist(), (b @ x_row).tolist()) / 0.1 for x_row in x] for q_row in q
    ]
    found = similarity.score(similarity.queries(q), similarity.items(x))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert similarity.items(x).shape == (5, 3)


@pytest.mark.parametrize(
    "similarity",
    [
        DotProduct(),
        ProjectedDotProduct(4, 3),
        MixtureOfLogits(4, query_components=2, item_components=2, component_dim=3).eval(),
    ],
    ids=lambda similarity: type(similarity).__name__,
)
def test_sides_are_cut_joined_stored_and_narrowed_alike(similarity):
    items = similarity.items(drawn(6, 4).float())
    queries = similarity.queries(drawn(2, 4, seed=1).float(), users=torch.arange(2))
    scores = similarity.score(queries, items)
    rows = torch.tensor([5, 0, 3])
    torch.testing.assert_close(similarity.score(queries, items[rows]), scores[:, rows])
    torch.testing.assert_close(similarity.score(queries, items[2:4]), scores[:, 2:4])
    joined = concatenate([items[:2], items[2:]])
    assert len(joined) == len(items) == 6
    torch.testing.assert_close(similarity.score(queries, joined), scores)
    stored = side_of(tensors_of(items))
    assert type(stored) is type(items)
    torch.testing.assert_close(similarity.score(queries, stored), scores)
    narrowed = similarity.score(queries, items.to(torch.bfloat16))
    assert narrowed.dtype == torch.float32 and (narrowed - scores).abs().max() < 0.3


def test_tensors_of_no_side_are_refused():
    with pytest.raises(ValueError, match="gate: a side is made of vectors, or of components"):
        side_of({"gate": torch.zeros(2, 3)})


def test_a_side_cut_by_a_number_of_rows_stays_a_side():
    side = MixtureSide(torch.zeros(4, 2, 3), torch.zeros(4, 6))
    assert len(side[1:3]) == 2 and side[1:3].gate.shape == (2, 6)
