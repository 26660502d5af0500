"""The chunked losses against the textbook form in float64, gradients included."""

import math

import pytest
import torch
from torch.nn import functional as F

from genrec_lite import losses
from genrec_lite.losses import full_softmax_loss, sampled_softmax_loss, uniform_negatives


def problem(positions: int, items: int, dim: int = 6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(positions * 1000 + items)
    q = F.normalize(torch.randn(positions, dim, generator=generator, dtype=dtype), dim=1)
    w = F.normalize(torch.randn(items, dim, generator=generator, dtype=dtype), dim=1)
    targets = torch.randint(items, (positions,), generator=generator)
    negatives = uniform_negatives(positions, 5, items, generator=generator)
    return q.requires_grad_(), w.requires_grad_(), targets, negatives


def textbook_full(q, w, targets, temperature):
    return F.cross_entropy(q @ w.t() / temperature, targets)


def textbook_sampled(q, w, targets, negatives, temperature):
    """Gather first, then multiply, one position at a time."""
    total = q.new_zeros(())
    for i, target in enumerate(targets.tolist()):
        others = [n for n in negatives[i].tolist() if n != target]
        logits = torch.stack([q[i] @ w[j] for j in [target, *others]]) / temperature
        total = total + logits.logsumexp(0) - logits[0]
    return total / len(targets)


def gradients(loss, q, w):
    value = loss()
    return [value.detach(), *torch.autograd.grad(3 * value, [q, w])]


def assert_equal(ours, reference, tolerance):
    for a, b in zip(ours, reference, strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("positions, items", [(1, 1), (1, 7), (9, 2), (17, 40)])
@pytest.mark.parametrize("chunk", [4, 512])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("temperature", [0.001, 0.05, 0.3])
def test_full_softmax_equals_cross_entropy(
    monkeypatch, positions, items, chunk, dtype, tolerance, temperature
):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    monkeypatch.setattr(losses, "GATHER_CHUNK", chunk)
    q, w, targets, _ = problem(positions, items, dtype=dtype)
    reference = gradients(lambda: textbook_full(q.double(), w.double(), targets, temperature), q, w)
    ours = gradients(lambda: full_softmax_loss(q, w, targets, temperature=temperature), q, w)
    if items == 1:  # nothing to confuse the target with
        assert all(bool((a.abs() < tolerance / temperature).all()) for a in ours)
    else:
        assert_equal(ours, reference, tolerance)


@pytest.mark.parametrize("gather_from", [0, 10**9])
@pytest.mark.parametrize("positions, items", [(1, 7), (9, 2), (17, 40)])
@pytest.mark.parametrize("chunk", [4, 512])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sampled_softmax_equals_the_loop(
    monkeypatch, gather_from, positions, items, chunk, dtype, tolerance
):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    monkeypatch.setattr(losses, "GATHER_CHUNK", chunk)
    monkeypatch.setattr(losses, "GATHER_FROM", gather_from)
    q, w, targets, negatives = problem(positions, items, dtype=dtype)
    ours = gradients(lambda: sampled_softmax_loss(q, w, targets, negatives, temperature=0.1), q, w)
    reference = gradients(
        lambda: textbook_sampled(q.double(), w.double(), targets, negatives, 0.1), q, w
    )
    assert_equal(ours, reference, tolerance)


LOSSES = {
    "full": lambda q, w, targets, negatives: full_softmax_loss(q, w, targets),
    "sampled by product": sampled_softmax_loss,
    "sampled by gather": sampled_softmax_loss,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.bfloat16, torch.float32)])
def test_autocast_changes_no_loss_and_no_gradient(monkeypatch, name, dtypes):
    monkeypatch.setattr(losses, "GATHER_FROM", 0 if "gather" in name else 10**9)
    q, w, targets, negatives = problem(17, 40)
    q, w = (t.detach().to(d).requires_grad_() for t, d in zip((q, w), dtypes, strict=True))
    plain = gradients(lambda: LOSSES[name](q, w, targets, negatives), q, w)
    with torch.autocast("cpu", torch.bfloat16):
        cast = gradients(lambda: LOSSES[name](q, w, targets, negatives), q, w)
    assert cast[0].dtype == torch.float32
    assert [t.dtype for t in cast[1:]] == list(dtypes)
    assert all(torch.equal(a, b) for a, b in zip(cast, plain, strict=True))


