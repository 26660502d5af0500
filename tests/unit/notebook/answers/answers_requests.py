"""Right and plausibly wrong answers to the exercises of the chapter on requests."""

import torch

from genrec_lite.notebook.check import request_only


def token_ratio(n, counts, *, once=False):
    alone = sum(m * (n + 1) for m in counts)
    return alone / (n + sum(counts)) if once else alone / sum(n + m for m in counts)


def late_ratio(m, request, item, *, late=True):
    return m * (request + item) / (request + m * item if late else request + item)


def request_numbers(users, times, gap, *, least=False, by_user=True, from_first=False):
    fresh, first = [True], 0
    for k in range(1, len(users)):
        waited = times[k] - times[first if from_first else k - 1]
        new = waited >= gap if least else waited > gap
        fresh.append(bool(new or (by_user and users[k] != users[k - 1])))
        first = k if fresh[-1] else first
    return torch.tensor(fresh).cumsum(0) - 1


def fan_in(gradients, counts, *, mean=False, kept=False):
    rows = torch.arange(len(counts)).repeat_interleave(counts)
    sums = gradients.new_zeros(len(counts), gradients.shape[1]).index_add_(0, rows, gradients)
    if mean:
        sums = sums / counts.clamp(min=1)[:, None]
    return sums[counts > 0] if kept else sums


RIGHT = [
    (request_only.token_ratio, token_ratio),
    (request_only.late_ratio, late_ratio),
    (request_only.request_numbers, request_numbers),
    (request_only.fan_in, fan_in),
]

WRONG = [
    ("one history for all requests", request_only.token_ratio,
     lambda n, counts: token_ratio(n, counts, once=True)),
    ("the mean of the ratios", request_only.token_ratio,
     lambda n, counts: sum(token_ratio(n, [m]) for m in counts) / len(counts)),
    ("one candidate's tower for all", request_only.late_ratio,
     lambda m, f, g: late_ratio(m, f, g, late=False)),
    ("the ceiling", request_only.late_ratio, lambda m, f, g: 1 + f / g),
    ("a gap of just so long parts", request_only.request_numbers,
     lambda u, t, gap: request_numbers(u, t, gap, least=True)),
    ("users not looked at", request_only.request_numbers,
     lambda u, t, gap: request_numbers(u, t, gap, by_user=False)),
    ("from the request's first event", request_only.request_numbers,
     lambda u, t, gap: request_numbers(u, t, gap, from_first=True)),
    ("a mean for a sum", request_only.fan_in, lambda g, m: fan_in(g, m, mean=True)),
    ("empty requests left out", request_only.fan_in, lambda g, m: fan_in(g, m, kept=True)),
]  # fmt: skip
