"""The Triton twins of the operations on jagged rows, against the plain torch ones in float64.

Without a GPU, Triton's interpreter runs them. It knows no bfloat16: that is for a GPU.
"""

import importlib.util
import math

import pytest
import torch
from attention_references import OnAGPU
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels import jagged_ops as plain

HAS_TRITON = importlib.util.find_spec("triton") is not None
pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton has no package for this platform")
if HAS_TRITON:
    from genrec_lite.kernels import triton_jagged_ops as twins
    from genrec_lite.kernels import triton_jagged_rows as rows_twins

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3}
if DEVICE == "cuda":
    BOUNDS[torch.bfloat16] = 2e-2

LENGTHS = [3, 70, 0, 1, 40]
PLACES = 72  # of a padded row

# Of each operation: itself in plain torch and in Triton, the shapes of its inputs (T values in all
# rows or B rows, L places, D the width, otherwise a number), and whether the output has T or B.
OPERATIONS = {
    "jagged to padded": (
        lambda rows, x: plain.jagged_to_padded(rows.with_values(x), PLACES, 0.1),
        lambda offsets, x: twins.jagged_to_padded(x, offsets, PLACES, 0.1),
        ["TD"],
        "B",
    ),
    "padded to jagged": (
        lambda rows, padded: plain.padded_to_jagged(padded, rows.offsets).values,
        lambda offsets, padded: twins.padded_to_jagged(padded, offsets, int(offsets[-1])),
        ["BLD"],
        "T",
    ),
    "add": (
        lambda rows, x, dense: plain.jagged_dense_add(rows.with_values(x), dense).values,
        lambda offsets, x, dense: twins.jagged_dense_add(x, offsets, dense),
        ["TD", "BLD"],
        "T",
    ),
    "multiply": (
        lambda rows, x, dense: plain.jagged_dense_multiply(rows.with_values(x), dense).values,
        lambda offsets, x, dense: twins.jagged_dense_multiply(x, offsets, dense),
        ["TD", "BLD"],
        "T",
    ),
    "softmax": (
        lambda rows, x: plain.jagged_softmax(rows.with_values(x)).values,
        lambda offsets, x: twins.jagged_softmax(x, offsets),
        ["TD"],
        "T",
    ),
    "dense matmul": (
        lambda rows, x, dense: plain.jagged_dense_matmul(rows.with_values(x), dense).values,
        lambda offsets, x, dense: twins.jagged_dense_matmul(x, offsets, dense),
        ["TD", "BD8"],
        "T",
    ),
    "jagged matmul": (
        lambda rows, x, y: plain.jagged_jagged_matmul(rows.with_values(x), rows.with_values(y)),
        lambda offsets, x, y: twins.jagged_jagged_matmul(x, y, offsets),
        ["TD", "T8"],
        "B",
    ),
    "pooled attention": (
        lambda rows, query, keys, values: plain.pooled_attention(
            query, rows.with_values(keys), rows.with_values(values), scale=0.3
        ),
        lambda offsets, query, keys, values: twins.pooled_attention(
            query, keys, values, offsets, 0.3
        ),
        ["B2D", "T2D", "T2D"],
        "B",
    ),
}


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """What a kernel forgets to write is NaN, and not by chance the right number of a run before."""
    right = Tensor.new_empty

    def poisoned(tensor, *size, **options):
        made = right(tensor, *size, **options)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(Tensor, "new_empty", poisoned)


def offsets_of(lengths) -> Tensor:
    total = torch.tensor(lengths, dtype=torch.int64).cumsum(0)
    return torch.cat([torch.zeros(1, dtype=torch.int64), total]).to(DEVICE)


def made(name, lengths, width, dtype=torch.float64) -> list[Tensor]:
    torch.manual_seed(len(name))
    sizes = {"T": sum(lengths), "B": len(lengths), "L": max([*lengths, PLACES]), "D": width}
    shapes = ([sizes[one] if one in sizes else int(one) for one in c] for c in OPERATIONS[name][2])
    return [torch.randn(shape).to(DEVICE, dtype).requires_grad_() for shape in shapes]


def by_twin(name, lengths, inputs) -> Tensor:
    return OPERATIONS[name][1](offsets_of(lengths), *inputs)


def by_torch(name, lengths, inputs) -> tuple[Tensor, list[Tensor]]:
    """The output and fresh inputs of the plain torch operation, in float64 on a CPU."""
    inputs = [x.detach().cpu().double().requires_grad_() for x in inputs]
    offsets = offsets_of(lengths).cpu()
    return OPERATIONS[name][0](JaggedTensor(torch.empty(sum(lengths)), offsets), *inputs), inputs


