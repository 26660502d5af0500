"""The operations on jagged rows in plain torch, against float64 loops over rows."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.jagged_ops import (
    jagged_dense_add,
    jagged_dense_matmul,
    jagged_dense_multiply,
    jagged_jagged_matmul,
    jagged_softmax,
    jagged_to_padded,
    padded_to_jagged,
    pooled_attention,
)

LENGTHS = [3, 70, 0, 1, 40]
PLACES = 72  # of a padded row


def padded_row(x):
    return torch.cat([x, torch.full((PLACES - len(x), x.shape[1]), 0.5, dtype=x.dtype)])


def softmax_row(x):
    return x.exp() / x.exp().sum(0)


def pooled_row(query, keys, values):
    weights = softmax_row((keys * query).sum(-1) / math.sqrt(query.shape[-1]))
    return (weights[..., None] * values).sum(0)


# Of each operation: itself, what a loop makes of one row's length and inputs, the shapes of the
# inputs (T values in all rows, or B), and whether the output has T or B.
OPERATIONS = {
    "jagged to padded": (
        lambda x: jagged_to_padded(x, PLACES, 0.5),
        lambda n, x: padded_row(x),
        ["T6"],
        "B",
    ),
    "padded to jagged": (padded_to_jagged, lambda n, padded: padded[:n], ["BL6"], "T"),
    "add": (jagged_dense_add, lambda n, x, d: x + d[:n], ["T6", "BL6"], "T"),
    "multiply": (jagged_dense_multiply, lambda n, x, d: x * d[:n], ["T6", "BL6"], "T"),
    "softmax": (jagged_softmax, lambda n, x: softmax_row(x), ["T6"], "T"),
    "dense matmul": (
        jagged_dense_matmul,
        lambda n, x, d: (x[:, :, None] * d).sum(1),
        ["T6", "B68"],
        "T",
    ),
    "jagged matmul": (
        jagged_jagged_matmul,
        lambda n, x, y: (x[:, :, None] * y[:, None, :]).sum(0),
        ["T6", "T8"],
        "B",
    ),
    "pooled attention": (
        pooled_attention,
        lambda n, query, keys, values: pooled_row(query, keys, values),
        ["B26", "T26", "T26"],
        "B",
    ),
}


def made(name, lengths, dtype=torch.float64) -> list[Tensor]:
    torch.manual_seed(len(name))
    sizes = {"T": sum(lengths), "B": len(lengths), "L": PLACES}
    shapes = ([sizes[one] if one in sizes else int(one) for one in c] for c in OPERATIONS[name][2])
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def applied(name, lengths, inputs) -> Tensor:
    """The operation's output, of a jagged one the values."""
    operation, _, codes, _ = OPERATIONS[name]
    rows = JaggedTensor.from_lengths(torch.empty(sum(lengths)), torch.tensor(lengths).long())
    given = [
        rows.with_values(x) if code[0] == "T" else x for x, code in zip(inputs, codes, strict=True)
    ]
    if operation is padded_to_jagged:
        given.append(rows.offsets)
    found = operation(*given)
    if isinstance(found, JaggedTensor):
        assert torch.equal(found.offsets, rows.offsets)
        return found.values
    return found


