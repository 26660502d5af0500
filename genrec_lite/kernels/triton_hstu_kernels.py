"""HSTU's attention in Triton, forward and backward: which pairs of events a program looks at.

What it does with them is in `genrec_lite.kernels.triton_hstu_pairs`. Three backward kernels, for
queries, keys and tables, write every gradient once: no atomic additions, so the same input gives
the same bits.
"""

from __future__ import annotations

from genrec_lite.kernels.blocks import (
    load_block,
    locate,
    padded_width,
    read_tile,
    store_block,
    tl,
    triton,
)
from genrec_lite.kernels.triton_hstu_pairs import (
    bucket,
    scores,
    seen,
    sigmoid,
    weights_and_gradients,
)

__all__ = [
    "BINS",
    "backward_keys_kernel",
    "backward_queries_kernel",
    "forward_kernel",
    "tables_kernel",
]

# Time buckets, rounded up to a power of 2.
BINS = tl.constexpr(256)


@triton.jit
def _history(p_targets, i_sequence, n, TARGETS: tl.constexpr):
    """How many events come before the targets, and the place at which the targets stand."""
    n_history = n
    if TARGETS:
        n_history = n - tl.load(p_targets + i_sequence).to(tl.int32)
    return n_history, tl.minimum(n_history, n - 1)


