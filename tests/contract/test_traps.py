"""Known ways to get a sharpness-aware step silently wrong, one test each. Those about restored weights, replayed dropout,
overflows, and buffers that drift apart between ranks are properties of the matrix (properties.py)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

import gsam
from gsam.optim import GSAMEstimator, SAMEstimator, second_pass
from gsam.runtime import Precision
from tests.contract.matrix import Case, advance, batches, estimator, stepper
from tests.contract.properties import assert_equal, parameters, weights
from tests.ranks import run_ranks
from tests.runs import compose_train
from tests.unit.optim.tasks import tiny_data, tiny_net

FP32, BF16, FP16 = Precision


def case(method="gsam", net="plain", precision=FP32, world=1, accumulate=1, groups=1, compile=False):
    return Case(method, precision, world, accumulate, groups, net, compile)


@pytest.mark.parametrize("precision", [BF16, FP16], ids=lambda p: p.name)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_second_pass_casts_the_perturbed_weights(precision, accumulate):
    """autocast caches its casts: reused from pass 1 they make the gap vanish."""
    gaps = {}
    for p in (FP32, precision):
        c = case(precision=p, accumulate=accumulate)
        gaps[p] = stepper(c, estimator(c, rho=0.5)).train_step(batches(stepper(c)))["gap"].item()
    assert gaps[FP32] > 0.1 and gaps[precision] == pytest.approx(gaps[FP32], rel=0.1)


def test_an_autocast_block_around_the_whole_step_sees_the_perturbed_weights_too():
    losses = {}
    for place in ("inside", "around"):
        net, (x, y) = tiny_net(norm=False, dropout=0.0), tiny_data()
        opt = gsam.SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=2.0, model=net)
        losses[place] = []

        def closure(net=net, x=x, y=y, place=place):
            with torch.autocast("cpu", torch.bfloat16, enabled=True):
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            losses[place].append(loss.item())
            return loss

        with torch.autocast("cpu", torch.bfloat16, enabled=place == "around"):
            opt.step(closure)
    assert losses["inside"] == losses["around"] and losses["inside"][1] > losses["inside"][0] + 0.1


NORMS = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(3),
    "cumulative": lambda: nn.BatchNorm2d(3, momentum=None),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(3),
    "BatchNormAct2d": lambda: BatchNormAct2d(3),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(3, track_running_stats=True),
    "untracked": lambda: nn.BatchNorm2d(3, track_running_stats=False),
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_batchnorm_in_the_second_pass_has_the_same_output_and_keeps_its_buffers(kind, training):
    norm, x = NORMS[kind]().train(training), torch.randn(4, 3, 5, 5)
    expected = NORMS[kind]().train(training)(x)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    flag = norm.track_running_stats
    with second_pass(norm), second_pass(norm):
        output = norm(x)
    assert torch.equal(output, expected) and norm.track_running_stats is flag
    assert_equal(before, norm.state_dict())


@pytest.mark.parametrize("method", ["gsam", "entropy_sgd", "vanilla"])
@pytest.mark.parametrize(("groups", "accumulate"), [(1, 1), (4, 1), (1, 4), (4, 4)])
def test_batchnorm_counts_clean_passes_only(method, groups, accumulate):
    """A momentum of 0 in pass 2 would still count batches; groups and micro-batches would count once each."""
    c = case(method, "bn", groups=groups if method == "gsam" else 1, accumulate=accumulate)
    made = advance(stepper(c), 5)
    assert made.model.stem[1].num_batches_tracked == 5 * made.config.optimizer.batches_per_step


@pytest.mark.parametrize("world", [1, 2])
def test_a_layer_is_never_restored_from_an_earlier_step(world):
    """Layers that take part in some passes only are where a stale copy of the weights would surface."""
    assert all(r == {"moved": 0} for r in ([_stale(0, 1)] if world == 1 else run_ranks(2, _stale, 2)))


def _stale(rank, world):
    made = stepper(case("sam", "unused", world=world, groups=4))
    found, moved = [], 0
    made.base.register_step_pre_hook(lambda *_: found.append(parameters(made)))
    for _ in range(8):
        before = parameters(made)
        made.train_step(batches(made))
        moved += not all(torch.equal(a, found[-1][k]) for k, a in before.items())
    return {"moved": moved}


@pytest.mark.parametrize("method", ["vanilla", "sam", "gsam", "weighted", "entropy_sgd"])
@pytest.mark.parametrize("net", ["unused", "frozen"])
def test_a_parameter_without_gradient_neither_moves_nor_decays(method, net):
    """AdamW would decay it if its gradient were zero instead of None."""
    made = stepper(case(method, net, groups=4 if method in ("sam", "gsam", "weighted") else 1))
    before = parameters(made)
    advance(made, 6)
    still = {"unused": ("never.weight", "never.bias"), "frozen": ("stem.0.weight", "stem.0.bias")}[net]
    after = parameters(made)
    assert all(torch.equal(before[k], after[k]) for k in still)
    assert not torch.equal(before["block.0.weight"], after["block.0.weight"])
    assert all(made.model.get_parameter(k).grad is None for k in still)


def test_on_two_ranks_a_parameter_unused_everywhere_does_not_decay_and_one_used_somewhere_agrees():
    for result in run_ranks(2, _unused_on_ranks):
        assert result == {"never": True, "sometimes": True, "skipped step": True}


def _unused_on_ranks(rank):
    made = stepper(case("gsam", "unused", world=2))
    made.model.plan = [False] * 2
    advance(made, 1)  # its learning rate is 0
    before = parameters(made)
    made.model.plan = [rank == 0] * 2  # only rank 0 has a gradient: the mean is half of it, on both
    made.train_step(batches(made))
    after = parameters(made)
    grad = made.model.sometimes.weight.grad
    mean = grad.clone()
    torch.distributed.broadcast(mean, src=0)
    made.model.plan = [False] * 2
    made.train_step(batches(made))
    return {
        "never": torch.equal(before["never.weight"], after["never.weight"]),
        "sometimes": torch.equal(mean, grad) and not torch.equal(before["sometimes.weight"], after["sometimes.weight"]),
        "skipped step": torch.equal(after["sometimes.weight"], made.model.sometimes.weight),
    }


@pytest.mark.parametrize(("plan", "factor"), [([True, False], 0.0), ([False, True], 1.0)])
def test_a_parameter_used_in_one_pass_only_counts_as_zero_in_the_other(plan, factor):
    """SAM uses the sharp gradient: zero where only pass 1 had one; where only pass 2 has one, the layer is not perturbed."""
    c = case("sam", "unused")
    made = stepper(c)
    made.model.plan = list(plan)
    seen = []
    made.model.sometimes.register_forward_pre_hook(lambda m, _: seen.append(m.weight.detach().clone()))
    before = made.model.sometimes.weight.detach().clone()
    (batch,) = batches(made)
    grads = []
    made.base.register_step_pre_hook(lambda *_: grads.append(made.model.sometimes.weight.grad.clone()))
    made.train_step([batch])
    assert (grads[0].abs().sum() > 0) == bool(factor)
    assert len(seen) == 1 and torch.equal(seen[0], before)


def test_the_loss_scale_changes_nothing():
    """The perturbation's direction is scale-free and the decomposition linear: one unscaling, at the end."""
    results, numbers = [], []
    for scale in (2.0**4, 2.0**8):
        made = stepper(case("gsam", "bn", FP16, groups=4))
        made.scaler.load_state_dict({**made.scaler.state_dict(), "scale": scale})
        numbers += [made.train_step(batches(made))]
        results.append(weights(advance(made, 3)))
        assert made.skipped == {"clean": 0, "sharp": 0}
    for k in results[0]:
        torch.testing.assert_close(results[0][k], results[1][k], rtol=1e-3, atol=1e-4)
    for key in ("grad_norm", "clean_norm", "sharp_norm", "gap", "cos"):
        assert numbers[0][key].item() == pytest.approx(numbers[1][key].item(), rel=2e-2), key


