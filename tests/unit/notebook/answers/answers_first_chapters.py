"""Right and plausibly wrong answers to the exercises of the first two chapters."""

from math import comb

import torch
from torch.nn import functional as F

from genrec_lite.notebook.check import interactions, sequential_baseline


def by_time_then_user(users, times, stable):
    by_time = times.argsort(stable=stable)
    return by_time[users[by_time].argsort(stable=stable)]


def rank(scores, target, seen, *, ties=True, exclude=True):
    own, items = scores[target], torch.arange(len(scores))
    ahead = scores > own
    if ties:
        ahead |= (scores == own) & (items < target)
    if exclude:
        ahead[seen] = False
    return int(ahead.sum()) + 1


def binomial(rank, num_items, negatives, below):
    p = (rank - 1) / (num_items - 1)
    return sum(comb(negatives, j) * p**j * (1 - p) ** (negatives - j) for j in range(below))


def cosine_loss(q, x, target, temperature):
    return F.cross_entropy(F.normalize(q, dim=1) @ F.normalize(x, dim=1).T / temperature, target)


def overflowing(q, x, target, temperature):
    weights = (F.normalize(q, dim=1) @ F.normalize(x, dim=1).T / temperature).exp()
    return -(weights[torch.arange(len(target)), target] / weights.sum(1)).log().mean()


RIGHT = [
    (interactions.stable_order, lambda u, t: by_time_then_user(u, t, True)),
    (interactions.rank_of, rank),
    (interactions.sampled_hit_probability, lambda r, n, m, k: binomial(r, n, m, k)),
    (sequential_baseline.next_item_pairs, lambda rows: [p for r in rows for p in zip(r, r[1:])]),  # noqa: B905
    (sequential_baseline.cosine_loss, cosine_loss),
    (sequential_baseline.rival_felt, lambda n, r: 1 - (1 - 1 / n) ** r),
]  # fmt: skip
WRONG = [
    ("unstable", interactions.stable_order, lambda u, t: by_time_then_user(u, t.flip(0), True)),
    ("user only", interactions.stable_order, lambda u, t: u.argsort(stable=True)),
    ("time first", interactions.stable_order, lambda u, t: by_time_then_user(t, u, True)),
    ("ties ignored", interactions.rank_of, lambda s, t, x: rank(s, t, x, ties=False)),
    ("seen kept", interactions.rank_of, lambda s, t, x: rank(s, t, x, exclude=False)),
    ("from zero", interactions.rank_of, lambda s, t, x: rank(s, t, x) - 1),
    ("one too many", interactions.sampled_hit_probability,
     lambda r, n, m, k: binomial(r, n, m, k + 1)),
    ("over all items", interactions.sampled_hit_probability,
     lambda r, n, m, k: binomial(r, n + 1, m, k)),
    ("numbers for truths", sequential_baseline.causal_mask, lambda n: torch.ones(n, n).tril()),
    ("across users", sequential_baseline.next_item_pairs,
     lambda rows: list(zip(sum(rows, []), sum(rows, [])[1:]))),  # noqa: B905
    ("not normalised", sequential_baseline.cosine_loss,
     lambda q, x, y, t: F.cross_entropy(q @ x.T / t, y)),
    ("multiplied", sequential_baseline.cosine_loss,
     lambda q, x, y, t: F.cross_entropy(F.normalize(q, dim=1) @ F.normalize(x, dim=1).T * t, y)),
    ("overflows", sequential_baseline.cosine_loss, overflowing),
    ("expected number", sequential_baseline.rival_felt, lambda n, r: min(1.0, r / n)),
]  # fmt: skip
