"""Floats that torch's operations read and write, counted as they are dispatched."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NOT_READ = ("copy_", "_foreach_copy_", "normal_", "zero_", "fill_")  # what they write
NO_TRAFFIC = ("empty_like", "detach")
ONLY_WRITTEN = ("zeros_like",)


class Moved(TorchDispatchMode):
    """As a context; `floats` then has the sum. Every operation reads its arguments and writes its results, once each."""

    floats = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs := kwargs or {}))
        namespace, name = func._schema.name.split("::")
        reads, writes, view = {}, 0, False
        for i, argument in enumerate(func._schema.arguments):
            tensors = _tensors(args[i] if i < len(args) else kwargs.get(argument.name))
            alias = argument.alias_info
            if alias is not None and alias.is_write:
                writes += sum(t.numel() for t in tensors)
                if name in NOT_READ or argument.is_out:
                    continue
            view = view or alias is not None and not alias.is_write
            reads |= {t.data_ptr(): t.numel() for t in tensors}
        if view or namespace != "aten" or name in NO_TRAFFIC:
            return result
        if not writes:
            writes = sum(t.numel() for t in _tensors(result))
        self.floats += writes + (0 if name in ONLY_WRITTEN else sum(reads.values()))
        return result


def moved(job: Callable[[], object], weights: int) -> float:
    """Floats per weight."""
    with Moved() as counter:
        job()
    return counter.floats / weights


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
