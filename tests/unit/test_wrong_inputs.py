"""What users type wrong: each mistake is one message with the key, the value, the rule and the way out, before any work.

A row is a command line after `python train.py experiment=quickstart`, and words that its message must have.
"""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from gsam.cli import CONFIGS, forced
from gsam.config import ConfigError, load

TYPOS = {
    "trian.epochs=3": "trian: unknown key; did you mean train?",
    "train.epoch=3": "train.epoch: unknown key; did you mean train.epochs?",
    "+train.epoch=3": "train.epoch: unknown key; did you mean train.epochs?",
    "++train.epoch=3": "train.epoch: unknown key; did you mean train.epochs?",
    "+optimizer.rhoo=0.1": "optimizer.rhoo: unknown key; did you mean optimizer.rho?",
    "optimizer.aplha=0.1": "optimizer.aplha: unknown key; did you mean optimizer.alpha?",
    "base.momentun=0.5": "base.momentun: unknown key; did you mean base.momentum?",
    "schedule.warmup=3": "schedule.warmup: unknown key; did you mean schedule.warmup_steps?",
    "model.kwarg={depth: 2}": "model.kwarg: unknown key; did you mean model.kwargs?",
    "data.worker=3": "data.worker: unknown key; did you mean data.workers?",
    "augment.sizes=32": "augment.sizes: unknown key; did you mean augment.size?",
    "augment.mixupp=0.2": "augment.mixupp: unknown key; did you mean augment.mixup?",
    "ema.decai=0.9": "ema.decai: unknown key; did you mean ema.decay?",
    "run.dri=x": "run.dri: unknown key; did you mean run.dir?",
    "wandb.modes=offline": "wandb.modes: unknown key; did you mean wandb.mode?",
    "paths.imagnet=/data": "paths.imagnet: unknown key; did you mean paths.imagenet?",
    "+nothing.like.it=1": "nothing: unknown key; known: analysis, augment, base",
}
TYPES = {
    "train.batch_size=many": "train.batch_size=many: Value 'many' of type 'str' could not be converted to Integer",
    "train.batch_size=2.5": "train.batch_size=2.5: Value '2.5' of type 'float' could not be converted to Integer",
    "train.compile=perhaps": "train.compile=perhaps: Value 'perhaps' is not a valid bool",
    "train.precision=fp8": "train.precision=fp8: Invalid value 'fp8', expected one of [fp32, bf16, fp16]",
    "train.loss=hinge": "expected one of [softmax, sigmoid]",
    "train.non_finite=ignore": "expected one of [stop, skip]",
    "optimizer.perturb=sharp": "expected one of [sam, asam]",
    "optimizer.scope=glob": "expected one of [group, global]",
    "optimizer.form=kwon": "expected one of [elementwise, original, big_vision]",
    "optimizer.minimize=h": "expected one of [fp, f]",
    "optimizer.alpha=big": "optimizer.alpha=big: Value 'big' of type 'str' could not be converted to Float",
    "augment.mean=0.5": "augment.mean=0.5",
    "augment.randaugment=torchvision": "expected one of [none, official, timm]",
    "augment.crop=random": "expected one of [inception, torchvision, resmall, none]",
    "augment.filter=cubic": "expected one of [area, linear]",
    "data.backend=webdataset": "expected one of [ffcv, folder]",
    "wandb.mode=on": "wandb.mode=on: Invalid value 'on', expected one of [disabled, offline, online]",
    "model.kwargs=3": "model.kwargs=3",
    "train=3": "train=3: expected a group of settings",
}
RANGES = {
    "train.batch_size=0": "train.batch_size=0: must be at least 1",
    "train.accumulate=0": "train.accumulate=0: must be at least 1",
    "train.keep_last=0": "train.keep_last=0: must be at least 1",
    "train.max_steps=0": "train.max_steps=0: must be at least 1, or null",
    "train.epochs=ten": "train.epochs=ten: write a duration as 300ep (epochs) or 1000st",
    "train.epochs=-1": "train.epochs=-1: a duration is a number of epochs",
    "train.epochs=1.5st": "train.epochs=1.5st: a duration is",
    "train.eval_every=3 weeks": "train.eval_every=3 weeks: write a duration as 300ep",
    "train.log_every=0": "train.log_every=0: must be longer than 0",
    "train.clip_norm=0": "train.clip_norm=0.0: must be positive, or null",
    "train.clip_norm=nan": "train.clip_norm=nan: must be positive, or null",
    "train.profile_steps=-3": "train.profile_steps=-3: must be at least 1, or 0 for no profile",
    "train.seed=-1": "train.seed=-1: must be in [0, 2**32)",
    "train.label_smoothing=1": "train.label_smoothing=1.0: must be in [0, 1.0)",
    "train.loss=sigmoid train.label_smoothing=0.6": "must be in [0, 0.5)",
    "ema.decay=1": "ema.decay=1.0: must be in [0, 1)",
    "base.lr=0 schedule.lr_min=0": "base.lr=0.0: must be positive",
    "base.momentum=1": "base.momentum=1.0: must be in [0, 1)",
    "base.weight_decay=-1": "base.weight_decay=-1.0: must not be negative",
    "base=adamw base.betas=[0.9]": "base.betas=[0.9]: two numbers in [0, 1)",
    "schedule.lr_min=1": "schedule.lr_min=1.0: must lie between 0 and base.lr=0.1",
    "schedule.power=0": "schedule.power=0.0: must be positive",
    "schedule.power=nan": "schedule.power=nan: must be positive",
    "run.experiment=../../x": "run.experiment=../../x: a name below run.root=runs; run.dir takes any folder",
    "schedule.warmup_steps=soon": "schedule.warmup_steps=soon: write a duration",
    "optimizer.rho_max=-1 optimizer.rho_min=-2": "a perturbation radius is not negative",
    "optimizer.rho_min=0.5": "optimizer.rho_min=0.5 is larger than optimizer.rho_max=0.04: swap them",
    "optimizer.rho=0.1": "set either rho, or rho_max and rho_min, not both",
    "optimizer.rho_min=null": "both are needed (or optimizer.rho alone",
    "optimizer.alpha=-0.1": "optimizer.alpha=-0.1: the ascent coefficient is not negative",
    "optimizer.group_size=0": "optimizer.group_size=0: at least 1 image, or null",
    "optimizer=weighted optimizer.lam=-3": "optimizer.lam=-3.0",
    "optimizer=entropy_sgd optimizer.iterations=0": "optimizer.iterations=0: at least 1 inner step",
    "augment.size=0": "augment.size=0 is not positive",
    "augment.eval_resize=20": "augment.eval_resize=20 is less than augment.size=28",
    "augment.flip=2": "augment.flip=2.0 is a probability",
    "augment.std=[0,1,1]": "augment.std=[0.0, 1.0, 1.0]: finite, and std positive: it divides",
    "augment.std=[nan,1,1]": "finite, and std positive: it divides",
    "augment.mean=[inf,0,0]": "augment.mean=[inf, 0.0, 0.0]",
    "augment.mean=[0.5]": "needs three values",
    "augment.crop=inception augment.area=[1,0]": "0 < least <= most <= 1",
    "augment.layers=0": "augment.layers=0: at least 1 operation; augment.randaugment=none for none",
    "augment.magnitude=30": "augment.magnitude=30: choose 0 to 20; above, posterize would keep more than 8 bits",
    "augment.color_jitter=2": "augment.color_jitter=2.0: choose a share from 0 to 1",
    "augment.mixup=-0.2": "augment.mixup=-0.2 is p of Beta(p, p): choose a positive number such as 0.2, or 0 for none",
    "augment.cutmix=inf": "augment.cutmix=inf is p of Beta(p, p)",
    "data.limit_train=0": "data.limit_train=0 must be at least 1; use null for the whole split",
    "data.holdout=1": "data.holdout=1.0 must be in [0, 1)",
    "data.workers=-1": "data.workers=-1 with data.backend=ffcv: choose from 1 to ",
    "data.backend=folder data.workers=9999": "data.workers=9999 with data.backend=folder: choose from 0 to ",
    "model.drop_path=1": "model.drop_path=1",
}
COMBINATIONS = {
    "train.batch_size=100 train.accumulate=8": "=100 is not divisible by 1 ranks x train.accumulate=8; nearest: 96 or 104",
    "optimizer.group_size=64": "does not divide the 250 images of one rank (train.batch_size=250",
    "optimizer.group_size=125 train.accumulate=2": "cannot be split into train.accumulate=2 equal micro-batches",
    "augment.magnitude=15": "augment.magnitude=15 has no effect with augment.randaugment=none; add",
    "augment.layers=3 augment.magnitude=15": "augment.layers=3, augment.magnitude=15 has no effect with",
    "augment.filter=linear data.backend=folder": "augment.filter=linear is for data.backend=ffcv",
    "optimizer.group_size=1 augment.mixup=0.2": "augment.mixup=0.2, augment.cutmix=0.0: pictures are mixed within their group",
    "train.batch_size=1 augment.cutmix=1": "which has 1; choose a larger optimizer.group_size or batch",
    "optimizer.form=original": "optimizer.form=original is a form of ASAM: set optimizer.perturb=asam, or leave form out",
    "optimizer=asam optimizer.perturb=sam": "is SAM with ASAM's radius: choose optimizer=sam",
    "optimizer=sam optimizer.rho=0.1 optimizer.rho_schedule=cosine": "is constant, optimizer.rho_schedule=cosine is not",
    "base=other base.name=lamb base.kwargs={weight_decay: 0.1}": "base.kwargs.weight_decay=0.1: set base.weight_decay",
    "optimizer.group_size=50 optimizer.scope=global": "has no meaning with optimizer.scope=global",
    "optimizer=entropy_sgd train.precision=fp16": "needs true gradient magnitudes, which fp16's loss scaling hides: use bf16",
    "model=resnet50 model.scheme=big_vision": "model.scheme=big_vision",
    "model=resnet50 model.grad_checkpointing=true": "model.grad_checkpointing=true",
}
MISSING = {
    "optimizer=adam": "Could not find 'optimizer/adam'",
    "model=vit_b_32": "Could not find 'model/vit_b_32'",
    "base=sgdd": "Could not find 'base/sgdd'",
    "base=other base.name=Lionn": "base.name=Lionn",
    "base=other base.name=SGD base.kwargs={momentun: 0.9}": "momentun",
    "model.name=resnet5": "model.name=resnet5",
    "model.init=/no/such/file.pt": "/no/such/file.pt",
    "model.kwargs={no_such_argument: 1}": "no_such_argument",
    "data=imagefolder paths.imagefolder=/no/such/folder": "/no/such/folder",
    "data=imagenet data.backend=folder paths.imagenet=/no/such/folder": "/no/such/folder",
    "data.root=${paths.nothing}": "paths.nothing",
}
TABLE = TYPOS | TYPES | RANGES | COMBINATIONS | MISSING


