"""How each kernel is launched: one table, with the reason for every entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_lite.kernels.blocks import tl

__all__ = ["LAUNCHES", "Launch", "launch", "launch_for", "sum_type"]


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


# Kernel -> launches for half precision up to 64 and up to 128 columns, and for float32 up to 64
# and up to 128. Registers and spills are what the compiler reports for sm_80 and sm_90 (see
# `genrec_lite.kernels.ahead_of_time`); no entry was timed on a GPU.
#
# Sequences of recommenders are short: of uniform lengths up to 256, tiles of 64 rows are .71 full,
# tiles of 128 only .53. So 64 wherever it fits.
LAUNCHES = {
    # Two stages: the next keys arrive while these are multiplied. With 128 columns, 4 warps spill.
    "jagged attention forward": (
        Launch(64, 64, 4, 2), Launch(64, 64, 8, 2), Launch(32, 32, 8, 1), Launch(16, 32, 8, 1),
    ),
    # Two sums of 64 rows: 4 warps spill on sm_80 already with 64 columns.
    "jagged attention backward keys": (
        Launch(64, 64, 8, 2), Launch(64, 64, 8, 2), Launch(16, 32, 4, 1), Launch(16, 16, 4, 1),
    ),
    "jagged attention backward queries": (
        Launch(64, 64, 4, 2), Launch(64, 64, 8, 2), Launch(32, 32, 4, 1), Launch(16, 16, 4, 1),
    ),
    # One stage: with two, the biases' gathers are copied ahead word by word, and the code is half
    # as long again. Eight warps, as each pair needs registers for its distance and its bucket.
    "hstu attention forward": (
        Launch(64, 64, 8, 1), Launch(64, 64, 8, 1), Launch(32, 32, 4, 1), Launch(16, 32, 8, 1),
    ),
    "hstu attention backward keys": (
        Launch(64, 64, 8, 1), Launch(32, 64, 8, 1), Launch(16, 32, 8, 1), Launch(16, 16, 4, 1),
    ),
    # 64 keys spill a little.
    "hstu attention backward queries": (
        Launch(64, 32, 4, 1), Launch(64, 32, 8, 1), Launch(32, 32, 4, 1), Launch(16, 16, 4, 1),
    ),
    # Three blocks of pairs at once, and the sums of 256 buckets: small tiles.
    "hstu attention tables": (
        Launch(32, 32, 4, 1), Launch(16, 16, 4, 1), Launch(16, 16, 4, 1), Launch(16, 16, 4, 1),
    ),
}  # fmt: skip
WIDEST = 128


def launch_for(kernel: str, width: int, dtype: torch.dtype) -> Launch:
    """The launch of `kernel` for heads of `width` columns.

    Raises:
        ValueError: if heads are wider than `WIDEST`.
    """
    if width > WIDEST:
        raise ValueError(f"heads are {width} wide: at most {WIDEST}; split them into more heads")
    half, wide = dtype in (torch.float16, torch.bfloat16), width > 64
    return LAUNCHES[kernel][(0 if half else 2) + wide]


def sum_type(dtype: torch.dtype) -> tuple[torch.dtype, Any]:
    """What sums of products are made in, in torch and in Triton: float32 at least."""
    if dtype == torch.float64:
        return torch.float64, tl.float64
    return torch.float32, tl.float32


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Starts the programs, if there are any, on the GPU that holds the tensors.

    The kernels know no strides: what is not contiguous, as a gradient may be, is copied before.
    """
    if programs:
        arguments = tuple(x.contiguous() if isinstance(x, Tensor) else x for x in arguments)
        with torch.cuda.device_of(arguments[0]):
            kernel[(programs,)](*arguments, **constants)
