"""HSTU's attention against a loop over pairs in float64, gradients and edges included."""

import math

import pytest
import torch
from attention_references import biased_attention, bucket_of, offsets_of, relative

from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels import hstu_attention as module
from genrec_lite.kernels.hstu_attention import hstu_attention
from genrec_lite.kernels.time_buckets import TIME_BUCKETS, PairTimes, time_buckets

LENGTHS = [3, 17, 0, 1, 9, 0]


def made(lengths, heads=2, dtype=torch.float64, seed=0, widths=(5, 3), places=20):
    torch.manual_seed(seed)
    total = sum(lengths)
    q, k = (torch.randn(total, heads, widths[0], dtype=dtype).requires_grad_() for _ in range(2))
    v = torch.randn(total, heads, widths[1], dtype=dtype).requires_grad_()
    position = torch.randn(places, dtype=dtype).requires_grad_()
    time = torch.randn(TIME_BUCKETS, dtype=dtype).requires_grad_()
    gaps = [10 ** torch.empty(n + 1).uniform_(0, 7) for n in lengths]
    times = JaggedTensor.from_lists([gap.long().cumsum(0) for gap in gaps])
    return q, k, v, offsets_of(lengths), position, time, times


def assert_as_defined(
    inputs, lengths, bias="both", *, bound=1e-10, targets=None, activation="silu", divide_by=1.0
):
    """Output and gradients of `made` inputs are those of a loop in float64."""
    q, k, v, offsets, position, time, times = inputs
    by_position, by_time = bias in ("both", "position"), bias in ("both", "time")
    found = hstu_attention(
        q, k, v, offsets,
        position_weights=position if by_position else None,
        time_weights=time if by_time else None,
        times=PairTimes(times) if by_time else None,
        targets=None if targets is None else torch.tensor(targets),
        activation=activation, divide_by=divide_by,
    )  # fmt: skip
    exact = [x.detach().double().requires_grad_() for x in (q, k, v, position, time)]
    expected = biased_attention(
        *exact[:3], lengths, exact[3] if by_position else None, exact[4] if by_time else None,
        times.values, targets, activation,
    ) / divide_by  # fmt: skip
    assert relative(found, expected) < bound
    towards = torch.randn_like(expected)
    found.backward(towards.to(found.dtype))
    expected.backward(towards)
    for ours, theirs in zip((q, k, v, position, time), exact, strict=True):
        if theirs.grad is None:
            assert ours.grad is None
        else:
            assert relative(ours.grad, theirs.grad) < bound


@pytest.mark.parametrize("activation", ["silu", "softmax"])
@pytest.mark.parametrize("bias", ["both", "time", "position", "none"])
@pytest.mark.parametrize("heads", [1, 2])
def test_output_and_all_gradients_are_those_of_loops_over_pairs(activation, bias, heads):
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        inputs = made(LENGTHS, heads, dtype)
        assert_as_defined(inputs, LENGTHS, bias, bound=bound, activation=activation)


def test_buckets_are_those_of_the_formula_at_every_edge():
    edges = [math.ceil(math.exp(0.301 * bucket)) for bucket in range(1, 72)]  # 60 years
    for seconds in {1, 2, 3, 10**9, *edges, *(edge - 1 for edge in edges)}:
        rows = JaggedTensor.from_lists([[0, seconds]], torch.int64)
        assert time_buckets(rows).values.tolist() == [bucket_of(seconds)]
    never_and_always = JaggedTensor.from_lists([[5, 5], [0, 2**62]], torch.int64)
    assert time_buckets(never_and_always).values.tolist() == [0, 128]


def test_a_pairs_time_runs_to_the_event_after_the_query():
    rows = JaggedTensor.from_lists([[0, 100, 1_100]], torch.int64)
    found = time_buckets(rows)[0].view(2, 2).tolist()
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


@pytest.mark.parametrize("activation", ["silu", "softmax"])
@pytest.mark.parametrize("size", [1, 100])  # large ones bring scores of 10,000 and more
def test_no_event_sees_a_later_one(activation, size):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        q, k, v, offsets, *_ = made([12], heads=1)
        q, k, v = ((size * x.detach()).to(dtype) for x in (q, k, v))
        before = hstu_attention(q, k, v, offsets, activation=activation)
        for t in (1, 5, 11):
            changed = [x.clone() for x in (q, k, v)]
            for x in changed[1:]:
                x[t] *= -3
            after = hstu_attention(*changed, offsets, activation=activation)
            assert torch.equal(after[:t], before[:t]) and not torch.equal(after[t:], before[t:])


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


