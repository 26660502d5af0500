"""A pointwise ranking model in the manner of DLRM and DIN: features of one impression, one MLP.

The candidate asks the history by attention over raw embeddings (Zhou et al. 2018, "Deep Interest
Network"); what it found, the candidate, and their product go into a network. Nothing else is
sequential: a past event means the same whatever came before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.datasets.actions import Events
from genrec_lite.encoders.relative_bias import RelativeBias
from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.hstu_attention import hstu_attention
from genrec_lite.kernels.time_buckets import PairTimes
from genrec_lite.ranking.interleaving import Interleaving
from genrec_lite.ranking.tasks import Ranker, TaskHead
from genrec_lite.training import seeded

__all__ = ["PointwiseRanker"]


class PointwiseRanker(Ranker):
    """Target attention over a history of raw embeddings, then a network for the tasks.

    It knows what `GenerativeRanker` knows: items, actions, order and time of the events, through
    the same embeddings and biases. As in DIN the weights of the past are not normalised.

    Args:
        num_items: N, size of the corpus.
        num_actions: A, the tasks.
        dim: d, width of an embedding.
        num_heads, head_dim: of the attention.
        hidden: width of the network's layers.
        max_events: of a history.
        dropout: share of the embeddings, and of the first layer, that are dropped in training.
        seed: of the initial weights.
    """

    def __init__(
        self,
        num_items: int,
        num_actions: int,
        *,
        dim: int = 64,
        num_heads: int = 2,
        head_dim: int = 32,
        hidden: int = 128,
        max_events: int = 256,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(max_events)
        self.num_heads, self.dropout = num_heads, dropout
        self.tokens = Interleaving(num_items, num_actions, dim, seed=seed)
        with seeded(seed + 1):
            inner = num_heads * head_dim
            self.query = nn.Linear(dim, inner)
            self.key_value = nn.Linear(dim, 2 * inner)
            self.bias = RelativeBias("both", max_events + 1)
            self.project = nn.Linear(inner, dim)
            self.mix = nn.Linear(3 * dim, hidden)
            self.head = TaskHead(hidden, hidden, num_actions)

    def forward(self, events: Events) -> Tensor:
        """Logits (T, A) of each event's actions, given all before it and the event's item.

        Raises:
            ValueError: if a row has more than `max_events` events.
        """
        self.check_lengths(events)
        items = self._dropped(self.tokens.of_items(events.items.values))
        seen = items + self._dropped(self.tokens.of_actions(events.actions))
        k, v = self.key_value(_one_later(seen, events.items)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)) for x in (F.silu(self.query(items)), k, v))
        found = hstu_attention(
            q,
            k,
            v,
            events.items.offsets,
            position_weights=self.bias.position_weights,
            time_weights=self.bias.time_weights,
            times=PairTimes(_times(events)),
            divide_by=self.max_events,
        ).flatten(1)
        found = self.project(F.layer_norm(found, found.shape[-1:], eps=1e-6))
        mixed = F.silu(self.mix(torch.cat([items, found, items * found], dim=-1)))
        return self.head(self._dropped(mixed))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _one_later(x: Tensor, rows: JaggedTensor) -> Tensor:
    """(T, d) at each place the row before it, and zeros at the first of each sequence.

    A query that looks at itself and before it then sees only what was before it.
    """
    moved = torch.cat([x.new_zeros(1, x.shape[1]), x[:-1]])[: len(x)]
    return moved.masked_fill((rows.positions() == 0)[:, None], 0)


def _times(events: Events) -> JaggedTensor:
    """Times for keys that stand one place later: the first twice, then all in order."""
    first = torch.zeros(len(events), dtype=torch.int64, device=events.times.device)
    filled = events.items.lengths > 0
    first[filled] = events.times[events.items.offsets[:-1][filled]]
    return JaggedTensor.from_lengths(first, torch.ones_like(first)).followed_by(
        events.items.with_values(events.times)
    )
