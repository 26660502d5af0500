"""The mixture of logits against loops over numbers in float64, gradients included."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.sides import MixtureSide

SIZES = dict(query_components=3, item_components=2, component_dim=5, gate_dim=7, query_hidden=6)


def made(**options) -> MixtureOfLogits:
    """A mixture in float64 with weights far from their initial symmetry."""
    mixture = MixtureOfLogits(4, **SIZES | options).double().eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weights in mixture.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator) * 0.5)
    return mixture


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(layer, x: list[float]) -> list[float]:
    bias = [0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist()
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), bias, strict=True)
    ]


def silu(v: float) -> float:
    return v / (1 + math.exp(-v))


def perceptron(gate, x: list[float]) -> list[float]:
    return linear(gate.contract, [silu(v) for v in linear(gate.expand, x)])


def unit(x: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in x))
    return [v / length for v in x]


def score_by_loops(mixture: MixtureOfLogits, x: list[float], item: list[float], user=None):
    """Score and weights of one pair, number by number, from the formula."""
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-6)
    x = [(v - mean) / spread for v in x]
    wide = linear(mixture.query_projection.expand, x)
    half = len(wide) // 2
    hidden = [a * silu(b) for a, b in zip(wide[:half], wide[half:], strict=True)]
    flat_q = linear(mixture.query_projection.contract, hidden)
    flat_x = linear(mixture.item_projection, item)
    width = mixture.component_dim
    f = [unit(flat_q[i : i + width]) for i in range(0, len(flat_q), width)]
    g = [unit(flat_x[i : i + width]) for i in range(0, len(flat_x), width)]
    if user is not None:
        f.insert(0, unit(mixture.user_embedding.weight[user].tolist()))
    logits = [
        sum(a * b for a, b in zip(fp, gp, strict=True)) / mixture.temperature
        for fp in f
        for gp in g
    ]
    q_gate, x_gate = perceptron(mixture.query_gate, x), perceptron(mixture.item_gate, item)
    both = perceptron(mixture.pair_gate, logits)
    z = [silu(a * b + c) for a, b, c in zip(q_gate, x_gate, both, strict=True)]
    mass = sum(math.exp(v) for v in z)
    weights = [math.exp(v) / mass for v in z]
    return sum(w * v for w, v in zip(weights, logits, strict=True)), weights


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.sampled_from([0.05, 1.0]),
    st.integers(0, 99),
)  # fmt: skip
def test_scores_equal_the_formula_number_by_number(p_q, p_x, width, temperature, seed):
    mixture = made(
        query_components=p_q, item_components=p_x, component_dim=width, temperature=temperature
    )
    x, items = drawn(2, 4, seed=seed), drawn(3, 4, seed=seed + 1)
    found = mixture.score(mixture.queries(x), mixture.items(items))
    expected = [
        [score_by_loops(mixture, q, i)[0] for i in items.tolist()] for q in x.tolist()
    ]  # fmt: skip
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_pairs_score_as_in_the_whole_and_say_with_which_weights():
    mixture = made()
    queries, items = mixture.queries(drawn(4, 4)), mixture.items(drawn(4, 4, seed=1))
    pairs = mixture.score_pairs(queries, items)
    torch.testing.assert_close(pairs.scores, mixture.score(queries, items).diagonal())
    weights = [
        score_by_loops(mixture, q, x)[1]
        for q, x in zip(drawn(4, 4).tolist(), drawn(4, 4, seed=1).tolist(), strict=True)
    ]
    torch.testing.assert_close(pairs.weights, torch.tensor(weights, dtype=torch.float64))


def test_the_user_component_comes_first_and_is_found_by_the_number_modulo_the_table():
    mixture = made(user_buckets=5)
    x, items = drawn(2, 4), drawn(3, 4, seed=1)
    found = mixture.score(mixture.queries(x, torch.tensor([3, 12])), mixture.items(items))
    expected = [
        [score_by_loops(mixture, q, i, user)[0] for i in items.tolist()]
        for q, user in zip(x.tolist(), [3, 2], strict=True)
    ]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )
    with pytest.raises(ValueError, match="user component: give the users"):
        mixture.queries(x)


def test_all_gradients_equal_finite_differences():
    mixture = made(user_buckets=3)
    names = [name for name, _ in mixture.named_parameters()]

    def score(x, items, *weights):
        found = dict(zip(names, weights, strict=True))
        call = torch.func.functional_call

        class Frozen(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mixture = mixture

            def forward(self, x, items):
                q = self.mixture.queries(x, torch.tensor([0, 2]))
                return self.mixture.score(q, self.mixture.items(items))

        return call(Frozen(), {f"mixture.{name}": w for name, w in found.items()}, (x, items))

    inputs = [drawn(2, 4), drawn(2, 4, seed=1), *mixture.parameters()]
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(score, inputs, eps=1e-6, atol=1e-5, rtol=1e-5)


def test_no_score_is_above_its_largest_component_logit():
    mixture = made().float()
    queries, items = mixture.queries(drawn(9, 4).float()), mixture.items(drawn(50, 4).float())
    logits = mixture.component_logits(queries, items)
    scores = mixture.score(queries, items)
    assert (scores <= logits.amax(-1) + 1e-4).all()
    assert (scores >= logits.amin(-1) - 1e-4).all()
    assert (scores < logits.amax(-1) - 0.1).any()  # and it is no maximum


def test_an_item_side_kept_in_half_the_bytes_scores_nearly_the_same():
    mixture = made().float()
    queries, items = mixture.queries(drawn(5, 4).float()), mixture.items(drawn(40, 4).float())
    kept = items.to(torch.bfloat16)
    assert kept.components.element_size() == kept.gate.element_size() == 2
    exact, found = mixture.score(queries, items), mixture.score(queries, kept)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()
    assert (found != exact).any()


def test_scoring_without_gradients_equals_scoring_with_them():
    mixture = made()
    queries, items = mixture.queries(drawn(5, 4)), mixture.items(drawn(40, 4))
    with_gradients = mixture.score(queries, items)
    with torch.no_grad():
        torch.testing.assert_close(mixture.score(queries, items), with_gradients)
        # Nothing that it was given has been written over.
        torch.testing.assert_close(mixture.score(queries, items), with_gradients)


def test_dropped_gate_weights_are_zero_and_the_others_sum_to_one_in_their_old_proportions():
    mixture = made(gate_dropout=0.4).train()
    logits, ones = drawn(4000, 6), torch.ones(1, 6, dtype=torch.float64)
    found = mixture.gate_weights(logits, ones, ones)
    kept = mixture.eval().gate_weights(logits, ones, ones)
    dropped = found == 0
    lost_all = (found - 1 / 6).abs().amax(1) < 1e-12  # 0.4^6 of the pairs weigh all alike
    assert abs(float(lost_all.double().mean()) - 0.4**6) < 0.004
    assert abs(float(dropped[~lost_all].double().mean()) - 0.4) < 0.02
    torch.testing.assert_close(found.sum(1), torch.ones(4000, dtype=torch.float64))
    expected = kept * ~dropped
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(found[~lost_all], expected[~lost_all])


def test_a_pair_that_loses_all_its_weights_has_finite_gradients():
    mixture = made(gate_dropout=0.97).train()
    logits = drawn(500, 6).requires_grad_()
    ones = torch.ones(1, 6, dtype=torch.float64)
    weights = mixture.gate_weights(logits, ones, ones)
    torch.testing.assert_close(weights.sum(1), torch.ones(500, dtype=torch.float64))
    (weights * logits).sum().backward()
    assert logits.grad.isfinite().all()


def test_training_drops_items_and_users_and_evaluation_drops_nothing():
    mixture = made(item_dropout=0.5, user_buckets=4, user_dropout=0.5)
    x, users = drawn(6, 4), torch.arange(6)
    assert torch.equal(mixture.items(x).components, mixture.items(x).components)
    mixture.train()
    assert not torch.equal(mixture.items(x).components, mixture.items(x).components)
    assert torch.equal(mixture.items(x).gate, mixture.items(x).gate)  # the gate sees whole items
    first, second = mixture.queries(x, users), mixture.queries(x, users)
    assert not torch.equal(first.components[:, 0], second.components[:, 0])
    assert torch.equal(first.components[:, 1:], second.components[:, 1:])


def test_the_user_penalty_is_the_mean_squared_length():
    mixture = made(user_buckets=4)
    rows = mixture.user_embedding.weight[torch.tensor([1, 1, 3])].tolist()
    expected = sum(v * v for row in rows for v in row) / 3
    assert mixture.user_penalty(torch.tensor([1, 5, 3])).item() == pytest.approx(expected)
    assert made().user_penalty(torch.tensor([1])).item() == 0


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, other = MixtureOfLogits(4, **SIZES, seed=1), MixtureOfLogits(4, **SIZES, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    third = MixtureOfLogits(4, **SIZES, seed=2)
    assert not torch.equal(one.item_projection.weight, third.item_projection.weight)


def test_no_query_and_no_item_give_empty_scores():
    mixture = made()
    none = mixture.queries(drawn(0, 4))
    assert mixture.score(none, mixture.items(drawn(3, 4))).shape == (0, 3)
    assert mixture.score(mixture.queries(drawn(2, 4)), mixture.items(drawn(0, 4))).shape == (2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"component_dim": 0}, "component_dim is 0: at least 1"),
        ({"query_components": 1, "user_buckets": 9}, "2 with a user component"),
    ],
)
def test_sizes_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfLogits(4, **SIZES | options)


def test_a_side_whose_parts_differ_in_rows_is_refused():
    with pytest.raises(ValueError, match=r"components \(2, 3, 5\) and gate \(3, 6\)"):
        MixtureSide(torch.zeros(2, 3, 5), torch.zeros(3, 6))
