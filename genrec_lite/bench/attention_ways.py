"""Ways to attend within rows of unequal length, ours and others', all on the same random rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.jagged_attention import jagged_attention

__all__ = ["DISTRIBUTIONS", "Setting", "Way", "four_buckets", "lengths_of", "ways_of"]

DISTRIBUTIONS = ("uniform", "lognormal", "zipf", "full")


@dataclass(frozen=True)
class Setting:
    """What the ways are compared on: one row of the table of a benchmark.

    Args:
        lengths: one of `DISTRIBUTIONS`.
        longest: L, the most events of a sequence.
        batch: B, sequences.
        heads, width: h and d.
        backward: whether gradients are computed, too.
        device: "cpu" in float32, or "cuda" in bfloat16.
        causal: whether an event sees only those up to itself.
    """

    lengths: str
    longest: int = 1024
    batch: int = 32
    heads: int = 4
    width: int = 64
    backward: bool = False
    device: str = "cpu"
    causal: bool = False

    def __post_init__(self) -> None:
        if self.lengths not in DISTRIBUTIONS:
            raise ValueError(
                f"no distribution of lengths is called {self.lengths!r}: choose from "
                f"{', '.join(DISTRIBUTIONS)}"
            )

    @property
    def name(self) -> str:
        """What tells it from other settings of a table."""
        passes = "forward and backward" if self.backward else "forward"
        return f"{self.lengths} {self.longest} x {self.width} {passes}"

    @property
    def dtype(self) -> torch.dtype:
        """float32 on a CPU, bfloat16 on a GPU."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16


def lengths_of(distribution: str, longest: int, batch: int) -> Tensor:
    """(B,) int64, at least 1, shuffled; one is `longest`, so that a padded batch is as wide.

    The lengths are the distribution's quantiles, not a draw from it: no batch is a lucky one.

    Args:
        distribution: "uniform" on 0 to L; "lognormal" with median L / 10 and sigma 1.2, cut at L;
            "zipf", P(n) ~ n^-1.2 on 1 to L; "full", all L.
        longest: L.
        batch: B.
    """
    share = (torch.arange(batch, dtype=torch.float64) + 0.5) / batch  # of the rows that are shorter
    if distribution == "uniform":
        found = share * longest
    elif distribution == "lognormal":
        found = longest / 10 * (1.2 * torch.special.ndtri(share)).exp()
    elif distribution == "zipf":
        weights = torch.arange(1, longest + 1, dtype=torch.float64) ** -1.2
        found = 1.0 + torch.searchsorted(weights.cumsum(0) / weights.sum(), share)
    else:
        found = torch.full((batch,), float(longest))
    lengths = found.round().clamp(1, longest).long()
    lengths[-1] = longest
    return lengths[torch.randperm(batch, generator=torch.Generator().manual_seed(0))]


@dataclass(frozen=True)
class Way:
    """One way to the result, its inputs made already: padded ones lie padded.

    Args:
        run: what is timed; outputs and, where asked for, gradients of q, k and v, a list of each
            with one tensor a part of the batch.
        rows: such a list as rows end to end, (T, h, d), to compare with other ways.
    """

    run: Callable[[], list[list[Tensor]]]
    rows: Callable[[list[Tensor]], Tensor]


