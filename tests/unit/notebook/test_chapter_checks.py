"""Every exercise's check tells a right answer from a plausible wrong one."""

import importlib.util
import math
from math import comb

import pytest
import torch
from torch.nn import functional as F

from genrec_lite.metrics import recall_at_k
from genrec_lite.notebook.check import (
    h_indexer,
    hstu,
    interactions,
    jagged_attention,
    jagged_tensors,
    learned_similarity_top_k,
    mixture_of_logits,
    ranking,
    sequential_baseline,
)

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    # Without a GPU the package's import makes Triton interpret.
    from genrec_lite.kernels.blocks import tl, triton


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


def two_passes(logits, score, k, *, passes=2, wasteful=False):
    leaders = logits.topk(k, dim=0).indices.flatten().unique()
    if passes == 2:
        bound = score(leaders).sort().values[-k]
        reached = logits.max(1).values >= bound
        leaders = torch.arange(len(logits)) if wasteful else reached.nonzero().flatten()
    return leaders[score(leaders).argsort(descending=True)][:k]


def cost_ratio(rescored, n, pairs, dim, gate):
    return n * (dim + 2 * gate) / (n * dim + rescored * 2 * gate)


def sampled_threshold(scores, sample, candidates, *, least=1, over=None):
    hits = round(len(sample) * candidates / (over or len(scores)))
    return scores[sample].topk(max(least, hits)).values[-1]


def error_of(num_items, candidates, sampled, *, back=1):
    m = sampled * candidates / num_items
    return ((1 - candidates / num_items) * (1 - back * sampled / num_items) / m) ** 0.5


def streamed(queries, items, thresholds, chunk, *, strict=False, count=True):
    kept, before = [[] for _ in queries], 0
    for piece in items.split(chunk):
        scores = queries @ piece.T
        reached = scores > thresholds[:, None] if strict else scores >= thresholds[:, None]
        for query, place in reached.nonzero().tolist():
            kept[query].append(before + place)
        before += len(piece) if count else 0
    return kept


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


def bucket(seconds, *, log=math.log, least=1, most=128, shift=0):
    return min(most, int(log(max(least, seconds)) / 0.301) + shift)


def gaps(times, *, shift=1, causal=True):
    apart = times[shift : shift + len(times) - 1, None] - times[:-1]
    return apart.tril() if causal else apart


def pointwise(q, k, v, *, scale=1.0, weigh=F.silu, causal=True, over=None):
    weights = weigh(q @ k.T / scale) / (over or len(q))
    return (weights.tril() if causal else weights) @ v


def squares(matrix, rank, *, power=2, centred=False):
    values = torch.linalg.svdvals(matrix - centred * matrix.mean()) ** power
    return values[:rank].sum() / values.sum()


def mixed(logits, z, *, gate=F.silu, dim=-1):
    return (gate(z).softmax(dim) * logits).sum(dim)


def entropy(weights):
    return -torch.special.xlogy(weights, weights).sum(-1)


def item_bytes(items, of_query, of_item, dim, width):
    return items * (of_item * dim + of_query * of_item) * width


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


if HAS_TRITON:

    @triton.jit
    def row_largest(p_x, p_out, p_offsets, BLOCK: tl.constexpr, MASK: tl.constexpr = True,
                    OTHER: tl.constexpr = float("-inf"), BLOCKS: tl.constexpr = 1024):  # fmt: skip
        """The largest number of a row, of BLOCKS blocks at most."""
        i_row = tl.program_id(0)
        start = tl.load(p_offsets + i_row)
        n = tl.load(p_offsets + i_row + 1) - start
        b_max = tl.full([BLOCK], float("-inf"), tl.float32)
        for o_first in range(0, min(n, BLOCKS * BLOCK), BLOCK):
            o = o_first + tl.arange(0, BLOCK)
            read = o < n if MASK else o >= 0
            b_max = tl.maximum(b_max, tl.load(p_x + start + o, mask=read, other=OTHER))
        tl.store(p_out + i_row, tl.max(b_max, 0))


