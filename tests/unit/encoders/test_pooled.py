"""The encoder without sequence against a loop over single positions, gradients included."""

import math

import pytest
import torch

from genrec_lite.encoders.pooled import PooledHistory
from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct

LENGTHS = [3, 0, 1, 6, 9]


def model(**changes) -> PooledHistory:
    sizes = {"dim": 6, "num_blocks": 2, "max_length": 6, "dropout": 0.0}
    return PooledHistory(11, **(sizes | changes)).double()


def histories(seed: int = 0) -> JaggedTensor:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(LENGTHS)
    values = torch.randint(11, (int(lengths.sum()),), generator=generator)
    return JaggedTensor.from_lengths(values, lengths)


def norm(x):
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()


def position_by_position(pooled: PooledHistory, history: list[int]) -> list[torch.Tensor]:
    history = history[-pooled.max_length :]
    x = [math.sqrt(6) * pooled.item_embedding.weight[item] for item in history]
    found = []
    for n, own in enumerate(x):
        own, mean = norm(own), norm(sum(x[: n + 1]) / (n + 1))
        out = pooled.mix.weight @ torch.cat([own, mean, own * mean]) + pooled.mix.bias
        for first, _, second in pooled.blocks:
            hidden = (first.weight @ norm(out) + first.bias).clamp(min=0)
            out = out + second.weight @ hidden + second.bias
        found.append(out)
    return found


def test_outputs_and_gradients_equal_the_loop():
    pooled, items = model(), histories()
    expected = torch.stack(
        [out for history in items.to_lists() for out in position_by_position(pooled, history)]
    )
    found = pooled(items)
    assert found.lengths.tolist() == [3, 0, 1, 6, 6]
    torch.testing.assert_close(found.values, expected, rtol=1e-10, atol=1e-12)
    weigh = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    parameters = list(pooled.parameters())
    for ours, theirs in zip(
        torch.autograd.grad((found.values * weigh).sum(), parameters),
        torch.autograd.grad((expected * weigh).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_last_event_and_no_events():
    pooled, items = model(), histories()
    filled = items.select(torch.tensor([0, 2, 3, 4]))
    assert torch.equal(pooled.last(filled), pooled(filled).last_values())
    with pytest.raises(ValueError, match="history 1 is empty"):
        pooled.last(items)
    none = JaggedTensor.from_lengths(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert pooled(none).values.shape == (0, 6)
    with pytest.raises(ValueError, match="num_blocks is 0: at least 1"):
        model(num_blocks=0)


def test_only_which_item_came_last_is_known_of_the_order():
    pooled = model()
    one, other, last = (
        pooled.last(JaggedTensor.from_lists([row])) for row in ([1, 2, 3], [2, 1, 3], [1, 3, 2])
    )
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(one, last)


def test_rows_do_not_see_each_other_and_the_future_is_not_seen():
    pooled = model(dim=4).float()
    with torch.no_grad():
        pooled.item_embedding.weight[7] = 1e6
    rows = JaggedTensor.from_lists([[7, 7], [1, 2, 3], [4, 7]])
    apart = pooled(rows[1:2]).values
    torch.testing.assert_close(pooled(rows).values[2:5], apart, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pooled(rows[2:3]).values[0], pooled(rows).values[5])


def test_dropout_is_for_training_only():
    pooled, items = model(dropout=0.5), histories()
    torch.manual_seed(0)
    assert not torch.equal(pooled(items).values, pooled(items).values)
    pooled.eval()
    assert torch.equal(pooled(items).values, pooled(items).values)


def test_it_learns_what_is_next():
    lengths = torch.full((64,), 10)
    starts = torch.arange(64)[:, None] % 11
    items = JaggedTensor.from_lengths(((starts + torch.arange(10)) % 11).flatten(), lengths)
    net = NextItemModel(PooledHistory(11, dim=16, dropout=0.0, seed=0), DotProduct())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    inputs, targets = items.drop_last(), items.drop_first().values
    for _ in range(60):
        scores = net.similarity.score(
            net.similarity.queries(net.encoder(inputs).values),
            net.similarity.items(net.encoder.item_embedding.weight),
        )
        loss = torch.nn.functional.cross_entropy(scores / 0.05, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (scores.argmax(1) == targets).float().mean() > 0.95  # by chance 1 of 11
