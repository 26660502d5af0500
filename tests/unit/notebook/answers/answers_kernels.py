"""Right and plausibly wrong answers to the exercises of the chapters on jagged kernels."""

import math

import torch

from genrec_lite.notebook.check import jagged_attention, jagged_tensors


def grouped(lengths, groups, *, ordered=True, power=2):
    rows, size = sorted(lengths) if ordered else lengths, len(lengths) // groups
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return sum(size * max(part) ** power for part in parts) / sum(n**power for n in rows)


def merged(first, second, *, shrink=True, weigh=True, guard=True):
    largest = max(first[0], second[0])
    if guard and largest == -math.inf:
        return first
    parts = (first, second)
    shares = [total * math.exp(top - largest) if shrink else total for top, total, _ in parts]
    weights = shares if weigh else [1.0, 1.0]
    out = sum(w * part[2] for w, part in zip(weights, parts, strict=True)) / sum(weights)
    return largest, sum(shares), out


def met(n, queries, keys, *, cut=True, up=True):
    ends = [first + queries for first in range(0, n, queries)]
    ends = [min(n, end) for end in ends] if cut else ends
    return sum(-(-end // keys) if up else end // keys for end in ends)


def row_means(values, offsets, *, least=1, lengths=None):
    lengths = offsets.diff() if lengths is None else lengths
    of_row = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
    sums = values.new_zeros(len(offsets) - 1, values.shape[1]).index_add_(0, of_row, values)
    return sums / lengths.clamp(min=least)[:, None]


def running(blocks, *, shrink=True, subtract=True, finite=True):
    largest, total = -math.inf, 0.0
    for s in blocks:
        new = max(largest, s.max().item())
        pivot = 0.0 if not subtract or finite and new == -math.inf else new
        total = total * (math.exp(largest - pivot) if shrink else 1)
        total += (s - pivot).exp().sum().item()
        largest = new if subtract else 0.0
    return (new, total) if subtract else (max(s.max().item() for s in blocks), total)


def saved(lengths, width, number_bytes, *, offsets=None, offset_bytes=8):
    empty = len(lengths) * max(lengths) - sum(lengths)
    offsets = len(lengths) + 1 if offsets is None else offsets
    return empty * width * number_bytes - offset_bytes * offsets


RIGHT = [
    (
        jagged_tensors.empty_share,
        lambda n, most: 1 - sum(min(x, most) for x in n) / (len(n) * min(most, max(n))),
    ),
    (jagged_attention.speed_up, grouped),
    (jagged_attention.merge, merged),
    (jagged_attention.key_blocks, met),
    (jagged_tensors.row_means, row_means),
    (jagged_tensors.running_softmax, running),
    (jagged_tensors.bytes_saved, saved),
]  # fmt: skip
WRONG = [
    ("not sorted", jagged_attention.speed_up, lambda n, g: grouped(n, g, ordered=False)),
    ("events, not pairs", jagged_attention.speed_up, lambda n, g: grouped(n, g, power=1)),
    ("one group", jagged_attention.speed_up, lambda n, g: grouped(n, 1)),
    ("not shrunk", jagged_attention.merge, lambda a, b: merged(a, b, shrink=False)),
    ("plain mean", jagged_attention.merge, lambda a, b: merged(a, b, weigh=False)),
    ("nan of nothing", jagged_attention.merge, lambda a, b: merged(a, b, guard=False)),
    ("beyond the row", jagged_attention.key_blocks, lambda *a: met(*a, cut=False)),
    ("whole blocks only", jagged_attention.key_blocks, lambda *a: met(*a, up=False)),
    ("as wide as the cut", jagged_tensors.empty_share,
     lambda n, most: 1 - sum(min(x, most) for x in n) / (len(n) * most)),
    ("not cut", jagged_tensors.empty_share, lambda n, most: 1 - sum(n) / (len(n) * max(n))),
    ("share that is full", jagged_tensors.empty_share,
     lambda n, most: sum(min(x, most) for x in n) / (len(n) * min(most, max(n)))),
    ("empty rows not counted", jagged_tensors.empty_share,
     lambda n, most: 1 - sum(min(x, most) for x in n)
     / (sum(x > 0 for x in n) * min(most, max(n)))),
    ("0 / 0", jagged_tensors.row_means, lambda x, o: row_means(x, o, least=0)),
    ("over the longest", jagged_tensors.row_means,
     lambda x, o: row_means(x, o, lengths=o.diff().max().expand(len(o) - 1))),
    ("not shrunk", jagged_tensors.running_softmax, lambda b: running(b, shrink=False)),
    ("nothing subtracted", jagged_tensors.running_softmax, lambda b: running(b, subtract=False)),
    ("infinite pivot", jagged_tensors.running_softmax, lambda b: running(b, finite=False)),
    ("an offset a row", jagged_tensors.bytes_saved, lambda n, d, b: saved(n, d, b, offsets=len(n))),
    ("offsets left out", jagged_tensors.bytes_saved, lambda n, d, b: saved(n, d, b, offsets=0)),
    ("four bytes an offset", jagged_tensors.bytes_saved,
     lambda n, d, b: saved(n, d, b, offset_bytes=4)),
]  # fmt: skip