class WithConstants:
    """A kernel that is launched with some of its constants chosen."""

    def __init__(self, **constants):
        self.constants = constants

    def __getitem__(self, grid):
        return lambda *arguments, **more: row_largest[grid](*arguments, **more, **self.constants)


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


RIGHT = [
    (interactions.stable_order, lambda u, t: by_time_then_user(u, t, True)),
    (interactions.rank_of, rank),
    (interactions.sampled_hit_probability, lambda r, n, m, k: binomial(r, n, m, k)),
    (sequential_baseline.next_item_pairs, lambda rows: [p for r in rows for p in zip(r, r[1:])]),  # noqa: B905
    (sequential_baseline.cosine_loss, cosine_loss),
    (sequential_baseline.rival_felt, lambda n, r: 1 - (1 - 1 / n) ** r),
    (mixture_of_logits.share_of_rank, squares),
    (mixture_of_logits.mixture_score, mixed),
    (mixture_of_logits.balance, lambda w: entropy(w).mean() - entropy(w.mean(0))),
    (mixture_of_logits.item_side_bytes, item_bytes),
    (
        learned_similarity_top_k.may_be_better,
        lambda x, t: (x.max(1).values >= t).nonzero().flatten(),
    ),
    (learned_similarity_top_k.exact_ids, two_passes),
    (learned_similarity_top_k.averages, lambda f, g: (f.mean(1), g.mean(1))),
    (learned_similarity_top_k.speed_up, cost_ratio),
    (learned_similarity_top_k.top_1_found, lambda f, e: (f == e[:, :1]).any(1).float().mean()),
    (learned_similarity_top_k.best_part, lambda q, x: tuple((x @ q).max(1))[::-1]),
    (h_indexer.sampled_threshold, sampled_threshold),
    (h_indexer.error_of, error_of),
    (h_indexer.index_bytes, lambda n, d1, i, d, p: n * (8 + d1 + 2 * (i * d + p))),
    (h_indexer.streamed, streamed),
    (hstu.time_bucket, bucket),
    (hstu.asked_gaps, gaps),
    (hstu.pointwise_attention, pointwise),
    (hstu.padding_factor, lambda n: len(n) * max(n) ** 2 / sum(x * x for x in n)),
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
    (ranking.visible_tokens, lambda n, c: 2 * n + 1),
    (ranking.normalised_entropy, relative_entropy),
    (ranking.flop_ratio, bill),
    (ranking.first_lines, first_lines),
]
WRONG = [
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
    ("not squared", mixture_of_logits.share_of_rank, lambda m, r: squares(m, r, power=1)),
    ("mean taken off", mixture_of_logits.share_of_rank, lambda m, r: squares(m, r, centred=True)),
    ("one rank more", mixture_of_logits.share_of_rank, lambda m, r: squares(m, r + 1)),
    ("plain softmax", mixture_of_logits.mixture_score, lambda s, z: mixed(s, z, gate=lambda z: z)),
    ("sigmoid only", mixture_of_logits.mixture_score, lambda s, z: mixed(s, z, gate=F.sigmoid)),
    ("over the pairs", mixture_of_logits.mixture_score, lambda s, z: mixed(s, z, dim=0)),
    ("sign", mixture_of_logits.balance, lambda w: entropy(w.mean(0)) - entropy(w).mean()),
    ("spread only", mixture_of_logits.balance, lambda w: -entropy(w.mean(0))),
    ("0 log 0", mixture_of_logits.balance,
     lambda w: (w.mean(0) * w.mean(0).log()).sum() - (w * w.log()).sum(1).mean()),
    ("no gate", mixture_of_logits.item_side_bytes, lambda n, q, x, d, b: n * x * d * b),
    ("gate of the item's own", mixture_of_logits.item_side_bytes,
     lambda n, q, x, d, b: n * (x * d + x) * b),
    ("components for each pair", mixture_of_logits.item_side_bytes,
     lambda n, q, x, d, b: n * (q * x * d + q * x) * b),
    ("every component", learned_similarity_top_k.may_be_better,
     lambda x, t: (x.min(1).values >= t).nonzero().flatten()),
    ("ties ruled out", learned_similarity_top_k.may_be_better,
     lambda x, t: (x.max(1).values > t).nonzero().flatten()),
    ("bound by the sum", learned_similarity_top_k.may_be_better,
     lambda x, t: (x.sum(1) >= t).nonzero().flatten()),
    ("a mask", learned_similarity_top_k.may_be_better, lambda x, t: x.max(1).values >= t),
    ("leaders only", learned_similarity_top_k.exact_ids,
     lambda x, s, k: two_passes(x, s, k, passes=1)),
    ("everything scored", learned_similarity_top_k.exact_ids,
     lambda x, s, k: two_passes(x, s, k, wasteful=True)),
    ("summed", learned_similarity_top_k.averages, lambda f, g: (f.sum(1), g.sum(1))),
    ("items summed", learned_similarity_top_k.averages, lambda f, g: (f.mean(1), g.sum(1))),
    ("pass 1 forgotten", learned_similarity_top_k.speed_up,
     lambda r, n, p, d, g: n / max(r, 1)),
    ("logits paid for twice", learned_similarity_top_k.speed_up,
     lambda r, n, p, d, g: n * (d + 2 * g) / (n * d + r * (d + 2 * g))),
    ("recall", learned_similarity_top_k.top_1_found, recall_at_k),
    ("cosine first", learned_similarity_top_k.best_part, lambda q, x: tuple((x @ q).max(1))),
    ("of the corpus", learned_similarity_top_k.best_part, lambda q, x: tuple((x @ q).max(0))[::-1]),
    ("in size", learned_similarity_top_k.best_part,
     lambda q, x: tuple((x @ q).abs().max(1))[::-1]),
    ("first place", learned_similarity_top_k.top_1_found,
     lambda f, e: (f[:, 0] == e[:, 0]).float().mean()),
    ("no hit asked for", h_indexer.sampled_threshold,
     lambda s, x, k: sampled_threshold(s, x, k, least=0)),
    ("rank in the whole", h_indexer.sampled_threshold,
     lambda s, x, k: s[x].topk(min(k, len(x))).values[-1]),
    ("with replacement", h_indexer.error_of, lambda n, k, s: error_of(n, k, s, back=0)),
    ("variance", h_indexer.error_of, lambda n, k, s: error_of(n, k, s) ** 2),
    ("float32 kept", h_indexer.index_bytes, lambda n, d1, i, d, p: n * (8 + d1 + 4 * (i * d + p))),
    ("no gate", h_indexer.index_bytes, lambda n, d1, i, d, p: n * (8 + d1 + 2 * i * d)),
    ("above only", h_indexer.streamed, lambda *a: streamed(*a, strict=True)),
    ("pieces not counted", h_indexer.streamed, lambda *a: streamed(*a, count=False)),
]  # fmt: skip