def test_a_checkpoint_holds_the_base_optimizer_and_nothing_of_the_perturbation():
    plain, ours = (
        advance(stepper(case(method, "bn", groups=g)), 2).state_dict() for method, g in (("vanilla", 1), ("gsam", 4))
    )
    for state in (plain, ours):
        assert all(slots.keys() == {"momentum_buffer"} for slots in state["base"]["state"].values())
    assert plain.keys() == ours.keys() and plain["model"].keys() == ours["model"].keys()


@pytest.mark.parametrize("groups", [1, 4])
def test_clipping_acts_on_the_final_averaged_gradient(groups):
    """Clipping a pass or a group would change the direction."""
    grads = {}
    for clip in (None, 0.01):
        made = stepper(case("gsam", groups=groups))
        made.config.train.clip_norm = clip
        made.base.register_step_pre_hook(
            lambda *_, made=made, clip=clip: grads.update(
                {clip: torch.cat([p.grad.flatten() for p in made.params]).double()}
            )
        )
        norm = made.train_step(batches(made))["grad_norm"].item()
        assert norm == pytest.approx(grads[None].norm().item(), rel=1e-5) and norm > 0.02
    torch.testing.assert_close(grads[0.01], grads[None] * 0.01 / grads[None].norm(), rtol=1e-4, atol=1e-9)
    assert grads[0.01].norm().item() == pytest.approx(0.01, rel=1e-3)


