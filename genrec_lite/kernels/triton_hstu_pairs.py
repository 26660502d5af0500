"""One pair of events in HSTU's attention, in Triton: whether it counts, its score, its gradient.

Zhai et al. 2024 (2402.17152), section 3.2. A bias of every pair, stored, would take as much memory
as the scores that flash attention avoids; here a pair's distance and time bucket are computed
where its score is, forward and backward, and their weights read from two tables.
"""

from __future__ import annotations

from genrec_lite.kernels.blocks import tl, triton

__all__ = ["bucket", "distance", "scores", "seen", "sigmoid", "weights_and_gradients"]

# Buckets are 0.301 of a natural logarithm wide, as in `genrec_lite.kernels.time_buckets`; the
# kernel takes logarithms to the base 2.
BUCKETS_A_DOUBLING = tl.constexpr(0.6931471805599453 / 0.301)
# More than a logarithm in float32 is wrong by, and less than 1.
MARGIN = tl.constexpr(1e-4)


@triton.jit
def bucket(b_asked, b_happened, p_edges):
    """The time bucket of each pair [BM, BN]: an estimate from below and one exact comparison."""
    b_apart = tl.maximum(b_asked[:, None] - b_happened[None, :], 1)
    b_estimate = tl.log2(b_apart.to(tl.float32)) * BUCKETS_A_DOUBLING - MARGIN
    b_low = tl.maximum(b_estimate, 0.0).to(tl.int32)
    return b_low + (b_apart >= tl.load(p_edges + b_low)).to(tl.int32)


@triton.jit
def distance(o_q, o_k, o_last):
    """How many places apart [BM, BN]; all targets stand at `o_last`, after the history.

    Nothing is further apart than `o_last`, not even what lies beyond the sequence: the table, with
    a weight for each place up to there, is read without a mask.
    """
    o_from = tl.minimum(o_q, o_last)[:, None]
    return tl.maximum(o_from - tl.minimum(o_k, o_last)[None, :], 0)


@triton.jit
def seen(o_q, o_k, n, n_history, TARGETS: tl.constexpr):
    """Which pairs count [BM, BN]: up to the query itself, and of the targets only itself."""
    b_seen = (o_k[None, :] <= o_q[:, None]) & (o_k[None, :] < n)
    if TARGETS:
        b_seen = b_seen & ((o_k[None, :] < n_history) | (o_k[None, :] == o_q[:, None]))
    return b_seen


@triton.jit
def scores(
    b_q, b_k, o_q, o_k, o_last, b_asked, b_happened, p_position_weights, p_time_weights, p_edges,
    POSITION: tl.constexpr, TIME: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Products of queries and keys plus the biases [BM, BN]."""
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee", out_dtype=SUM)
    if POSITION:
        b_s += tl.load(p_position_weights + distance(o_q, o_k, o_last))
    if TIME:
        b_s += tl.load(p_time_weights + bucket(b_asked, b_happened, p_edges))
    return b_s


@triton.jit
def sigmoid(b_s):
    """What SiLU multiplies its argument by."""
    return 1.0 / (1.0 + tl.exp(-b_s))


@triton.jit
def weights_and_gradients(
    b_q, b_k, b_v, b_grad, b_asked, b_happened, p_position_weights, p_time_weights, p_edges,
    o_q, o_k, n, n_history, o_last,
    POSITION: tl.constexpr, TIME: tl.constexpr, TARGETS: tl.constexpr, MASKED: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """Weights and gradients of the scores of BM events and BN keys, both [BM, BN]."""
    b_s = scores(
        b_q, b_k, o_q, o_k, o_last, b_asked, b_happened, p_position_weights, p_time_weights,
        p_edges, POSITION, TIME, SUM,
    )  # fmt: skip
    b_sigmoid = sigmoid(b_s)
    b_p = b_s * b_sigmoid
    b_grad_p = tl.dot(b_grad, tl.trans(b_v), input_precision="ieee", out_dtype=SUM)
    b_grad_s = b_grad_p * b_sigmoid * (1.0 + b_s * (1.0 - b_sigmoid))
    if MASKED:
        b_seen = seen(o_q, o_k, n, n_history, TARGETS)
        b_p = tl.where(b_seen, b_p, 0.0)
        b_grad_s = tl.where(b_seen, b_grad_s, 0.0)
    return b_p, b_grad_s