@pytest.mark.parametrize("check, answer", RIGHT, ids=lambda v: getattr(v, "__name__", ""))
def test_a_right_answer_passes(check, answer):
    assert check(answer) is True


@pytest.mark.parametrize("slip, check, answer", WRONG, ids=[w[0] for w in WRONG])
def test_a_plausible_slip_is_told_apart(slip, check, answer, capsys):
    assert check(answer) is False
    assert "expected" in capsys.readouterr().out


@pytest.mark.skipif(not HAS_TRITON, reason="Triton has no package for this platform")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the check runs kernels on CPU tensors")
@pytest.mark.parametrize(
    "right, constants",
    [
        (True, {}),
        (False, {"MASK": False}),
        (False, {"OTHER": 0.0}),
        (False, {"BLOCKS": 1}),
    ],
    ids=["right", "no mask", "masked places read as 0", "one block only"],
)
def test_a_kernel_of_row_maxima_is_told_right_from_wrong(right, constants, capsys):
    assert jagged_tensors.row_largest(WithConstants(**constants)) is right
    assert ("expected" in capsys.readouterr().out) is not right


def test_a_kernel_that_writes_nothing_counts_as_not_done(capsys):
    class Nothing:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: None

    assert jagged_tensors.row_largest(Nothing()) is False
    assert "not done yet" in capsys.readouterr().out
