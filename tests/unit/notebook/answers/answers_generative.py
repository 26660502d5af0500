"""Right and plausibly wrong answers to the exercises of the chapters on generative recommenders."""

import math

import torch
from torch.nn import functional as F

from genrec_lite.notebook.check import hstu, ranking, scaling


def bucket(seconds, *, log=math.log, least=1, most=128, shift=0):
    return min(most, int(log(max(least, seconds)) / 0.301) + shift)


def gaps(times, *, shift=1, causal=True):
    apart = times[shift : shift + len(times) - 1, None] - times[:-1]
    return apart.tril() if causal else apart


def pointwise(q, k, v, *, scale=1.0, weigh=F.silu, causal=True, over=None):
    weights = weigh(q @ k.T / scale) / (over or len(q))
    return (weights.tril() if causal else weights) @ v


def relative_entropy(p, y, over=None, negatives=True):
    def cross_entropy(p):
        return -(y * p.log() + negatives * (1 - y) * (1 - p).log()).mean()

    return cross_entropy(p) / (over or cross_entropy(y.mean().expand(len(y))))


def bill(n, d, c, history=True, among=False, looks=2):
    once = 5 * n * d**2 + n**2 * d
    return c * once / (history * once + c * (5 * d**2 + looks * n * d) + among * c**2 * d)


def first_lines(users, times):
    new = (users.diff() != 0) | (times.diff() != 0)
    return torch.cat([torch.tensor([True]), new])


def cut(lengths, longest, alpha, *, of=None):
    return [min(n, math.floor((of or longest) ** (alpha / 2) + 1e-9)) for n in lengths]


def mean_pairs(n, longest, alpha, *, power=2, pairs=lambda n: n * (n + 1) / 2, whole_part=True):
    part = longest ** (alpha / 2) + 1e-9
    part = math.floor(part) if whole_part else part
    if n <= part:
        return pairs(n)
    whole = longest**alpha / n**power
    return whole * pairs(n) + (1 - whole) * pairs(part)


def slope(compute, quality, floor, *, log=math.log, ends=False, sign=-1):
    x = [math.log(c) for c in compute]
    y = [log(q - floor) for q in quality]
    if ends:
        return sign * (y[-1] - y[0]) / (x[-1] - x[0])
    x = [v - sum(x) / len(x) for v in x]
    return sign * sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)


RIGHT = [
    (hstu.time_bucket, bucket),
    (hstu.asked_gaps, gaps),
    (hstu.pointwise_attention, pointwise),
    (hstu.padding_factor, lambda n: len(n) * max(n) ** 2 / sum(x * x for x in n)),
    (ranking.visible_tokens, lambda n, c: 2 * n + 1),
    (ranking.normalised_entropy, relative_entropy),
    (ranking.flop_ratio, bill),
    (ranking.first_lines, first_lines),
    (scaling.parts, cut),
    (scaling.expected_pairs, mean_pairs),
    (scaling.exponent, slope),
    (scaling.factor_for, lambda gamma, share: share ** (-1 / gamma)),
]  # fmt: skip
WRONG = [
    ("all cut", scaling.parts, lambda n, most, a: [math.floor(most ** (a / 2) + 1e-9)] * len(n)),
    ("L^alpha", scaling.parts, lambda n, most, a: cut(n, most, 2 * a)),
    ("rounded", scaling.parts, lambda n, most, a: [min(x, round(most ** (a / 2))) for x in n]),
    ("of the longest at hand", scaling.parts, lambda n, most, a: cut(n, most, a, of=max(n))),
    ("a rounding short", scaling.parts,
     lambda n, most, a: [min(x, int(most ** (a / 2))) for x in n]),
    ("parts of events", scaling.expected_pairs, lambda *a: mean_pairs(*a, whole_part=False)),
    ("n, not its square", scaling.expected_pairs, lambda *a: mean_pairs(*a, power=1)),
    ("squares", scaling.expected_pairs, lambda *a: mean_pairs(*a, pairs=lambda n: n * n)),
    ("cut for certain", scaling.expected_pairs, lambda *a: mean_pairs(*a, power=99)),
    ("the other sign", scaling.exponent, lambda *a: slope(*a, sign=1)),
    ("no logarithm", scaling.exponent, lambda *a: slope(*a, log=lambda x: x)),
    ("floor left on", scaling.exponent, lambda c, q, f: slope(c, q, 0.0)),
    ("two ends", scaling.exponent, lambda *a: slope(*a, ends=True)),
    ("linear", scaling.factor_for, lambda gamma, share: 1 / (share * gamma)),
    ("upside down", scaling.factor_for, lambda gamma, share: share ** (1 / gamma)),
    ("gamma, not its inverse", scaling.factor_for, lambda gamma, share: share**-gamma),
    ("sees the others", ranking.visible_tokens, lambda n, c: 2 * n + c),
    ("events, not tokens", ranking.visible_tokens, lambda n, c: n + 1),
    ("not itself", ranking.visible_tokens, lambda n, c: 2 * n),
    ("not normalised", ranking.normalised_entropy, lambda p, y: relative_entropy(p, y, over=1.0)),
    ("positives only", ranking.normalised_entropy,
     lambda p, y: relative_entropy(p, y, negatives=False)),
    ("sum for mean", ranking.normalised_entropy, lambda p, y: len(y) * relative_entropy(p, y)),
    ("cache left out", ranking.flop_ratio, lambda n, d, c: bill(n, d, c, history=False)),
    ("all at once", ranking.flop_ratio, lambda n, d, c: bill(n, d, c, among=True)),
    ("half of the history", ranking.flop_ratio, lambda n, d, c: bill(n, d, c, looks=1)),
    ("upside down", ranking.flop_ratio, lambda n, d, c: 1 / bill(n, d, c)),
    ("users forgotten", ranking.first_lines, lambda u, t: first_lines(torch.ones_like(u), t)),
    ("last lines", ranking.first_lines, lambda u, t: first_lines(u.flip(0), t.flip(0)).flip(0)),
    ("one too few", ranking.first_lines, lambda u, t: first_lines(u, t)[1:]),
    ("base 10", hstu.time_bucket, lambda s: bucket(s, log=math.log10)),
    ("minus infinity at 0", hstu.time_bucket, lambda s: bucket(s, least=0)),
    ("no last bucket", hstu.time_bucket, lambda s: bucket(s, most=10**9)),
    ("rounded up", hstu.time_bucket, lambda s: bucket(s, shift=1)),
    ("since the query", hstu.asked_gaps, lambda t: gaps(t, shift=0)),
    ("later ones, too", hstu.asked_gaps, lambda t: gaps(t, causal=False)),
    ("softmax", hstu.pointwise_attention,
     lambda q, k, v: pointwise(q, k, v, weigh=lambda s: s.softmax(-1), over=1)),
    ("not divided", hstu.pointwise_attention, lambda q, k, v: pointwise(q, k, v, over=1)),
    ("sees the future", hstu.pointwise_attention,
     lambda q, k, v: pointwise(q, k, v, causal=False)),
    ("sigmoid", hstu.pointwise_attention, lambda q, k, v: pointwise(q, k, v, weigh=torch.sigmoid)),
    ("1 / sqrt(d)", hstu.pointwise_attention,
     lambda q, k, v: pointwise(q, k, v, scale=q.shape[1] ** 0.5)),
    ("events", hstu.padding_factor, lambda n: len(n) * max(n) / sum(n)),
    ("empty rows left out", hstu.padding_factor,
     lambda n: sum(x > 0 for x in n) * max(n) ** 2 / sum(x * x for x in n)),
]  # fmt: skip
