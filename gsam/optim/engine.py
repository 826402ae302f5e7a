"""What is the same for every method: loop over this rank's groups, average them, average the ranks once."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from gsam.optim import ops
from gsam.optim.batchnorm import BatchStats
from gsam.optim.estimator import Estimator, GradFn, Step, StepStats


def estimate(
    estimator: Estimator,
    params: Sequence[Parameter],
    grad_fns: Sequence[GradFn],
    step: Step,
    batch_stats: BatchStats | None = None,
) -> StepStats:
    """Leave in every `p.grad` the estimator's gradient, averaged over the groups of this rank and over all ranks.

    grad_fns: one per group. Estimators that are not `local` take one group and expect the gradient function itself to
    average over ranks (DDP's synchronised backward). Returns the stats' means over groups and ranks, with `broken_ranks`.
    """
    if batch_stats is not None:
        batch_stats.begin()
    stats, total = [], [None] * len(params)
    for index, grad_fn in enumerate(grad_fns):
        if index and batch_stats is not None:
            batch_stats.next_part()
        stats.append(estimator(params, grad_fn, step))
        if len(grad_fns) > 1:
            _add_grads(total, params)
    if len(grad_fns) > 1:
        for p, grad in zip(params, total, strict=True):
            p.grad = None if grad is None else grad.div_(len(grad_fns))
    if batch_stats is not None:
        batch_stats.end()
    mean = StepStats(*(None if s[0] is None else torch.stack(s).mean() for s in zip(*stats, strict=True)))
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        numbers = [s for s in mean if s is not None]
        broken = numbers[0].new_zeros(dist.get_world_size())
        broken[dist.get_rank()] = (~torch.stack(numbers).isfinite()).any()
        numbers.append(broken)
        mean = mean._replace(broken_ranks=broken)
        buffers = batch_stats.buffers if batch_stats is not None else []
        if estimator.local:
            reduce_grads(params, [*numbers, *buffers])
        else:
            all_reduce_mean([*numbers, *buffers])
    return mean


def _add_grads(total: list[Tensor | None], params: Sequence[Parameter]) -> None:
    for i, p in enumerate(params):
        if p.grad is not None:
            total[i] = p.grad if total[i] is None else total[i].add_(p.grad)
        p.grad = None  # the next group's backward must not add to the banked gradient


def reduce_grads(params: Sequence[Parameter], others: Sequence[Tensor] = ()) -> None:
    """Average `p.grad` and `others` over ranks in one all-reduce, in place. A parameter without a gradient on SOME ranks counts
    as zero there; without one on ALL ranks it keeps None, so that the base optimizer leaves it alone (no weight decay)."""
    ops.refuse_sparse([p.grad for p in params if p.grad is not None], "on several ranks")
    used = torch.ones(len(params), device=params[0].device)  # filled on the device: nothing waits for a copy
    missing = [i for i, p in enumerate(params) if p.grad is None]
    for i in missing:
        used[i] = 0
        params[i].grad = torch.zeros_like(params[i])
    all_reduce_mean([p.grad for p in params] + [used, *others])
    if missing:
        for p, share in zip(params, used.tolist(), strict=True):
            if share == 0:
                p.grad = None


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Mean over ranks, in place, one flat all-reduce per dtype. Every rank must pass the same shapes in the same order."""
    world = dist.get_world_size()
    for dtype in sorted({t.dtype for t in tensors}, key=str):
        some = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.detach().reshape(-1) for t in some])
        dist.all_reduce(flat)
        flat.div_(world)
        for t, mean in zip(some, flat.split([t.numel() for t in some]), strict=True):
            t.detach().copy_(mean.view(t.shape))
