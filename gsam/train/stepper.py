"""One training step, on one screen, and everything it needs: model, optimizer, schedules, loss scaling, moving average."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gsam.augment import OnDevice
from gsam.config import Config
from gsam.losses import build_loss
from gsam.models import build_model
from gsam.optim import BatchStats, GradFn, Schedules, Scope, Step, StepStats, build_base, estimate, second_pass
from gsam.optim.estimator import Perturbing
from gsam.optim.schedule import Follow
from gsam.runtime import Precision, Runtime, seed_for
from gsam.train.settings import Duration, NonFinite

Batch = tuple[Tensor, ...]  # images and labels; with augmentation that asks for them, the pictures' keys
MAX_SKIPPED = 40  # in a row; fp16's loss scale starts at 2^16 and halves at each overflow
# BatchStats averages the buffers. Newer torch has another name for the option and warns at the old one.
_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_OWN_BUFFERS = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}


class Stepper:
    """Knows nothing of loaders, files and logs. `num_examples`: images of the training set, for durations in epochs."""

    def __init__(self, config: Config, runtime: Runtime, *, num_classes: int, num_examples: int):
        train, device = config.train, runtime.device
        self.config, self.runtime, self.num_examples = config, runtime, num_examples
        self.local_batch = train.batch_size // runtime.world
        model = build_model(config.model, num_classes=num_classes, image_size=config.augment.size, seed=train.seed)
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=layout)
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.ema = _ema(self.model, config.ema.decay)
        self.base = build_base(config.base, self.model)
        self.estimator = config.optimizer
        if hasattr(self.estimator, "bind"):
            self.estimator.bind(self.model.named_parameters())
        # Compile before DDP wraps: one compiled backward inside DDP keeps its overlapped reduction.
        self.forward = torch.compile(self.model) if train.compile else self.model
        if runtime.world > 1 and not self.estimator.local:
            # Without DDP where every pass is this rank's own: its buckets would only take memory.
            ids = [runtime.local_rank] if device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.forward, device_ids=ids, **_OWN_BUFFERS)
        self.scaler = runtime.scaler(train.precision)
        self.loss = build_loss(train.loss, train.label_smoothing, num_classes)
        self.batch_stats = BatchStats(self.model)
        self.group_size = getattr(self.estimator, "group_size", None) or self.local_batch
        self.augment = OnDevice(
            config.augment, device, seed=train.seed, num_classes=num_classes, group_size=self.group_size,
            channels_last=train.channels_last,
        )  # fmt: skip
        self.total_steps = self.steps(train.epochs, "ep")
        if self.total_steps < 1:
            raise ValueError(f"train.epochs={train.epochs} is less than one step of {images_per_step(config)} images")
        self.schedules = schedules(config, self.total_steps, self.steps(config.schedule.warmup_steps, "st"))
        self.step, self.skipped_in_row = 0, 0
        self.skipped = {"clean": 0, "sharp": 0}  # steps, by the pass that was not finite

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One optimizer step on this rank's images uint8 (B, 3, H, W), labels (B,) and, where the augmentation needs them, keys
        (B, 2): one batch, or as many as the method takes per step. Returns 0-dim tensors by name, none for a step that was
        skipped (see `skip`)."""
        step = Step(self.step, *self.schedules.at(self.step), self.config.train.seed)
        for group in self.base.param_groups:
            group["lr"] = step.lr
        batches = [self.augment(*batch, step=self.step, part=k) for k, batch in enumerate(batches)]
        groups = [list(zip(x.split(self.group_size), y.split(self.group_size), strict=True)) for x, y in batches]
        grad_fns = [self.grad_fn(i, group) for i, group in enumerate(zip(*groups, strict=True))]
        stats = estimate(self.estimator, self.params, grad_fns, step, self.batch_stats)
        scale = self.scaler.scale(torch.ones((), device=self.runtime.device))
        self.scaler.unscale_(self.base)
        grad_norm = self.clip()
        finite = bool(grad_norm.isfinite())  # the one wait for the GPU per step, with and without loss scaling
        if finite:
            self.base.step()
        else:
            self.skip(stats)
        self.scaler.update()
        if self.ema is not None and finite:
            self.ema.update(self.model, self.step)
        self.step, self.skipped_in_row = self.step + 1, self.skipped_in_row * (not finite)
        return numbers(stats, grad_norm, scale) if finite else {}

    def skip(self, stats: StepStats) -> None:
        """Nothing moves, on any rank. Raises FloatingPointError where the run is to stop, or cannot go on."""
        self.batch_stats.undo()
        broken_first = stats.sharp_loss is None or not stats.loss.isfinite() or not stats.clean_norm.isfinite()
        which = "clean" if broken_first else "sharp"
        self.skipped[which] += 1
        self.skipped_in_row += 1
        fp16 = self.config.train.precision is Precision.fp16
        if self.skipped_in_row < MAX_SKIPPED and (fp16 or self.config.train.non_finite is NonFinite.skip):
            return
        ranks = [] if stats.broken_ranks is None else stats.broken_ranks.nonzero().flatten().tolist()
        raise FloatingPointError(
            f"step {self.step}: the loss or gradient of the {which} pass is not finite"
            + (f" on rank {', '.join(map(str, ranks))} of {self.runtime.world}" if ranks else "")
            + f" ({self.skipped_in_row} such step(s) in a row); the weights are those before it. Lower base.lr or the "
            "radius, add warm-up (schedule.warmup_steps) or train.clip_norm"
            + ("; or use train.precision=bf16" if fp16 else "; train.non_finite=skip leaves such steps out")
        )

    def grad_fn(self, group: int, batches: Sequence[Batch]) -> GradFn:
        """The gradient function of one group; `batches`: its share of each of the step's batches."""
        count = self.config.train.accumulate
        first = self.runtime.rank * (self.local_batch // self.group_size)

        def run(*, again: bool = False, batch: int = 0) -> Tensor:
            self.base.zero_grad(set_to_none=True)
            if batch:  # a later batch of the step continues from the statistics of the one before
                self.batch_stats.end()
            losses = []
            with second_pass(self.model) if again else nullcontext():
                for k, (x, y) in enumerate(zip(*(t.chunk(count) for t in batches[batch]), strict=True)):
                    if k and not again:
                        self.batch_stats.next_part()
                    # The same numbers in both passes, for any number of ranks, and after a restart.
                    torch.manual_seed(seed_for(self.config.train.seed, self.step, first + group, batch * count + k))
                    with self.no_sync(last=k == count - 1):
                        with self.runtime.autocast(self.config.train.precision):
                            loss = self.loss(self.forward(x), y)
                        self.scaler.scale(loss / count).backward()
                    losses.append(loss.detach())
            return torch.stack(losses).mean()

        return run

    def no_sync(self, last: bool) -> AbstractContextManager:
        """DDP reduces in the last micro-batch's backward only."""
        return (
            nullcontext() if last or not isinstance(self.forward, DistributedDataParallel) else self.forward.no_sync()
        )

    def clip(self) -> Tensor:
        """Clip the final gradient; returns its L2 norm before that, shape ()."""
        grads = [p.grad for p in self.params if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self.config.train.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.params, self.config.train.clip_norm, norm)
        return norm

    def steps(self, text: str | None, unit: str) -> int | None:
        """Optimizer steps of a duration; None stays None."""
        if text is None:
            return None
        return Duration.parse(text, unit).steps(self.num_examples, images_per_step(self.config))

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next steps: tensors and plain data."""
        return {
            "model": self.model.state_dict(), "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "base": self.base.state_dict(), "scaler": self.scaler.state_dict(), "step": self.step, "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.base.load_state_dict(state["base"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.skipped, self.skipped_in_row = (state[k] for k in ("step", "skipped", "skipped_in_row"))


def effective_m(config: Config, world: int) -> int | None:
    """Images that share one perturbation; None for methods without one."""
    method = config.optimizer
    if not isinstance(method, Perturbing):
        return None
    if method.scope is not Scope.group:
        return config.train.batch_size
    return method.group_size or config.train.batch_size // world


def images_per_step(config: Config) -> int:
    """Over all ranks."""
    return config.train.batch_size * config.optimizer.batches_per_step


def grad_evals(config: Config, step: int) -> int:
    """Gradient evaluations of the first `step` steps, in images: the cost that methods are compared at."""
    return step * images_per_step(config) * config.optimizer.passes


def _ema(model: torch.nn.Module, decay: float) -> Any:
    if not decay:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay)


def schedules(config: Config, total: int, warmup: int) -> Schedules:
    """lr, rho and alpha over `total` steps, the first `warmup` of them warm-up; of methods without rho or alpha they are 0."""
    method = config.optimizer
    low, high = getattr(method, "rho_range", (0.0, 0.0))
    return Schedules(
        shape=config.schedule.name, total_steps=total, warmup_steps=warmup, power=config.schedule.power,
        lr_max=config.base.lr, lr_min=config.schedule.lr_min,
        rho_min=low, rho_max=high, rho_follows=getattr(method, "rho_schedule", Follow.constant),
        clamp_rho=getattr(method, "clamp_rho", False),
        alpha_max=getattr(method, "alpha", 0.0), alpha_follows=getattr(method, "alpha_schedule", Follow.constant),
    )  # fmt: skip


def numbers(stats: StepStats, grad_norm: Tensor, scale: Tensor) -> dict[str, Tensor | None]:
    """The step's numbers by their names in metrics.jsonl, norms without loss scale; None for what a method does not give."""
    norms = {
        name: norm if norm is None else norm / scale for name, norm in stats._asdict().items() if name.endswith("norm")
    }
    gap = None if stats.sharp_loss is None else stats.sharp_loss - stats.loss
    return {
        "loss": stats.loss,
        "sharp_loss": stats.sharp_loss,
        "gap": gap,
        "cos": stats.cos,
        "grad_norm": grad_norm,
        **norms,
    }