def test_nothing_is_kept_where_no_gradient_is_wanted(monkeypatch):
    q, k, v, offsets, position, time, times = made([9, 7])
    held = []
    right = torch.Tensor.new_empty

    def watched(tensor, size, *rest, **options):
        found = right(tensor, size, *rest, **options)
        held.append(found.numel())
        return found

    monkeypatch.setattr(torch.Tensor, "new_empty", watched)
    biases = dict(position_weights=position, time_weights=time, times=PairTimes(times))
    hstu_attention(q, k, v, offsets, **biases)
    assert 2 * (81 + 49) in held  # both heads' scores of both sequences
    held.clear()
    with torch.no_grad():
        hstu_attention(q, k, v, offsets, **biases)
    assert 2 * (81 + 49) not in held and max(held) == 2 * 2 * 81


def test_the_gradient_can_be_asked_for_twice_and_not_of_what_was_changed_meanwhile():
    q, k, v, offsets, position, time, times = made([5, 3])
    pairs = PairTimes(times)
    biases = dict(position_weights=position, time_weights=time, times=pairs)
    loss = hstu_attention(q, k, v, offsets, **biases).square().sum()
    once = torch.autograd.grad(loss, (q, k, v, position, time), retain_graph=True)
    again = torch.autograd.grad(loss, (q, k, v, position, time), retain_graph=True)
    assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))
    pairs.buckets.values.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, time)


@pytest.mark.parametrize("missing", range(5))
def test_a_gradient_that_is_not_asked_for_changes_no_other(missing):
    every = made([5, 3])
    inputs = [*every[:3], *every[4:6]]
    offsets, times = every[3], PairTimes(every[6])

    def loss(q, k, v, position, time):
        return hstu_attention(
            q, k, v, offsets, position_weights=position, time_weights=time, times=times
        ).square().sum()  # fmt: skip

    whole = torch.autograd.grad(loss(*inputs), inputs)
    few = [t.detach() if n == missing else t for n, t in enumerate(inputs)]
    wanted = [n for n in range(5) if n != missing]
    found = torch.autograd.grad(loss(*few), [few[n] for n in wanted])
    assert all(torch.equal(whole[n], g) for n, g in zip(wanted, found, strict=True))


def test_bfloat16_comes_as_close_as_its_digits_and_sums_the_tables_in_float32():
    lengths = [40, 60]
    q, k, v, offsets, _, time, times = made(lengths, dtype=torch.float32, widths=(8, 16))
    position, pairs = torch.randn(60).requires_grad_(), PairTimes(times)
    low = [t.detach().to(torch.bfloat16).requires_grad_() for t in (q, k, v)]
    high = [t.detach().float().requires_grad_() for t in low]
    found = {}
    for name, (a, b, c) in {"low": low, "high": high}.items():
        out = hstu_attention(
            a, b, c, offsets, position_weights=position, time_weights=time, times=pairs
        )
        assert out.dtype == a.dtype
        grads = torch.autograd.grad(out.float().square().sum(), (a, b, c, position, time))
        found[name] = [out.detach(), *grads]
    for ours, expected in zip(found["low"], found["high"], strict=True):
        assert relative(ours, expected.double()) < 0.01


