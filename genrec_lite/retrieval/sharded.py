"""A corpus spread over processes: each searches its own items, and all get the best of all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.index import Index
from genrec_lite.retrieval.top_k import RunningTopK, TopK, require_k
from genrec_lite.similarity.sides import Side

__all__ = ["ShardedIndex"]


class ShardedIndex:
    """The index of all ranks' items, of which this rank holds `shard`.

    Every method is called by all ranks together. A search sends k scores and ids of each query
    from each rank to each, whatever the sizes of the shards; one may be empty.

    Args:
        shard: an index of this rank's items; no id is in two shards.
        group: the processes; all unless given.
    """

    def __init__(self, shard: Index, group: dist.ProcessGroup | None = None) -> None:
        self.shard, self.group = shard, group

    def __len__(self) -> int:
        """Items of all shards."""
        total = torch.tensor([len(self.shard)], device=self.shard.corpus.device)
        dist.all_reduce(total, group=self.group)
        return int(total)

    def search(self, queries: Side, k: int, exclude: JaggedTensor | None = None) -> TopK:
        """The k best items of each query in all shards, the same on each rank.

        Args:
            queries, k, exclude: as `Index.search`, the same on each rank.
        Returns:
            as `Index.search`; `rescored` is the sum over the shards.
        Raises:
            ValueError: as `Index.search`, on each rank; RuntimeError on the ranks whose shard is
                sound where another rank's fails.
        """
        error: Exception | None = None
        try:
            own = self.shard.search_up_to(queries, k, exclude)
        except Exception as failed:  # whatever it is, the others wait to be told
            error = failed
        failures = torch.tensor([int(error is not None)], device=self.shard.corpus.device)
        # Told before anything is gathered, or the others would wait for this rank for ever.
        dist.all_reduce(failures, group=self.group)
        if error is not None:
            raise error
        if int(failures):
            raise RuntimeError(f"the search failed on {int(failures)} other ranks: see their error")
        best = RunningTopK(len(queries), k, own.scores.device)
        for scores, ids in zip(self._gathered(own.scores), self._gathered(own.ids), strict=True):
            best.add(scores, ids)
        rescored = own.rescored.clone()
        dist.all_reduce(rescored, group=self.group)
        return require_k(TopK(best.scores, best.ids, rescored), k)

    def _gathered(self, own: Tensor) -> list[Tensor]:
        every = [torch.empty_like(own) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(every, own.contiguous(), group=self.group)
        return every
