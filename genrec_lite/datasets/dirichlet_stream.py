"""A made stream that is not stationary: new items keep arriving, and a record has its own tastes.

After Zhai et al. 2024, "Actions Speak Louder than Words" (2402.17152), section 4.1.2: 20,000 items
in 100 categories, records of 128 events over at most 5 categories, 40% of the items there from the
start and the others later on, categories by a Dirichlet process whose alpha is uniform on 1 to 500.

What the paper leaves open is ours: categories of one size; each begins with the same share of its
items; the others arrive in a random order at equal intervals; a record has 1 to 5 categories with
equal chances, any of the 100, and a prior over them that is uniform on the simplex; an item is
any of those of its category that have arrived, with equal chances, also if the record has it
already; 50,000 records, where theirs were more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor

__all__ = ["ALPHA_RANGE", "DirichletStream", "dirichlet_stream"]

ALPHA_RANGE = (1.0, 500.0)


@dataclass(frozen=True)
class DirichletStream:
    """Records in order of time, and what they were made of.

    Args:
        items: R rows of L item indices, the earliest record first.
        categories: (N,) int64 in [0, C), of each item.
        arrivals: (N,) int64, the first record that may hold each item; 0 for those of the start.
        alphas: (R,) float64, how strongly each record draws on its prior.
    """

    items: JaggedTensor
    categories: Tensor
    arrivals: Tensor
    alphas: Tensor

    @property
    def num_items(self) -> int:
        """N, also those that arrive late or never occur."""
        return len(self.categories)

    def __len__(self) -> int:
        return len(self.items)


def dirichlet_stream(
    num_records: int = 50_000,
    *,
    length: int = 128,
    num_items: int = 20_000,
    num_categories: int = 100,
    max_categories: int = 5,
    at_start: float = 0.4,
    seed: int = 0,
) -> DirichletStream:
    """A stream of records, the same for the same arguments.

    The n-th event of a record draws its category from the record's prior with probability
    alpha / (alpha + n - 1), and otherwise takes that of one of the n - 1 events before it, each
    with equal chances: a category by its count.

    Args:
        num_records: R.
        length: L, events of a record.
        num_items: N.
        num_categories: C; item counts of two categories differ by 1 at most.
        max_categories: of a record.
        at_start: share of each category's items that are there from the first record on, rounded
            up; above 0, at most 1.
        seed: of all draws.
    Raises:
        ValueError: if a size is below 1, there are fewer items than categories or fewer categories
            than a record may have, or the share is outside its range.
    """
    _check_sizes(
        at_start,
        num_records=num_records,
        length=length,
        num_items=num_items,
        num_categories=num_categories,
        max_categories=max_categories,
    )
    generator = torch.Generator().manual_seed(seed)
    categories = torch.randperm(num_items, generator=generator) % num_categories
    arrivals = _arrivals(categories, num_records, at_start, generator)
    low, high = ALPHA_RANGE
    uniform = torch.rand(num_records, dtype=torch.float64, generator=generator)
    alphas = low + (high - low) * uniform
    draws = torch.rand(num_records, num_categories, generator=generator)
    own = draws.topk(max_categories, dim=1).indices  # (R, m) each record's categories
    slots = _slots(alphas, max_categories, length, generator)  # (R, L) which of them
    items = _items(own, slots, categories, arrivals, generator)
    lengths = torch.full((num_records,), length)
    return DirichletStream(
        JaggedTensor.from_lengths(items.flatten(), lengths), categories, arrivals, alphas
    )


def _check_sizes(at_start: float, **sizes: int) -> None:
    """Raises a ValueError unless they make a stream."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: at least 1")
    items, categories, of_a_record = (
        sizes[name] for name in ("num_items", "num_categories", "max_categories")
    )
    if items < categories:
        raise ValueError(f"{items} items for {categories} categories: each category needs an item")
    if categories < of_a_record:
        raise ValueError(
            f"a record of up to {of_a_record} categories, but there are {categories}: lower "
            "max_categories, or make more"
        )
    if not 0 < at_start <= 1:
        raise ValueError(f"at_start is {at_start}: above 0, or a category is empty; at most 1")


def _arrivals(
    categories: Tensor, num_records: int, at_start: float, generator: torch.Generator
) -> Tensor:
    """(N,) the first record of each item, the late ones at equal intervals."""
    order = torch.randperm(len(categories), generator=generator)
    counts = categories.bincount()
    by_category = JaggedTensor.from_lengths(
        order[categories[order].argsort(stable=True)], counts
    )  # each category's items in a random order
    first = (at_start * counts).ceil()
    late = by_category.values[by_category.positions() >= first[by_category.row_ids()]]
    late = late[torch.randperm(len(late), generator=generator)]
    arrivals = torch.zeros_like(categories)
    arrivals[late] = (torch.arange(len(late)) + 1) * num_records // (len(late) + 1)
    return arrivals


def _slots(alphas: Tensor, max_categories: int, length: int, generator: torch.Generator) -> Tensor:
    """(R, L) for each event the number of its category among the record's own, from 0."""
    records = len(alphas)
    shape = (records, length)
    how_many = torch.randint(1, max_categories + 1, (records, 1), generator=generator)
    # Exponential draws over their sum are uniform on the simplex.
    prior = -torch.rand(records, max_categories, dtype=torch.float64, generator=generator).log()
    prior = prior * (torch.arange(max_categories) < how_many)
    bounds = prior.cumsum(1) / prior.sum(1, keepdim=True)
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator)
    from_prior = torch.searchsorted(bounds, uniform, right=True)
    from_prior = from_prior.clamp(max=how_many - 1)  # where the last bound is rounded below 1
    slots = from_prior.t().contiguous()  # (L, R), an event at a time
    before = torch.arange(length)  # events before each event
    fresh = torch.rand(shape, dtype=torch.float64, generator=generator) < (
        alphas[:, None] / (alphas[:, None] + before)
    )
    earlier = torch.rand(shape, dtype=torch.float64, generator=generator) * before
    fresh, earlier = fresh.t().contiguous(), earlier.long().t().contiguous()
    for n in range(1, length):
        copied = slots.gather(0, earlier[n : n + 1])[0]
        slots[n] = torch.where(fresh[n], slots[n], copied)
    return slots.t()


def _items(
    own: Tensor,
    slots: Tensor,
    categories: Tensor,
    arrivals: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """(R, L) an item of each event's category that has arrived."""
    records = len(own)
    # Items of a category lie together, the earliest first, so those that have arrived are the
    # first few of them.
    keys, order = (categories * records + arrivals).sort(stable=True)
    starts = torch.searchsorted(keys, own * records)  # (R, m)
    now = own * records + torch.arange(records)[:, None]
    arrived = torch.searchsorted(keys, now, right=True) - starts  # (R, m) at least 1
    uniform = torch.rand(slots.shape, dtype=torch.float64, generator=generator)
    pick = (uniform * arrived.gather(1, slots)).long()
    return order[starts.gather(1, slots) + pick]