@triton.jit
def forward_kernel(
    p_q, p_k, p_v, p_out, p_offsets, p_tiles, p_position_weights, p_time_weights, p_times,
    p_edges, p_targets, share,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, POSITION: tl.constexpr,
    TIME: tl.constexpr, TARGETS: tl.constexpr, SUM: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The output of BM events of one sequence and head."""
    i_sequence, o_first = read_tile(p_tiles, tl.program_id(0) // H)
    i_head = tl.program_id(0) % H
    start, n = locate(p_offsets, i_sequence)
    n_history, o_last = _history(p_targets, i_sequence, n, TARGETS)
    p_q += (start * H + i_head) * D
    p_k += (start * H + i_head) * D
    p_v += (start * H + i_head) * E
    p_out += (start * H + i_head) * E
    p_times += start + i_sequence  # a row of times is one longer than its events
    o_q = o_first + tl.arange(0, BM)
    # [BM, BD]
    b_q = load_block(p_q, o_q, n, H * D, D, True)
    b_asked = o_q
    if TIME:
        b_asked = tl.load(p_times + o_q + 1, mask=o_q < n, other=0)
    b_out = tl.zeros([BM, padded_width(E)], SUM)
    # Whole blocks that every event of the tile sees; the rest of the history; then, of targets,
    # the diagonal.
    o_whole = tl.minimum(o_first + 1, n_history) // BN * BN
    o_end = tl.minimum(n, o_first + BM)
    o_rest = tl.minimum(o_end, n_history)
    for o_block in range(0, o_whole, BN):
        b_out = _look(
            b_q, b_out, b_asked, p_k, p_v, p_position_weights, p_time_weights, p_times, p_edges,
            o_q, o_block, n, n_history, o_last,
            H, D, E, POSITION, TIME, TARGETS, False, SUM, BN,
        )  # fmt: skip
    for o_block in range(o_whole, o_rest, BN):
        b_out = _look(
            b_q, b_out, b_asked, p_k, p_v, p_position_weights, p_time_weights, p_times, p_edges,
            o_q, o_block, n, n_history, o_last,
            H, D, E, POSITION, TIME, TARGETS, True, SUM, BN,
        )  # fmt: skip
    if TARGETS:
        o_diagonal = tl.maximum(tl.cdiv(tl.maximum(o_rest, 0), BN), o_first // BN) * BN
        for o_block in range(o_diagonal, o_end, BN):
            b_out = _look(
                b_q, b_out, b_asked, p_k, p_v, p_position_weights, p_time_weights, p_times,
                p_edges, o_q, o_block, n, n_history, o_last,
                H, D, E, POSITION, TIME, TARGETS, True, SUM, BN,
            )  # fmt: skip
    store_block(p_out, b_out * share, o_q, n, H * E, E)


@triton.jit
def _look(
    b_q, b_out, b_asked, p_k, p_v, p_position_weights, p_time_weights, p_times, p_edges,
    o_q, o_block, n, n_history, o_last,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, POSITION: tl.constexpr,
    TIME: tl.constexpr, TARGETS: tl.constexpr, MASKED: tl.constexpr, SUM: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """What BM events have found after BN more keys."""
    o_k = o_block + tl.arange(0, BN)
    # [BN, BD], [BN, BE]
    b_k = load_block(p_k, o_k, n, H * D, D, MASKED)
    b_v = load_block(p_v, o_k, n, H * E, E, MASKED)
    b_happened = o_k
    if TIME:
        b_happened = tl.load(p_times + o_k, mask=o_k < n, other=0)
    # [BM, BN]
    b_s = scores(
        b_q, b_k, o_q, o_k, o_last, b_asked, b_happened, p_position_weights, p_time_weights,
        p_edges, POSITION, TIME, SUM,
    )  # fmt: skip
    b_p = b_s * sigmoid(b_s)
    if MASKED:
        b_p = tl.where(seen(o_q, o_k, n, n_history, TARGETS), b_p, 0.0)
    return tl.dot(b_p.to(b_v.dtype), b_v, b_out, input_precision="ieee", out_dtype=SUM)


@triton.jit
def backward_queries_kernel(
    p_q, p_k, p_v, p_grad, p_grad_q, p_offsets, p_tiles, p_position_weights, p_time_weights,
    p_times, p_edges, p_targets, share,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, POSITION: tl.constexpr,
    TIME: tl.constexpr, TARGETS: tl.constexpr, SUM: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradients of BM queries: a walk over the keys they see, as in the forward pass."""
    i_sequence, o_first = read_tile(p_tiles, tl.program_id(0) // H)
    i_head = tl.program_id(0) % H
    start, n = locate(p_offsets, i_sequence)
    n_history, o_last = _history(p_targets, i_sequence, n, TARGETS)
    p_k += (start * H + i_head) * D
    p_v += (start * H + i_head) * E
    p_times += start + i_sequence
    o_q = o_first + tl.arange(0, BM)
    # [BM, BD], [BM, BE]
    b_q = load_block(p_q + (start * H + i_head) * D, o_q, n, H * D, D, True)
    b_grad = load_block(p_grad + (start * H + i_head) * E, o_q, n, H * E, E, True)
    b_asked = o_q
    if TIME:
        b_asked = tl.load(p_times + o_q + 1, mask=o_q < n, other=0)
    b_grad_q = tl.zeros([BM, padded_width(D)], SUM)
    o_whole = tl.minimum(o_first + 1, n_history) // BN * BN
    o_end = tl.minimum(n, o_first + BM)
    o_rest = tl.minimum(o_end, n_history)
    for o_block in range(0, o_whole, BN):
        b_grad_q = _gather_queries(
            b_q, b_grad, b_grad_q, b_asked, p_k, p_v, p_position_weights, p_time_weights, p_times,
            p_edges, o_q, o_block, n, n_history, o_last,
            H, D, E, POSITION, TIME, TARGETS, False, SUM, BN,
        )  # fmt: skip
    for o_block in range(o_whole, o_rest, BN):
        b_grad_q = _gather_queries(
            b_q, b_grad, b_grad_q, b_asked, p_k, p_v, p_position_weights, p_time_weights, p_times,
            p_edges, o_q, o_block, n, n_history, o_last,
            H, D, E, POSITION, TIME, TARGETS, True, SUM, BN,
        )  # fmt: skip
    if TARGETS:
        o_diagonal = tl.maximum(tl.cdiv(tl.maximum(o_rest, 0), BN), o_first // BN) * BN
        for o_block in range(o_diagonal, o_end, BN):
            b_grad_q = _gather_queries(
                b_q, b_grad, b_grad_q, b_asked, p_k, p_v, p_position_weights, p_time_weights,
                p_times, p_edges, o_q, o_block, n, n_history, o_last,
                H, D, E, POSITION, TIME, TARGETS, True, SUM, BN,
            )  # fmt: skip
    p_grad_q += (start * H + i_head) * D
    store_block(p_grad_q, b_grad_q * share, o_q, n, H * D, D)


@triton.jit
def _gather_queries(
    b_q, b_grad, b_grad_q, b_asked, p_k, p_v, p_position_weights, p_time_weights, p_times,
    p_edges, o_q, o_block, n, n_history, o_last,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, POSITION: tl.constexpr,
    TIME: tl.constexpr, TARGETS: tl.constexpr, MASKED: tl.constexpr, SUM: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """What BN keys add to the gradients of BM queries."""
    o_k = o_block + tl.arange(0, BN)
    b_k = load_block(p_k, o_k, n, H * D, D, MASKED)
    b_v = load_block(p_v, o_k, n, H * E, E, MASKED)
    b_happened = o_k
    if TIME:
        b_happened = tl.load(p_times + o_k, mask=o_k < n, other=0)
    _, b_grad_s = weights_and_gradients(
        b_q, b_k, b_v, b_grad, b_asked, b_happened, p_position_weights, p_time_weights, p_edges,
        o_q, o_k, n, n_history, o_last, POSITION, TIME, TARGETS, MASKED, SUM,
    )  # fmt: skip
    return tl.dot(b_grad_s.to(b_k.dtype), b_k, b_grad_q, input_precision="ieee", out_dtype=SUM)


@triton.jit
def backward_keys_kernel(
    p_q, p_k, p_v, p_grad, p_grad_k, p_grad_v, p_by_key_partial, p_offsets, p_tiles,
    p_position_weights, p_time_weights, p_times, p_edges, p_targets, share,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, POSITION: tl.constexpr,
    TIME: tl.constexpr, TARGETS: tl.constexpr, SUM: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradients of BN keys and values: a walk over the events that see them.

    With targets and a position bias also, for each key, the sum over the targets of the gradients
    of its scores: they are all at one distance from it.
    """
    i_sequence, o_first = read_tile(p_tiles, tl.program_id(0) // H)
    i_head = tl.program_id(0) % H
    start, n = locate(p_offsets, i_sequence)
    n_history, o_last = _history(p_targets, i_sequence, n, TARGETS)
    p_q += (start * H + i_head) * D
    p_grad += (start * H + i_head) * E
    p_times += start + i_sequence
    o_k = o_first + tl.arange(0, BN)
    # [BN, BD], [BN, BE]
    b_k = load_block(p_k + (start * H + i_head) * D, o_k, n, H * D, D, True)
    b_v = load_block(p_v + (start * H + i_head) * E, o_k, n, H * E, E, True)
    b_happened = o_k
    if TIME:
        b_happened = tl.load(p_times + o_k, mask=o_k < n, other=0)
    b_grad_k = tl.zeros([BN, padded_width(D)], SUM)
    b_grad_v = tl.zeros([BN, padded_width(E)], SUM)
    b_by_key = tl.zeros([BN], SUM)
    # Queries on the diagonal, whole blocks that see all BN keys, a last partial block. Keys among
    # the targets are seen by themselves only, and a tile with both needs the mask throughout.
    o_begin, o_end = o_first // BM * BM, n
    o_whole = tl.cdiv(o_first + BN - 1, BM) * BM
    if TARGETS:
        if o_first >= n_history:
            o_end = tl.minimum(n, o_first + BN)
        if o_first + BN > n_history:
            o_whole = tl.cdiv(n, BM) * BM
    o_whole = tl.minimum(o_whole, tl.cdiv(o_end, BM) * BM)
    o_rest = tl.maximum(o_whole, o_end // BM * BM)
    for o_block in range(o_begin, o_whole, BM):
        b_grad_k, b_grad_v, b_by_key = _gather_keys(
            b_k, b_v, b_grad_k, b_grad_v, b_by_key, b_happened, p_q, p_grad, p_position_weights,
            p_time_weights, p_times, p_edges, o_k, o_block, n, n_history, o_last,
            H, D, E, POSITION, TIME, TARGETS, True, SUM, BM,
        )  # fmt: skip
    for o_block in range(o_whole, o_rest, BM):
        b_grad_k, b_grad_v, b_by_key = _gather_keys(
            b_k, b_v, b_grad_k, b_grad_v, b_by_key, b_happened, p_q, p_grad, p_position_weights,
            p_time_weights, p_times, p_edges, o_k, o_block, n, n_history, o_last,
            H, D, E, POSITION, TIME, TARGETS, False, SUM, BM,
        )  # fmt: skip
    for o_block in range(o_rest, o_end, BM):
        b_grad_k, b_grad_v, b_by_key = _gather_keys(
            b_k, b_v, b_grad_k, b_grad_v, b_by_key, b_happened, p_q, p_grad, p_position_weights,
            p_time_weights, p_times, p_edges, o_k, o_block, n, n_history, o_last,
            H, D, E, POSITION, TIME, TARGETS, True, SUM, BM,
        )  # fmt: skip
    p_grad_k += (start * H + i_head) * D
    p_grad_v += (start * H + i_head) * E
    store_block(p_grad_k, b_grad_k * share, o_k, n, H * D, D)
    store_block(p_grad_v, b_grad_v * share, o_k, n, H * E, E)
    if TARGETS and POSITION:
        p_by_key_partial += start * H + i_head
        tl.store(p_by_key_partial + o_k * H, b_by_key * share, mask=o_k < n)


@triton.jit
def _gather_keys(
    b_k, b_v, b_grad_k, b_grad_v, b_by_key, b_happened, p_q, p_grad, p_position_weights,
    p_time_weights, p_times, p_edges, o_k, o_block, n, n_history, o_last,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, POSITION: tl.constexpr,
    TIME: tl.constexpr, TARGETS: tl.constexpr, MASKED: tl.constexpr, SUM: tl.constexpr,
    BM: tl.constexpr,
):  # fmt: skip
    """What BM events add to the gradients of BN keys and values."""
    o_q = o_block + tl.arange(0, BM)
    # [BM, BD], [BM, BE]
    b_q = load_block(p_q, o_q, n, H * D, D, MASKED)
    b_grad = load_block(p_grad, o_q, n, H * E, E, MASKED)
    b_asked = o_q
    if TIME:
        b_asked = tl.load(p_times + o_q + 1, mask=o_q < n, other=0)
    b_p, b_grad_s = weights_and_gradients(
        b_q, b_k, b_v, b_grad, b_asked, b_happened, p_position_weights, p_time_weights, p_edges,
        o_q, o_k, n, n_history, o_last, POSITION, TIME, TARGETS, MASKED, SUM,
    )  # fmt: skip
    b_grad_v = tl.dot(
        tl.trans(b_p.to(b_grad.dtype)), b_grad, b_grad_v, input_precision="ieee", out_dtype=SUM
    )
    b_grad_k = tl.dot(
        tl.trans(b_grad_s.to(b_q.dtype)), b_q, b_grad_k, input_precision="ieee", out_dtype=SUM
    )
    if TARGETS and POSITION:
        b_by_key += tl.sum(tl.where(o_q[:, None] >= n_history, b_grad_s, 0.0), 0)
    return b_grad_k, b_grad_v, b_by_key


@triton.jit
def tables_kernel(
    p_q, p_k, p_v, p_grad, p_position_partial, p_time_partial, p_offsets, p_pairs, p_chunks,
    p_position_weights, p_time_weights, p_times, p_edges, p_targets, share,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, POSITION: tl.constexpr,
    TIME: tl.constexpr, TARGETS: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program's part of the gradients of the two tables.

    Pairs of tiles that are equally far apart, of whatever sequence, have the same distances at the
    same places: their gradients are added up place by place, [BLOCK, BLOCK], and the sum along the
    diagonals is left to the end. Time buckets lie anywhere, but few kinds of them in one tile: one
    masked sum for each.
    """
    i_chunk = tl.program_id(0)
    i_band = tl.load(p_chunks + 3 * i_chunk)
    i_first = tl.load(p_chunks + 3 * i_chunk + 1)
    n_pairs = tl.load(p_chunks + 3 * i_chunk + 2)
    b_position = tl.zeros([BLOCK, BLOCK], SUM)
    b_time = tl.zeros([BINS], SUM)
    o_bins = tl.arange(0, BINS)
    for i_pair in range(i_first, i_first + n_pairs):
        i_sequence = tl.load(p_pairs + 2 * i_pair)
        i_tile = tl.load(p_pairs + 2 * i_pair + 1)
        start, n = locate(p_offsets, i_sequence)
        n_history, o_last = _history(p_targets, i_sequence, n, TARGETS)
        o_q = i_tile * BLOCK + tl.arange(0, BLOCK)
        o_k = (i_tile - i_band) * BLOCK + tl.arange(0, BLOCK)
        p_row = p_times + start + i_sequence
        b_asked, b_happened = o_q, o_k
        if TIME:
            b_asked = tl.load(p_row + o_q + 1, mask=o_q < n, other=0)
            b_happened = tl.load(p_row + o_k, mask=o_k < n, other=0)
        # [BLOCK, BLOCK] of all heads together: they share the tables
        b_all = tl.zeros([BLOCK, BLOCK], SUM)
        for i_head in range(0, H):
            at = start * H + i_head
            b_q = load_block(p_q + at * D, o_q, n, H * D, D, True)
            b_k = load_block(p_k + at * D, o_k, n, H * D, D, True)
            b_v = load_block(p_v + at * E, o_k, n, H * E, E, True)
            b_grad = load_block(p_grad + at * E, o_q, n, H * E, E, True)
            _, b_grad_s = weights_and_gradients(
                b_q, b_k, b_v, b_grad, b_asked, b_happened, p_position_weights, p_time_weights,
                p_edges, o_q, o_k, n, n_history, o_last, POSITION, TIME, TARGETS, True, SUM,
            )  # fmt: skip
            b_all += b_grad_s
        if POSITION:
            if TARGETS:  # these are at other distances, and summed by key elsewhere
                b_position += tl.where(o_q[:, None] < n_history, b_all, 0.0)
            else:
                b_position += b_all
        if TIME:
            b_seen = seen(o_q, o_k, n, n_history, TARGETS) & (o_q[:, None] < n)
            b_bucket = tl.where(b_seen, bucket(b_asked, b_happened, p_edges), 0)
            i_most = tl.max(tl.max(b_bucket, 1), 0)
            i_least = tl.min(tl.min(tl.where(b_seen, b_bucket, i_most), 1), 0)
            for i_bucket in range(i_least, i_most + 1):
                total = tl.sum(tl.sum(tl.where(b_bucket == i_bucket, b_all, 0.0), 1), 0)
                b_time += tl.where(o_bins == i_bucket, total, 0.0)
    o_side = tl.arange(0, BLOCK)
    if POSITION:
        p_b = p_position_partial + i_chunk.to(tl.int64) * BLOCK * BLOCK
        tl.store(p_b + o_side[:, None] * BLOCK + o_side[None, :], b_position * share)
    if TIME:
        tl.store(p_time_partial + i_chunk * BINS + o_bins, b_time * share)
