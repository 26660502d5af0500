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
        keys, values: of each layer, (2n - 1, h, d_qk) and (2n - 1, h, d_v) for n events.
        times: (2n - 1,) int64 seconds of the tokens.
    """

    history: Events
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    times: Tensor

    def __len__(self) -> int:
        return len(self.history.items.values)


class MFalcon:
    """Scores candidates for one user at a time, from a cache of the user's history.

    Scores are those of `GenerativeRanker.score`, to the last digits.

    Args:
        ranker: not trained here: neither dropout nor gradients.
        microbatch: tokens, candidates or of a history, that are looked at together. Memory grows
            with it and with the history, not with the number of candidates.
    Raises:
        ValueError: if the microbatch is below 1, or the ranker divides by a row's own length,
            which grows with every event and so would change what was kept.
    """

    def __init__(self, ranker: GenerativeRanker, *, microbatch: int = 256) -> None:
        if microbatch < 1:
            raise ValueError(f"microbatch is {microbatch}: at least 1")
        if any(block.divide_by != "padded" for block in ranker.layers()):
            raise ValueError('a cache needs divide_by="padded": a row\'s own length grows')
        self.ranker, self.microbatch = ranker, microbatch
        self.edges = edges_of_buckets().to(ranker.tokens.any_action.device)

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
        then the cache is made anew of its last half, once in every `max_events / 2` events. Its
        `history` says what it stands for.

        Raises:
            ValueError: if there is not one row of them, or they begin before the history's end.
        """
        if len(new) != 1:
            raise ValueError(f"{len(new)} rows of events: a cache is one user's")
        if not len(new.items.values):
            return cache
        history = _joined(cache.history, new)
        if len(history.times) > self.ranker.max_events:
            kept = history.last(max(1, self.ranker.max_events // 2))
            return self.extend(self.start(), kept)
        tokens = self.ranker.tokens
        with torch.no_grad(), without_dropout(self.ranker):
            x = interleaved(tokens.of_items(new.items.values), tokens.of_actions(new.actions))
            times = interleaved(new.times, new.times)
            if len(cache):  # the action that waited for what comes next
                x = torch.cat([tokens.of_actions(cache.history.actions[-1:]), x])
                times = torch.cat([cache.history.times[-1:], times])
            for at in range(0, len(x) - 1, self.microbatch):
                end = min(len(x) - 1, at + self.microbatch)
                cache = self._pass(cache, x[at:end], times[at:end], times[at + 1 : end + 1])[1]
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
                cache = self._pass(cache, waiting, last[-1:], moment)[1]
            found = [
                ranker.head(self._candidates(cache, tokens.of_items(some), moment))
                for some in candidates.split(self.microbatch)
            ]
        return torch.cat(found) if found else candidates.new_zeros(0, tokens.bit_vectors.shape[0])

    def _pass(
        self, cache: HistoryCache, x: Tensor, times: Tensor, following: Tensor
    ) -> tuple[Tensor, HistoryCache]:
        """New tokens (m, d) through all blocks, each seeing the cache and those before it.

        Args:
            times: (m,) of the tokens, `following` of the token after each.
        """
        all_times = torch.cat([cache.times, times])
        before, after = len(cache.times), len(all_times)
        apart = torch.arange(before, after)[:, None] - torch.arange(after)  # (m, n + m)
        later = (apart < 0).to(x.device)
        apart = apart.clamp(min=0).to(x.device)
        buckets = torch.bucketize(following[:, None] - all_times, self.edges, right=True)
        keys, values = [], []
        for block, old_keys, old_values in zip(
            self.ranker.layers(), cache.keys, cache.values, strict=True
        ):
            u, v, q, k = _heads(block, x)
            keys.append(torch.cat([old_keys, k]))
            values.append(torch.cat([old_values, v]))
            scores = torch.einsum("ihd,jhd->hij", q, keys[-1])
            position, time = _tables(block)
            scores = scores + position[apart] + time[buckets]
            weights = F.silu(scores).masked_fill(later, 0)
            found = torch.einsum("hij,jhd->ihd", weights, values[-1])
            x = x + block.gate(u.flatten(1), found.flatten(1) / (block.max_length + SPARE))
        return x, replace(cache, keys=tuple(keys), values=tuple(values), times=all_times)

    def _candidates(self, cache: HistoryCache, x: Tensor, asked: Tensor) -> Tensor:
        """Candidates (m, d) through all blocks, each seeing the cache and itself.

        All stand at one place and one time, so that one bias a key serves all of them.
        """
        n = len(cache.times)
        buckets = torch.bucketize(asked - cache.times, self.edges, right=True)  # (n,)
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
