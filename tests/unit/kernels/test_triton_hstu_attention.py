"""The Triton twin of HSTU's attention, in the interpreter: no GPU, the same source.

The interpreter computes bfloat16 wrongly, so that type is tested on a GPU only.
"""

import math

import pytest
import torch
from attention_references import TIME_BUCKETS, OnAGPU, biased_attention, offsets_of, relative

import genrec_lite.kernels  # noqa: F401  (says how triton is to be imported)

pytest.importorskip("triton", reason="Triton has no package for this system")

from genrec_lite.jagged import JaggedTensor  # noqa: E402
from genrec_lite.kernels import triton_hstu_attention  # noqa: E402
from genrec_lite.kernels.hstu_attention import hstu_attention  # noqa: E402
from genrec_lite.kernels.launch import Launch  # noqa: E402
from genrec_lite.kernels.time_buckets import PairTimes, edges_of_buckets  # noqa: E402
from genrec_lite.kernels.triton_hstu_attention import attend  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LENGTHS, TARGETS = [3, 70, 0, 1, 20], [1, 10, 0, 0, 20]
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.float64: 1e-12}
TYPES = [torch.float32, torch.float16]
if GPU:
    BOUNDS[torch.bfloat16] = 1e-2
    TYPES.append(torch.bfloat16)