def all_of(name, lengths, inputs, towards=None) -> list[Tensor]:
    """The twin's output and its gradients towards some direction, one made of the output itself."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    found = by_twin(name, lengths, inputs)
    towards = found.detach().cos() if towards is None else towards
    return [found.detach(), *torch.autograd.grad(found, inputs, towards)]


def check(name, lengths, inputs, bound):
    expected, reference = by_torch(name, lengths, inputs)
    towards = torch.randn_like(expected).to(inputs[0].dtype)
    wanted = [expected.detach(), *torch.autograd.grad(expected, reference, towards.double())]
    ours = all_of(name, lengths, inputs, towards.to(DEVICE))
    for found, right in zip(ours, wanted, strict=True):
        assert found.dtype == inputs[0].dtype and found.shape == right.shape
        assert float((found.cpu().double() - right).norm()) <= bound * float(right.norm())


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("width", [8, 16, 64])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_output_and_gradients_are_those_of_plain_torch_in_float64(name, width, dtype):
    check(name, LENGTHS, made(name, LENGTHS, width, dtype), BOUNDS[dtype])


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("width", [5, 72])
def test_widths_that_fill_no_block_and_more_than_one(name, width):
    lengths = [33, 2]
    check(name, lengths, made(name, lengths, width, torch.float32), 1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_derivatives_hold_against_small_steps(name):
    lengths = [2, 0, 1]
    inputs = made(name, lengths, 2)
    offsets = offsets_of(lengths)
    twin = OPERATIONS[name][1]
    assert torch.autograd.gradcheck(lambda *x: twin(offsets, *x), inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["multiply", "dense matmul"])
def test_second_derivatives_hold_where_there_are_any(name):
    offsets, twin = offsets_of([2, 0]), OPERATIONS[name][1]
    inputs = made(name, [2, 0], 2)
    assert torch.autograd.gradgradcheck(lambda *x: twin(offsets, *x), inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["softmax", "pooled attention"])
def test_second_derivatives_are_refused_where_there_are_none(name):
    inputs = made(name, [2, 1], 4)
    found = by_twin(name, [2, 1], inputs).square().sum()
    first = torch.autograd.grad(found, inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        first[0].sum().backward()


@pytest.mark.parametrize("name", OPERATIONS)
def test_empty_rows_only_and_no_row_at_all(name):
    for lengths in ([0, 0], []):
        inputs = made(name, lengths, 8)
        found, *gradients = all_of(name, lengths, inputs)
        assert torch.equal(found.cpu(), by_torch(name, lengths, inputs)[0])
        assert not any(gradient.any() for gradient in gradients)


MIXED = [9, 34, 2, 0]


def place(row, code) -> slice:
    """Where a row of MIXED lies in a tensor of all rows' values (T), or of the rows (B)."""
    before = sum(MIXED[:row])
    return slice(before, before + MIXED[row]) if code[0] == "T" else slice(row, row + 1)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of NaN
@pytest.mark.parametrize("name", OPERATIONS)
def test_nan_in_every_other_row_changes_no_bit_of_a_row(name):
    _, _, codes, result = OPERATIONS[name]
    inputs = made(name, MIXED, 8, torch.float32)
    spoilt = [torch.full_like(x, math.nan).detach() for x in inputs]
    for x, y, code in zip(inputs, spoilt, codes, strict=True):
        y[place(1, code)] = x.detach()[place(1, code)]
    before, after = all_of(name, MIXED, inputs), all_of(name, MIXED, spoilt)
    for x, y, code in zip(before, after, [result, *codes], strict=True):
        own = place(1, code)
        assert x[own].isfinite().all() and torch.equal(x[own], y[own])


@pytest.mark.parametrize("name", OPERATIONS)
def test_rows_in_another_order_give_the_same_bits_in_that_order(name):
    order = [3, 2, 0, 1]
    _, _, codes, result = OPERATIONS[name]

    def ordered(x, code):
        return torch.cat([x[place(row, code)] for row in order])

    inputs = made(name, MIXED, 8, torch.float32)
    moved = [ordered(x, code) for x, code in zip(inputs, codes, strict=True)]
    before, after = all_of(name, MIXED, inputs), all_of(name, [MIXED[row] for row in order], moved)
    for x, y, code in zip(before, after, [result, *codes], strict=True):
        assert torch.equal(ordered(x, code), y)


@pytest.mark.parametrize("name", OPERATIONS)
def test_inputs_and_gradients_that_are_not_contiguous_give_the_same(name):
    inputs = made(name, [3, 1], 8, torch.float32)
    spread = [x.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_() for x in inputs]
    assert not any(x.is_contiguous() for x in spread)
    found, same = by_twin(name, [3, 1], inputs), by_twin(name, [3, 1], spread)
    assert torch.equal(found, same)
    gradients = torch.autograd.grad(found, inputs, torch.ones_like(found))
    of_sum = torch.autograd.grad(same.sum(), spread)  # from one number, expanded
    assert all(torch.equal(x, y) for x, y in zip(gradients, of_sum, strict=True))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_softmax_holds_for_large_scores_and_for_minus_infinity():
    torch.manual_seed(0)
    x = 1e4 * torch.randn(80, 2)
    x[:70, 0] = -math.inf  # all of column 0 of the first row
    x[:66, 1] = -math.inf  # and of column 1 all of the first block, 64 long
    found = twins.jagged_softmax(x.repeat(1, 16).to(DEVICE), offsets_of([70, 10])).cpu()
    expected = torch.cat([x[:70].softmax(0), x[70:].softmax(0)]).repeat(1, 16)
    assert expected[:70, 0].isnan().all() and expected[70:].isfinite().all()
    assert torch.allclose(found, expected, rtol=1e-5, equal_nan=True)


