"""What a training costs: gradient evaluations, exactly; hours on this device, from a short measurement of the network."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from gsam.config import Config, as_dict, read_composed
from gsam.data import AugmentConfig
from gsam.files import write_atomic
from gsam.optim import VanillaEstimator
from gsam.recipes import TRAINING_PICTURES
from gsam.runtime import Runtime, environment
from gsam.train.settings import Duration
from gsam.train.stepper import Stepper, grad_evals, images_per_step

SECONDS = 2.0  # of measuring per network, after one pass to warm up
IMAGES = {"cuda": 64, "cpu": 8}  # at a time: the recipes' groups on a GPU, less where that would take minutes


def evaluations(cfg: DictConfig) -> int | None:
    """Gradient evaluations, in images, of the training that a composed configuration describes; None where its number of
    pictures is not known and its length is in epochs."""
    config = read_composed(cfg)
    pictures = TRAINING_PICTURES.get(config.data.name)
    if pictures is not None:
        left = round(pictures * (1 - config.data.holdout))
        pictures = min(left, config.data.limit_train or left)
    length = Duration.parse(config.train.epochs, "ep")
    if length.unit == "ep" and pictures is None:
        return None
    return grad_evals(config, length.steps(pictures or 0, images_per_step(config)))


class Speeds:
    """Gradient evaluations per second of one device, by network; measured once and kept in `file`."""

    def __init__(self, file: Path, runtime: Runtime, say: Callable[[str], None]):
        self.file, self._runtime, self._say = file, runtime, say
        facts = environment(runtime.device)
        self._device = {
            "device": facts["device"],
            "torch": facts["versions"]["torch"],
            "threads": torch.get_num_threads(),
        }
        self._known = self._read()

    def _read(self) -> dict[str, float]:
        if not self.file.is_file():
            return {}
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
            return {str(key): float(rate) for key, rate in known.items() if float(rate) > 0}
        except (ValueError, TypeError, AttributeError):
            self._say(f"{self.file} is damaged: not read, networks are measured again")
            return {}

    @property
    def images(self) -> int:
        return IMAGES[self._runtime.device.type]

    @property
    def text(self) -> str:
        """How the numbers come about, for the reader."""
        return (
            f"hours: on {self._device['device']}, from forward and backward passes of {self.images} images at a time in the "
            "run's precision; reading and augmenting pictures and the optimizer's own step are not counted"
        )

    def rate(self, cfg: DictConfig) -> float:
        """Gradient evaluations per second of this network on one such device."""
        config = read_composed(cfg)
        key = json.dumps(self._device | self._network(config), sort_keys=True)
        if key not in self._known:
            self._say(f"measuring {config.model.name} at {config.augment.size} pixels")
            self._known[key] = self._measure(config)
            write_atomic(self.file, json.dumps(self._known, indent=1))
        return self._known[key]

    def _network(self, config: Config) -> dict[str, Any]:
        model = {
            key: value for key, value in asdict(config.model).items() if key not in ("init", "head_bias", "scheme")
        }
        train = {key: as_dict(getattr(config.train, key)) for key in ("precision", "channels_last", "compile")}
        return model | train | {"size": config.augment.size, "images": self.images}

    def _measure(self, config: Config) -> float:
        """Pictures of noise: the time does not depend on what is in them."""
        config = replace(
            config, optimizer=VanillaEstimator(), model=replace(config.model, init=None),
            train=replace(config.train, batch_size=self.images, accumulate=1),
            augment=AugmentConfig(size=config.augment.size),
        )  # fmt: skip
        stepper = Stepper(config, self._runtime, num_classes=1000, num_examples=10**6)
        device, size = self._runtime.device, config.augment.size
        pictures = torch.randint(0, 256, (self.images, 3, size, size), dtype=torch.uint8, device=device)
        labels = torch.randint(0, 1000, (self.images,), device=device)
        passes, began = -1, 0.0
        while passes < 1 or time.monotonic() - began < SECONDS:
            passes += 1
            batch = stepper.augment(pictures, labels, step=0)
            stepper.grad_fn(0, [batch])()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if passes == 0:
                began = time.monotonic()
        return passes * self.images / (time.monotonic() - began)
