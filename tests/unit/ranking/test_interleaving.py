"""Two tokens an event."""

import pytest
import torch
from ranker_references import NUM_ACTIONS, NUM_ITEMS, log

from genrec_lite.ranking.interleaving import Interleaving, interleaved, token_times


def test_items_and_actions_alternate_in_each_row():
    events, tokens = log(), Interleaving(NUM_ITEMS, NUM_ACTIONS, 4)
    rows = tokens(events)
    assert torch.equal(rows.lengths, 2 * events.items.lengths)
    torch.testing.assert_close(rows.values[::2], 2 * tokens.item_embedding(events.items.values))
    bits = events.actions[3].float()
    expected = 2 * (tokens.any_action + bits @ tokens.bit_vectors)
    torch.testing.assert_close(rows.values[7], expected)


def test_no_action_is_a_token_too():
    tokens = Interleaving(NUM_ITEMS, NUM_ACTIONS, 4)
    nothing = tokens.of_actions(torch.zeros(1, NUM_ACTIONS, dtype=torch.bool))
    torch.testing.assert_close(nothing[0], 2 * tokens.any_action)
    assert bool(nothing.any())


def test_an_action_happens_when_its_item_is_met():
    times = token_times(log())
    assert torch.equal(times.values[::2], times.values[1::2])
    assert torch.equal(times.values[::2], log().times)
    assert interleaved(torch.tensor([1, 2]), torch.tensor([8, 9])).tolist() == [1, 8, 2, 9]


def test_wrong_items_and_bits_are_named():
    tokens = Interleaving(NUM_ITEMS, NUM_ACTIONS, 4)
    with pytest.raises(ValueError, match=f"from 3 to {NUM_ITEMS}, .* 0 to {NUM_ITEMS - 1}"):
        tokens.of_items(torch.tensor([3, NUM_ITEMS]))
    with pytest.raises(ValueError, match=r"actions \(2, 4\): expected \(n, 3\)"):
        tokens.of_actions(torch.zeros(2, 4, dtype=torch.bool))


def test_the_seed_decides_the_weights():
    first, again, other = (Interleaving(5, 2, 4, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.bit_vectors, again.bit_vectors)
    assert not torch.equal(first.bit_vectors, other.bit_vectors)
