"""Losses of learned similarities against loops over pairs in float64, gradients included."""

import math

import pytest
import torch

from genrec_lite.losses import grouped_softmax_loss, load_balancing_loss
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mixture() -> MixtureOfLogits:
    return MixtureOfLogits(
        4, query_components=3, item_components=2, component_dim=5, gate_dim=7, query_hidden=6,
        temperature=0.4, user_buckets=4,
    ).double().eval()  # fmt: skip


def by_pairs(similarity, x, table, users, targets, negatives):
    """Each position's own score and those of its group's negatives, one pair at a time."""
    queries, items = similarity.queries(x, users), similarity.items(table)
    run, total = math.ceil(len(targets) / len(negatives)), x.new_zeros(())
    for i, target in enumerate(targets.tolist()):
        rivals = [n for n in negatives[i // run].tolist() if n != target]
        logits = torch.cat(
            [similarity.score(queries[i : i + 1], items[j : j + 1])[0] for j in [target, *rivals]]
        )
        total = total + logits.logsumexp(0) - logits[0]
    return total / len(targets)


def ours(similarity, x, table, users, targets, negatives):
    queries, items = similarity.queries(x, users), similarity.items(table)
    own = similarity.score_pairs(queries, items[targets]).scores
    return grouped_softmax_loss(similarity, queries, items, targets, own, negatives)


@pytest.mark.parametrize("make", [mixture, DotProduct], ids=["mixture", "dot product"])
@pytest.mark.parametrize("positions, groups", [(1, 1), (7, 1), (7, 3), (8, 4), (5, 5)])
def test_the_grouped_loss_and_all_its_gradients_equal_those_of_single_pairs(
    make, positions, groups
):
    similarity = make()
    generator = torch.Generator().manual_seed(positions)
    targets = torch.randint(6, (positions,), generator=generator)
    negatives = torch.randint(6, (groups, 9), generator=generator)  # with repeats and own targets
    users = torch.arange(positions)
    inputs = [drawn(positions, 4).requires_grad_(), drawn(6, 4, seed=1).requires_grad_()]
    inputs += list(similarity.parameters())
    results = []
    for way in (by_pairs, ours):
        loss = way(similarity, *inputs[:2], users, targets, negatives)
        results.append((loss, torch.autograd.grad(3 * loss, inputs)))
    (expected, expected_grads), (found, found_grads) = results
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for name, a, b in zip(range(len(inputs)), found_grads, expected_grads, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-14, name
    assert expected_grads[1].norm() > 1e-6  # there was something to compare


def test_equal_scores_cost_the_logarithm_of_the_number_of_candidates():
    similarity = DotProduct()
    same = torch.ones(6, 4, dtype=torch.float64)
    targets, negatives = torch.zeros(6, dtype=torch.int64), torch.tensor([[1, 2, 3, 4]])
    loss = ours(similarity, same, same, None, targets, negatives)
    assert float(loss) == pytest.approx(math.log(5))


def test_a_position_whose_negatives_are_all_its_own_target_costs_nothing():
    similarity, x = mixture(), drawn(2, 4).requires_grad_()
    targets, negatives = torch.tensor([3, 3]), torch.tensor([[3, 3, 3]])
    loss = ours(similarity, x, drawn(6, 4, seed=1), torch.arange(2), targets, negatives)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, x)[0].abs().max() < 1e-12


def test_a_second_derivative_is_refused():
    similarity, x = mixture(), drawn(2, 4).requires_grad_()
    loss = ours(
        similarity, x, drawn(6, 4), torch.arange(2), torch.tensor([0, 1]), torch.tensor([[2]])
    )
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_the_loss_is_the_same_number_without_gradients():
    arguments = (
        drawn(5, 4), drawn(6, 4, seed=1), torch.arange(5), torch.tensor([0, 1, 2, 3, 4]),
        torch.tensor([[5, 1], [0, 2]]),
    )  # fmt: skip
    similarity = mixture()
    with torch.no_grad():
        quiet = ours(similarity, *arguments)
    torch.testing.assert_close(quiet, ours(similarity, *arguments).detach())


@pytest.mark.parametrize(
    ("positions", "targets", "negatives", "message"),
    [
        (0, [], [[1]], "no position to predict"),
        (2, [0], [[1]], r"targets \(1,\) and own scores \(2,\) for 2 queries"),
        (2, [0, 6], [[1]], "target 6 is outside the table of 6 items"),
        (2, [0, 1], [[9]], "negative 9 is outside the table of 6 items"),
        (2, [0, 1], [[]], r"negatives \(1, 0\): expected \(G, R\)"),
    ],
)
def test_what_does_not_fit_is_named(positions, targets, negatives, message):
    similarity = DotProduct()
    queries, items = similarity.queries(drawn(positions, 4)), similarity.items(drawn(6, 4))
    with pytest.raises(ValueError, match=message):
        grouped_softmax_loss(
            similarity, queries, items, torch.tensor(targets, dtype=torch.int64),
            drawn(positions), torch.tensor(negatives, dtype=torch.int64),
        )  # fmt: skip


def test_the_balancing_loss_is_the_negated_mutual_information():
    # By hand: two pairs sure of different components: H(mean) = log 2, mean H = 0.
    assert float(load_balancing_loss(torch.eye(2))) == pytest.approx(-math.log(2))
    # Both sure of the same one: nothing told apart.
    assert float(load_balancing_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))) == pytest.approx(0)
    # Both undecided: used alike, but the pair says nothing.
    assert float(load_balancing_loss(torch.full((2, 4), 0.25))) == pytest.approx(0, abs=1e-6)
    # (.9, .1) and (.5, .5): mean (.7, .3).
    h = lambda *p: -sum(v * math.log(v) for v in p)  # noqa: E731
    expected = (h(0.9, 0.1) + h(0.5, 0.5)) / 2 - h(0.7, 0.3)
    found = load_balancing_loss(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_balancing_loss_has_finite_gradients_where_weights_were_dropped():
    z = drawn(50, 6).requires_grad_()
    dropped = drawn(50, 6, seed=1) > 0
    load_balancing_loss(z.masked_fill(dropped, -1e4).softmax(1)).backward()
    assert z.grad.isfinite().all() and z.grad.norm() > 0
    with pytest.raises(ValueError, match="no pair"):
        load_balancing_loss(torch.zeros(0, 4))


def test_following_the_balancing_loss_makes_each_pair_sure_and_all_components_used():
    z = (0.01 * drawn(40, 4)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        load_balancing_loss(z.softmax(1)).backward()
        optimizer.step()
    assert load_balancing_loss(z.softmax(1)).item() < -0.95 * math.log(4)
    assert torch.bincount(z.argmax(1), minlength=4).min() >= 5
