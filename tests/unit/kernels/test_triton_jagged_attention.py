"""The Triton twin of jagged attention, in the interpreter: no GPU, the same source.

The interpreter computes bfloat16 wrongly, so that type is tested on a GPU only.
"""

import math

import pytest
import torch
from attention_references import OnAGPU, offsets_of, relative, softmax_attention

import genrec_lite.kernels  # noqa: F401  (says how triton is to be imported)

pytest.importorskip("triton", reason="Triton has no package for this system")

from genrec_lite.jagged import JaggedTensor  # noqa: E402
from genrec_lite.kernels import triton_jagged_attention  # noqa: E402
from genrec_lite.kernels.jagged_attention import jagged_attention  # noqa: E402
from genrec_lite.kernels.launch import Launch  # noqa: E402
from genrec_lite.kernels.limits import require_short_rows  # noqa: E402
from genrec_lite.kernels.triton_jagged_attention import attend  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LENGTHS, OTHERS = [3, 70, 0, 1, 40, 5], [5, 33, 7, 0, 90, 64]
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.float64: 1e-12}
TYPES = [torch.float32, torch.float16]
if GPU:
    BOUNDS[torch.bfloat16] = 1e-2
    TYPES.append(torch.bfloat16)


def made(lengths, others=None, *, width=16, dtype=torch.float32, heads=2, seed=0):
    """q, k, v, and the offsets of queries and of keys."""
    generator = torch.Generator().manual_seed(seed)
    keys = lengths if others is None else others
    q, k, v = (
        torch.randn(sum(n), heads, width, generator=generator, dtype=torch.float64)
        .to(DEVICE, dtype)
        .requires_grad_()
        for n in (lengths, keys, keys)
    )
    of_queries = offsets_of(lengths).to(DEVICE)
    return q, k, v, of_queries, of_queries if others is None else offsets_of(keys).to(DEVICE)


def assert_right(lengths, others, causal, width, dtype, heads=2):
    q, k, v, *offsets = made(lengths, others, width=width, dtype=dtype, heads=heads)
    scale = 1 / math.sqrt(width)
    found = attend(q, k, v, *offsets, scale, causal)
    exact = [x.detach().cpu().double().requires_grad_() for x in (q, k, v)]
    expected = softmax_attention(*exact, lengths, others or lengths, scale, causal)
    towards = torch.randn_like(expected).to(dtype)
    found.backward(towards.to(DEVICE))
    expected.backward(towards.double())
    assert relative(found.cpu(), expected) <= BOUNDS[dtype]
    for ours, theirs in zip((q, k, v), exact, strict=True):
        assert relative(ours.grad.cpu(), theirs.grad) <= BOUNDS[dtype]


@pytest.mark.parametrize(("others", "causal"), [(None, True), (OTHERS, False), (OTHERS, True)])
@pytest.mark.parametrize("width", [8, 16, 64])
@pytest.mark.parametrize("dtype", TYPES)
def test_output_and_gradients_are_those_of_the_definition(others, causal, width, dtype):
    assert_right(LENGTHS, others, causal, width, dtype)


@pytest.mark.skipif(GPU, reason="tiles of 16 in float64 are for the interpreter")
@pytest.mark.parametrize("tile", [(16, 16), (16, 32), (32, 16)])
@pytest.mark.parametrize(("others", "causal"), [(None, False), (None, True), (OTHERS, True)])
def test_tiles_of_any_shape_make_the_same(monkeypatch, tile, others, causal):
    launch = Launch(*tile, warps=4, stages=1)
    monkeypatch.setattr(triton_jagged_attention, "launch_for", lambda *_: launch)
    others = None if others is None else [5, 20, 7, 0, 35, 20]
    assert_right([3, 41, 0, 1, 17, 5], others, causal, 5, torch.float64, heads=1)


@pytest.mark.skipif(GPU, reason="in float64, which only the interpreter multiplies")
def test_the_gradients_are_those_of_small_differences():
    q, k, v, *offsets = made([2, 0, 5], [3, 1, 4], width=3, dtype=torch.float64, heads=1)
    assert torch.autograd.gradcheck(
        lambda *x: attend(*x, *offsets, 0.5, True), (q, k, v), fast_mode=True
    )


