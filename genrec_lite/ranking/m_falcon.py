"""M-FALCON: a user's history once, then candidates in microbatches against what was kept of it.

Zhai et al. 2024 (2402.17152), section 3.4. One candidate at a time costs a pass over the history
each; all at once cost the square of their number. Here a candidate costs what one token costs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.datasets.actions import Events
from genrec_lite.encoders.hstu import SPARE, HSTUBlock
from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.time_buckets import edges_of_buckets
from genrec_lite.ranking.interleaving import interleaved
from genrec_lite.ranking.target_aware import GenerativeRanker
from genrec_lite.training import without_dropout

__all__ = ["HistoryCache", "MFalcon"]


@dataclass(frozen=True, eq=False)
class HistoryCache:
    """What one user's history is to a candidate: each layer's keys and values.

    The action of the last event is not among them: a token's time bias looks at when the *next*
    token comes, which is known when the next event or request is there.

    Args:
        history: one row, the events that the cache stands for.
        keys, values: of each layer, (2n - 1, h, d_qk) and (2n - 1, h, d_v) for n events, or none.
        times: int64 seconds of those tokens.
    """

    history: Events
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    times: Tensor

    def __len__(self) -> int:
        return len(self.history.items.values)


class MFalcon:
    """Scores candidates for one user at a time, from a cache of the user's history.

    Scores are those of `GenerativeRanker.score` for the history that the cache stands for.

    Args:
        ranker: not trained here: neither dropout nor gradients.
        microbatch: tokens, candidates or of a history, that are looked at together. Memory grows
            with it and with the history, not with the number of candidates.
    Raises:
        ValueError: if the microbatch is below 1.
    """

    def __init__(self, ranker: GenerativeRanker, *, microbatch: int = 256) -> None:
        if microbatch < 1:
            raise ValueError(f"microbatch is {microbatch}: at least 1")
        self.ranker, self.microbatch = ranker, microbatch

    def start(self) -> HistoryCache:
        """The cache of a user without history."""
        first = self.ranker.tokens.any_action
        none = torch.zeros(0, dtype=torch.int64, device=first.device)
        offsets = torch.zeros(2, dtype=torch.int64, device=first.device)
        bits = torch.zeros(0, len(self.ranker.tokens.bit_vectors), device=first.device).bool()
        history = Events(JaggedTensor(none, offsets), bits, none)
        empty = tuple(
            first.new_zeros(0, block.num_heads, block.expand.shape[1] // (4 * block.num_heads))
            for block in self.ranker.layers()
        )
        return HistoryCache(history, empty, empty, none)

    def extend(self, cache: HistoryCache, new: Events) -> HistoryCache:
        """The cache with one row of new events at its end; the old one stays as it was.

        What was kept is not computed again, unless the history outgrows the model's `max_events`:
        then the cache is made anew of its last half, once in every `max_events / 2` events. (A new
        cache holds the last `max_events`.) Its `history` says what it stands for.

        Raises:
            ValueError: if there is not one row of them, or they begin before the history's end.
        """
        if len(new) != 1:
            raise ValueError(f"{len(new)} rows of events: a cache is one user's")
        if not len(new.times):
            return cache
        tokens, last = self.ranker.tokens, cache.history.times[-1:]
        if len(cache) and int(new.times[0]) < int(last):
            raise ValueError(f"new events begin at {int(new.times[0])}, before the last one kept, "
                             f"at {int(last)}")  # fmt: skip
        with torch.no_grad(), without_dropout(self.ranker):
            x = interleaved(tokens.of_items(new.items.values), tokens.of_actions(new.actions))
            history, most = _joined(cache.history, new), self.ranker.max_events
            if len(history.times) > most:
                kept = history.last(max(1, most // 2) if len(cache) else most)
                return self.extend(self.start(), kept)
            times = interleaved(new.times, new.times)
            if len(cache):  # the action that waited for what comes next
                x = torch.cat([tokens.of_actions(cache.history.actions[-1:]), x])
                times = torch.cat([last, times])
            for at in range(0, len(x) - 1, self.microbatch):
                end = min(len(x) - 1, at + self.microbatch)
                cache = self._grown(cache, x[at:end], times[at:end], times[at + 1 : end + 1])
        return replace(cache, history=history)

    def score(self, cache: HistoryCache, candidates: Tensor, asked: int) -> Tensor:
        """Logits (m, A) of the actions on each candidate.

        Args:
            cache: of the user; serves any number of requests.
            candidates: (m,) item indices.
            asked: seconds, when the actions would happen.
        Raises:
            ValueError: if it is asked before the history's end.
        """
        ranker, tokens = self.ranker, self.ranker.tokens
        moment = torch.full((1,), asked, dtype=torch.int64, device=candidates.device)
        with torch.no_grad(), without_dropout(ranker):
            if len(cache):
                waiting, last = tokens.of_actions(cache.history.actions[-1:]), cache.history.times
                if asked < int(last[-1]):
                    raise ValueError(f"asked at {asked}, before the last event at {int(last[-1])}")
                cache = self._grown(cache, waiting, last[-1:], moment)
            return torch.cat(
                [
                    ranker.head(self._candidates(cache, tokens.of_items(some), moment))
                    for some in candidates.split(self.microbatch)
                ]
            )

    def _grown(
        self, cache: HistoryCache, x: Tensor, times: Tensor, following: Tensor
    ) -> HistoryCache:
        """The cache with tokens (m, d) at its end, each seeing all before it.

        The last block's attention is left out: nobody asks what the history found there.

        Args:
            times: (m,) of the tokens, `following` of the token after each.
        """
        all_times = torch.cat([cache.times, times])
        before, after = len(cache.times), len(all_times)
        places = torch.arange(after, device=x.device)
        apart = places[before:, None] - places  # (m, n + m)
        buckets = torch.bucketize(following[:, None] - all_times, self._edges(x), right=True)
        keys, values = [], []
        for block, old_keys, old_values in zip(
            self.ranker.layers(), cache.keys, cache.values, strict=True
        ):
            u, v, q, k = _heads(block, x)
            keys.append(torch.cat([old_keys, k]))
            values.append(torch.cat([old_values, v]))
            if len(keys) == len(cache.keys):
                break
            position, time = _tables(block)
            scores = torch.einsum("ihd,jhd->hij", q, keys[-1])
            scores = scores + position[apart.clamp(min=0)] + time[buckets]
            weights = F.silu(scores).masked_fill(apart < 0, 0)
            found = torch.einsum("hij,jhd->ihd", weights, values[-1])
            x = x + block.gate(u.flatten(1), found.flatten(1) / (block.max_length + SPARE))
        return replace(cache, keys=tuple(keys), values=tuple(values), times=all_times)

    def _candidates(self, cache: HistoryCache, x: Tensor, asked: Tensor) -> Tensor:
        """Candidates (m, d) through all blocks, each seeing the cache and itself.

        All stand at one place and one time, so that one bias a key serves all of them.
        """
        n = len(cache.times)
        buckets = torch.bucketize(asked - cache.times, self._edges(x), right=True)  # (n,)
        for block, keys, values in zip(self.ranker.layers(), cache.keys, cache.values, strict=True):
            u, v, q, k = _heads(block, x)
            position, time = _tables(block)
            of_history = position[1 : n + 1].flip(0) + time[buckets]  # (n,)
            scores = torch.einsum("ihd,jhd->hij", q, keys) + of_history
            found = torch.einsum("hij,jhd->ihd", F.silu(scores), values)
            own = F.silu((q * k).sum(-1, keepdim=True) + position[0] + time[0])
            found = found + own * v
            x = x + block.gate(u.flatten(1), found.flatten(1) / (block.max_length + SPARE))
        return x

    @staticmethod
    def _edges(x: Tensor) -> Tensor:
        return edges_of_buckets().to(x.device)


def _heads(block: HSTUBlock, x: Tensor) -> tuple[Tensor, ...]:
    """u, v, q, k of a block, (m, h, d) each."""
    return tuple(t.unflatten(-1, (block.num_heads, -1)) for t in block.project(x))


def _tables(block: HSTUBlock) -> tuple[Tensor, Tensor]:
    """A block's weights by distance and by time bucket."""
    position, time = block.bias.position_weights, block.bias.time_weights
    assert position is not None and time is not None  # a ranker has both
    return position, time


def _joined(history: Events, new: Events) -> Events:
    """One row of events with another behind it."""
    return Events(
        history.items.followed_by(new.items),
        torch.cat([history.actions, new.actions]),
        torch.cat([history.times, new.times]),
    )
