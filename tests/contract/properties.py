"""What must hold in every case of the matrix. Each function takes a Case, drives real Steppers and asserts at its end, after
the last collective, so that a failure on one rank leaves no other waiting."""

import io
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from gsam.optim import VanillaEstimator
from gsam.optim.batchnorm import tracking
from gsam.runtime import Precision
from gsam.train.stepper import Stepper
from tests.contract.matrix import METHODS, Case, advance, batches, estimator, grouped_vanilla, stepper

State = dict[str, Tensor]
RANDOM = ("dropout", "drop_path", "unused")  # nets that draw random numbers in forward


def weights(made: Stepper) -> State:
    return {k: v.detach().clone() for k, v in made.model.state_dict().items()}


def parameters(made: Stepper) -> State:
    return {k: v.detach().clone() for k, v in made.model.named_parameters()}


def assert_equal(one: State, two: State) -> None:
    differing = [k for k in one if not torch.equal(one[k], two[k])]
    assert not differing, f"not bit-identical: {differing}"


def assert_close(one: State, two: State, case: Case) -> None:
    atol = 1e-5 if case.precision is Precision.fp32 else 3e-4  # sums in another order, of rounded products
    for k in one:
        torch.testing.assert_close(one[k], two[k], rtol=1e-4, atol=atol, msg=lambda m, k=k: f"{k}: {m}")


def assert_ranks_equal(made: Stepper) -> None:
    """Every rank has rank 0's weights, buffers, loss scale and optimizer state."""
    state = made.state_dict()
    moments = [v for slots in state["base"]["state"].values() for v in slots.values() if isinstance(v, Tensor)]
    mine = torch.cat([t.double().flatten() for t in [*state["model"].values(), *moments]])
    mine = torch.cat([mine, torch.tensor([made.scaler.get_scale()], dtype=torch.float64)])
    first = mine.clone()
    dist.broadcast(first, src=0)
    same = torch.tensor(torch.equal(first, mine), dtype=torch.int32)
    dist.all_reduce(same, op=dist.ReduceOp.MIN)
    assert same, "ranks have drifted apart"


def rho_zero_is_vanilla(case: Case) -> None:
    """Bit for bit, buffers included, whatever the ascent step or lambda."""
    ours = advance(stepper(case, estimator(case, rho=0.0)), 3)
    vanilla = advance(stepper(case, grouped_vanilla(case)), 3)
    plain = advance(stepper(case, VanillaEstimator()), 3) if case.groups == 1 and case.net != "unused" else vanilla
    assert_equal(weights(ours), weights(vanilla))
    assert_equal(weights(ours), weights(plain))


def alpha_zero_is_sam(case: Case) -> None:
    """GSAM without ascent and the weighted sum with lambda = 0 are SAM, min(f, h) without ascent the plain gradient."""
    if case.method == "weighted":
        ours, expected = estimator(case, lam=0.0), "sam"
    else:
        ours = estimator(case, alpha=0.0)
        expected = {"gsam": "sam", "gsam asam": "asam", "gsam global": "sam global"}.get(case.method)
    twin = grouped_vanilla(case)
    if expected is not None:
        twin = estimator(Case(**{**vars(case), "method": expected}))
    assert_equal(weights(advance(stepper(case, ours), 3)), weights(advance(stepper(case, twin), 3)))


def weights_are_restored(case: Case) -> None:
    """The base optimizer finds the weights bit for bit as before the step, and the second pass did not."""
    made = advance(stepper(case), 1)
    before, found = parameters(made), []
    made.base.register_step_pre_hook(lambda *_: found.append(parameters(made)))
    stats = made.train_step(batches(made))
    assert_equal(before, found[0])
    if case.perturbing:
        assert stats["gap"] != 0


def weights_are_restored_when_a_pass_raises(case: Case) -> None:
    """In the first pass of all, and in the last micro-batch of the last group's last pass; the step can be taken again."""
    method = estimator(case)
    calls = method.passes * method.batches_per_step * case.groups * case.accumulate
    for call in (0, calls - 1):
        made = advance(stepper(case), 1)
        before, loss = parameters(made), made.loss
        _fail_at(made, call)
        try:
            made.train_step(batches(made))
            raised = False
        except InterruptedError:
            raised = True
        assert raised
        assert_equal(before, parameters(made))
        assert all(layer.track_running_stats for layer in tracking(made.model))
        made.loss = loss
        if case.world == 1 or case.local:  # DDP itself cannot go on after a backward that did not happen
            made.train_step(batches(made))
            assert not all(torch.equal(a, b) for a, b in zip(before.values(), parameters(made).values(), strict=True))


