"""Losses of next-item prediction: the full softmax, and the softmax over sampled negatives.

The first two are for dot products and take L2-normalised queries and items, so that the item
table is normalised once a step and not once for every row that is gathered from it; the third
takes any similarity. All work on a chunk of positions at a time and compute the gradients on the
way: neither the (T, N) matrix of logits nor a mixture's (T, R, P) ever exists.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genrec_lite.similarity.interface import Similarity
from genrec_lite.similarity.sides import Side, side_of, tensors_of

__all__ = [
    "full_softmax_loss",
    "grouped_softmax_loss",
    "load_balancing_loss",
    "sampled_softmax_loss",
    "uniform_negatives",
]

# Positions treated at once: a few hundred rows of a few thousand logits stay near one core.
# Measured flat between 64 and 512.
CHUNK = 256
# Rows are gathered one by one only when the corpus is this many times larger than the sample:
# below, one matmul over all items is cheaper than moving the sampled rows (see chapter 2).
GATHER_FROM = 15
# Positions whose rows are gathered at once: 129 rows of 50 numbers each are 3.3 MB for 128. Half as
# many took a sixth longer.
GATHER_CHUNK = 128
NO_POSITION = "no position to predict: the batch's rows hold fewer than two items each"


def full_softmax_loss(
    queries: Tensor, items: Tensor, targets: Tensor, *, temperature: float = 0.05
) -> Tensor:
    """Mean cross-entropy of each target against the whole corpus.

    Args:
        queries: (T, d) query embeddings, L2-normalised.
        items: (N, d) item embeddings, L2-normalised.
        targets: (T,) int64 in [0, N), the item that came next.
        temperature: divides the dot products; 0.05 in the public HSTU and SASRec runs.
    Returns:
        scalar, natural logarithm; log(N) where all scores are equal.
    Raises:
        ValueError: if there is no position, a target is not in the table, or the temperature is
            not above 0.
        RuntimeError: in the backward pass, if it is asked to be differentiable itself.
    """
    _check(queries, items, targets, temperature)
    return _applied(_FullSoftmax, queries, items, targets, temperature)


def sampled_softmax_loss(
    queries: Tensor,
    items: Tensor,
    targets: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.05,
) -> Tensor:
    """Mean cross-entropy of each target against its own sampled negatives (HSTU paper, 4.1.1).

    A negative that equals its own target is left out of the sum.

    Args:
        queries, items, targets, temperature: as in `full_softmax_loss`.
        negatives: (T, R) int64 item indices, for instance of `uniform_negatives`.
    Returns:
        scalar, natural logarithm; log(1 + R) where all scores are equal.
    Raises:
        ValueError, RuntimeError: as `full_softmax_loss`; also if a negative is not in the table.
    """
    _check(queries, items, targets, temperature)
    if negatives.ndim != 2 or len(negatives) != len(targets):
        raise ValueError(f"negatives {tuple(negatives.shape)} for {len(targets)} targets: (T, R)")
    _check_range("negative", negatives, len(items))
    return _applied(_SampledSoftmax, queries, items, targets, negatives, temperature)


def grouped_softmax_loss(
    similarity: Similarity,
    queries: Side,
    items: Side,
    targets: Tensor,
    own: Tensor,
    negatives: Tensor,
) -> Tensor:
    """Mean cross-entropy of each target against negatives that a group of positions shares.

    A learned similarity costs thousands of operations a pair and an item's side hundreds of
    numbers: R negatives for each position would be T R gathered sides. Here G groups of
    consecutive positions draw R negatives each. A negative that equals a position's own target
    is left out of its sum.

    Args:
        similarity: gives the scores of the negatives.
        queries: T query sides.
        items: N item sides.
        targets: (T,) int64 in [0, N), the item that came next.
        own: (T,) scores of the targets, of `similarity.score_pairs`.
        negatives: (G, R) int64 item indices; group g is the g-th of the T positions cut into G
            runs of ceil(T / G).
    Returns:
        scalar, natural logarithm; log(1 + R) where all scores are equal.
    Raises:
        ValueError: if there is no position, an index is not in the table, or the shapes differ.
        RuntimeError: in the backward pass, if it is asked to be differentiable itself.
    """
    if len(queries) == 0:
        raise ValueError(NO_POSITION)
    if targets.shape != (len(queries),) or own.shape != targets.shape:
        raise ValueError(
            f"targets {tuple(targets.shape)} and own scores {tuple(own.shape)} for "
            f"{len(queries)} queries: expected (T,) each"
        )
    if negatives.ndim != 2 or negatives.numel() == 0:
        raise ValueError(f"negatives {tuple(negatives.shape)}: expected (G, R), at least (1, 1)")
    _check_range("target", targets, len(items))
    _check_range("negative", negatives, len(items))
    parts, sides = tensors_of(queries), tensors_of(items)
    learned = [p for p in similarity.parameters() if p.requires_grad]
    return _GroupedSoftmax.apply(
        (similarity, tuple(parts), tuple(sides), learned),
        targets, negatives, own, *parts.values(), *sides.values(), *learned,
    )  # fmt: skip


def load_balancing_loss(weights: Tensor) -> Tensor:
    """Mutual information of pair and component, negated (Ding and Zhai 2024, section 2.3).

    -H(mean weights) + mean H(weights): lowest, -log P, where each pair is sure of its component
    and all P components are used equally often; 0 where all pairs have the same weights.

    Args:
        weights: (n, P), rows that sum to 1.
    Returns:
        scalar in [-log P, 0], natural logarithm.
    Raises:
        ValueError: if there is no pair.
    """
    if len(weights) == 0:
        raise ValueError("no pair to balance the gate over: weights has no row")
    return _entropy(weights).mean() - _entropy(weights.mean(0))


def _entropy(weights: Tensor) -> Tensor:
    """Entropy of each row of weights; a dropped weight of 0 adds 0 and has a finite gradient."""
    return -(weights * weights.clamp(min=torch.finfo(weights.dtype).tiny).log()).sum(-1)


def uniform_negatives(
    num_positions: int,
    num_negatives: int,
    num_items: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(T, R) item indices drawn uniformly with replacement, new ones for every position."""
    shape = (num_positions, num_negatives)
    return torch.randint(num_items, shape, generator=generator, device=device)


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy over all items, chunk by chunk; the backward pass only scales."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, items: Tensor, targets: Tensor, temperature: float
    ) -> Tensor:
        total, scale = _zero(queries), 1 / (temperature * len(queries))
        learning = any(ctx.needs_input_grad)
        grad_queries, grad_items = torch.empty_like(queries), torch.zeros_like(items)
        guarded = _may_overflow(queries, items, temperature)  # not with unit vectors at .05
        items_t = items.t().contiguous()
        buffer = queries.new_empty(min(CHUNK, len(queries)), len(items))
        for start in range(0, len(queries), CHUNK):
            q, target = queries[start : start + CHUNK], targets[start : start + CHUNK]
            logits = torch.mm(q / temperature, items_t, out=buffer[: len(q)])  # (c, N)
            own = logits.gather(1, target[:, None])
            if guarded:
                largest = logits.amax(1, keepdim=True)
                logits.sub_(largest)
                own.sub_(largest)
            weights = logits.exp_()  # the one pass of exp, for loss and gradient
            mass = weights.sum(1, keepdim=True)
            total += (mass.log() - own).sum(dtype=total.dtype)
            if learning:
                # d loss / d logits = weights / mass - one-hot; the rows are scaled where they are
                # d wide and not where they are N wide.
                out = torch.mm(weights, items, out=grad_queries[start : start + CHUNK])
                out.div_(mass).sub_(items[target]).mul_(scale)
                grad_items.addmm_(weights.t(), q / mass, alpha=scale)
                grad_items.index_add_(0, target, q, alpha=-scale)
        if learning:
            ctx.save_for_backward(grad_queries, grad_items)
        return total / len(queries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _scaled(ctx, grads[0])


class _SampledSoftmax(torch.autograd.Function):
    """Cross-entropy over target and sampled negatives, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor,
        targets: Tensor,
        negatives: Tensor,
        temperature: float,
    ) -> Tensor:
        total, scale = _zero(queries), 1 / (temperature * len(queries))
        learning = any(ctx.needs_input_grad)
        grad_queries, grad_items = torch.empty_like(queries), torch.zeros_like(items)
        num_candidates = negatives.shape[1] + 1
        gather = len(items) > GATHER_FROM * num_candidates
        chunk = min(GATHER_CHUNK if gather else CHUNK, len(queries))
        items_t = items.t().contiguous()
        wide = num_candidates * items.shape[1] if gather else len(items)
        buffer = queries.new_empty(chunk, wide)
        for start in range(0, len(queries), chunk):
            q, target = queries[start : start + chunk], targets[start : start + chunk, None]
            negative = negatives[start : start + chunk]
            candidates = torch.cat([target, negative], 1)  # (c, 1 + R)
            if gather:
                rows = buffer[: len(q)].view(*candidates.shape, -1)  # (c, 1 + R, d)
                torch.index_select(items, 0, candidates.flatten(), out=rows.flatten(0, 1))
                # One row times a matrix: nine times as fast as a matrix times one column.
                logits = torch.bmm(q[:, None], rows.mT).squeeze(1)
            else:
                every = torch.mm(q, items_t, out=buffer[: len(q)])  # (c, N)
                logits = every.gather(1, candidates)
            logits.div_(temperature)
            logits[:, 1:].masked_fill_(negative == target, float("-inf"))
            log_probabilities = logits.log_softmax(1)
            total -= log_probabilities[:, 0].sum(dtype=total.dtype)
            if not learning:
                continue
            grad = log_probabilities.exp_().mul_(scale)
            grad[:, 0] -= scale
            out = grad_queries[start : start + chunk]
            if gather:
                torch.bmm(grad[:, None], rows, out=out[:, None])
                torch.mul(grad[:, :, None], q[:, None], out=rows)  # what each row is to gain
                grad_items.index_add_(0, candidates.flatten(), rows.flatten(0, 1))
            else:
                every = buffer[: len(q)].zero_().scatter_add_(1, candidates, grad)
                torch.mm(every, items, out=out)
                grad_items.addmm_(every.t(), q)
        if learning:
            ctx.save_for_backward(grad_queries, grad_items)
        return total / len(queries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _scaled(ctx, grads[0])


class _GroupedSoftmax(torch.autograd.Function):
    """Cross-entropy of targets against their group's negatives, group by group.

    Each group runs forward and backward before the next one begins, so that at most one group's
    component logits and hidden layers are held, and those stay in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, how: Any, targets: Tensor, negatives: Tensor, own: Tensor, *tensors: Tensor
    ) -> Tensor:
        similarity, query_names, item_names, learned = how
        first_item = len(query_names)
        first_learned = first_item + len(item_names)
        queries, items = tensors[:first_item], tensors[first_item:first_learned]
        learning = any(ctx.needs_input_grad)
        grads = [torch.zeros_like(t) for t in (own, *tensors)] if learning else []
        total, run = _zero(own), -(-len(targets) // len(negatives))
        for start, rivals in zip(range(0, len(targets), run), negatives, strict=False):
            rows = slice(start, start + run)
            with torch.set_grad_enabled(learning):
                q = [t[rows].detach().requires_grad_(learning) for t in queries]
                x = [t[rivals].detach().requires_grad_(learning) for t in items]
                mine = own[rows].detach().requires_grad_(learning)
                scores = similarity.score(
                    side_of(dict(zip(query_names, q, strict=True))),
                    side_of(dict(zip(item_names, x, strict=True))),
                )  # (run, R)
                scores = scores.masked_fill(rivals == targets[rows, None], float("-inf"))
                every = torch.cat([mine[:, None], scores], 1)
                loss = (every.logsumexp(1) - mine).sum()
            total += loss.detach()
            if not learning:
                continue
            found = torch.autograd.grad(loss, [mine, *q, *x, *learned], allow_unused=True)
            for place, (grad, part) in enumerate(zip(grads, found, strict=True)):
                if part is None:  # a network of the queries' or items' own side
                    continue
                if place <= first_item:
                    grad[rows] = part
                elif place <= first_learned:
                    grad.index_add_(0, rivals, part)
                else:
                    grad += part
        if learning:
            ctx.save_for_backward(*(grad.div_(len(targets)) for grad in grads))
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        _refuse_second_derivative()
        return None, None, None, *(grad * grads[0] for grad in ctx.saved_tensors)


def _applied(
    function: type[torch.autograd.Function], queries: Tensor, items: Tensor, *rest: Tensor | float
) -> Tensor:
    """The loss without autocast, whose matmuls would not fit the buffers they write into."""
    dtype = torch.promote_types(queries.dtype, items.dtype)
    with torch.autocast(queries.device.type, enabled=False):
        return function.apply(queries.to(dtype), items.to(dtype), *rest)


def _may_overflow(queries: Tensor, items: Tensor, temperature: float) -> bool:
    """Whether exp of a logit, or a sum of such, may leave the dtype's range.

    It may not in float32 where both sides have length 1 and the temperature is .05: no logit is
    above 20. Half of the range is for logits as far below 0. A loss that is next to nothing is
    then right to 1e-6, not to its own last digit.
    """
    longest = [torch.linalg.vector_norm(x, dim=1).max().item() for x in (queries, items)]
    largest_logit = longest[0] * longest[1] / temperature
    of_sum = math.log(torch.finfo(queries.dtype).max) - math.log(len(items))
    return not largest_logit <= of_sum / 2


def _zero(queries: Tensor) -> Tensor:
    """What losses are added up in: float32 at least, as a sum of thousands needs."""
    return queries.new_zeros((), dtype=torch.promote_types(queries.dtype, torch.float32))


def _scaled(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of queries and items that the forward pass has computed, times `grad`."""
    _refuse_second_derivative()
    grad_queries, grad_items = ctx.saved_tensors
    no_gradient = (None,) * (len(ctx.needs_input_grad) - 2)
    return grad_queries * grad, grad_items * grad, *no_gradient


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():  # create_graph=True: these gradients know no graph
        raise RuntimeError("this loss has no second derivative: use F.cross_entropy")


def _check(queries: Tensor, items: Tensor, targets: Tensor, temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it divides the scores, so above 0")
    if len(queries) == 0:
        raise ValueError(NO_POSITION)
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"queries {tuple(queries.shape)} and items {tuple(items.shape)}: "
            "expected (T, d) and (N, d) with the same d"
        )
    if targets.shape != (len(queries),):
        raise ValueError(
            f"targets {tuple(targets.shape)} for {len(queries)} queries: expected (T,)"
        )
    _check_range("target", targets, len(items))


def _check_range(name: str, indices: Tensor, num_items: int) -> None:
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= num_items):
        wrong = indices[(indices < 0) | (indices >= num_items)][0]
        raise ValueError(f"{name} {int(wrong)} is outside the table of {num_items} items")