def by_loop(name, lengths, inputs) -> Tensor:
    """The rows one after the other."""
    _, of_row, codes, result = OPERATIONS[name]
    found, start = [], 0
    for row, n in enumerate(lengths):
        place = {"T": slice(start, start + n), "B": row}
        found.append(of_row(n, *(x[place[c[0]]] for x, c in zip(inputs, codes, strict=True))))
        start += n
    return torch.stack(found) if result == "B" else torch.cat(found)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to what is expected, except where that is 0 but for rounding."""
    size = float(expected.detach().norm())
    apart = float((found.detach().double() - expected.detach()).norm())
    return apart / size if size > 1e-9 else apart


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("lengths", [LENGTHS, [0, 5, 0], [1], [9, 9, 9]], ids=str)
def test_output_and_gradients_are_those_of_a_loop_over_rows(name, dtype, bound, lengths):
    inputs = made(name, lengths, dtype)
    reference = [x.detach().double().requires_grad_() for x in inputs]
    found, expected = applied(name, lengths, inputs), by_loop(name, lengths, reference)
    assert found.dtype == dtype and found.shape == expected.shape
    assert distance(found, expected) < bound
    towards = torch.randn_like(expected)
    found.backward(towards.to(dtype))
    expected.backward(towards)
    for x, y in zip(inputs, reference, strict=True):
        assert distance(x.grad, y.grad) < bound


@pytest.mark.parametrize("name", OPERATIONS)
def test_empty_rows_only_and_no_row_at_all_give_their_shape_and_a_gradient(name):
    inputs = made(name, [0, 0, 0])
    found = applied(name, [0, 0, 0], inputs)
    assert torch.equal(found, by_loop(name, [0, 0, 0], inputs))
    shape = (0, *found.shape[1:])
    found.sum().backward()
    assert not any(x.grad.any() for x in inputs)
    inputs = made(name, [])
    found = applied(name, [], inputs)
    assert found.shape == shape
    found.sum().backward()


@pytest.mark.parametrize("name", ["softmax", "dense matmul", "jagged matmul", "pooled attention"])
def test_no_row_is_made_as_long_as_the_longest(name):
    largest = 0

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    lengths = [4_000] + [1] * 500
    inputs = made(name, lengths)
    with Watched():
        applied(name, lengths, inputs).sum().backward()
    assert 4_000 < largest < 4_000 * len(lengths) / 10


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_row_with_nan_spoils_no_other_not_even_its_gradient(name):
    def spoilt(x, code):  # row 1
        x = x.detach().clone()
        x[slice(3, 73) if code[0] == "T" else slice(1, 2)] = math.nan
        return x

    _, _, codes, result = OPERATIONS[name]
    inputs = made(name, LENGTHS)
    bad = [spoilt(x, code).requires_grad_() for x, code in zip(inputs, codes, strict=True)]
    before, after = (applied(name, LENGTHS, x) for x in (inputs, bad))
    sound = ~spoilt(torch.zeros(before.shape), result).isnan()
    assert torch.equal(before[sound], after[sound])
    before[sound].sum().backward()
    after[sound].sum().backward()
    for x, y, code in zip(inputs, bad, codes, strict=True):
        sound = ~spoilt(torch.zeros(x.shape), code).isnan()
        assert torch.equal(x.grad[sound], y.grad[sound])


def test_without_a_length_the_longest_row_decides_and_minus_infinity_may_fill():
    x = JaggedTensor.from_lists([[[1.0]], [[2.0], [3.0]], []])
    padded = jagged_to_padded(x, fill=-math.inf)
    assert padded[..., 0].tolist() == [[1, -math.inf], [2, 3], [-math.inf, -math.inf]]


def test_what_was_padded_comes_back():
    x = JaggedTensor.from_lengths(torch.randn(114, 3), torch.tensor(LENGTHS))
    back = padded_to_jagged(jagged_to_padded(x, fill=7.0), x.offsets)
    assert torch.equal(back.values, x.values) and back.offsets is x.offsets


def test_softmax_holds_for_large_scores_and_for_minus_infinity():
    x = JaggedTensor.from_lists([[[1e4, -math.inf], [1e4, 0.0]], [[-1e4, -math.inf]]])
    values = jagged_softmax(x).values
    assert values[:2].tolist() == [[0.5, 0.0], [0.5, 1.0]]
    assert values[2, 0] == 1 and values[2, 1].isnan()  # as torch.softmax has it


def test_pooling_with_a_scale_of_ones_own_and_of_zero():
    keys = JaggedTensor.from_lengths(torch.randn(5, 2, 3), torch.tensor([4, 1]))
    query = torch.randn(2, 2, 3)
    even = pooled_attention(query, keys, keys, scale=0.0)
    assert torch.allclose(even, torch.stack([row.mean(0) for row in keys]))
    sharp = pooled_attention(query, keys, keys, scale=1e4)
    best = (keys[0] * query[0]).sum(-1).argmax(0)
    assert torch.allclose(sharp[0], keys[0][best, torch.arange(2)])


def test_on_a_cpu_no_triton_is_imported():
    program = """
import sys, torch
from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.jagged_ops import jagged_softmax
jagged_softmax(JaggedTensor.from_lists([[[1.0]]]))
assert "genrec_lite.kernels.triton_jagged_ops" not in sys.modules
assert "genrec_lite.kernels.blocks" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def rows(*lengths):
    return JaggedTensor.from_lengths(torch.randn(sum(lengths), 3), torch.tensor(lengths))