def test_weights_of_scores_that_no_exponential_holds():
    torch.manual_seed(0)
    for sign in (1, -1):  # scores of 24,000, and of -24,000 next to the 0 of places without a key
        query = torch.full((1, 1, 8), 100.0, dtype=torch.float64, device=DEVICE)
        keys = sign * query + 0.003 * torch.randn(5, 1, 8).to(query)
        check("pooled attention", [5], [query, keys, torch.randn(5, 1, 8).to(query)], 1e-9)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if len(OPERATIONS[name][2]) > 1])
def test_a_gradient_that_is_not_asked_for_changes_no_other(name):
    inputs = made(name, [3, 1], 8)
    _, *gradients = all_of(name, [3, 1], inputs)
    for wanted, gradient in enumerate(gradients):
        few = [x.detach().requires_grad_(n == wanted) for n, x in enumerate(inputs)]
        found = by_twin(name, [3, 1], few)
        found.backward(found.detach().cos())
        assert torch.equal(few[wanted].grad, gradient)


CUSTOM_OPERATORS = {
    "jagged_to_padded": lambda o, x: (x["TD"], o, PLACES, 0.5),
    "padded_to_jagged": lambda o, x: (x["BLD"], o, 5),
    "jagged_dense_add": lambda o, x: (x["TD"], o, x["BLD"]),
    "jagged_dense_multiply": lambda o, x: (x["TD"], o, x["BLD"]),
    "jagged_softmax": lambda o, x: (x["TD"], o),
    "jagged_softmax_backward": lambda o, x: (x["TD"].detach(), x["TD"].detach(), o),
    "jagged_dense_matmul": lambda o, x: (x["TD"], o, x["BD8"]),
    "jagged_jagged_matmul": lambda o, x: (x["TD"], x["T8"], o),
    "pooled_attention": lambda o, x: (x["B2D"], x["T2D"], x["T2D"], o),
    "pooled_attention_backward": lambda o, x: (
        *(x[code].detach() for code in ("B2D", "T2D", "T2D")),
        o,
        *(x[code].detach() for code in ("B2D", "B2", "B2D")),
    ),
}


ALWAYS = ("test_schema", "test_autograd_registration", "test_faketensor")
# Compiled as well, at 0.5 s each: in them and their gradients are nearly all of the operators.
COMPILED = ["jagged_dense_multiply", "jagged_softmax", "jagged_dense_matmul", "pooled_attention"]


@pytest.mark.parametrize("name", CUSTOM_OPERATORS)
def test_torch_accepts_each_custom_operator(name):
    sizes = {"T": 5, "B": 3, "L": PLACES, "D": 8, "2": 2, "8": 8}
    codes = ("TD", "BLD", "BD8", "T8", "B2D", "T2D", "B2")
    inputs = {
        code: torch.randn([sizes[one] for one in code], device=DEVICE, requires_grad=True)
        for code in codes
    }
    arguments = CUSTOM_OPERATORS[name](offsets_of([2, 0, 3]), inputs)
    operator = getattr(torch.ops.genrec_lite, name).default
    tests = (*ALWAYS, "test_aot_dispatch_dynamic") if name in COMPILED else ALWAYS
    torch.library.opcheck(operator, arguments, test_utils=tests)


@pytest.mark.parametrize("name", OPERATIONS)
def test_on_a_gpu_the_public_function_calls_its_twin(name, monkeypatch):
    launched = []
    for module in (twins, rows_twins):
        launch = module.launch
        monkeypatch.setattr(
            module,
            "launch",
            lambda k, *a, launch=launch, **c: (launched.append(k), launch(k, *a, **c)),
        )
    inputs = [x.detach() for x in made(name, [3, 0, 1], 8)]
    expected, _ = by_torch(name, [3, 0, 1], inputs)
    rows = JaggedTensor(torch.empty(sum([3, 0, 1]), device=DEVICE), offsets_of([3, 0, 1]))
    found = OPERATIONS[name][0](rows, *(x.as_subclass(OnAGPU) for x in inputs))
    assert len(launched) == 1
    assert torch.allclose(found.as_subclass(Tensor).cpu(), expected)


@pytest.mark.parametrize("name", ["dense matmul", "jagged matmul", "pooled attention"])
def test_half_precision_in_a_width_that_no_gpu_loads_at_once_is_refused_there(name):
    inputs = [x.detach() for x in made(name, [3, 0, 1], 12, torch.float16)]
    rows = JaggedTensor(torch.empty(4, device=DEVICE), offsets_of([3, 0, 1]))
    with pytest.raises(
        ValueError, match=r"is 12 wide: in half precision .* pad it to 16 with zeros"
    ):
        OPERATIONS[name][0](rows, *(x.as_subclass(OnAGPU) for x in inputs))