def a_saved_state_continues_exactly(case: Case) -> None:
    """Three steps, a file, a new Stepper, three more: bit for bit the six steps without a break."""
    whole, first, second = advance(stepper(case), 6), advance(stepper(case), 3), stepper(case)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    advance(second, 3)
    assert_equal(weights(whole), weights(second))
    assert whole.scaler.state_dict() == second.scaler.state_dict() and whole.step == second.step


def accumulation_changes_rounding_only(case: Case) -> None:
    split, whole = advance(stepper(case), 3), advance(stepper(case, accumulate=1), 3)
    assert_close(weights(split), weights(whole), case)


def ranks_agree(case: Case) -> None:
    """After 20 steps: weights, buffers, optimizer state and loss scale, bit for bit."""
    made = advance(stepper(case), 20)
    assert_ranks_equal(made)


def ranks_are_one_process(case: Case) -> None:
    """Two ranks with k groups are one process with 2k groups, to rounding. A method without groups takes the same
    micro-batches there; its BatchNorm statistics are sequential in one process, so only weights are compared."""
    made = advance(stepper(case), 3)
    alone = advance(stepper(case, alone=True, accumulate=case.accumulate * (1 if case.local else case.world)), 3)
    state = weights if case.local else parameters
    assert_close(state(made), state(alone), case)


def an_overflow_moves_nothing(case: Case) -> None:
    """inf or NaN in one element of one gradient, in either pass, on the last rank only: no rank moves, buffers included, the
    step is counted by its pass, and in fp16 all ranks back off."""
    problems = []
    for in_pass in range(estimator(case).passes):
        for value in (float("inf"), float("nan")):
            made = advance(stepper(case), 2)
            before, moments, scale = weights(made), _moments(made), made.scaler.get_scale()
            calls = in_pass * case.accumulate  # in the first group
            if made.runtime.rank == made.runtime.world - 1:
                _poison(made, calls, value)
            made.train_step(batches(made))
            found, backed_off = (in_pass + 1, value), 0.5 if case.precision is Precision.fp16 else 1.0
            if not all(torch.equal(a, b) for a, b in zip(before.values(), weights(made).values(), strict=True)):
                problems.append((*found, "weights moved"))
            if not all(torch.equal(a, b) for a, b in zip(moments, _moments(made), strict=True)):
                problems.append((*found, "the base optimizer's state moved"))
            if made.scaler.get_scale() != scale * backed_off or made.skipped != _skipped(in_pass):
                problems.append((*found, f"scale {scale} -> {made.scaler.get_scale()}, {made.skipped} skipped"))
            advance(made, 1)
            if made.skipped != _skipped(in_pass) or all(
                torch.equal(a, b) for a, b in zip(before.values(), weights(made).values(), strict=True)
            ):
                problems.append((*found, "the next step did not move"))
            if case.world > 1:
                assert_ranks_equal(made)
    assert not problems


def _skipped(in_pass: int) -> dict[str, int]:
    return {"clean": int(in_pass == 0), "sharp": int(in_pass == 1)}


def _moments(made: Stepper) -> list[Tensor]:
    return [v.clone() for s in made.base.state.values() for v in s.values() if isinstance(v, Tensor)]


def _fail_at(made: Stepper, call: int) -> None:
    """The loss raises at its `call`-th evaluation from now."""
    loss, count = made.loss, iter(range(10**6))

    def failing(*args):
        if next(count) == call:
            raise InterruptedError
        return loss(*args)

    made.loss = failing


def _poison(made: Stepper, call: int, value: float) -> None:
    """The gradient of one bias gets one non-finite element in the backward after the `call`-th loss from now."""
    loss, count = made.loss, iter(range(10**6))
    state = {"now": -1}

    def counting(*args):
        state["now"] = next(count)
        return loss(*args)

    def spoil(grad):
        if state["now"] != call:
            return grad
        grad = grad.clone()
        grad[1] = value
        return grad

    made.loss = counting
    made.model.head.bias.register_hook(spoil)


PROPERTIES: dict[str, Callable[[Case], None]] = {
    f.__name__: f
    for f in (
        rho_zero_is_vanilla, alpha_zero_is_sam, weights_are_restored, weights_are_restored_when_a_pass_raises,
        a_saved_state_continues_exactly, accumulation_changes_rounding_only, ranks_agree, ranks_are_one_process,
        an_overflow_moves_nothing,
    )
}  # fmt: skip


def holds_for(name: str, case: Case) -> bool:
    """Where a property has a meaning."""
    estimator_name = METHODS[case.method][0]
    if name == "rho_zero_is_vanilla":
        return case.perturbing
    if name == "alpha_zero_is_sam":
        return estimator_name in ("gsam", "weighted")
    if name == "accumulation_changes_rounding_only":
        return case.accumulate > 1 and case.net == "plain"
    if name == "ranks_agree":
        return case.world > 1
    if name == "ranks_are_one_process":
        return case.world > 1 and (case.local or case.net not in RANDOM)
    return True
