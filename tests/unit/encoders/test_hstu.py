"""HSTU against a float64 loop over single positions, gradients included."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from genrec_lite.encoders.hstu import HSTU
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor

LENGTHS = [3, 0, 1, 6, 9, 2]  # the longest is cut to 6
MAX_LENGTH = 6


def model(**changes) -> HSTU:
    sizes = dict(dim=6, num_blocks=2, num_heads=2, head_dim=3, max_length=MAX_LENGTH, dropout=0.0)
    encoder = HSTU(11, **(sizes | changes)).double().eval()
    with torch.no_grad():  # initial biases of 0.02 would be lost beside the products
        for block in encoder.blocks:
            block.expand *= 30
            for weights in block.bias.parameters():
                weights *= 50
    return encoder


def histories(seed: int = 0, lengths: list[int] = LENGTHS) -> tuple[JaggedTensor, JaggedTensor]:
    generator = torch.Generator().manual_seed(seed)
    items = [torch.randint(11, (n,), generator=generator) for n in lengths]
    gaps = [10 ** (7 * torch.rand(n + 1, generator=generator)) for n in lengths]
    return (
        JaggedTensor.from_lists(items, torch.int64),
        JaggedTensor.from_lists([gap.long().cumsum(0) for gap in gaps], torch.int64),
    )


def norm(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def position_by_position(hstu: HSTU, history: list[int], times: list[int]) -> Tensor:
    """The same function written as sums over earlier positions, one head at a time."""
    history, times = history[-MAX_LENGTH:], times[-MAX_LENGTH - 1 :]
    dim = hstu.item_embedding.embedding_dim
    x = [
        math.sqrt(dim) * hstu.item_embedding.weight[item] + hstu.position_embedding.weight[n]
        for n, item in enumerate(history)
    ]
    for block in hstu.blocks:
        projected = [silu(norm(at) @ block.expand) for at in x]
        width = block.contract.in_features
        size = width // block.num_heads
        u, v, q, k = zip(*(p.split(width) for p in projected), strict=True)
        out = []
        for i in range(len(x)):
            attended = []
            for head in range(block.num_heads):
                part = slice(head * size, (head + 1) * size)
                scores = []
                for j in range(i + 1):
                    score = q[i][part] @ k[j][part]
                    if block.bias.position_weights is not None:
                        score = score + block.bias.position_weights[i - j]
                    if block.bias.time_weights is not None:
                        apart = max(1, times[i + 1] - times[j])
                        bucket = min(128, math.floor(math.log(apart) / 0.301))
                        score = score + block.bias.time_weights[bucket]
                    scores.append(score)
                if block.activation == "softmax":
                    weights = torch.stack(scores).softmax(0)
                else:
                    n = MAX_LENGTH + 11 if block.divide_by == "padded" else len(history)
                    weights = silu(torch.stack(scores)) / n
                attended.append(sum(w * v[j][part] for j, w in enumerate(weights)))
            y = u[i] * norm(torch.cat(attended))
            out.append(x[i] + block.contract.weight @ y + block.contract.bias)
        x = out
    return torch.stack(x)


CHOICES = [
    *itertools.product(("both", "time", "position", "none"), ("silu",), ("padded", "row")),
    ("both", "softmax", "padded"),
]


@pytest.mark.parametrize(("bias", "activation", "divide_by"), CHOICES)
def test_outputs_and_gradients_equal_the_loop(bias, activation, divide_by):
    hstu = model(bias=bias, activation=activation, divide_by=divide_by, seed=1)
    items, times = histories()
    out = hstu(items, times if bias in ("both", "time") else None)
    assert out.lengths.tolist() == [min(n, MAX_LENGTH) for n in LENGTHS]
    rows = zip(items.to_lists(), times.to_lists(), strict=True)
    expected = torch.cat([position_by_position(hstu, i, t) for i, t in rows if i])
    assert float((out.values - expected).detach().norm() / expected.detach().norm()) < 1e-10
    towards = torch.randn_like(expected)
    parameters = dict(hstu.named_parameters())
    ours = torch.autograd.grad(out.values, parameters.values(), towards)
    theirs = torch.autograd.grad(expected, parameters.values(), towards)
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-10, name
    single = HSTU.forward(hstu.float(), items, times if hstu.needs_times else None).values
    assert float((single - expected).detach().norm() / expected.detach().norm()) < 1e-5


def test_the_last_position_is_the_last_of_all_positions():
    hstu = model()
    items, times = histories(lengths=[3, 1, 9])
    assert torch.equal(hstu.last(items, times), hstu(items, times).last_values())


def test_an_event_changes_no_output_before_it_and_its_time_only_the_one_before():
    hstu = model()
    items, times = histories(lengths=[6])
    before = hstu(items, times).values
    for t in range(6):
        other = items.values.clone()
        other[t] = (other[t] + 1) % 11
        changed = (hstu(items.with_values(other), times).values != before).any(1)
        assert changed.tolist() == [n >= t for n in range(6)]
    for t in range(1, 7):  # from t on every time is later: gaps within stay as they are
        later = times.values.clone()
        later[t:] += 10**8
        changed = (hstu(items, times.with_values(later)).values != before).any(1)
        assert changed.tolist() == [n >= t - 1 for n in range(6)]


def test_only_differences_of_times_matter():
    hstu = model()
    items, times = histories()
    moved = times.with_values(times.values + 1_000_000_007)
    assert torch.equal(hstu(items, moved).values, hstu(items, times).values)


def test_a_row_with_nan_spoils_no_other_not_even_its_gradients():
    hstu = model()
    items, times = histories(lengths=[4, 3, 5])
    row = items.with_values(torch.tensor([1, 2, 3, 4, 10, 10, 10, 5, 6, 7, 8, 9]))
    with torch.no_grad():
        hstu.item_embedding.weight[10] = math.nan
    out = hstu(row, times)
    assert [bool(r.isfinite().all()) for r in out] == [True, False, True]
    torch.cat([out[0], out[2]]).sum().backward()
    sound = hstu.item_embedding.weight.grad[torch.arange(11) != 10]
    assert sound.isfinite().all()


def test_no_row_and_empty_rows():
    hstu = model()
    nothing = JaggedTensor.from_lists([[], []], torch.int64)
    asked = JaggedTensor.from_lists([[5], [7]], torch.int64)
    assert hstu(nothing, asked).values.shape == (0, 6)
    assert hstu(nothing[:0], asked[:0]).values.shape == (0, 6)


def test_the_same_seed_gives_the_same_weights_and_dropout_acts_in_training_only():
    items, times = histories()
    one, same, other = (model(seed=seed, dropout=0.5) for seed in (3, 3, 4))
    assert torch.equal(one(items, times).values, same(items, times).values)
    assert not torch.equal(one(items, times).values, other(items, times).values)
    one.train()
    assert not torch.equal(one(items, times).values, one(items, times).values)


def test_dropout_acts_on_the_input_and_behind_each_gate(monkeypatch):
    dropped = []

    def watched(x, share, training):
        dropped.append((tuple(x.shape), share, training))
        return x

    monkeypatch.setattr(torch.nn.functional, "dropout", watched)
    items, times = histories(lengths=[3, 2])
    model(dropout=0.25, num_heads=1, head_dim=4).train()(items, times)
    assert dropped == [((5, 6), 0.25, True), ((5, 4), 0.25, True), ((5, 4), 0.25, True)]


def test_initial_weights_are_drawn_as_in_the_public_code():
    hstu = HSTU(2000, dim=50, num_blocks=1, num_heads=2, head_dim=25, max_length=200, seed=5)
    block = hstu.blocks[0]
    assert hstu.item_embedding.weight.abs().max() <= 0.04
    for weights, std in [
        (hstu.item_embedding.weight, 0.02 * 0.88),  # cut at two deviations
        (hstu.position_embedding.weight, math.sqrt(2 / 250)),
        (block.expand, 0.02),
        (block.contract.weight, math.sqrt(2 / 100)),
        (block.bias.position_weights, 0.02),
        (block.bias.time_weights, 0.02),
    ]:
        assert weights.std().item() == pytest.approx(std, rel=4 / math.sqrt(weights.numel()))
        assert abs(weights.mean().item()) < 4 * std / math.sqrt(weights.numel())


def test_bfloat16_autocast_runs_forward_and_backward_with_both_biases():
    hstu = model(seed=2).float()
    items, times = histories(lengths=[6, 3, 0])
    exact = hstu(items, times).values
    with torch.autocast("cpu", torch.bfloat16):
        rough = hstu(items, times).values
    assert float((rough - exact).detach().norm() / exact.detach().norm()) < 0.05
    rough.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hstu.parameters())


def test_with_softmax_nothing_is_divided():
    items, times = histories()
    softmax = dict(activation="softmax", seed=1)
    padded, row = (model(divide_by=by, **softmax) for by in ("padded", "row"))
    assert torch.equal(padded(items, times).values, row(items, times).values)


@pytest.mark.parametrize("encoder", [model(bias="position"), SASRec(11, dim=6, max_length=6)])
def test_an_encoder_without_time_bias_looks_at_no_times(encoder):
    items, times = histories()
    encoder.eval()
    assert torch.equal(encoder(items, times).values, encoder(items).values)


def test_bad_histories_are_named():
    hstu = model()
    items, times = histories(lengths=[3, 2])
    with pytest.raises(ValueError, match="item indices run from 0 to 11, but the table holds"):
        hstu(items.with_values(torch.tensor([0, 11, 1, 2, 3])), times)
    with pytest.raises(ValueError, match="this encoder has a time bias: give the times"):
        hstu(items)
    with pytest.raises(ValueError, match="row 1 has 2 items and 2 times: give one for each item"):
        hstu(items, JaggedTensor.from_lists([[1, 2, 3, 4], [1, 2]]))
    with pytest.raises(ValueError, match="1 rows of times for 2 rows of items"):
        hstu(items, times[:1])
    with pytest.raises(ValueError, match="times of row 1 fall from 9 to 8: sort each history"):
        hstu(items, JaggedTensor.from_lists([[5, 5, 6, 7], [1, 9, 8]]))
    with pytest.raises(ValueError, match=r"times have dtype torch.float64: give whole seconds"):
        hstu(items, times.with_values(times.values.double()))
    with pytest.raises(ValueError, match="history 1 is empty: recommend popular items"):
        hstu.last(*histories(lengths=[2, 0]))


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"bias": "clock"}, "bias is 'clock': choose from both, time, position, none"),
        ({"activation": "relu"}, "activation is 'relu': choose from silu, softmax"),
        ({"num_blocks": 0}, "num_blocks is 0: at least 1"),
        ({"num_heads": 0}, "num_heads is 0: at least 1"),
        ({"head_dim": 0}, "head_dim is 0: at least 1"),
        ({"max_length": 0}, "max_length is 0: at least 1"),
        ({"divide_by": "batch"}, "divide_by is 'batch': choose padded or row"),
    ],
)
def test_unknown_choices_are_named(choice, told):
    with pytest.raises(ValueError, match=told):
        model(**choice)
