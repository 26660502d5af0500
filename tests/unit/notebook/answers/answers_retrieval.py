"""Right and plausibly wrong answers to the exercises of the chapters on retrieval."""

import torch
from torch.nn import functional as F

from genrec_lite.metrics import recall_at_k
from genrec_lite.notebook.check import h_indexer, learned_similarity_top_k, mixture_of_logits


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


def squares(matrix, rank, *, power=2, centred=False):
    values = torch.linalg.svdvals(matrix - centred * matrix.mean()) ** power
    return values[:rank].sum() / values.sum()


def mixed(logits, z, *, gate=F.silu, dim=-1):
    return (gate(z).softmax(dim) * logits).sum(dim)


def entropy(weights):
    return -torch.special.xlogy(weights, weights).sum(-1)


def item_bytes(items, of_query, of_item, dim, width):
    return items * (of_item * dim + of_query * of_item) * width


RIGHT = [
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
]  # fmt: skip
WRONG = [
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
