"""How a recipe of Table 1 is spread over other numbers of GPUs, by the configuration's own checks."""

from dataclasses import replace

from gsam.config import Config, batch_problems, read_composed
from gsam.recipes import compose
from gsam.train.stepper import effective_m

WORLDS = (1, 2, 4, 8, 16, 32, 64)
TOO_MANY, NO_DIVISOR = 128, 48
RECIPES = ("table1/vit_b32_gsam", "table1/vit_b32_vanilla")


def recipe_section(batch: int, at_once: int) -> str:
    gsam, vanilla = (read_composed(compose([f"experiment={name}", "run.experiment=scaling"])) for name in RECIPES)
    assert gsam.train.batch_size == batch and gsam.optimizer.group_size == at_once, "Table 1 has another batch or m"
    rows = [_row(gsam, vanilla, world, at_once) for world in WORLDS]
    no_groups = replace(gsam, optimizer=replace(gsam.optimizer, group_size=None))
    without = ", ".join(f"{effective_m(no_groups, world):,} on {world}" for world in (1, 8, 64))
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""\
## The same recipe on another number of GPUs

Table 1 is {batch:,} images per step with m = {at_once}, as 64 workers had it. `optimizer.group_size={at_once}` keeps both on
{", ".join(map(str, WORLDS))} GPUs: the update is the same to rounding, and a run may even continue on another number.

| GPUs | images per GPU | groups of {at_once} per GPU | vanilla, {at_once} at a time |
| --- | --- | --- | --- |
{lines}

`train.accumulate` splits each **group** into micro-batches where {at_once} images do not fit: 2 means {at_once // 2} at a
time. Vanilla has no groups: there it splits the GPU's whole batch. With BatchNorm (the ResNets) a micro-batch is what is
normalised together, so leave it at 1 with groups, and for vanilla choose it so that {at_once} images are one. How a run is
started on several nodes: [machines.md](machines.md).

What the configuration refuses, in its own words:

    {TOO_MANY} GPUs: {_refused(gsam, TOO_MANY)}
    {NO_DIVISOR} GPUs: {_refused(gsam, NO_DIVISOR)}

Without `optimizer.group_size` one GPU's batch shares a perturbation, and m depends on their number: {without}:
other results, and a run that continues on another number is refused. `optimizer.scope=global` has m = {batch:,} everywhere.
"""


def _row(gsam: Config, vanilla: Config, world: int, at_once: int) -> list[str]:
    local = gsam.train.batch_size // world
    pieces = local // at_once
    split = replace(vanilla, train=replace(vanilla.train, accumulate=pieces))
    for config in (gsam, split):
        for problem in batch_problems(config, world):
            raise ValueError(f"{world} GPUs: {problem}")
    assert effective_m(gsam, world) == at_once
    return [str(world), f"{local:,}", str(pieces), f"`train.accumulate={pieces}`"]


def _refused(config: Config, world: int) -> str:
    (problem,) = batch_problems(config, world)
    return problem
