"""Which piece of a batch each program of a kernel works on: a flat list of tiles, longest first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Meets", "band_list", "tile_list"]

# What a tile's rows are compared with: all rows of the other side, those up to their own place, or
# those from their own place on. The sides are aligned at their ends: the last query sees all keys.
Meets = Literal["all", "earlier", "later"]

# Made once a batch and used by every layer: the lists live as long as the batch's offsets.
_made = WeakTensorKeyDictionary()
# Programs that share the sum over all pairs of tiles: more than a GPU runs at once, few enough for
# each to leave a tile of partial sums.
CHUNKS = 1024


def tile_list(rows: Tensor, others: Tensor, block: int, meets: Meets = "all") -> Tensor:
    """(N, 2) int32: sequence and first row of each tile of `block` rows, most work first.

    A grid over sequences times tiles of the longest one would start mostly programs with nothing
    to do. This list holds only tiles with rows in them, and the scheduler of a GPU, which hands
    out programs in order, finds small pieces at the end to fill its idle processors with.

    Args:
        rows: (B + 1,) int64 offsets of the sequences that are cut into tiles. (A CUDA graph that
            is replayed with other lengths in the same tensor would use the old list.)
        others: (B + 1,) int64 offsets of what the tiles are compared with; `rows` itself for
            self-attention.
        block: rows a tile.
        meets: see `Meets`.
    """
    for_rows = _made.setdefault(rows, WeakTensorKeyDictionary())
    lists = for_rows.setdefault(others, {})
    key = (block, meets, _version(rows), _version(others))
    if key not in lists:
        lists[key] = _tiles(rows.cpu(), others.cpu(), block, meets).to(rows.device)
    return lists[key]


def _version(offsets: Tensor) -> int:
    """How often they were changed in place; an inference tensor does not say."""
    return 0 if offsets.is_inference() else offsets._version


def _tiles(rows: Tensor, others: Tensor, block: int, meets: Meets) -> Tensor:
    lengths, met = rows.diff(), others.diff()
    tiles = (lengths + block - 1) // block  # (B,)
    sequence = torch.arange(len(lengths), device="cpu").repeat_interleave(tiles)
    before = (tiles.cumsum(0) - tiles)[sequence]
    first = (torch.arange(len(sequence), device="cpu") - before) * block
    work, ahead = met[sequence], (met - lengths)[sequence]
    if meets == "earlier":
        work = torch.minimum(work, (first + block + ahead).clamp(min=0))
    elif meets == "later":  # here the tiles are keys, and the queries are the others
        work = work - (first + ahead).clamp(min=0)
    order = work.argsort(descending=True, stable=True)
    return torch.stack([sequence, first], 1)[order].to(torch.int32).contiguous()


def band_list(offsets: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """All pairs of tiles of a causal self-attention, those equally far apart together.

    Args:
        offsets: (B + 1,) int64.
        block: rows a tile.
    Returns:
        (P, 2) int32, sequence and query tile of each pair, ordered by band: how many tiles the key
        tile lies before the query tile; and (C, 3) int32, band, first pair and number of pairs of
        each program.
    """
    lists = _made.setdefault(offsets, WeakTensorKeyDictionary()).setdefault(offsets, {})
    key = (block, "bands", _version(offsets))
    if key not in lists:
        pairs, chunks = _bands(offsets.cpu(), block)
        lists[key] = pairs.to(offsets.device), chunks.to(offsets.device)
    return lists[key]


def _bands(offsets: Tensor, block: int) -> tuple[Tensor, Tensor]:
    tiles = (offsets.diff() + block - 1) // block  # (B,)
    pairs, chunks, first = [], [], 0
    size = max(8, int((tiles * (tiles + 1)).sum()) // 2 // CHUNKS)
    for band in range(int(tiles.max()) if len(tiles) else 0):
        here = (tiles - band).clamp(min=0)
        sequence = torch.arange(len(tiles), device="cpu").repeat_interleave(here)
        before = (here.cumsum(0) - here)[sequence]
        query_tile = torch.arange(len(sequence), device="cpu") - before + band
        pairs.append(torch.stack([sequence, query_tile], 1))
        for start in range(0, len(sequence), size):
            chunks.append((band, first + start, min(size, len(sequence) - start)))
        first += len(sequence)
    found = torch.cat(pairs) if pairs else torch.empty(0, 2, device="cpu")
    return found.to(torch.int32), torch.tensor(chunks, dtype=torch.int32, device="cpu").reshape(
        -1, 3
    )