def test_shapes_that_do_not_fit_are_named():
    q, k, v, offsets, position, time, times = made([4, 2])
    with pytest.raises(ValueError, match=r"expected \(T, h, d_qk\) twice"):
        hstu_attention(q, k[:, :1], v, offsets)
    with pytest.raises(ValueError, match=r"expected \(T, h, d_qk\) twice"):
        hstu_attention(q, k, v[:3], offsets)
    with pytest.raises(ValueError, match="offsets end at 4, but there are 6 values"):
        hstu_attention(q, k, v, offsets[:2])
    with pytest.raises(ValueError, match=r"offsets\[0\] is 4"):
        hstu_attention(q, k, v, offsets[1:])
    with pytest.raises(ValueError, match="activation is 'relu': choose from silu, softmax"):
        hstu_attention(q, k, v, offsets, activation="relu")
    with pytest.raises(ValueError, match="give both or neither"):
        hstu_attention(q, k, v, offsets, time_weights=time)
    with pytest.raises(ValueError, match=r"position_weights \(3,\) for a sequence of 4 places"):
        hstu_attention(q, k, v, offsets, position_weights=position[:3])
    pairs = PairTimes(times)
    with pytest.raises(ValueError, match=r"time_weights \(100,\): expected \(129,\)"):
        hstu_attention(q, k, v, offsets, time_weights=time[:100], times=pairs)
    with pytest.raises(ValueError, match="the times are those of other sequences"):
        swapped = torch.tensor([0, 2, 6])
        hstu_attention(q, k, v, swapped, time_weights=time, times=pairs)
    with pytest.raises(ValueError, match="times have dtype torch.float32: give whole seconds"):
        time_buckets(times.with_values(times.values.float()))
    with pytest.raises(ValueError, match="row 1 of the times is empty"):
        time_buckets(JaggedTensor.from_lists([[1, 2], []], torch.int64))


@pytest.mark.parametrize("block", [4, 256])
@pytest.mark.parametrize("targets", [None, [1, 5, 0, 1, 0], [3, 16, 0, 0, 2]])
@pytest.mark.parametrize("bias", ["both", "time", "position", "none"])
def test_long_rows_in_blocks_and_targets_are_as_defined(monkeypatch, block, targets, bias):
    monkeypatch.setattr(module, "BLOCK", block)
    lengths = [3, 17, 0, 1, 9]
    assert_as_defined(made(lengths), lengths, bias, targets=targets, divide_by=7.0)


@pytest.mark.parametrize("block", [4, 256])
@pytest.mark.parametrize("activation", ["silu", "softmax"])
def test_a_table_of_the_history_and_one_place_is_enough_for_any_number_of_targets(
    monkeypatch, block, activation
):
    monkeypatch.setattr(module, "BLOCK", block)
    lengths, targets = [3, 17, 0, 1, 9], [1, 12, 0, 1, 4]  # histories of 2, 5, 0, 0 and 5
    assert_as_defined(made(lengths, places=6), lengths, targets=targets, activation=activation)
    q, k, v, offsets, position, *_ = made(lengths, places=5)
    with pytest.raises(ValueError, match=r"position_weights \(5,\) for a sequence of 6 places"):
        hstu_attention(q, k, v, offsets, position_weights=position, targets=torch.tensor(targets))


def test_targets_types_and_devices_that_do_not_fit_are_named():
    q, k, v, offsets, position, time, times = made([4, 2])
    with pytest.raises(ValueError, match=r"targets \(1,\) of torch.int64: expected \(2,\)"):
        hstu_attention(q, k, v, offsets, targets=torch.tensor([1]))
    with pytest.raises(ValueError, match="sequence 1 has 2 events, of which 3 are targets"):
        hstu_attention(q, k, v, offsets, targets=torch.tensor([1, 3]))
    with pytest.raises(ValueError, match="on a CPU no float16"):
        hstu_attention(q.half(), k.half(), v.half(), offsets)
    with pytest.raises(ValueError, match="q is on cpu and position_weights on meta"):
        hstu_attention(q, k, v, offsets, position_weights=position.to("meta"))
    with pytest.raises(ValueError, match="q is on cpu and the times on meta"):
        pairs = PairTimes(times)
        object.__setattr__(pairs.times, "values", times.values.to("meta"))
        hstu_attention(q, k, v, offsets, time_weights=time, times=pairs)


def test_times_first_looked_at_in_inference_mode_can_be_trained_with():
    q, k, v, offsets, _, time, times = made([5, 3])
    pairs = PairTimes(times)
    with torch.inference_mode():
        hstu_attention(q, k, v, offsets, time_weights=time, times=pairs)
        _ = pairs.seconds
    hstu_attention(q, k, v, offsets, time_weights=time, times=pairs).sum().backward()
    assert time.grad.any() and not pairs.seconds.is_inference()
