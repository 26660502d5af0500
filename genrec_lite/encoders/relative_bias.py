"""What HSTU adds to a pair's score for how far apart, and how long ago, the two events are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from genrec_lite.kernels.time_buckets import TIME_BUCKETS

__all__ = ["BIASES", "Bias", "RelativeBias"]

Bias = Literal["both", "time", "position", "none"]
BIASES: tuple[Bias, ...] = ("both", "time", "position", "none")


class RelativeBias(nn.Module):
    """One layer's two small tables, shared by its heads (HSTU paper, section 3.2).

    Args:
        bias: which of the two there are.
        max_length: events a sequence has at most.
    Raises:
        ValueError: if `bias` is none of the four.
    """

    def __init__(self, bias: Bias, max_length: int) -> None:
        super().__init__()
        if bias not in BIASES:
            raise ValueError(f"bias is {bias!r}: choose from {', '.join(BIASES)}")
        self.position_weights: nn.Parameter | None = None  # (max_length,) by distance
        self.time_weights: nn.Parameter | None = None  # (TIME_BUCKETS,)
        if bias in ("both", "position"):
            self.position_weights = nn.Parameter(torch.empty(max_length).normal_(std=0.02))
        if bias in ("both", "time"):
            self.time_weights = nn.Parameter(torch.empty(TIME_BUCKETS).normal_(std=0.02))
