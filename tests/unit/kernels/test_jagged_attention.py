"""Attention between jagged rows on a CPU: against one row of scores at a time, and torch's own."""

import math

import pytest
import torch
from attention_references import offsets_of, relative, softmax_attention

from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.jagged_attention import jagged_attention

LENGTHS, OTHERS = [3, 70, 0, 1, 40, 5], [5, 33, 7, 0, 90, 64]


def rows(lengths, dtype=torch.float64, heads=2, width=8):
    values = torch.randn(sum(lengths), heads, width, dtype=dtype).requires_grad_()
    return JaggedTensor(values, offsets_of(lengths))


@pytest.mark.parametrize("others", [None, OTHERS])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_output_and_gradients_are_those_of_the_definition(others, causal, dtype, bound):
    torch.manual_seed(0)
    q, keys = rows(LENGTHS, dtype), LENGTHS if others is None else others
    k, v = (rows(keys, dtype) for _ in range(2))
    found = jagged_attention(q, k, v, causal=causal).values
    exact = [x.values.detach().double().requires_grad_() for x in (q, k, v)]
    expected = softmax_attention(*exact, LENGTHS, keys, 1 / math.sqrt(8), causal)
    towards = torch.randn_like(expected)
    found.backward(towards.to(dtype))
    expected.backward(towards)
    assert relative(found, expected) <= bound
    for ours, theirs in zip((q, k, v), exact, strict=True):
        assert relative(ours.values.grad, theirs.grad) <= bound


def test_flex_attention_with_a_mask_of_rows_finds_the_same():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.manual_seed(0)
    lengths = [30, 0, 57, 1]
    q, k, v = (rows(lengths, torch.float32, width=16) for _ in range(3))
    row = q.row_ids()
    mask = create_block_mask(
        lambda b, h, i, j: (row[i] == row[j]) & (j <= i), None, None, 88, 88, device="cpu"
    )
    dense = (x.values.detach().transpose(0, 1)[None] for x in (q, k, v))
    expected = flex_attention(*dense, block_mask=mask)[0].transpose(0, 1)
    assert relative(jagged_attention(q, k, v, causal=True).values, expected) <= 1e-5


def test_a_scale_of_ones_own_and_a_batch_of_nothing():
    torch.manual_seed(0)
    q, k, v = (rows([4, 6]) for _ in range(3))
    expected = softmax_attention(*(x.values for x in (q, k, v)), [4, 6], [4, 6], 3.0, False)
    assert relative(jagged_attention(q, k, v, scale=3.0).values, expected) <= 1e-10
    for lengths in ([], [0, 0]):
        nothing = rows(lengths)
        found = jagged_attention(nothing, nothing, nothing)
        assert found.values.shape == (0, 2, 8) and len(found) == len(lengths)
        found.values.sum().backward()
        assert nothing.values.grad.shape == (0, 2, 8)


def test_nothing_leaks_from_a_row_to_another_not_even_nan():
    torch.manual_seed(0)
    q, k, v = (rows([20, 30, 33], torch.float32) for _ in range(3))
    alone = jagged_attention(q[1:2], k[1:2], v[1:2]).values
    spoilt = [x.with_values(torch.full_like(x.values, math.nan)) for x in (q, k, v)]
    for ours, x in zip(spoilt, (q, k, v), strict=True):
        ours.values[20:50] = x.values[20:50].detach()
    assert torch.equal(jagged_attention(*spoilt).values[20:50], alone)


def test_what_does_not_fit_is_named():
    q, k = rows([3, 4]), rows([5, 6])
    with pytest.raises(ValueError, match=r"expected \(T, h, d\), and keys of the same heads"):
        jagged_attention(q, rows([3, 4], heads=1), rows([3, 4], heads=1))
    with pytest.raises(ValueError, match="expected as many values as keys, of the same shape"):
        jagged_attention(q, k, rows([5, 7]))
    with pytest.raises(ValueError, match="keys and values have different offsets"):
        jagged_attention(q, k, rows([6, 5]))
    with pytest.raises(ValueError, match="2 rows of queries and 1 of keys"):
        jagged_attention(q, rows([7]), rows([7]))
    with pytest.raises(ValueError, match="q has dtype torch.float64 and v torch.float32"):
        jagged_attention(q, k, rows([5, 6], torch.float32))


def test_a_second_derivative_is_refused():
    q, k, v = (rows([4]) for _ in range(3))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(jagged_attention(q, k, v).values.sum(), q.values, create_graph=True)


def test_inputs_that_do_not_lie_end_to_end_make_the_same():
    torch.manual_seed(0)
    lengths, offsets = [3, 5], offsets_of([3, 5])
    strided = torch.randn(8, 2, 16, dtype=torch.float64)[..., ::2].requires_grad_()
    turned = torch.randn(8, 8, 2, dtype=torch.float64).transpose(1, 2).requires_grad_()
    one = torch.randn(8, 2, 1, dtype=torch.float64, requires_grad=True)
    inputs = (strided, turned, one.expand(8, 2, 8))
    found = jagged_attention(*(JaggedTensor(x, offsets) for x in inputs)).values
    expected = softmax_attention(*inputs, lengths, lengths, 1 / math.sqrt(8), False)
    assert relative(found, expected) <= 1e-10
    towards = torch.randn_like(expected)
    of_ours = torch.autograd.grad(found, (strided, turned, one), towards)
    of_theirs = torch.autograd.grad(expected, (strided, turned, one), towards)
    assert all(relative(*pair) <= 1e-10 for pair in zip(of_ours, of_theirs, strict=True))


def test_whole_numbers_and_heads_without_columns_are_refused():
    whole = JaggedTensor(torch.ones(3, 2, 8, dtype=torch.int64), offsets_of([3]))
    narrow = rows([3], width=0)
    for x in (whole, narrow):
        with pytest.raises(ValueError, match="expected floats, at least one column"):
            jagged_attention(x, x, x)
