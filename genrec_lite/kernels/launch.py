"""How each kernel is launched: one table, with the reason for every entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from genrec_lite.kernels.blocks import tl

__all__ = ["Launch", "launch_for", "require_whole_vectors", "sum_type"]


@dataclass(frozen=True)
class Launch:
    """Sizes of one program.

    Args:
        queries, keys: rows of a tile on each side.
        warps: groups of 32 threads.
        stages: blocks that are on their way from memory at the same time.
    """

    queries: int
    keys: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """Keyword arguments of a launch."""
        return {
            "BM": self.queries,
            "BN": self.keys,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


def launch_for(kernel: str, width: int, dtype: torch.dtype) -> Launch:
    """The launch of `kernel` for heads of `width` columns."""
    return Launch(64, 64, 4, 2)


def sum_type(dtype: torch.dtype) -> tuple[torch.dtype, Any]:
    """What sums of products are made in, in torch and in Triton: float32 at least."""
    if dtype == torch.float64:
        return torch.float64, tl.float64
    return torch.float32, tl.float32


def require_whole_vectors(width: int, dtype: torch.dtype) -> None:
    """Raises a ValueError if rows of `width` in half precision are no multiple of 16 bytes.

    Tensor cores are fed 16 bytes at a time: eight values of half precision.
    """
    if dtype in (torch.float16, torch.bfloat16) and width % 8:
        raise ValueError(
            f"heads are {width} wide: in half precision a multiple of 8 is needed; pad them to "
            f"{(width + 7) // 8 * 8} with zeros, or use float32"
        )
