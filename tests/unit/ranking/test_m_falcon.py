"""M-FALCON against the ranker's own scores: every microbatch, any cache, any request."""

from dataclasses import replace

import pytest
import torch
from ranker_references import ASKED, LENGTHS, MAX_EVENTS, NUM_ITEMS, log, ranker, row_of

from genrec_lite.datasets.actions import Events
from genrec_lite.jagged import JaggedTensor
from genrec_lite.ranking.m_falcon import HistoryCache, MFalcon

CANDIDATES = torch.tensor([3, 16, 3, 0, 9, 1, 12])


def expected(model, history: Events, asked: int = ASKED) -> torch.Tensor:
    rows = JaggedTensor.from_lengths(CANDIDATES, torch.tensor([len(CANDIDATES)]))
    with torch.no_grad():
        return model.score(history, rows, torch.tensor([asked]))


def cached(model, history: Events, microbatch: int) -> tuple[MFalcon, HistoryCache]:
    falcon = MFalcon(model, microbatch=microbatch)
    return falcon, falcon.extend(falcon.start(), history)


@pytest.mark.parametrize("microbatch", [1, 2, 3, 5, 7, 8, 256])
@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_scores_equal_the_rankers_for_every_microbatch(row: int, microbatch: int):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model, history = ranker(dtype), row_of(log(), row)
        falcon, cache = cached(model, history, microbatch)
        scores = falcon.score(cache, CANDIDATES, ASKED)
        torch.testing.assert_close(scores, expected(model, history), rtol=tolerance, atol=tolerance)
        assert len(cache) == LENGTHS[row]


@pytest.mark.parametrize("steps", [[8], [1, 7], [3, 0, 5], [1] * 8])
def test_a_cache_extended_step_by_step_is_that_of_the_whole_history(steps: list[int]):
    model, history = ranker(), log([8])
    falcon, at = MFalcon(model, microbatch=4), 0
    cache = falcon.start()
    for count in steps:
        new = history.stretches(torch.tensor([0]), torch.tensor([at]), torch.tensor([count]))
        cache = falcon.extend(cache, new)
        at += count
        until = history.stretches(torch.tensor([0]), torch.tensor([0]), torch.tensor([at]))
        scores = falcon.score(cache, CANDIDATES, ASKED)
        torch.testing.assert_close(scores, expected(model, until), rtol=1e-12, atol=1e-12)


def test_a_new_event_computes_only_its_own_tokens():
    model, history = ranker(), log([MAX_EVENTS])
    before = history.stretches(torch.tensor([0]), torch.tensor([0]), torch.tensor([7]))
    new = history.stretches(torch.tensor([0]), torch.tensor([7]), torch.tensor([1]))
    falcon, cache = cached(model, before, 256)
    seen = []
    handle = model.blocks[0].contract.register_forward_hook(
        lambda module, given, out: seen.append(len(out))
    )
    longer = falcon.extend(cache, new)
    handle.remove()
    assert seen == [2]  # the action that waited, and the new item
    for old, now in zip(cache.keys + cache.values, longer.keys + longer.values, strict=True):
        assert len(old) == 13 and len(now) == 15
        assert torch.equal(old, now[:13])


def test_a_cache_serves_requests_at_different_times():
    model, history = ranker(), row_of(log(), 0)
    falcon, cache = cached(model, history, 3)
    last = int(history.times[-1])
    found = []
    for asked in (last, last + 10**4, ASKED, last):
        scores = falcon.score(cache, CANDIDATES, asked)
        same = expected(model, history, asked)
        torch.testing.assert_close(scores, same, rtol=1e-12, atol=1e-12)
        found.append(scores)
    assert torch.equal(found[0], found[3])
    assert not torch.allclose(found[0], found[1])