def made(lengths, *, widths=(16, 16), dtype=torch.float32, heads=2, places=90, seed=0):
    """q, k, v, the tables of position and time, and the times."""
    torch.manual_seed(seed)
    total = sum(lengths)
    wide = torch.promote_types(dtype, torch.float32)
    inputs = [
        torch.randn(total, heads, width, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()
        for width in (widths[0], *widths)
    ]
    inputs += [torch.randn(n, dtype=wide, device=DEVICE).requires_grad_() for n in (places, 129)]
    # A loop over the buckets of a tile: few, so that the interpreter is soon done.
    gaps = [10 ** torch.empty(n + 1).uniform_(2, 4) for n in lengths]
    return inputs, JaggedTensor.from_lists([gap.long().cumsum(0) for gap in gaps])


def found_by(inputs, times, lengths, targets, bias, divide_by=7.0):
    q, k, v, position, time = inputs
    seconds = PairTimes(times).seconds.to(DEVICE) if bias in ("both", "time") else None
    return attend(
        q, k, v, offsets_of(lengths).to(DEVICE),
        position if bias in ("both", "position") else None,
        time if bias in ("both", "time") else None,
        seconds,
        None if targets is None else torch.tensor(targets, device=DEVICE),
        1 / divide_by,
    )  # fmt: skip


def assert_right(lengths, targets, bias, widths, dtype, **sizes):
    inputs, times = made(lengths, widths=widths, dtype=dtype, **sizes)
    found = found_by(inputs, times, lengths, targets, bias)
    exact = [x.detach().cpu().double().requires_grad_() for x in inputs]
    q, k, v, position, time = exact
    position = position if bias in ("both", "position") else None
    time = time if bias in ("both", "time") else None
    expected = biased_attention(q, k, v, lengths, position, time, times.values, targets) / 7
    towards = torch.randn_like(expected).to(dtype)
    found.backward(towards.to(DEVICE))
    expected.backward(towards.double())
    assert relative(found.cpu(), expected) <= BOUNDS[dtype]
    for ours, theirs in zip(inputs, exact, strict=True):
        if theirs.grad is None:
            assert ours.grad is None
        else:
            assert relative(ours.grad.cpu(), theirs.grad) <= BOUNDS[dtype]


@pytest.mark.parametrize("bias", ["both", "time", "position", "none"])
@pytest.mark.parametrize("targets", [None, TARGETS])
def test_output_and_gradients_are_those_of_the_definition(bias, targets):
    assert_right(LENGTHS, targets, bias, (16, 8), torch.float32)


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_width_and_type_is_as_exact_as_it_can_be(width, dtype):
    assert_right(LENGTHS, TARGETS, "both", (width, width), dtype)


@pytest.mark.skipif(GPU, reason="tiles of 16 in float64 are for the interpreter")
@pytest.mark.parametrize("tile", [(16, 16), (16, 32), (32, 16)])
@pytest.mark.parametrize("targets", [None, [0, 6, 0, 1], [2, 30, 0, 0]])
def test_tiles_of_any_shape_make_the_same(monkeypatch, tile, targets):
    launch = Launch(*tile, warps=4, stages=1)
    monkeypatch.setattr(triton_hstu_attention, "launch_for", lambda *_: launch)
    assert_right([3, 41, 0, 1], targets, "both", (5, 3), torch.float64, heads=1)


def test_a_table_of_the_history_and_one_place_is_enough_for_any_number_of_targets():
    lengths, targets = [3, 70, 0, 1, 20], [1, 52, 0, 1, 2]  # histories of 2, 18, 0, 0 and 18
    assert_right(lengths, targets, "both", (16, 8), torch.float32, places=19)
    inputs, times = made(lengths, places=18)
    q, k, v, position, _ = (x.detach().as_subclass(OnAGPU) for x in inputs)
    offsets, counts = (x.to(DEVICE) for x in (offsets_of(lengths), torch.tensor(targets)))
    with pytest.raises(ValueError, match=r"position_weights \(18,\) for a sequence of 19 places"):
        hstu_attention(q, k, v, offsets, position_weights=position, targets=counts)


@pytest.mark.skipif(GPU, reason="only the interpreter tells what is read")
@pytest.mark.parametrize(("targets", "places"), [(None, 70), ([1, 52, 0, 1, 2], 19)])
def test_every_weight_of_position_is_read_and_nothing_beside_them(monkeypatch, targets, places):
    from triton.runtime.interpreter import InterpreterBuilder

    room, read = torch.full((3 * places,), math.nan), set()  # the table and as much on either side
    load = InterpreterBuilder.create_masked_load

    def watched(builder, addresses, mask, *rest):
        numbers = addresses.data[mask.data.astype(bool)].astype(int) - room.data_ptr()
        read.update(n // 4 for n in numbers.ravel().tolist() if 0 <= n < room.nbytes)
        return load(builder, addresses, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", watched)
    lengths = [3, 70, 0, 1, 20]
    inputs, times = made(lengths, heads=1, places=places)
    table = room[places : 2 * places]
    table.copy_(inputs[3].detach())
    inputs[3] = table.requires_grad_()
    found_by(inputs, times, lengths, targets, "position").sum().backward()
    assert read == set(range(places, 2 * places))


@pytest.mark.skipif(GPU, reason="in float64, which only the interpreter multiplies")
def test_the_gradients_are_those_of_small_differences():
    lengths = [2, 0, 4]
    inputs, times = made(lengths, widths=(3, 2), dtype=torch.float64, heads=1)
    used = (1, 0, 1)
    assert torch.autograd.gradcheck(
        lambda *x: found_by(x, times, lengths, used, "both"), inputs, fast_mode=True
    )


def test_pairs_at_the_edges_of_buckets_are_where_they_should_be():
    edges = edges_of_buckets()
    edges = edges[edges < 2**31 - 2].tolist()
    apart = sorted({seconds for edge in edges for seconds in (edge - 1, edge, edge + 1)})
    lengths = [1] * len(apart)
    q = torch.zeros(len(apart), 1, 16, device=DEVICE)
    v = torch.ones(len(apart), 1, 16, device=DEVICE)
    times = JaggedTensor.from_lists([[1_700_000_000, 1_700_000_000 + s] for s in apart])
    table = torch.arange(TIME_BUCKETS, dtype=torch.float32, device=DEVICE) + 100  # SiLU(x) is x
    found = found_by((q, q, v, None, table), times, lengths, None, "time", divide_by=1.0)
    expected = PairTimes(times).buckets.values + 100
    assert found[:, 0, 0].cpu().round().int().tolist() == expected.tolist()


@pytest.fixture
def poisoned(monkeypatch):
    """What is allocated and never written shows."""
    like, new = torch.empty_like, torch.Tensor.new_empty

    def poison(x):
        return x.fill_(math.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty_like", lambda *a, **o: poison(like(*a, **o)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **o: poison(new(*a, **o)))


def results(inputs, times, lengths, targets):
    inputs = [x.detach().requires_grad_() for x in inputs]
    found = found_by(inputs, times, lengths, targets, "both")
    return [found.detach(), *torch.autograd.grad(found.sum(), inputs)]


def test_a_row_is_the_same_alone_and_among_rows_of_nan(poisoned):
    inputs, times = made([20, 30, 33])
    alone = [x[20:50] for x in inputs[:3]] + inputs[3:]
    expected = results(alone, times[1:2], [30], [4])
    spoilt = []
    for x in inputs[:3]:
        spoilt.append(torch.full_like(x, math.nan).detach())
        spoilt[-1][20:50] = x[20:50].detach()
    found = results(spoilt + inputs[3:], times, [20, 30, 33], [2, 4, 0])
    assert all(x.isfinite().all() for x in expected)
    assert all(torch.equal(x[20:50], y) for x, y in zip(found[:4], expected[:4], strict=True))


def test_the_order_of_the_rows_changes_no_bit_but_in_the_sums_over_all(poisoned):
    lengths, targets, order = [17, 1, 0, 40], [3, 0, 0, 9], [3, 0, 2, 1]
    inputs, times = made(lengths, heads=1)
    offsets = offsets_of(lengths)
    parts = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in order])
    once = results(inputs, times, lengths, targets)
    turned = [x[parts.to(DEVICE)] for x in inputs[:3]] + inputs[3:]
    lengths, targets = ([some[i] for i in order] for some in (lengths, targets))
    again = results(turned, times.select(torch.tensor(order)), lengths, targets)
    for x, y in zip(once[:4], again[:4], strict=True):
        assert torch.equal(x[parts.to(DEVICE)], y)
    for x, y in zip(once[4:], again[4:], strict=True):
        assert relative(x.cpu(), y.cpu()) <= 1e-6
    repeated = results(turned, times.select(torch.tensor(order)), lengths, targets)
    assert all(torch.equal(x, y) for x, y in zip(again, repeated, strict=True))


def test_torch_knows_the_operators():
    lengths = [3, 0, 5]
    inputs, times = made(lengths, widths=(8, 8))
    rest = (PairTimes(times).seconds.to(DEVICE), None, 0.5)
    q, k, v, position, time = inputs
    offsets = offsets_of(lengths).to(DEVICE)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    forward = (q, k, v, offsets, position, time, *rest)
    torch.library.opcheck(triton_hstu_attention._forward, forward, test_utils=checks)
    q, k, v, position, time = (x.detach() for x in inputs)
    backward = (torch.ones_like(v), q, k, v, offsets, position, time, *rest, True)
    torch.library.opcheck(triton_hstu_attention._backward, backward, test_utils=checks)


def test_a_batch_of_nothing_and_what_cannot_be_launched():
    for lengths in ([], [0, 0]):
        inputs, _ = made(lengths)
        times = JaggedTensor.from_lists([[5]] * len(lengths), torch.int64)
        found = found_by(inputs, times, lengths, [0] * len(lengths), "both")
        found.sum().backward()
        assert found.shape == (0, 2, 16)
        assert all(not x.grad.any() for x in inputs)
    inputs, times = made([3], widths=(16, 12), dtype=torch.float16)
    with pytest.raises(ValueError, match="v is 12 wide: .* pad it to 16 with zeros"):
        found_by(inputs, times, [3], None, "none")
    for times in ([0, 10**10], [2**33, 5, 100]):
        with pytest.raises(ValueError, match="68 years .are these milliseconds"):
            _ = PairTimes(JaggedTensor.from_lists([times], torch.int64)).seconds


def test_on_a_gpu_the_public_function_calls_its_twin(monkeypatch):
    called = []
    right = triton_hstu_attention.attend
    monkeypatch.setattr(
        triton_hstu_attention, "attend", lambda *a: called.append(a[8]) or right(*a)
    )
    lengths, targets = [3, 0, 9], [1, 0, 2]
    inputs, times = made(lengths)
    q, k, v, position, time = (x.detach().as_subclass(OnAGPU) for x in inputs)
    moved = PairTimes(times.to(DEVICE))
    found = hstu_attention(
        q, k, v, offsets_of(lengths).to(DEVICE), position_weights=position, time_weights=time,
        times=moved, targets=torch.tensor(targets, device=DEVICE), divide_by=4.0,
    ).as_subclass(torch.Tensor)  # fmt: skip
    exact = [x.detach().cpu().double() for x in inputs]
    expected = biased_attention(*exact[:3], lengths, *exact[3:], times.values, targets) / 4
    assert called == [0.25] and relative(found.cpu(), expected) <= 1e-5
