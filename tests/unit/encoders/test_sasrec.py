"""SASRec against a float64 loop over single positions, gradients included."""

import math

import pytest
import torch
from torch.nn import functional as F

from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor

LENGTHS = [3, 0, 1, 6, 9, 2, 5]  # 5 shares a bucket with 6 and the last 6 of 9


def model(**changes) -> SASRec:
    sizes = {"dim": 6, "num_blocks": 2, "num_heads": 2, "max_length": 6, "dropout": 0.0}
    return SASRec(11, **(sizes | changes)).double().eval()


def histories(seed: int = 0) -> JaggedTensor:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(LENGTHS)
    values = torch.randint(11, (int(lengths.sum()),), generator=generator)
    return JaggedTensor.from_lengths(values, lengths)


def norm(x):
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-8).sqrt()


def position_by_position(sasrec: SASRec, history: list[int]) -> torch.Tensor:
    """The same function written as sums over earlier positions, one head at a time."""
    history = history[-sasrec.max_length :]
    dim = sasrec.item_embedding.embedding_dim
    x = [
        math.sqrt(dim) * sasrec.item_embedding.weight[item] + sasrec.position_embedding.weight[n]
        for n, item in enumerate(history)
    ]
    for block in sasrec.blocks:
        key_weight, value_weight = block.key_value.weight.chunk(2)
        key_bias, value_bias = block.key_value.bias.chunk(2)
        size = dim // block.num_heads
        out = []
        for i in range(len(x)):
            q = block.query.weight @ norm(x[i]) + block.query.bias
            attended = []
            for h in range(block.num_heads):
                part = slice(h * size, (h + 1) * size)
                keys = [(key_weight @ x[j] + key_bias)[part] for j in range(i + 1)]
                values = [(value_weight @ x[j] + value_bias)[part] for j in range(i + 1)]
                weight = torch.stack([q[part] @ k / math.sqrt(size) for k in keys]).softmax(0)
                attended.append(sum(a * v for a, v in zip(weight, values, strict=True)))
            y = norm(norm(x[i]) + block.output.weight @ torch.cat(attended) + block.output.bias)
            hidden = (block.expand.weight @ y + block.expand.bias).clamp(min=0)
            out.append(y + block.contract.weight @ hidden + block.contract.bias)
        x = out
    return torch.stack(x)


def test_outputs_and_gradients_equal_the_loop():
    sasrec, rows = model(), histories()
    ours = sasrec(rows)
    assert ours.lengths.tolist() == [min(n, 6) for n in LENGTHS]
    reference = [position_by_position(sasrec, r) for r in rows.to_lists() if r]
    weights = torch.sin(torch.arange(ours.values.numel()).view_as(ours.values).double())
    assert torch.allclose(ours.values, torch.cat(reference), rtol=1e-10, atol=1e-12)
    parameters = list(sasrec.parameters())
    got = torch.autograd.grad((ours.values * weights).sum(), parameters)
    expected = torch.autograd.grad((torch.cat(reference) * weights).sum(), parameters)
    for a, b in zip(got, expected, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm()


def test_float32_is_close_to_float64():
    sasrec, rows = model(), histories()
    exact = sasrec(rows).values
    assert (sasrec.float()(rows).values - exact).norm() <= 1e-5 * exact.norm()


def test_the_last_event_alone_equals_the_last_row_of_all():
    sasrec = model()
    rows = histories().select(torch.tensor([0, 2, 3, 4, 5, 6]))
    assert torch.allclose(sasrec.last(rows), sasrec(rows).last_values(), rtol=1e-12)


def test_the_future_and_other_users_change_nothing():
    sasrec, rows = model(), histories()
    before = sasrec(rows).values
    changed = rows.values.clone()
    changed[rows.offsets[4] - 1] = (changed[rows.offsets[4] - 1] + 1) % 11  # last event of user 3
    after = sasrec(rows.with_values(changed)).values
    moved = (before != after).any(1).nonzero().flatten().tolist()
    assert moved == [3 + 0 + 1 + 6 - 1]


def test_users_may_come_in_any_order():
    sasrec, rows = model(), histories()
    order = torch.tensor([4, 1, 5, 6, 0, 3, 2])
    shuffled = sasrec(rows.select(order))
    assert torch.allclose(shuffled.values, sasrec(rows).select(order).values, rtol=1e-12)


def test_rows_of_one_bucket_that_differ_in_length_do_not_see_the_padding():
    rows = JaggedTensor.from_lists([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 1], [2, 3, 4, 5, 6]])
    sasrec = model()
    alone = [rows[i : i + 1] for i in range(3)]
    expected = torch.cat([sasrec(row).values for row in alone])
    torch.testing.assert_close(sasrec(rows).values, expected)
    torch.testing.assert_close(sasrec.last(rows), torch.cat([sasrec.last(row) for row in alone]))


def test_training_drops_embeddings_and_both_layers_of_each_network_and_scoring_nothing(monkeypatch):
    sasrec, rows = model(dropout=0.3), histories()
    assert torch.equal(sasrec(rows).values, sasrec(rows).values)
    sasrec.train()
    assert not torch.equal(sasrec(rows).values, sasrec(rows).values)
    asked = []
    monkeypatch.setattr(
        F, "dropout", lambda x, p, training: asked.append((p, training)) or torch.zeros_like(x)
    )
    assert not sasrec._embed(rows.last(6)).any()
    assert asked == [(0.3, True)]
    one_bucket = rows[3:5]
    for mode in (True, False):
        asked.clear()
        sasrec.train(mode)(one_bucket)
        assert asked == [(0.3, mode)] * (1 + 2 * 2)


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_nothing_in_gives_nothing_out(rows):
    out = model()(JaggedTensor.from_lists(rows, dtype=torch.int64))
    assert out.values.shape == (0, 6) and len(out) == len(rows)


def test_the_public_parameter_count_of_ml_1m_is_met():
    # 41,150 beside the item table; the public table of 3,953 rows makes 238,800. Its position
    # table has 211 rows where ours has one for each of 200 events.
    sasrec = SASRec(3953, dim=50, num_blocks=2, num_heads=1, max_length=211)
    assert sum(p.numel() for p in sasrec.parameters()) == 238_800


def test_the_seed_fixes_the_weights_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = model(seed=1), model(seed=1), model(seed=2)
    assert torch.rand(1) == expected
    same = [torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(a.item_embedding.weight, c.item_embedding.weight)


def test_ids_outside_the_table_and_empty_histories_are_named():
    with pytest.raises(ValueError, match="run from 3 to 11, but the table holds items 0 to 10"):
        model()(JaggedTensor.from_lists([[3, 11]]))
    with pytest.raises(ValueError, match="history 1 is empty"):
        model().last(JaggedTensor.from_lists([[3], []], dtype=torch.int64))
    with pytest.raises(ValueError, match="dim 6 is not divisible by num_heads 4"):
        model(num_heads=4)
