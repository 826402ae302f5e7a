"""The training loop. One step is `train_step`; everything around it builds, logs, evaluates, saves."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gsam import data
from gsam.config import Config, as_dict, run_hash
from gsam.eval import evaluate
from gsam.losses import build_loss
from gsam.models import build_model
from gsam.optim import BatchStats, Schedules, Scope, Step, StepStats, build_base, estimate, second_pass
from gsam.optim.schedule import Follow
from gsam.runtime import Normalize, Precision, Runtime, environment, seed_for
from gsam.train import checkpoint
from gsam.train.metrics_log import Meter, MetricsLog
from gsam.train.progress import Progress, duration
from gsam.train.run_folder import RunFolder
from gsam.train.settings import Duration


class Trainer:
    """Builds everything a Config describes; `fit()` trains to the end, continuing from the run folder's last checkpoint."""

    def __init__(self, config: Config, runtime: Runtime):
        self.config, self.runtime = config, runtime
        train, device = config.train, runtime.device
        self.run_name, self.folder = self._folder()
        if self.folder.finished:
            return  # fit() says so; nothing has to be built
        if runtime.is_main:
            data.prepare(config.data)
        runtime.barrier()
        self.local_batch = train.batch_size // runtime.world
        self.train_loader = self._loader("train", self.local_batch)
        self.val_loader = self._loader("val", self.local_batch)
        model = build_model(
            config.model, num_classes=self.train_loader.num_classes, image_size=config.augment.size, seed=train.seed
        )
        self.layout = torch.channels_last if train.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=self.layout)
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.ema = _ema(self.model, config.ema.decay)
        self.base = build_base(config.base, self.model)
        self.estimator = config.optimizer
        # Compile before DDP wraps: one compiled backward inside DDP keeps its overlapped reduction.
        self.forward = torch.compile(self.model) if train.compile else self.model
        if runtime.world > 1 and not self.estimator.local:
            # Without DDP where every pass is this rank's own: its buckets would only take memory.
            ids = [runtime.local_rank] if device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.forward, device_ids=ids, broadcast_buffers=False)
        self.scaler = runtime.scaler(train.precision)
        self.loss = build_loss(train.loss, train.label_smoothing, self.train_loader.num_classes)
        self.normalize = Normalize(config.augment.mean, config.augment.std, device, train.channels_last)
        self.batch_stats = BatchStats(self.model)
        self.group_size = getattr(self.estimator, "group_size", None) or self.local_batch
        self.total_steps = self._steps(train.epochs, "ep")
        self.stop_step = min(self.total_steps, train.max_steps or self.total_steps)
        self.schedules = _schedules(config, self.total_steps, self._steps(config.schedule.warmup_steps, "st"))
        self.step, self.skipped, self.best_top1, self.seconds = 0, 0, -1.0, 0.0
        self.meter = Meter()

    # ---- one step ---------------------------------------------------------------------------------------------------

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One optimizer step on this rank's images uint8 (B, 3, H, W) and labels (B,)."""
        step = Step(self.step, *self.schedules.at(self.step))
        for group in self.base.param_groups:
            group["lr"] = step.lr
        images, labels = self.normalize(images), labels.to(self.runtime.device)
        groups = zip(images.split(self.group_size), labels.split(self.group_size), strict=True)
        grad_fns = [self.grad_fn(i, x, y) for i, (x, y) in enumerate(groups)]
        stats = estimate(self.estimator, self.params, grad_fns, step, self.batch_stats)
        scale = self.scaler.get_scale()
        self.scaler.unscale_(self.base)
        grad_norm = self.clip()
        self.scaler.step(self.base)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        self.step += 1
        self.meter.add(_numbers(stats, grad_norm, scale))

    def grad_fn(self, group: int, images: Tensor, labels: Tensor) -> Callable[..., Tensor]:
        """The gradient function of one group (see gsam.optim.GradFn)."""
        count = self.config.train.accumulate
        micro_batches = list(zip(images.chunk(count), labels.chunk(count), strict=True))
        first = self.runtime.rank * (self.local_batch // self.group_size)

        def run(*, again: bool = False) -> Tensor:
            self.base.zero_grad(set_to_none=True)
            losses = []
            with second_pass(self.model) if again else nullcontext():
                for k, (x, y) in enumerate(micro_batches):
                    # The same numbers in both passes, for any number of ranks, and after a restart.
                    torch.manual_seed(seed_for(self.config.train.seed, self.step, first + group, k))
                    with self.no_sync(last=k == count - 1):
                        with self.runtime.autocast(self.config.train.precision):
                            loss = self.loss(self.forward(x), y)
                        self.scaler.scale(loss / count).backward()
                    losses.append(loss.detach())
            return torch.stack(losses).mean()

        return run

    def no_sync(self, last: bool) -> Any:
        """DDP reduces in the last micro-batch's backward only."""
        return nullcontext() if last or not isinstance(self.forward, DistributedDataParallel) else self.forward.no_sync()

    def clip(self) -> Tensor:
        """Clip the final gradient; returns its L2 norm before that, shape ()."""
        grads = [p.grad for p in self.params if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self.config.train.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.params, self.config.train.clip_norm, norm)
        return norm

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the last step. Raises FloatingPointError when the loss is not finite."""
        if self.folder.finished:
            self._say(f"{self.folder.path}: finished; nothing to do (delete the folder to train again)")
            return
        self.folder.open()
        try:
            self._fit()
        finally:
            self.folder.close()

    def _fit(self) -> None:
        self.log = MetricsLog(self.folder.path, self.config.wandb, as_dict(self.config), self.run_name, self.runtime.is_main)
        self._restore()
        self._header()
        self.progress = Progress(self._label(), self.stop_step, start=self.step, active=self.runtime.is_main)
        try:
            self._run()
        finally:
            self.progress.close()
            self.log.close()
        if self.step == self.total_steps:
            self.folder.finish()
        else:
            self._say(f"stopped at train.max_steps={self.stop_step} of {self.total_steps}; the same command without it goes on")

    def _run(self) -> None:
        train = self.config.train
        every = {key: self._steps(text, unit) for key, text, unit in (
            ("log", train.log_every, "st"), ("eval", train.eval_every, "ep"),
            ("save", train.save_every, "ep"), ("keep", train.keep_every, "ep"))}  # fmt: skip
        profiler = self._profiler()
        self.began, self.waited, self.images = time.monotonic(), 0.0, 0
        for images, labels in self._batches():
            self.train_step(images, labels)
            self.images += train.batch_size
            last = self.step == self.stop_step
            if last or _due(self.step, every["log"]):
                self._log_train()
            if last or _due(self.step, every["eval"]):
                self._evaluate()
            if last or _due(self.step, every["save"]):
                self._save("last.pt")
            if _due(self.step, every["keep"]):
                self._save(f"step_{self.step}.pt")
            self.progress.update(self.step, self._text)
            if profiler is not None and profiler.step():
                return

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from the current step to the last, over as many epochs as it takes; counts the time spent waiting."""
        while self.step < self.stop_step:
            epoch, skip = divmod(self.step, self.train_loader.batches_per_epoch)
            batches = self.train_loader.epoch(epoch, skip)
            try:
                while True:
                    asked = time.monotonic()
                    batch = next(batches, None)
                    self.waited += time.monotonic() - asked
                    if batch is None:
                        break
                    yield batch
                    if self.step >= self.stop_step:
                        return
            finally:
                batches.close()

    # ---- records ----------------------------------------------------------------------------------------------------

    def _log_train(self) -> None:
        first = self.step - self.meter.count + 1
        row = self.meter.means()
        if row["loss"] != row["loss"] or abs(row["loss"]) == float("inf"):
            if self.config.train.precision is not Precision.fp16:  # there, overflowing steps are skipped and counted
                raise FloatingPointError(
                    f"the loss is not finite between steps {first} and {self.step}: lower base.lr or the radius, add warm-up "
                    "(schedule.warmup_steps) or train.clip_norm. The last checkpoint is from before"
                )
        elapsed = time.monotonic() - self.began
        self.seconds += elapsed
        values = self.schedules.at(self.step - 1)
        row |= {"lr": values.lr, "rho": values.rho, "alpha": values.alpha} if self.estimator.passes > 1 else {"lr": values.lr}
        row |= {
            "images_per_s": self.images / elapsed, "data_wait": self.waited / elapsed,
            "peak_mem_mb": self.runtime.peak_memory_mb(), "wall_s": self.seconds,
            "grad_evals": self.step * self.config.train.batch_size * self.estimator.passes,
        }  # fmt: skip
        if self.config.train.precision is Precision.fp16:
            row |= {"loss_scale": self.scaler.get_scale(), "skipped_steps": self.skipped}
        self.log.write({"kind": "train", "step": self.step, "epoch": self._epoch(), **row})
        self._text = f"loss {row['loss']:.3f} · {row['images_per_s']:.0f} images/s"
        self.began, self.waited, self.images = time.monotonic(), 0.0, 0

    _text = ""

    def _evaluate(self) -> None:
        """On the validation set: the weights, and their average where there is one (`best` follows the average)."""
        models = {"raw": self.model} | ({"ema": self.ema.module} if self.ema is not None else {})
        for which, model in models.items():
            metrics = evaluate(
                model, self.val_loader, device=self.runtime.device, autocast=self._autocast, mean=self.config.augment.mean,
                std=self.config.augment.std, channels_last=self.config.train.channels_last,
            )  # fmt: skip
            row = {"kind": "eval", "step": self.step, "epoch": self._epoch(), "evalset": "val", "weights": which}
            self.log.write({**row, **vars(metrics), "wall_s": self.seconds})
            self.progress.note(f"step {self.step}: val top-1 {metrics.top1:.2%} ({which}), loss {metrics.nll:.3f}, n {metrics.n}")
        if metrics.top1 > self.best_top1:
            self.best_top1 = metrics.top1
            self._save("best.pt")
        self.began = time.monotonic()  # neither evaluating nor saving counts as training time

    def _autocast(self) -> Any:
        return self.runtime.autocast(self.config.train.precision)

    def _save(self, name: str) -> None:
        if self.runtime.is_main:
            state = {
                "model": self.model.state_dict(), "ema": self.ema.module.state_dict() if self.ema is not None else None,
                "base": self.base.state_dict(), "scaler": self.scaler.state_dict(), "step": self.step,
                "skipped": self.skipped, "best_top1": self.best_top1, "seconds": self.seconds,
                "config_hash": run_hash(self.config), "num_classes": self.train_loader.num_classes,
            }  # fmt: skip
            checkpoint.save(self.folder.checkpoint(name), state)
        self.began = time.monotonic()

    def _restore(self) -> None:
        path = self.folder.checkpoint("last.pt")
        if not self.runtime.broadcast(path.exists()):
            self.log.truncate(0)
            return
        state = checkpoint.read(path)
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.base.load_state_dict(state["base"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.best_top1, self.seconds = state["best_top1"], state["seconds"]
        self.log.truncate(self.step)

    # ---- small parts ------------------------------------------------------------------------------------------------

    def _folder(self) -> tuple[str, RunFolder]:
        run, digest = self.config.run, run_hash(self.config)
        experiment = run.experiment or "adhoc"
        path = Path(run.dir) if run.dir else Path(run.root) / experiment / digest
        meta = {
            "experiment": experiment, "config_hash": digest, "optimizer": self.config.optimizer.name,
            "model": self.config.model.name, "seed": self.config.train.seed, "world": self.runtime.world,
            "m": self.effective_m(), **environment(self.runtime.device),
        }  # fmt: skip
        return f"{experiment}/{digest}", RunFolder(path, as_dict(self.config), meta, self.runtime.is_main)

    def effective_m(self) -> int | None:
        """Images that share one perturbation; None for methods without one."""
        method = self.config.optimizer
        if method.passes == 1:
            return None
        if method.scope is not Scope.group:
            return self.config.train.batch_size
        return method.group_size or self.config.train.batch_size // self.runtime.world

    def _loader(self, split: str, batch_size: int) -> data.Loader:
        config, runtime = self.config, self.runtime
        return data.build_loader(
            config.data, config.augment, split, batch_size=batch_size, rank=runtime.rank, world=runtime.world,
            seed=config.train.seed, train=split == "train",
        )  # fmt: skip

    def _steps(self, text: str | None, unit: str) -> int | None:
        if text is None:
            return None
        return Duration.parse(text, unit).steps(self.train_loader.num_examples, self.config.train.batch_size)

    def _epoch(self) -> float:
        return round(self.step * self.config.train.batch_size / self.train_loader.num_examples, 4)

    def _label(self) -> str:
        return f"{self.estimator.name} {self.config.model.name}"

    def _header(self) -> None:
        params = sum(p.numel() for p in self.model.parameters())
        m = self.effective_m()
        start = f"continuing at step {self.step}" if self.step else "starting"
        self._say(
            f"{self.run_name}: {start} of {self.total_steps} · {self.estimator.name}"
            + (f", m = {m}" if m else "")
            + f" · {self.config.model.name}, {params:,} parameters · {self.runtime.device}, {self.runtime.world} rank(s), "
            f"{self.config.train.precision.name} · {self.folder.path}"
        )

    def _say(self, text: str) -> None:
        if self.runtime.is_main:
            print(text, flush=True)

    def _profiler(self) -> "Profiler | None":
        steps = self.config.train.profile_steps
        return Profiler(steps, self.folder.path / "trace.json") if steps and self.runtime.is_main else None


class Profiler:
    """torch's profiler over `steps` steps after five; `step()` returns True when the trace has been written."""

    def __init__(self, steps: int, path: Path):
        schedule = torch.profiler.schedule(wait=2, warmup=3, active=steps, repeat=1)
        self.left, self.path, self.profile = 5 + steps, path, torch.profiler.profile(schedule=schedule)
        self.profile.start()

    def step(self) -> bool:
        self.left -= 1
        self.profile.step()
        if self.left:
            return False
        self.profile.stop()
        self.profile.export_chrome_trace(str(self.path))
        print(self.profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
        print(f"trace for chrome://tracing or ui.perfetto.dev: {self.path}")
        return True


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % max(1, every) == 0


def _ema(model: torch.nn.Module, decay: float) -> Any:
    if not decay:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay)


def _schedules(config: Config, total: int, warmup: int) -> Schedules:
    low, high = getattr(config.optimizer, "rho_range", (0.0, 0.0))
    return Schedules(
        config.schedule.name, total, warmup, config.base.lr, config.schedule.lr_min, low, high,
        getattr(config.optimizer, "rho_schedule", Follow.constant), getattr(config.optimizer, "alpha", 0.0),
        getattr(config.optimizer, "alpha_schedule", Follow.constant),
    )  # fmt: skip


def _numbers(stats: StepStats, grad_norm: Tensor, scale: float) -> dict[str, Tensor | None]:
    """The step's numbers under the names of metrics.jsonl, norms without the loss scale."""
    if stats.sharp_loss is None:
        return {"loss": stats.loss, "grad_norm": grad_norm}
    return {
        "loss": stats.loss, "sharp_loss": stats.sharp_loss, "gap": stats.sharp_loss - stats.loss, "cos": stats.cos,
        "grad_norm": grad_norm, "clean_norm": stats.clean_norm / scale, "sharp_norm": stats.sharp_norm / scale,
    }  # fmt: skip