ELSEWHERE = torch.device("meta")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: jagged_to_padded(rows(2, 5), 4),
            r"row 1 has 5 values, but length has places for 4: shorten the rows with \.last\(4\)",
        ),
        (
            lambda: jagged_softmax(JaggedTensor.from_lists([[1.0]])),
            r"x has shape \(1,\): expected \(T, D\)",
        ),
        (
            lambda: jagged_softmax(JaggedTensor.from_lists([[[1]]])),
            r"x has dtype torch.int64: expected floats, convert with \.float\(\)",
        ),
        (
            lambda: padded_to_jagged(torch.ones(2, 4, 3), torch.tensor([0, 5, 6])),
            "row 0 has 5 values, but padded has places for 4",
        ),
        (
            lambda: padded_to_jagged(torch.ones(3, 4, 3), torch.tensor([0, 2, 3])),
            r"padded has shape \(3, 4, 3\): expected \(2, L, D\), a row for each of the offsets",
        ),
        (
            lambda: padded_to_jagged(torch.ones(2, 4, 3), torch.tensor([0, 3, 2])),
            "offsets fall from 3 to 2",
        ),
        (
            lambda: padded_to_jagged(
                torch.ones(2, 4, 3, device=ELSEWHERE), torch.tensor([0, 3, 4])
            ),
            "padded is on meta and offsets on cpu: move both to one",
        ),
        (
            lambda: jagged_dense_add(rows(2, 5), torch.ones(2, 4, 3)),
            "row 1 has 5 values, but dense has places for 4",
        ),
        (
            lambda: jagged_dense_add(rows(2, 5), torch.ones(2, 5, 4)),
            r"dense has shape \(2, 5, 4\): expected \(2, L, 3\), a dense row for each row of x",
        ),
        (
            lambda: jagged_dense_multiply(rows(2, 5), torch.ones(2, 5, 3, dtype=torch.float16)),
            "x has dtype torch.float32 and dense torch.float16: convert one",
        ),
        (
            lambda: jagged_dense_multiply(rows(2, 5), torch.ones(2, 5, 3, device=ELSEWHERE)),
            "x is on cpu and dense on meta: move both to one",
        ),
        (
            lambda: jagged_dense_matmul(rows(2, 5), torch.ones(2, 4, 6)),
            r"dense has shape \(2, 4, 6\): expected \(2, 3, N\), a matrix for each row of x",
        ),
        (
            lambda: jagged_jagged_matmul(rows(2, 5), rows(3, 4)),
            "row 0 has 2 values in x and 3 in y: both need the same offsets",
        ),
        (
            lambda: jagged_jagged_matmul(rows(2, 5), rows(2, 5, 0)),
            "x has 2 rows and y 3: both need the same",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_place_and_mend(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_offsets_of_another_type_are_refused():
    with pytest.raises(TypeError, match="offsets have dtype torch.int32, not torch.int64"):
        padded_to_jagged(torch.ones(1, 4, 3), torch.tensor([0, 3], dtype=torch.int32))
    with pytest.raises(ValueError, match="at least"):
        padded_to_jagged(torch.ones(0, 4, 3), torch.tensor([], dtype=torch.int64))


def test_queries_keys_and_values_that_do_not_fit_are_named():
    keys = JaggedTensor.from_lengths(torch.randn(3, 2, 8), torch.tensor([2, 1]))
    query = torch.randn(2, 2, 8)
    with pytest.raises(ValueError, match=r"query has shape \(3, 2, 8\): expected \(2, H, D\)"):
        pooled_attention(torch.randn(3, 2, 8), keys, keys)
    with pytest.raises(ValueError, match=r"keys has shape \(3, 2, 8\): expected \(T, 4, 8\)"):
        pooled_attention(torch.randn(2, 4, 8), keys, keys)
    with pytest.raises(ValueError, match=r"values has shape \(3, 2, 4\): expected \(T, 2, 8\)"):
        pooled_attention(query, keys, keys.with_values(keys.values[..., :4]))
    with pytest.raises(ValueError, match="query has dtype torch.float32 and keys torch.float64"):
        pooled_attention(query, keys.with_values(keys.values.double()), keys)
    moved = JaggedTensor(keys.values, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="row 0 has 2 values in keys and 1 in values"):
        pooled_attention(query, keys, moved)
