"""The training loop around stepper.py: data, records, evaluation, checkpoints."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing

import torch

from gsam import data
from gsam.analysis.during import Measuring
from gsam.config import Config, as_dict, run_place
from gsam.data.order import settle
from gsam.eval import evaluate
from gsam.runtime import Precision, Requeue, Runtime, environment
from gsam.train import checkpoint, resume
from gsam.train.memory import explained
from gsam.train.metrics_log import Meter, MetricsLog
from gsam.train.profiler import Profiler
from gsam.train.progress import Progress, say
from gsam.train.run_folder import RunFolder
from gsam.train.signals import Signals
from gsam.train.stepper import Batch, Stepper, effective_m, grad_evals, images_per_step
from gsam.train.stream import stream


class Trainer:
    """Builds everything a Config describes; `fit()` trains to the end, continuing from the run folder's last checkpoint."""

    def __init__(self, config: Config, runtime: Runtime):
        self.config, self.runtime = config, runtime
        self.run_name, self.folder = self._folder()
        self.finished = runtime.broadcast(self.folder.finished)
        if self.finished:
            return  # fit() says so; nothing has to be built
        runtime.on_main(lambda: data.prepare(config.data))
        settings, why = runtime.on_main(lambda: settle(config.data, self.folder.kept("order")))
        self.folder.keep("order", settings.order.name)
        self._say(why)
        which = {"rank": runtime.rank, "world": runtime.world, "seed": config.train.seed}
        which["batch_size"] = config.train.batch_size // runtime.world
        self.train_loader = data.build_loader(settings, config.augment, "train", train=True, **which)
        self.val_loader = data.build_loader(settings, config.augment, "val", train=False, **which)
        self.stepper = Stepper(
            config, runtime, num_classes=self.train_loader.num_classes, num_examples=self.train_loader.num_examples
        )
        self.measure = Measuring(config, settings, runtime, self.stepper)
        self.total_steps = self.stepper.total_steps
        self.stop_step = min(self.total_steps, config.train.max_steps or self.total_steps)
        self.best_top1, self.seconds, self.text, self.skipped_before = -1.0, 0.0, "", 0
        self.meter = Meter()

    @property
    def step(self) -> int:
        return self.stepper.step

    @property
    def model(self) -> torch.nn.Module:
        return self.stepper.model

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the last step. Raises FloatingPointError where a loss or gradient that is not finite ends the run."""
        if self.finished:
            self.runtime.on_main(self.folder.refuse_other_run)
            self._say(f"{self.folder.path}: finished; nothing to do (delete the folder to train again)")
            return
        self.runtime.on_main(self.folder.open)
        try:
            with Signals(self.runtime) as signals:
                left = self._fit(signals)
            self._end(left)
        finally:
            self.folder.close()
            self.train_loader.close()
            self.val_loader.close()

    def _fit(self, signals: Signals) -> str | None:
        """See `_run`; everything is on disk afterwards."""
        self.log = MetricsLog(
            self.folder.path, self.config.wandb, as_dict(self.config), self.run_name, self.runtime.is_main
        )
        self._restore()
        if self.config.train.profile_steps:
            self.stop_step = min(self.stop_step, self.step + Profiler.LEAD + self.config.train.profile_steps)
        self._header()
        self.progress = Progress(self._label(), self.stop_step, start=self.step, active=self.runtime.is_main)
        keep, note = self.config.train.keep_last, self.progress.note
        self.writer = checkpoint.Writer(self.folder.checkpoints, keep, note, first=self.log.sync)
        try:
            return self._run(signals)
        finally:
            self.writer.wait()
            self.progress.close()
            self.log.close()

    def _end(self, left: str | None) -> None:
        saved = not self.writer.failed
        if left:
            raise Requeue(
                f"{self.run_name}: {left} at step {self.step} of {self.total_steps}; "
                f"{'saved' if saved else 'NOT saved'}, the same command continues"
                + ("" if saved else " from the checkpoint before"),
                left,
            )
        if self.step == self.total_steps:
            if not saved:
                raise ValueError(
                    f"{self.folder.path}: the last checkpoint could not be written, so the run is not finished; make room, "
                    "then the same command continues from the checkpoint before"
                )
            self.folder.finish()
        else:
            why = "train.profile_steps" if self.config.train.profile_steps else "train.max_steps"
            self._say(
                f"stopped at step {self.step} of {self.total_steps} by {why}; the same command without it goes on"
            )

    def _run(self, signals: Signals) -> str | None:
        """To the last step; or to the step after which a signal was seen, which is returned."""
        train = self.config.train
        every = {key: self.stepper.steps(text, unit) for key, text, unit in (
            ("log", train.log_every, "st"), ("eval", train.eval_every, "ep"),
            ("save", train.save_every, "ep"), ("keep", train.keep_every, "ep"),
            ("analysis", self.config.analysis.every, "ep"))}  # fmt: skip
        profiler = self._profiler()
        self._restart_clock()
        for batches in self._batches():
            self.meter.add(self._step(batches))
            self.images += train.batch_size * len(batches)
            last = self.step == self.stop_step
            due = {name for name, steps in every.items() if steps is not None and self.step % max(1, steps) == 0}
            due |= {"log", "eval", "save", "analysis"} if last else set()
            left = signals.asked()
            if due or left:  # before anything of this step is recorded
                resume.refuse_drift(self.runtime, self.model.state_dict(), self.step)
            if "log" in due:
                self._log_train()
            asked = time.monotonic()
            if "analysis" in due and not left:
                self.measure(self.step, self._epoch(), self.log.write, self.progress.note, lambda: signals.number)
            names = ["best.pt"] if "eval" in due and self._evaluate() else []
            names += [checkpoint.LAST] * ("save" in due or left is not None)
            names += [f"step_{self.step}.pt"] * ("keep" in due)
            if names:
                self._save(names)
            self.began += time.monotonic() - asked  # none of this counts as training time
            self.progress.update(self.step, self.text)
            if profiler is not None:
                profiler.step()
            if left and not last:
                return left
        return None

    def _step(self, batches: list[Batch]) -> dict[str, torch.Tensor]:
        try:
            return self.stepper.train_step(batches)
        except torch.OutOfMemoryError as error:
            problem = error.with_traceback(None)  # its frames hold the activations
        except RuntimeError as error:
            if "find_unused_parameters" not in str(error):
                raise
            raise ValueError(
                f"optimizer={self.config.optimizer.name} on {self.runtime.world} ranks lets DDP average each pass, for which "
                "every parameter needs a gradient in every pass; freeze those that the model does not use, or choose "
                f"optimizer=sam or gsam (scope=group). DDP says: {str(error).splitlines()[0]}"
            ) from error
        raise explained(self.stepper, batches, problem)

    def _batches(self) -> Iterator[list[Batch]]:
        """The batches of each step from the current one to the last; counts the time spent waiting."""
        count, keys = self.config.optimizer.batches_per_step, self.stepper.augment.needs_keys
        with closing(stream(self.train_loader, self.step, count, keys)) as steps:
            while self.step < self.stop_step:
                asked = time.monotonic()
                batches = next(steps)
                self.waited += time.monotonic() - asked
                yield batches

    # ---- records ----------------------------------------------------------------------------------------------------

    def _log_train(self) -> None:
        row = self.meter.means()
        self.meter.reset()
        elapsed = time.monotonic() - self.began
        self.seconds += elapsed
        throughput = {"images_per_s": self.images / elapsed, "data_wait": self.waited / elapsed}
        self._restart_clock()
        values = self.stepper.schedules.at(self.step - 1)
        row |= values._asdict() if "sharp_loss" in row else {"lr": values.lr}
        row |= {
            **throughput, "peak_mem_mb": self.runtime.peak_memory_mb(), "wall_s": self.seconds, "save_s": self.writer.blocked,
            "grad_evals": grad_evals(self.config, self.step),
        }  # fmt: skip
        if self.config.train.precision is Precision.fp16:
            row["loss_scale"] = self.stepper.scaler.get_scale()
        row |= {f"skipped_{which}": count for which, count in self.stepper.skipped.items()}
        row["skipped_pictures"] = self._skipped_pictures()
        self.log.write({"kind": "train", "step": self.step, "epoch": self._epoch(), **row})
        self.text = f"loss {row.get('loss', math.nan):.3f} · {row['images_per_s']:.0f} images/s"

    def _restart_clock(self) -> None:
        self.began, self.waited, self.images = time.monotonic(), 0.0, 0

    def _evaluate(self) -> bool:
        """On the validation set or held-out part: the weights, and their average, if any. Whether it is the best so far."""
        name = "holdout" if self.config.data.holdout else "val"
        models = {"raw": self.model} | ({"ema": self.stepper.ema.module} if self.stepper.ema is not None else {})
        for which, model in models.items():
            metrics = evaluate(
                model, self.val_loader, device=self.runtime.device, autocast=self._autocast, mean=self.config.augment.mean,
                std=self.config.augment.std, channels_last=self.config.train.channels_last,
            )  # fmt: skip
            row = {"kind": "eval", "step": self.step, "epoch": self._epoch(), "evalset": name, "weights": which}
            self.log.write({**row, **vars(metrics), "wall_s": self.seconds})
            self.progress.note(
                f"step {self.step}: {name} top-1 {metrics.top1:.2%} ({which}), loss {metrics.nll:.3f}, n {metrics.n}"
            )
        better = metrics.top1 > self.best_top1
        self.best_top1 = max(metrics.top1, self.best_top1)
        return better

    def _autocast(self) -> AbstractContextManager:
        return self.runtime.autocast(self.config.train.precision)

    def _skipped_pictures(self) -> int | None:
        """Collective: bad pictures so far that others stood in for, on all ranks; None where none may be."""
        if self.config.data.on_bad is data.OnBad.stop:
            return None
        return self.skipped_before + self.runtime.total(self.train_loader.skipped)

    def _save(self, names: list[str]) -> None:
        skipped = self._skipped_pictures()
        if self.runtime.is_main:
            state = self.stepper.state_dict() | {
                "best_top1": self.best_top1, "seconds": self.seconds + time.monotonic() - self.began,
                "skipped_pictures": skipped, "num_classes": self.train_loader.num_classes, "meter": self.meter.state_dict(),
                **resume.facts(self.config, self.runtime),
            }  # fmt: skip
            self.log.flush()
            self.writer.save(names, state)

    def _restore(self) -> None:
        found = self.runtime.on_main(lambda: checkpoint.newest(self.folder.checkpoints, self._say))
        if found is None:
            self.runtime.on_main(lambda: self.log.truncate(0))
            return
        state = checkpoint.read(found, verify=False)  # rank 0 has just done that
        for note in resume.compare(found, state, resume.facts(self.config, self.runtime)):
            self._say(note)
        self.stepper.load_state_dict(state)
        self.meter.load_state_dict(state["meter"], self.runtime.device)
        self.best_top1, self.seconds = state["best_top1"], state["seconds"]
        self.skipped_before = state["skipped_pictures"] or 0
        self.runtime.on_main(lambda: self.log.truncate(self.step))

    # ---- small parts ------------------------------------------------------------------------------------------------

    def _folder(self) -> tuple[str, RunFolder]:
        name, path = run_place(self.config)
        experiment, _, digest = name.rpartition("/")
        meta = {
            "experiment": experiment, "config_hash": digest, "optimizer": self.config.optimizer.name,
            "model": self.config.model.name, "seed": self.config.train.seed, "world": self.runtime.world,
            "m": effective_m(self.config, self.runtime.world), "data": data.identity(self.config.data),
            **environment(self.runtime.device),
        }  # fmt: skip
        return name, RunFolder(path, as_dict(self.config), meta, self.runtime.is_main)

    def _epoch(self) -> float:
        return round(self.step * images_per_step(self.config) / self.train_loader.num_examples, 4)

    def _label(self) -> str:
        return f"{self.config.optimizer.name} {self.config.model.name}"

    def _header(self) -> None:
        params = sum(p.numel() for p in self.model.parameters())
        m = effective_m(self.config, self.runtime.world)
        if self.stepper.schedules.warmup_steps > self.total_steps:
            self._say(
                f"note: schedule.warmup_steps={self.stepper.schedules.warmup_steps} is longer than the whole training"
            )
        start = f"continuing at step {self.step}" if self.step else "starting"
        self._say(
            f"{self.run_name}: {start} of {self.total_steps} · {self.config.optimizer.name}"
            + (f", m = {m}" if m else "")
            + f" · {self.config.model.name}, {params:,} parameters · {self.runtime.device}, {self.runtime.world} rank(s), "
            f"{self.config.train.precision.name} · {self.folder.path}"
        )

    def _say(self, text: str) -> None:
        if self.runtime.is_main:
            say(text)

    def _profiler(self) -> Profiler | None:
        steps = self.config.train.profile_steps
        return Profiler(steps, self.folder.path / "trace.json") if steps and self.runtime.is_main else None
