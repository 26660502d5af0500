"""HSTU's attention against a loop over pairs in float64, gradients and edges included."""

import math

import pytest
import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.hstu_attention import (
    TIME_BUCKETS,
    hstu_attention,
    time_buckets,
)

LENGTHS = [3, 17, 0, 1, 9, 0]


def bucket_of(seconds: int) -> int:
    return min(TIME_BUCKETS - 1, math.floor(math.log(max(1, seconds)) / 0.301))


def by_loops(q, k, v, lengths, position, time, times, activation) -> Tensor:
    """One pair after the other: what equation and public code say, nothing shared with ours."""
    out, start, asked = [], 0, 0
    for n in lengths:
        for i in range(start, start + n):
            heads = []
            for head in range(q.shape[1]):
                scores = []
                for j in range(start, i + 1):
                    score = (q[i, head] * k[j, head]).sum()
                    if position is not None:
                        score = score + position[i - j]
                    if time is not None:
                        # the time of the event after i: rows of times are one longer
                        at = times[asked + (i - start) + 1] - times[asked + (j - start)]
                        score = score + time[bucket_of(int(at))]
                    scores.append(score)
                s = torch.stack(scores)
                weights = s / (1 + torch.exp(-s)) if activation == "silu" else s.softmax(0)
                heads.append((weights[:, None] * v[start : i + 1, head]).sum(0))
            out.append(torch.stack(heads))
        start, asked = start + n, asked + n + 1
    return torch.stack(out) if out else v * 0


def made(lengths, heads=2, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    total = sum(lengths)
    q, k = (torch.randn(total, heads, 5, dtype=dtype).requires_grad_() for _ in range(2))
    v = torch.randn(total, heads, 3, dtype=dtype).requires_grad_()
    position = torch.randn(20, dtype=dtype).requires_grad_()
    time = torch.randn(TIME_BUCKETS, dtype=dtype).requires_grad_()
    gaps = [10 ** torch.empty(n + 1).uniform_(0, 7) for n in lengths]
    times = JaggedTensor.from_lists([gap.long().cumsum(0) for gap in gaps])
    offsets = JaggedTensor.from_lengths(torch.empty(total), torch.tensor(lengths)).offsets
    return q, k, v, offsets, position, time, times


@pytest.mark.parametrize("activation", ["silu", "softmax"])
@pytest.mark.parametrize("bias", ["both", "time", "position", "none"])
@pytest.mark.parametrize("heads", [1, 2])
def test_output_and_all_gradients_are_those_of_loops_over_pairs(activation, bias, heads):
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        q, k, v, offsets, position, time, times = made(LENGTHS, heads, dtype)
        use_position, use_time = bias in ("both", "position"), bias in ("both", "time")
        found = hstu_attention(
            q, k, v, offsets,
            position_weights=position if use_position else None,
            time_weights=time if use_time else None,
            buckets=time_buckets(times) if use_time else None,
            activation=activation,
        )  # fmt: skip
        reference = [t.detach().double().requires_grad_() for t in (q, k, v, position, time)]
        rq, rk, rv, rp, rt = reference
        expected = by_loops(
            rq, rk, rv, LENGTHS, rp if use_position else None, rt if use_time else None,
            times.values, activation,
        )  # fmt: skip
        assert relative(found, expected) < bound
        towards = torch.randn_like(expected)
        found.backward(towards.to(dtype))
        expected.backward(towards)
        for ours, theirs in zip((q, k, v, position, time), reference, strict=True):
            if theirs.grad is None:
                assert ours.grad is None
            else:
                assert relative(ours.grad, theirs.grad) < bound


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach().double() - theirs.detach()).norm() / theirs.detach().norm())


def test_buckets_are_those_of_the_formula_at_every_edge():
    edges = [math.ceil(math.exp(0.301 * bucket)) for bucket in range(1, 72)]  # 60 years
    for seconds in {1, 2, 3, 10**9, *edges, *(edge - 1 for edge in edges)}:
        rows = JaggedTensor.from_lists([[0, seconds]], torch.int64)
        assert time_buckets(rows).tolist() == [bucket_of(seconds)]
    never_and_always = JaggedTensor.from_lists([[5, 5], [0, 2**62]], torch.int64)
    assert time_buckets(never_and_always).tolist() == [0, min(128, int(math.log(2**62) / 0.301))]


def test_a_pairs_time_runs_to_the_event_after_the_query():
    rows = JaggedTensor.from_lists([[0, 100, 1_100]], torch.int64)
    found = time_buckets(rows).view(2, 2).tolist()
    assert found == [[bucket_of(100), 0], [bucket_of(1_100), bucket_of(1_000)]]


def test_a_sequence_with_nan_spoils_no_other_not_even_its_gradients():
    q, k, v, offsets, position, _, _ = made([4, 6, 5])
    with torch.no_grad():
        q[4:10] = math.nan
    found = hstu_attention(q, k, v, offsets, position_weights=position)
    sound = torch.ones(15, dtype=torch.bool)
    sound[4:10] = False
    assert found[sound].isfinite().all() and found[~sound].isnan().all()
    found[sound].sum().backward()
    assert k.grad[sound].isfinite().all() and v.grad[sound].isfinite().all()


def test_no_event_sees_a_later_one():
    q, k, v, offsets, *_ = made([12], heads=1)
    before = hstu_attention(q, k, v, offsets)
    for t in (0, 5, 11):
        changed = [x.detach().clone() for x in (q, k, v)]
        for x in changed:
            x[t] += 1
        after = hstu_attention(*changed, offsets)
        assert torch.equal(after[:t], before[:t]) and not torch.equal(after[t], before[t])


def test_nothing_at_all_and_no_gradient_asked_for():
    q, k, v, offsets, *_ = made([0, 0])
    assert hstu_attention(q, k, v, offsets).shape == (0, 2, 3)
    assert hstu_attention(q, k, v, offsets[:1]).shape == (0, 2, 3)
    q, k, v, offsets, *_ = made([4, 2])
    with torch.no_grad():
        plain = hstu_attention(q, k, v, offsets)
    assert not plain.requires_grad
    assert torch.equal(plain, hstu_attention(q, k, v, offsets))


def test_a_second_derivative_is_refused():
    q, k, v, offsets, *_ = made([4])
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(hstu_attention(q, k, v, offsets).sum(), q, create_graph=True)


def test_shapes_that_do_not_fit_are_named():
    q, k, v, offsets, position, time, times = made([4, 2])
    with pytest.raises(ValueError, match=r"expected \(T, h, d_qk\) twice"):
        hstu_attention(q, k[:, :1], v, offsets)
    with pytest.raises(ValueError, match=r"expected \(T, h, d_qk\) twice"):
        hstu_attention(q, k, v[:3], offsets)
    with pytest.raises(ValueError, match="offsets end at 4, but there are 6 events"):
        hstu_attention(q, k, v, offsets[:2])
    with pytest.raises(ValueError, match="give both or neither"):
        hstu_attention(q, k, v, offsets, time_weights=time)
    with pytest.raises(ValueError, match="3 position weights for a sequence of 4 events"):
        hstu_attention(q, k, v, offsets, position_weights=position[:3])
    with pytest.raises(ValueError, match=r"\(16,\) time buckets for sequences with 20 pairs"):
        hstu_attention(q, k, v, offsets, time_weights=time, buckets=time_buckets(times)[:16])