def test_a_new_cache_holds_what_the_ranker_looks_at():
    model, history = ranker(), log([3 * MAX_EVENTS])
    falcon, cache = cached(model, history, 5)
    assert len(cache) == MAX_EVENTS
    scores = falcon.score(cache, CANDIDATES, ASKED)
    torch.testing.assert_close(scores, expected(model, history), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("most", [1, 2, MAX_EVENTS])
def test_an_outgrown_cache_stands_for_the_history_that_it_names(most: int):
    model, history = ranker(max_events=most), log([3 * MAX_EVENTS])
    falcon = MFalcon(model)
    cache = falcon.start()
    for number in range(3 * MAX_EVENTS):
        new = history.stretches(torch.tensor([0]), torch.tensor([number]), torch.tensor([1]))
        cache = falcon.extend(cache, new)
        assert max(1, min(number + 1, most // 2)) <= len(cache) <= most
        assert torch.equal(cache.history.times[-1:], new.times)
    scores = falcon.score(cache, CANDIDATES, ASKED)
    same = expected(model, history.last(len(cache)))
    torch.testing.assert_close(scores, same, rtol=1e-12, atol=1e-12)


def test_an_outgrown_cache_is_made_anew_of_the_last_half():
    model, history = ranker(), log([MAX_EVENTS + 1])
    falcon = MFalcon(model)
    first, rest = (
        history.stretches(torch.tensor([0]), torch.tensor([at]), torch.tensor([count]))
        for at, count in ((0, MAX_EVENTS), (MAX_EVENTS, 1))
    )
    cache = falcon.extend(falcon.extend(falcon.start(), first), rest)
    assert len(cache) == MAX_EVENTS // 2
    assert torch.equal(cache.history.times, history.times[-(MAX_EVENTS // 2) :])
    scores = falcon.score(cache, CANDIDATES, ASKED)
    same = expected(model, history.last(MAX_EVENTS // 2))
    torch.testing.assert_close(scores, same, rtol=1e-12, atol=1e-12)


def test_no_candidate_sees_another_and_nothing_later_is_seen():
    model, history = ranker(), row_of(log(), 0)
    falcon, cache = cached(model, history, 4)
    scores = falcon.score(cache, CANDIDATES, ASKED)
    changed = CANDIDATES.clone()
    changed[1] = (changed[1] + 1) % NUM_ITEMS
    others = falcon.score(cache, changed, ASKED)
    rest = [0, 2, 3, 4, 5, 6]
    torch.testing.assert_close(others[rest], scores[rest], rtol=0, atol=1e-14)
    assert not torch.allclose(others[1], scores[1])
    flipped = replace(history, actions=history.actions ^ torch.tensor([True, False, False]))
    acted = falcon.score(cached(model, flipped, 4)[1], CANDIDATES, ASKED)
    assert not torch.allclose(acted, scores)  # what was done before does matter


def test_a_ranker_in_training_is_scored_without_dropout_and_goes_on_training():
    model, history = ranker(dropout=0.5), row_of(log(), 0)
    falcon, cache = cached(model, history, 4)
    scores = falcon.score(cache, CANDIDATES, ASKED)
    model.train()
    found = falcon.score(cache, CANDIDATES, ASKED)
    assert torch.equal(found, scores) and not found.requires_grad
    assert model.training and all(block.training for block in model.layers())


@pytest.mark.parametrize("count", [5, MAX_EVENTS + 1])
def test_a_ranker_in_training_is_cached_without_dropout_and_goes_on_training(count: int):
    model, history = ranker(dropout=0.5), log([count])
    cache = cached(model, history, 4)[1]
    again = cached(model.train(), history, 4)[1]
    for old, now in zip(cache.keys + cache.values, again.keys + again.values, strict=True):
        assert torch.equal(now, old) and not now.requires_grad
    assert model.training and all(block.training for block in model.layers())


def test_no_candidates_give_no_scores():
    falcon, cache = cached(ranker(), row_of(log(), 0), 4)
    assert falcon.score(cache, CANDIDATES[:0], ASKED).shape == (0, 3)


def test_wrong_requests_are_named():
    model, history = ranker(), row_of(log(), 0)
    falcon, cache = cached(model, history, 4)
    last = int(history.times[-1])
    with pytest.raises(ValueError, match=f"asked at {last - 1}, before the last event at {last}"):
        falcon.score(cache, CANDIDATES, last - 1)
    with pytest.raises(ValueError, match="4 rows of events: a cache is one user's"):
        falcon.extend(cache, log())
    with pytest.raises(ValueError, match=f"begin at .*, before the last one kept, at {last}"):
        falcon.extend(cache, history)
    two_bits = Events(history.items, history.actions[:, :2], history.times + last)
    with pytest.raises(ValueError, match=r"actions \(5, 2\): expected \(n, 3\) bits"):
        falcon.extend(cache, two_bits)
    with pytest.raises(ValueError, match="microbatch is 0"):
        MFalcon(model, microbatch=0)
