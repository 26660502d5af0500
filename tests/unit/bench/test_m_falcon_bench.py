"""The benchmark of M-FALCON: equal ways, counted operations, memory."""

import pytest
import torch

from genrec_lite.bench import m_falcon
from genrec_lite.bench.m_falcon import compare, counted_flop, kept_flop, needed_flop, user_of
from genrec_lite.bench.memory import peak_tensor_bytes
from genrec_lite.ranking.m_falcon import MFalcon
from genrec_lite.ranking.target_aware import GenerativeRanker


def test_ways_are_equal_and_ours_needs_a_fraction():
    found = compare(24, num_events=40, num_items=50)
    assert found.setting["difference"] <= 1e-5
    # 24 passes over 81 tokens against one over 80 and 24 tokens
    assert 15 < found.setting["flop ratio"] < 24
    assert 15 < found.setting["flop ratio needed"] < 24
    for way in (found.ours, *found.peers.values()):
        assert way().shape == (24, 3)


def test_a_way_with_other_logits_is_refused(monkeypatch):
    monkeypatch.setattr(m_falcon, "_all_at_once", lambda *_: torch.zeros(4, 3))
    with pytest.raises(ValueError, match="all at once gives other logits"):
        compare(4, num_events=5, num_items=9)


def test_needed_operations_are_what_the_counter_counts():
    ranker = GenerativeRanker(50, 3, num_blocks=3, max_events=30).eval()
    history, candidates, asked = user_of(30, 7, 50)
    falcon = MFalcon(ranker)
    cache = falcon.extend(falcon.start(), history)
    counted = counted_flop(lambda: falcon.score(cache, candidates, asked))
    head = 2 * 7 * (64 * 64 + 64 * 3)
    last_action = kept_flop(ranker, 1, 60)  # which waited for the time of asking
    own = 2 * 3 * 7 * 2 * 64  # <q, k> and its share, of the candidate itself: not products of
    bits = 2 * 3 * 64  # matrices, as that of the action's bits is
    expected = needed_flop(ranker, 7, 7 * 61) + last_action + head - own + bits
    assert counted == expected


def test_memory_does_not_grow_with_the_candidates():
    ranker = GenerativeRanker(50, 3, max_events=64).eval()
    history, candidates, asked = user_of(64, 2048, 50)
    falcon = MFalcon(ranker, microbatch=32)
    cache = falcon.extend(falcon.start(), history)
    few, many = (
        peak_tensor_bytes(lambda n=n: falcon.score(cache, candidates[:n], asked))
        for n in (64, 2048)
    )
    assert many <= few + 2 * 4 * 3 * 2048  # the logits, while they are joined
    assert peak_tensor_bytes(lambda: torch.zeros(1000) + 1) in range(8000, 9000)