def words_of(line):
    """Words of a command line; a value may have spaces inside brackets."""
    words, depth = [""], 0
    for c in line:
        depth += (c in "{[") - (c in "}]")
        if c == " " and not depth and "=" in words[-1] and "weeks" not in line:
            words.append("")
        else:
            words[-1] += c
    return words


@pytest.mark.parametrize("line", TABLE)
def test_the_message_says_what_is_wrong_and_nothing_is_left(line, fashion_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [
        "experiment=quickstart",
        "run.experiment=quickstart",
        "optimizer=gsam",
        f"paths.fashion_mnist={fashion_root}",
    ]
    overrides += [forced(word) for word in words_of(line)]
    for group in ("optimizer", "base", "model", "data"):  # a later choice replaces the earlier one
        chosen = [o for o in overrides if o.startswith(f"{group}=")]
        overrides = [o for o in overrides if o not in chosen[:-1]]
    with pytest.raises((ConfigError, HydraException)) as caught:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            load(compose("train", overrides))
    assert TABLE[line] in str(caught.value), str(caught.value)
    if isinstance(caught.value, ConfigError):
        assert len(caught.value.problems) == 1, caught.value.problems
    assert not list(tmp_path.iterdir())


def test_there_are_many():
    assert len(TABLE) >= 60 and len(TABLE) == sum(map(len, (TYPOS, TYPES, RANGES, COMBINATIONS, MISSING)))