def test_the_loss_of_half_precision_is_added_up_in_float32():
    q, w = torch.zeros(3000, 4, dtype=torch.bfloat16), torch.zeros(7, 4, dtype=torch.bfloat16)
    targets, negatives = torch.zeros(3000, dtype=torch.int64), torch.ones(3000, 6).long()
    for name, loss in LOSSES.items():
        value = loss(q, w, targets, negatives)
        assert value.dtype == torch.float32, name
        assert value.item() == pytest.approx(math.log(7), rel=4e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_a_second_derivative_is_refused_and_a_graph_may_be_kept(monkeypatch, name):
    monkeypatch.setattr(losses, "GATHER_FROM", 0 if "gather" in name else 10**9)
    q, w, targets, negatives = problem(4, 9)
    loss = LOSSES[name](q, w, targets, negatives)
    loss.backward(retain_graph=True)
    first = q.grad.clone()
    loss.backward()
    assert torch.equal(q.grad, 2 * first)
    loss = LOSSES[name](q, w, targets, negatives)
    with pytest.raises(RuntimeError, match=r"no second derivative: use F\.cross_entropy"):
        torch.autograd.grad(loss, [q], create_graph=True)


@pytest.mark.parametrize("largest", [20.0, 42.0, 43.5, 60.0, 1e4])
@pytest.mark.parametrize("side", ["queries", "items", "temperature"])
@pytest.mark.parametrize("sign", [1, -1])
def test_logits_of_any_size_cost_what_float64_says(largest, side, sign):
    # From about 43 on (half of float32's range, 9 items), exp would not do without a guard.
    q, w, targets, _ = problem(5, 9, dtype=torch.float32)
    with torch.no_grad():
        w[0] = sign * q[0]
        q *= largest * 0.05 if side == "queries" else 1
        w *= largest * 0.05 if side == "items" else 1
    temperature = 1 / largest if side == "temperature" else 0.05
    reference = gradients(lambda: textbook_full(q.double(), w.double(), targets, temperature), q, w)
    ours = gradients(lambda: full_softmax_loss(q, w, targets, temperature=temperature), q, w)
    assert_equal(ours, reference, 1e-4)


def test_the_sum_of_many_large_terms_does_not_overflow_in_half_precision():
    q = torch.ones(2, 1, dtype=torch.float16, requires_grad=True)
    w = torch.ones(600, 1, dtype=torch.float16, requires_grad=True)
    loss = full_softmax_loss(q, w, torch.tensor([0, 1]), temperature=0.2)
    assert loss.item() == pytest.approx(math.log(600), rel=1e-3)
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, [q, w]))


def test_equal_scores_cost_the_logarithm_of_the_choices():
    q, w = torch.zeros(3, 4), torch.zeros(7, 4)
    targets, negatives = torch.tensor([0, 1, 2]), torch.tensor([[5, 6]] * 3)
    assert full_softmax_loss(q, w, targets).item() == pytest.approx(math.log(7))
    assert sampled_softmax_loss(q, w, targets, negatives).item() == pytest.approx(math.log(3))


def test_a_negative_equal_to_the_target_is_left_out():
    q, w = torch.zeros(1, 4), torch.zeros(7, 4)
    loss = sampled_softmax_loss(q, w, torch.tensor([2]), torch.tensor([[2, 2, 3]]))
    assert loss.item() == pytest.approx(math.log(2))


def test_the_queries_alone_may_ask_for_a_gradient():
    q, w, targets, _ = problem(3, 5)
    (grad,) = torch.autograd.grad(full_softmax_loss(q, w.detach(), targets), [q])
    (reference,) = torch.autograd.grad(textbook_full(q, w.detach(), targets, 0.05), [q])
    assert torch.allclose(grad, reference, rtol=1e-12)


def test_negatives_are_uniform_and_new_for_every_position():
    drawn = uniform_negatives(2000, 50, 10, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.flatten(), minlength=10)
    assert (counts - 10_000).abs().max() < 5 * math.sqrt(100_000 * 0.09)
    assert not torch.equal(drawn[0], drawn[1])


def test_bad_shapes_and_ids_are_named():
    q, w, targets, negatives = problem(4, 5)
    with pytest.raises(ValueError, match="no position to predict"):
        full_softmax_loss(q[:0], w, targets[:0])
    with pytest.raises(ValueError, match="target 5 is outside the table of 5 items"):
        full_softmax_loss(q, w, torch.tensor([0, 1, 2, 5]))
    with pytest.raises(ValueError, match="negative -1 is outside"):
        sampled_softmax_loss(q, w, targets, torch.full_like(negatives, -1))
    with pytest.raises(ValueError, match="with the same d"):
        full_softmax_loss(q[:, :3], w, targets)
    with pytest.raises(ValueError, match="temperature is 0"):
        full_softmax_loss(q, w, targets, temperature=0)
    with pytest.raises(ValueError, match="temperature is -1"):
        sampled_softmax_loss(q, w, targets, negatives, temperature=-1)
    with pytest.raises(ValueError, match="for 4 queries"):
        full_softmax_loss(q, w, targets[:2])
