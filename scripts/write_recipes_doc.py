"""Write docs/recipes.md from configs/experiment/table1, configs/ledger.yaml and configs/paper.yaml.

python scripts/write_recipes_doc.py [--out docs/recipes.md]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from gsam.catalogue import paper  # noqa: E402
from gsam.recipes import CONFIGS, FOLDER, TRAINING_PICTURES, compose, names, sources  # noqa: E402

HEAD = """\
<!-- Written by scripts/write_recipes_doc.py from configs/. Do not edit. -->
# The recipes of Table 1

Twelve models times three methods: Zhuang et al., *Surrogate Gap Minimization Improves Sharpness-Aware Training*, ICLR
2022 ([arXiv 2203.08065](https://arxiv.org/abs/2203.08065)), Table 1. The accuracies below are **the paper's**; none of
these runs has been repeated here. Results of your own runs come from `scripts/report.py`.

* Every value of every recipe has its source in [configs/ledger.yaml](../configs/ledger.yaml);
  [paper_notes.md](paper_notes.md) argues the choices. Read its first section before comparing: the paper's SAM rows are
  copied from another paper, with other networks for the ViTs.
* `python scripts/recipe_diff.py runs/{folder}/<recipe>/<hash>` says where a run differs from its recipe,
  `python scripts/show_schedule.py experiment={folder}/<recipe>` shows learning rate, ρ and α over training.
* *Gradient evaluations* counts images: steps × 4096 × passes per step.
* † ρ of SAM **unverified**: sweep it before relying on it.

## Number of GPUs

The effective batch is always 4096. One perturbation is computed from m = 64 images, whatever the number of GPUs:
`optimizer.group_size: 64` cuts each rank's share of the batch into groups of 64, worked off one after the other,
so the memory needed is that of 64 images. The update is the same for every row, up to rounding. `accumulate` splits a
group further, to save memory. Vanilla has no groups: its column keeps 64 images at a time, and BatchNorm's statistics
over 64 images, as for the other two.

| GPUs | images per GPU and step | groups per GPU | `train.accumulate`, SAM and GSAM | `train.accumulate`, vanilla |
|--:|--:|--:|--:|--:|
{gpus}
Numbers of GPUs that do not divide 64 are refused for SAM and GSAM. On several machines add torchrun's `--nnodes`. If 64
images do not fit a GPU: `train.accumulate=2` (32 at a time, BatchNorm then over 32); for ViTs and Mixers also
`model.grad_checkpointing=true`.
"""


def title(model: str) -> str:
    """ "vit_b32" -> "ViT-B/32"."""
    if model.startswith("resnet"):
        return f"ResNet-{model.removeprefix('resnet')}"
    family, size = model.split("_")
    return f"{'ViT' if family == 'vit' else 'Mixer'}-{size[0].upper()}/{size[1:]}"


def gpu_table() -> str:
    lines = []
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        lines.append(f"| {gpus} | {4096 // gpus} | {64 // gpus} | 1 | {64 // gpus} |\n")
    return "".join(lines)


def row(model: str, method: str, numbers: list[float]) -> str:
    """One recipe: its settings, the paper's five accuracies, its cost."""
    recipe = f"{model}_{method}"
    config = compose([f"experiment={FOLDER}/{recipe}"])
    passes = 1 if method == "vanilla" else 2
    epochs = float(str(config.train.epochs).removesuffix("ep"))
    steps = round(TRAINING_PICTURES["imagenet"] * epochs / config.train.batch_size)
    cost = steps * config.train.batch_size * passes / 1e6
    radius, alpha = "", ""
    if method == "sam":
        radius = f"{config.optimizer.rho}{'' if sources(recipe)['optimizer.rho'].verified else ' †'}"
    elif method == "gsam":
        radius, alpha = f"{config.optimizer.rho_max} → {config.optimizer.rho_min}", config.optimizer.alpha
    link = f"[{method}](../configs/experiment/{FOLDER}/{recipe}.yaml)"
    cells = [link, radius, alpha, *numbers, f"{steps:,}", f"{cost:,.1f} M"]
    return "| " + " | ".join(map(str, cells)) + " |\n"


def section(model: str, published: dict[str, list[float]]) -> str:
    # BatchNorm over 64 images for vanilla too: else it alone would normalise over a whole rank's 512.
    same_norm = {m: " train.accumulate=8" if model.startswith("resnet") and m == "vanilla" else "" for m in published}
    run = "torchrun --nproc-per-node=8 train.py experiment="
    commands = "".join(f"{run}{FOLDER}/{model}_{m}{same_norm[m]}\n" for m in published)
    head = "| method | ρ | α | ImageNet | ReaL | V2 | R | C | steps | gradient evaluations |\n"
    rule = "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    table = "".join(row(model, method, numbers) for method, numbers in published.items())
    return f"\n## {title(model)}\n\n```bash\n{commands}```\n\n{head}{rule}{table}"


def document() -> str:
    """The whole page. Raises ValueError if configs/paper.yaml and the recipes do not name the same runs."""
    runs = paper(FOLDER)["rows"]
    if sorted(runs) != names():
        raise ValueError(f"configs/paper.yaml and configs/experiment/{FOLDER} differ in {set(runs) ^ set(names())}")
    published: dict[str, dict[str, list[float]]] = {}
    for run, numbers in runs.items():
        model, method = run.rsplit("_", 1)
        published.setdefault(model, {})[method] = numbers
    return HEAD.format(folder=FOLDER, gpus=gpu_table()) + "".join(section(m, p) for m, p in published.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CONFIGS.parent / "docs" / "recipes.md")
    args = parser.parse_args()
    args.out.write_text(document())
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