def ways_of(setting: Setting) -> dict[str, Callable[[], Way]]:
    """How to make each way, by name, ours first."""
    lengths = lengths_of(setting.lengths, setting.longest, setting.batch)
    generator = torch.Generator().manual_seed(1)
    shape = (int(lengths.sum()), setting.heads, setting.width)
    values = [torch.randn(shape, generator=generator) for _ in range(4)]  # q, k, v, towards
    rows = [
        JaggedTensor.from_lengths(x, lengths).to(setting.device).values.to(setting.dtype)
        for x in values
    ]
    offsets = JaggedTensor.from_lengths(values[0], lengths).to(setting.device).offsets
    jagged = [JaggedTensor(x, offsets) for x in rows]

    def flat(attend: Callable[..., Tensor]) -> Way:
        return _way([attend], [rows[:3]], rows[3:], setting.backward, lambda parts: parts[0])

    def ours(*x: Tensor) -> Tensor:
        return jagged_attention(
            *(JaggedTensor(t, offsets) for t in x), causal=setting.causal
        ).values

    found: dict[str, Callable[[], Way]] = {
        "ours": lambda: flat(ours),
        "padded SDPA": lambda: _padded(jagged, [torch.arange(len(lengths))], _sdpa, setting),
        "4 buckets": lambda: _padded(jagged, four_buckets(lengths), _sdpa, setting),
    }
    if setting.longest <= 2048:  # its scores would not fit beyond
        found["dense"] = lambda: _padded(jagged, [torch.arange(len(lengths))], _dense, setting)
    if setting.device == "cuda":
        found["varlen_attn"] = lambda: flat(_varlen(offsets, int(lengths.max()), setting.causal))
    if not setting.backward or setting.device == "cuda":  # compiled for a CPU it has no backward
        found["FlexAttention"] = lambda: flat(_flex(jagged[0], setting.causal))
    return found


def _way(
    attends: Sequence[Callable[..., Tensor]],
    parts: list[list[Tensor]],
    towards: list[Tensor],
    backward: bool,
    rows: Callable[[list[Tensor]], Tensor],
) -> Way:
    """Attention on each part of the batch, and its gradients."""
    parts = [[x.detach().requires_grad_(backward) for x in part] for part in parts]

    def run() -> list[list[Tensor]]:
        outs = [attend(*part) for attend, part in zip(attends, parts, strict=True)]
        if not backward:
            return [outs]
        grads = [
            torch.autograd.grad(out, part, of_out)
            for out, part, of_out in zip(outs, parts, towards, strict=True)
        ]
        return [[out.detach() for out in outs], *map(list, zip(*grads, strict=True))]

    return Way(run, rows)


def _padded(
    jagged: list[JaggedTensor],
    groups: list[Tensor],
    attend: Callable[..., Tensor],
    setting: Setting,
) -> Way:
    """Each group of rows padded to its longest, (b, h, L, d)."""
    attends, parts, towards, insides = [], [], [], []
    for group in (group.to(setting.device) for group in groups):
        *part, of_out = (x.select(group).to_padded().transpose(1, 2).contiguous() for x in jagged)
        lengths = jagged[0].lengths[group]
        inside = torch.arange(part[0].shape[2], device=group.device) < lengths[:, None]
        seen = inside[:, None, None, :]
        if setting.causal:
            seen = seen & inside.new_ones(inside.shape[1], inside.shape[1]).tril()
        attends.append(partial(attend, seen=seen))
        parts.append(part)
        towards.append(of_out)
        insides.append(inside)
    order = torch.cat(groups).to(setting.device)

    def rows(found: list[Tensor]) -> Tensor:
        flat = [x.transpose(1, 2)[inside] for x, inside in zip(found, insides, strict=True)]
        sorted_rows = JaggedTensor.from_lengths(torch.cat(flat), jagged[0].lengths[order])
        return sorted_rows.select(order.argsort()).values

    return _way(attends, parts, towards, setting.backward, rows)


def four_buckets(lengths: Tensor) -> list[Tensor]:
    """Row numbers in four groups of similar length."""
    return list(lengths.argsort(stable=True).chunk(4))


def _sdpa(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def _dense(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    scores = (q @ k.mT) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v


def _varlen(offsets: Tensor, longest: int, causal: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.varlen import varlen_attn

    ends, window = offsets.int(), (-1, 0 if causal else -1)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=window)
        assert isinstance(found, Tensor)
        return found

    return attend


def _flex(jagged: JaggedTensor, causal: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    rows, total = jagged.row_ids(), len(jagged.values)

    def same_row(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        same = rows[i] == rows[j]
        return same & (j <= i) if causal else same

    # Not compiled, it would make all pairs of all rows before it looks for empty blocks.
    make = torch.compile(create_block_mask) if rows.is_cuda else create_block_mask
    mask = make(same_row, None, None, total, total, device=str(rows.device))
    compiled = torch.compile(flex_attention)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        return compiled(q, k, v, block_mask=mask)[0].transpose(0, 1)

    return attend