def test_entropy_sgd_sees_a_new_batch_in_each_inner_step_and_counts_its_images():
    c = case("entropy_sgd")
    made = stepper(c, estimator(c, iterations=3))
    made.config.train.epochs = "3ep"
    seen = []
    made.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].double().sum().item()))
    given = batches(made)
    made.train_step(given)
    assert seen == [made.augment.normalize(x).double().sum().item() for x, _ in given] and len(set(seen)) == 3
    assert made.steps("3ep", "ep") == 3 * 256 // (16 * 3)


def test_entropy_sgd_takes_the_same_inner_path_on_all_ranks():
    """Inner gradients are averaged over ranks: averaging the ends of separate paths is another algorithm."""
    c = case("entropy_sgd", world=2)
    settings = {"iterations": 4, "inner_lr": 0.5, "noise": 0.0}
    alone = parameters(advance(stepper(c, estimator(c, **settings), alone=True, accumulate=2), 4))
    for result in run_ranks(2, _inner_path, settings):
        for k, value in result.items():
            torch.testing.assert_close(value, alone[k], rtol=1e-5, atol=1e-6)


def _inner_path(rank, settings):
    c = case("entropy_sgd", world=2)
    return parameters(advance(stepper(c, estimator(c, **settings)), 4))


def test_random_numbers_are_replayed_in_pass_2_and_new_everywhere_else():
    """In every step, group and micro-batch."""
    made = stepper(case("sam", "dropout", accumulate=2, groups=2))
    masks = []
    made.model.dropout.register_forward_hook(lambda m, args, out: masks.append((out != 0).flatten().tolist()))
    advance(made, 2)
    pairs = [
        (masks[i], masks[i + 2]) for start in (0, 4, 8, 12) for i in (start, start + 1)
    ]  # passes have 2 micro-batches
    assert len(masks) == 16 and all(one == two for one, two in pairs)
    assert len({tuple(one) for one, _ in pairs}) == 8


def test_the_configuration_refuses_entropy_sgd_in_fp16():
    with pytest.raises(ValueError, match="fp16's loss scaling hides: use bf16"):
        compose_train("optimizer=entropy_sgd", "train.precision=fp16")


def test_compiled_and_wrapped_models_save_plain_names():
    """DDP goes around the compiled module, not the other way round; `module.` and `_orig_mod.` stay out of checkpoints."""
    names = {name for name, _ in stepper(case("vanilla", "bn")).model.state_dict().items()}
    for result in run_ranks(2, _names):
        assert set(result["names"]) == names and result["order"] and not result["static"]


def _names(rank):
    made = stepper(case("vanilla", "bn", world=2, compile=True))
    return {
        "names": list(made.state_dict()["model"]),
        "order": hasattr(made.forward.module, "_orig_mod") and made.forward.module._orig_mod is made.model,
        "static": made.forward.static_graph,
    }