@pytest.fixture
def poisoned(monkeypatch):
    """What is allocated and never written shows."""
    like, new = torch.empty_like, torch.Tensor.new_empty

    def poison(x):
        return x.fill_(math.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty_like", lambda *a, **o: poison(like(*a, **o)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **o: poison(new(*a, **o)))


def results(inputs, offsets, causal=True):
    inputs = [x.detach().requires_grad_() for x in inputs]
    found = attend(*inputs, *offsets, 0.25, causal)
    return [found.detach(), *torch.autograd.grad(found.sum(), inputs)]


@pytest.mark.parametrize("causal", [False, True])
def test_a_row_is_the_same_alone_and_among_rows_of_nan(poisoned, causal):
    inputs = made([20, 30, 33])[:3]
    alone = offsets_of([30]).to(DEVICE)
    expected = results([x[20:50] for x in inputs], (alone, alone), causal)
    spoilt = []
    for x in inputs:
        spoilt.append(torch.full_like(x, math.nan).detach())
        spoilt[-1][20:50] = x[20:50].detach()
    among = offsets_of([20, 30, 33]).to(DEVICE)
    found = results(spoilt, (among, among), causal)
    assert all(x.isfinite().all() for x in expected)
    assert all(torch.equal(x[20:50], y) for x, y in zip(found, expected, strict=True))


def test_the_order_of_the_rows_changes_no_bit(poisoned):
    lengths = [33, 1, 0, 70]
    inputs = made(lengths)[:3]
    order = [3, 0, 2, 1]
    offsets, turned = (
        offsets_of(some).to(DEVICE) for some in (lengths, [lengths[i] for i in order])
    )
    parts = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in order])
    once = results(inputs, (offsets, offsets))
    again = results([x[parts.to(DEVICE)] for x in inputs], (turned, turned))
    assert all(torch.equal(x[parts.to(DEVICE)], y) for x, y in zip(once, again, strict=True))


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_scores_of_thousands_neither_overflow_nor_vanish(size):
    q, k, v, *offsets = made([5, 40])
    with torch.no_grad():
        k.fill_(1.0)
        q.fill_(size / 16)  # all scores are equal, so every key weighs the same
    found, *grads = results((q, k, v), offsets, causal=False)
    means = [v[:5].mean(0).expand(5, -1, -1), v[5:].mean(0).expand(40, -1, -1)]
    assert relative(found.cpu(), torch.cat(means).cpu()) <= 1e-5
    assert all(g.isfinite().all() for g in grads)


def test_torch_knows_the_operators():
    q, k, v, *offsets = made([3, 0, 5], width=8)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (q, k, v, *offsets, 0.5, True)
    torch.library.opcheck(triton_jagged_attention._forward, arguments, test_utils=checks)
    plain = [x.detach() for x in (q, k, v)]
    out, lse = triton_jagged_attention._forward(*plain, *offsets, 0.5, True)
    backward = (torch.ones_like(out), out, lse, *plain, *offsets, 0.5, True)
    torch.library.opcheck(triton_jagged_attention._backward, backward, test_utils=checks)


def test_a_batch_of_nothing_and_a_width_that_tensor_cores_cannot_read():
    for lengths in ([], [0, 0]):
        q, k, v, *offsets = made(lengths)
        found = attend(q, k, v, *offsets, 1.0, True)
        found.sum().backward()
        assert found.shape == (0, 2, 16) and q.grad.shape == (0, 2, 16)
    q, k, v, *offsets = made([3], width=12, dtype=torch.float16)
    with pytest.raises(ValueError, match="q is 12 wide: .* pad it to 16 with zeros"):
        attend(q, k, v, *offsets, 1.0, False)


def test_on_a_gpu_the_public_function_calls_its_twin(monkeypatch):
    called = []
    right = triton_jagged_attention.attend
    monkeypatch.setattr(
        triton_jagged_attention, "attend", lambda *a: called.append(a[5:]) or right(*a)
    )
    q, k, v, *offsets = (x.detach() for x in made([3, 0, 9], [4, 2, 7]))
    there = [
        JaggedTensor(x.as_subclass(OnAGPU), o)
        for x, o in zip((q, k, v), offsets[:1] + offsets[1:] * 2, strict=True)
    ]
    found = jagged_attention(*there, causal=True).values.as_subclass(torch.Tensor)
    expected = softmax_attention(
        *(x.cpu().double() for x in (q, k, v)), [3, 0, 9], [4, 2, 7], 0.25, True
    )
    assert called == [(0.25, True)] and relative(found.cpu(), expected) <= 1e-5


def test_offsets_that_change_in_place_make_a_new_list():
    q, k, v, offsets, _ = made([3, 40])
    attend(q, k, v, offsets, offsets, 0.25, True)
    offsets.copy_(offsets_of([40, 3]))
    found = attend(q, k, v, offsets, offsets, 0.25, True)
    exact = (x.detach().cpu().double() for x in (q, k, v))
    assert relative(found.cpu(), softmax_attention(*exact, [40, 3], [40, 3], 0.25, True)) <= 1e-5


def test_a_row_of_two_to_the_31_numbers_is_refused_and_a_long_batch_is_not():
    huge = torch.empty(1, 1, 1).expand(2**20, 4, 512)
    require_short_rows(huge, offsets_of([2**19, 2**19]))
    with pytest.raises(ValueError, match="a row has 1048576 positions of 2048 numbers each"):
        require_short_rows(huge, offsets_of([2**20]))
