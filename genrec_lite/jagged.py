"""Variable-length sequences without padding: one flat tensor of values, one of offsets."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

__all__ = ["JaggedTensor", "length_buckets"]

# A row joins a bucket when it is at least this fraction of the bucket's longest row, so that a
# layer that looks at single positions computes at most 1 / 0.8 = 1.25 times what is needed, and
# attention, which looks at pairs, 1.6 times. Fuller buckets would be more and smaller calls.
FILL = 0.8


@dataclass(frozen=True, eq=False)
class JaggedTensor:
    """A batch of B rows of different lengths, stored end to end.

    Row `i` is `values[offsets[i]:offsets[i + 1]]`.

    Args:
        values: (T, ...) the rows, one after another.
        offsets: (B + 1,) int64, non-decreasing, from 0 to T.
    Raises:
        TypeError: if `offsets` is not int64.
        ValueError: if the offsets do not start at 0, decrease, or do not end at T.
    """

    values: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        values, offsets = self.values, self.offsets
        if offsets.dtype != torch.int64:
            raise TypeError(
                f"offsets have dtype {offsets.dtype}, not torch.int64: convert with offsets.long()"
            )
        if offsets.ndim != 1 or len(offsets) == 0:
            raise ValueError(
                f"offsets have shape {tuple(offsets.shape)}: expected (B + 1,), "
                "at least [0] for an empty batch"
            )
        if values.ndim == 0:
            raise ValueError("values are a scalar: expected (T, ...), T values of all rows")
        if values.device != offsets.device:
            raise ValueError(
                f"values are on {values.device} and offsets on {offsets.device}: move both to one"
            )
        steps = offsets.diff()
        # One device-to-host copy for all three checks.
        first, last, shrinks = torch.stack(
            [offsets[0], offsets[-1], (steps < 0).sum().to(torch.int64)]
        ).tolist()
        if first != 0:
            raise ValueError(
                f"offsets[0] is {first}, but the first row starts at 0 "
                "(lengths given in place of offsets? use JaggedTensor.from_lengths)"
            )
        if shrinks:
            row = int((steps < 0).nonzero()[0])
            raise ValueError(
                f"offsets fall from {int(offsets[row])} to {int(offsets[row + 1])} at row {row}: "
                "offsets never decrease (lengths given in place of offsets? "
                "use JaggedTensor.from_lengths)"
            )
        if last != len(values):
            raise ValueError(
                f"offsets end at {last}, but there are {len(values)} values: "
                "the last offset is the number of values"
            )

    # -- making one ---------------------------------------------------------------------------

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> JaggedTensor:
        """The jagged tensor of `values` (T, ...) cut into rows of `lengths` (B,)."""
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=values.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        return cls(values, offsets)

    @classmethod
    def from_lists(
        cls, rows: Sequence[Sequence[Any] | Tensor], dtype: torch.dtype | None = None
    ) -> JaggedTensor:
        """The jagged tensor of a list of rows (lists or tensors); no row at all is allowed."""
        tensors = [torch.as_tensor(row, dtype=dtype) for row in rows]
        filled = [t for t in tensors if len(t)] or tensors[:1]
        values = torch.cat(filled) if filled else torch.empty(0, dtype=dtype)
        lengths = torch.tensor([len(t) for t in tensors], dtype=torch.int64, device=values.device)
        return cls.from_lengths(values, lengths)

    @classmethod
    def from_padded(cls, padded: Tensor, lengths: Tensor) -> JaggedTensor:
        """The jagged tensor of the first `lengths[i]` entries of each row of `padded` (B, L, ...).

        Raises:
            ValueError: if a length is negative or larger than L.
        """
        width = padded.shape[1]
        if len(lengths) and (int(lengths.min()) < 0 or int(lengths.max()) > width):
            raise ValueError(
                f"lengths run from {int(lengths.min())} to {int(lengths.max())}, "
                f"but the padded rows are {width} wide"
            )
        inside = torch.arange(width, device=padded.device) < lengths[:, None]  # (B, L)
        return cls.from_lengths(padded[inside], lengths)

    # -- looking at it ------------------------------------------------------------------------

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, length of each row."""
        return self.offsets.diff()

    @property
    def max_length(self) -> int:
        """Length of the longest row; 0 for an empty batch."""
        return int(self.lengths.max()) if len(self) else 0

    def row_ids(self) -> Tensor:
        """(T,) int64, the row that each value belongs to."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return rows.repeat_interleave(self.lengths, output_size=len(self.values))

    def positions(self) -> Tensor:
        """(T,) int64, the place of each value in its row, from 0."""
        everywhere = torch.arange(len(self.values), device=self.offsets.device)
        return everywhere - self.offsets[:-1].repeat_interleave(
            self.lengths, output_size=len(self.values)
        )

    def last_values(self) -> Tensor:
        """(B, ...) the last value of each row.

        Raises:
            ValueError: if a row is empty.
        """
        empty = (self.lengths == 0).nonzero()
        if len(empty):
            raise ValueError(f"row {int(empty[0])} is empty: it has no last value")
        return self.values[self.offsets[1:] - 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, row: int) -> Tensor: ...
    @overload
    def __getitem__(self, row: slice) -> JaggedTensor: ...
    def __getitem__(self, row: int | slice) -> Tensor | JaggedTensor:
        """Row `row` as a tensor, or a slice of rows as a jagged tensor."""
        if isinstance(row, slice):
            rows = range(len(self))[row]
            if rows.step != 1:
                return self.select(
                    torch.tensor(rows, dtype=torch.int64, device=self.offsets.device)
                )
            offsets = self.offsets[rows.start : max(rows.start, rows.stop) + 1]
            first = offsets[0]
            return JaggedTensor(self.values[first : offsets[-1]], offsets - first)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a jagged tensor with {len(self)} rows")
        row %= len(self)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    # -- other forms --------------------------------------------------------------------------

    def to_padded(self, fill: float = 0, length: int | None = None) -> Tensor:
        """(B, L, ...) each row followed by `fill`; L is the longest row unless given.

        Raises:
            ValueError: if a row is longer than `length`.
        """
        width = self.max_length if length is None else length
        if self.max_length > width:
            raise ValueError(
                f"a row has {self.max_length} values, more than {width}: shorten it with .last(n)"
            )
        padded = self.values.new_full((len(self), width, *self.values.shape[1:]), fill)
        inside = torch.arange(width, device=self.offsets.device) < self.lengths[:, None]
        padded[inside] = self.values
        return padded

    def to_lists(self) -> list[list[Any]]:
        """The rows as nested Python lists."""
        return [row.tolist() for row in self]

    def to_nested(self) -> Tensor:
        """The same rows as a torch nested tensor of layout `torch.jagged`, sharing the values."""
        return torch.nested.nested_tensor_from_jagged(self.values, self.offsets)

    def to(self, device: torch.device | str) -> JaggedTensor:
        """The same rows on `device`."""
        return JaggedTensor(self.values.to(device), self.offsets.to(device))

    def with_values(self, values: Tensor) -> JaggedTensor:
        """New `values` (T, ...) in the same rows, for instance after a layer.

        Raises:
            ValueError: if there are not T of them, or they are on another device.
        """
        if (
            values.ndim == 0
            or len(values) != len(self.values)
            or values.device != self.offsets.device
        ):
            return JaggedTensor(values, self.offsets)  # says what is wrong
        found = copy.copy(self)  # the offsets were checked: on a GPU that waits for its work
        object.__setattr__(found, "values", values)
        return found

    # -- choosing rows and ends of rows -------------------------------------------------------

    def select(self, rows: Tensor) -> JaggedTensor:
        """The rows numbered `rows` (R,) int64, in that order; a row may come twice."""
        lengths = self.lengths[rows]
        return self._take(self.offsets[:-1][rows], lengths)

    def last(self, n: int) -> JaggedTensor:
        """The last `n` values of each row (all of a shorter row).

        Raises:
            ValueError: if `n` is negative; so do `drop_last` and `drop_first`.
        """
        _check_count(n)
        lengths = self.lengths.clamp(max=n)
        return self._take(self.offsets[1:] - lengths, lengths)

    def drop_last(self, n: int | Tensor = 1) -> JaggedTensor:
        """Each row without its last `n` values (nothing is left of a row of `n` or fewer).

        Args:
            n: the same number for every row, or (B,) int64.
        """
        _check_count(n)
        return self._take(self.offsets[:-1], (self.lengths - n).clamp(min=0))

    def drop_first(self, n: int = 1) -> JaggedTensor:
        """Each row without its first `n` values (nothing is left of a row of `n` or fewer)."""
        _check_count(n)
        lengths = (self.lengths - n).clamp(min=0)
        return self._take(self.offsets[1:] - lengths, lengths)

    def followed_by(self, other: JaggedTensor) -> JaggedTensor:
        """Each row, and behind it the same row of `other`.

        Raises:
            ValueError: if `other` has more or fewer rows.
        """
        if len(other) != len(self):
            raise ValueError(f"{len(other)} rows to put behind {len(self)}")
        order = torch.cat([self.row_ids(), other.row_ids()]).argsort(stable=True)
        values = torch.cat([self.values, other.values])[order]
        return JaggedTensor(values, self.offsets + other.offsets)

    def _take(self, starts: Tensor, lengths: Tensor) -> JaggedTensor:
        """One piece of the values for each new row: from `starts` (R,), `lengths` (R,) long."""
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=self.offsets.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        total = int(offsets[-1])
        shift = (starts - offsets[:-1]).repeat_interleave(lengths, output_size=total)
        return JaggedTensor(self.values[torch.arange(total, device=shift.device) + shift], offsets)


def _check_count(n: int | Tensor) -> None:
    least = int(n.min()) if isinstance(n, Tensor) and len(n) else n
    if isinstance(least, int) and least < 0:
        raise ValueError(f"{least} values of a row: a number of values is at least 0")


def length_buckets(lengths: Tensor) -> list[Tensor]:
    """Groups of rows of similar length, longest first; empty rows are in no group.

    Args:
        lengths: (B,) int64.
    Returns:
        int64 row indices, one tensor a bucket; no row is shorter than `FILL` times the longest.
    """
    order = lengths.argsort(descending=True, stable=True)
    sizes = lengths[order].tolist()
    buckets, start = [], 0
    for i, size in enumerate(sizes):
        if size < FILL * sizes[start]:
            buckets.append(order[start:i])
            start = i
        if size == 0:
            return buckets
    return [*buckets, order[start:]] if sizes else []
