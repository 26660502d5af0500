"""A ranking model that reads a user's items and actions as one sequence, candidates at its end.

Zhai et al. 2024 (2402.17152), sections 2.2.2 and 3: a candidate attends to the history and thereby
to what the history says of *it* (target-aware), but never to another candidate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.datasets.actions import Events
from genrec_lite.encoders.hstu import HSTUBlock
from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.time_buckets import PairTimes
from genrec_lite.ranking.interleaving import Interleaving, token_times
from genrec_lite.ranking.tasks import Ranker, TaskHead
from genrec_lite.training import seeded

__all__ = ["GenerativeRanker", "target_aware_mask"]


def target_aware_mask(length: int, num_targets: int) -> Tensor:
    """(length, length) bool: may query i look at key j, where the last `num_targets` are targets?

    All targets stand at one place, that after the history: the places are clamped there. Then i
    sees j where j's place is earlier, and itself.

    Raises:
        ValueError: if there are more targets than tokens, or fewer than none.
    """
    if not 0 <= num_targets <= length:
        raise ValueError(f"{num_targets} targets among {length} tokens: expected 0 to {length}")
    places = torch.arange(length).clamp(max=length - num_targets)
    return (places[:, None] > places) | torch.eye(length, dtype=torch.bool)


class GenerativeRanker(Ranker):
    """HSTU over interleaved items and actions; predictions at the item tokens.

    In training a sequence of n events is n questions: at each item's token the action is not
    known yet. In ranking the candidates are item tokens at the end of the history.

    Args:
        num_items: N, size of the corpus.
        num_actions: A, the tasks.
        dim: d, width of a token.
        num_blocks, num_heads, head_dim, dropout: see `HSTUBlock`.
        max_events: of a history; each is two tokens.
        seed: of the initial weights.
    """

    def __init__(
        self,
        num_items: int,
        num_actions: int,
        *,
        dim: int = 64,
        num_blocks: int = 2,
        num_heads: int = 2,
        head_dim: int = 32,
        max_events: int = 256,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(max_events)
        if num_blocks < 1 or max_events < 1:
            raise ValueError(f"num_blocks {num_blocks}, max_events {max_events}: at least 1 each")
        self.dropout = dropout
        self.tokens = Interleaving(num_items, num_actions, dim, seed=seed)
        with seeded(seed + 1):
            self.blocks = nn.ModuleList(
                HSTUBlock(
                    dim, num_heads=num_heads, head_dim=head_dim, dropout=dropout, bias="both",
                    max_length=2 * max_events + 1,  # of two tokens an event, and a candidate
                )
                for _ in range(num_blocks)
            )  # fmt: skip
            self.head = TaskHead(dim, dim, num_actions)

    def forward(self, events: Events) -> Tensor:
        """Logits (T, A) of each event's actions, given all before it and the event's item.

        Raises:
            ValueError: if a row has more than `max_events` events.
        """
        self.check_lengths(events)
        # Nobody asks after the last event: any time from then on will do.
        asked = _last_times(events, torch.zeros_like(events.items.lengths))
        found = self._encode(self.tokens(events), _and_asked(token_times(events), asked), None)
        return self.head(found.values[::2])

    def score(self, history: Events, candidates: JaggedTensor, asked: Tensor) -> Tensor:
        """Logits (M, A) of each candidate's actions, all candidates of a user in one pass.

        The slow way at many candidates; `MFalcon` gives the same for what its cache stands for.

        Args:
            history: B rows of events; of longer ones the last `max_events` are looked at.
            candidates: B rows of item indices, M in all.
            asked: (B,) int64, when the actions would happen.
        Raises:
            ValueError: if a user is asked before the history's end.
        """
        history = history.last(self.max_events)
        early = (asked < _last_times(history, asked)).nonzero()
        if len(early):
            row = int(early[0])
            raise ValueError(
                f"row {row} is asked at {int(asked[row])}, before its last event at "
                f"{int(history.items.with_values(history.times)[row][-1])}"
            )
        tokens = self.tokens(history).followed_by(
            candidates.with_values(self.tokens.of_items(candidates.values))
        )
        meant = candidates.with_values(asked[candidates.row_ids()])
        times = _and_asked(token_times(history).followed_by(meant), asked)
        targets = candidates.lengths
        found = self._encode(tokens, times, targets)
        places = tokens.lengths[tokens.row_ids()] - tokens.positions()  # from the row's end, 1 on
        return self.head(found.values[places <= targets[tokens.row_ids()]])

    def layers(self) -> list[HSTUBlock]:
        """The blocks in order, as what they are to a type checker."""
        return [block for block in self.blocks if isinstance(block, HSTUBlock)]

    def _encode(
        self, tokens: JaggedTensor, times: JaggedTensor, targets: Tensor | None
    ) -> JaggedTensor:
        """(tokens, d) after all blocks."""
        of_pairs = PairTimes(times)
        rows = tokens.with_values(F.dropout(tokens.values, self.dropout, self.training))
        for block in self.blocks:
            rows = block(rows, of_pairs, targets)
        return rows


def _last_times(events: Events, otherwise: Tensor) -> Tensor:
    """(B,) when each row's last event was; of an empty row what `otherwise` (B,) says."""
    found, filled = otherwise.clone(), events.items.lengths > 0
    found[filled] = events.times[events.items.offsets[1:][filled] - 1]
    return found


def _and_asked(times: JaggedTensor, asked: Tensor) -> JaggedTensor:
    """The times of the tokens, and last in each row when it is asked."""
    return times.followed_by(JaggedTensor.from_lengths(asked, torch.ones_like(asked)))