@pytest.mark.parametrize("change", ["double", "channels_last", "to_and_back"])
def test_a_model_that_was_moved_or_reformatted_between_steps_is_perturbed_still(change):
    """Anything kept from the step before (views, copies, room for the moved weights) no longer fits the parameters."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    x, y = torch.randn(6, 3, 8, 8), torch.randint(0, 5, (6,))

    def run(net, opt, x):
        losses = []

        def closure():
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            losses.append(loss.item())
            return loss

        opt.step(closure)
        return losses

    def make(net):
        return gsam.GSAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.3, 0.3, alpha=0.2, lr_max=0.1, model=net)

    opt = make(net)
    run(net, opt, x)
    if change == "double":
        net.double()
        x = x.double()
    elif change == "channels_last":
        net.to(memory_format=torch.channels_last)
    else:
        net.double().float()
    fresh = copy.deepcopy(net)
    expected = run(fresh, make(fresh), x)
    assert run(net, opt, x) == expected and expected[1] > expected[0]
    assert_equal(dict(fresh.state_dict()), dict(net.state_dict()))


@pytest.mark.parametrize("method", ["gsam", "entropy_sgd"])
def test_images_in_ffcvs_reused_buffers_are_those_of_the_loader_in_every_pass(method, fashion_root, tmp_path):
    """FFCV refills its output buffers as soon as the next batch is asked for: a batch that is kept must be a copy."""
    pytest.importorskip("ffcv")
    from gsam.data import Backend, build_loader
    from gsam.runtime import Runtime
    from gsam.train.trainer import Trainer

    # Twelve batches of one epoch in a step: more than FFCV has buffers.
    many = ["optimizer.iterations=12"] if method == "entropy_sgd" else []
    config = compose_train(
        f"optimizer={method}", *many, "data.backend=ffcv", "data.limit_train=240", "data.limit_eval=20",
        "train.batch_size=20", "train.epochs=2st", "train.eval_every=2st", "schedule.warmup_steps=0",
        f"paths.fashion_mnist={fashion_root}", f"run.root={tmp_path}",
    )  # fmt: skip
    trainer, seen = Trainer(config, Runtime(torch.device("cpu"))), []
    trainer.model.register_forward_pre_hook(
        lambda m, args: seen.append(args[0].double().sum().item()) if m.training else None
    )
    trainer.fit()
    config.data.backend = Backend.folder
    loader = build_loader(config.data, config.augment, "train", batch_size=20, rank=0, world=1, seed=0, train=True)
    normalize, passes = trainer.stepper.augment.normalize, config.optimizer.passes
    count = 2 * config.optimizer.batches_per_step
    expected = [normalize(x).double().sum().item() for epoch in range(2) for x, _ in loader.epoch(epoch)][:count]
    assert seen == [value for value in expected for _ in range(passes)] and len(set(expected)) == count


def test_two_ranks_perturb_separately_unless_the_scope_is_global():
    """If pass 1 were synchronised (no_sync entered after the forward, say), both scopes would train alike."""
    results = run_ranks(2, _scopes)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    group, whole = results[0]
    assert (group - whole).abs().max() > 1e-4


def _scopes(rank):
    return [
        torch.cat([p.flatten() for p in parameters(advance(stepper(case(m, "plain", world=2)), 4)).values()])
        for m in ("gsam", "gsam global")
    ]


def test_estimators_have_the_ascent_direction_from_the_gradients_own_weights():
    """A second step must not reuse the first one's direction: each step's perturbation follows its own clean gradient."""
    for method in (SAMEstimator(rho=0.4), GSAMEstimator(rho=0.4)):
        made = stepper(case("sam"), method)
        moved = []
        made.model.head.register_forward_pre_hook(lambda m, _, moved=moved: moved.append(m.bias.detach().clone()))
        for _ in range(2):
            made.train_step(batches(made))
        first, second = moved[1] - moved[0], moved[3] - moved[2]
        assert not torch.allclose(first, second) and first.norm() > 0 and second.norm() > 0
