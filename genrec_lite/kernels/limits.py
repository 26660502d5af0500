"""What the kernels on a GPU ask of their inputs, and plain torch does not."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["require_short_rows", "require_whole_vectors"]


def require_short_rows(x: Tensor, offsets: Tensor) -> None:
    """Raises a ValueError if a row of x (T, ...) has 2^31 numbers or more.

    Where a row begins is counted in 64 bits, places within it in 32.
    """
    if x.numel() < 2**31:
        return
    longest = int(offsets.diff().max())
    if longest * x[0].numel() >= 2**31:
        raise ValueError(
            f"a row has {longest} positions of {x[0].numel()} numbers each, 2^31 or more in all: "
            "cut it, or give it fewer heads"
        )


def require_whole_vectors(**named: Tensor) -> None:
    """Raises a ValueError if a last dimension is no multiple of 8 in half precision.

    Rows of 8 times 2 bytes begin at multiples of 16: so many a GPU loads at once, and so many at a
    time its tensor cores take.
    """
    for name, x in named.items():
        width = x.shape[-1]
        if x.dtype in (torch.float16, torch.bfloat16) and width % 8:
            raise ValueError(
                f"{name} is {width} wide: in half precision a multiple of 8 is needed; pad it to "
                f"{(width + 7) // 8 * 8} with zeros, or use float32"
            )
