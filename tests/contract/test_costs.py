"""What a step costs beyond its gradients: memory, and numbers that the host waits for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gsam.optim import Step, estimate
from gsam.runtime import Precision
from tests.contract.matrix import METHODS, Case, advance, batches, estimator, stepper


class _Peak(TorchDispatchMode):
    """The most memory alive after any operation, of tensors that operations in here gave, in bytes."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {at: found for at, found in self.alive.items() if not found[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def _copies(method, groups):
    """Copies of the weights at the worst moment of two steps, beyond weights and gradients."""
    net = nn.Sequential(*(nn.Linear(300, 300, bias=False) for _ in range(4)))
    x, y = torch.randn(2, 300), torch.randint(0, 5, (2,))

    def grad_fn(*, again=False, batch=0):
        net.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss.detach()

    if hasattr(method, "bind"):
        method.bind(net.named_parameters())
    with _Peak() as worst:
        for index in (4, 5):  # 4 also looks for lost perturbations
            estimate(method, list(net.parameters()), [grad_fn] * groups, Step(index, 0.1, 0.1, 0.3))
    return worst.peak / sum(4 * p.numel() for p in net.parameters()) - 2  # views of the weights are seen too


@pytest.mark.parametrize("name", [name for name in METHODS if "global" not in name])
def test_memory_is_what_docs_methods_says(name):
    one_group = Case(name, Precision.fp32, 1, 1, 1, "plain")
    method = estimator(one_group, **({"iterations": 3} if name == "entropy_sgd" else {}))
    one, a_tensor = {"vanilla": 0, "entropy_sgd": 3}.get(name, 2), 0.5  # two of four layers for temporaries
    assert one <= _copies(method, 1) <= one + a_tensor
    if one_group.local:
        assert one + 1 <= _copies(method, 4) <= one + 1 + a_tensor


class _Reads(TorchDispatchMode):
    """How often the host asks for a number: on a GPU it waits there."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", Precision, ids=lambda p: p.name)
@pytest.mark.parametrize("groups", [1, 4])
def test_a_step_asks_for_no_more_numbers_than_vanillas(precision, groups):
    """But for the scale of a perturbation, which ops.perturbed reads on a CPU only. tests/gpu counts the waits of a device."""
    counts = {}
    for name in ("vanilla", "gsam", "asam", "weighted"):
        made = advance(stepper(Case(name, precision, 1, 1, groups if name != "vanilla" else 1, "bn")), 3)
        given = batches(made)
        with _Reads() as reads:
            made.train_step(given)  # step 3: 0, 1, 2, 4, 8, … also look for lost perturbations
        counts[name] = reads.count
    assert counts["vanilla"] > 0
    assert {counts[name] for name in ("gsam", "asam", "weighted")} == {counts["vanilla"] + groups}
