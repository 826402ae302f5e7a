"""README.md of an export: the Hugging Face Hub's model card, with YAML front matter."""

import platform
import re
import shlex
from importlib.metadata import version
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gsam.cli import CONFIGS
from gsam.eval.subject import Subject
from gsam.export import hub
from gsam.export.recipe import Recipe
from gsam.report.card import make_card
from gsam.report.card_text import markdown, percent
from gsam.report.load import Run
from gsam.runtime import git_hash

METHODS = {"vanilla": "the plain gradient", "sam": "SAM", "asam": "ASAM", "gsam": "GSAM", "weighted": "weighted SAM",
           "entropy_sgd": "Entropy-SGD"}  # fmt: skip
ON_THE_HUB = {"imagenet": "ILSVRC/imagenet-1k", "fashion_mnist": "zalando-datasets/fashion_mnist",
              "cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}  # fmt: skip
PAPER = "https://arxiv.org/abs/2203.08065"


def model_card(
    subject: Subject,
    described: dict[str, Any],
    name: str,
    rows: list[dict],
    run: Run | None,
    recipe: Recipe | None,
    digest: str,
) -> str:
    """The page. name: the folder's. rows: of evaluate.py, of these weights. digest: SHA-256 of model.safetensors."""
    parts = [f"# {_title(subject, run)}", _results(rows, run, subject), _use(subject, described, name)]
    if run is not None and recipe is not None:
        parts += [_training(run, recipe), _commands(recipe, subject)]
    parts.append(_provenance(subject, run, digest))
    front = _front_matter(subject, described, name, rows, run)
    return f"---\n{front}\n---\n\n" + "\n\n".join(part.strip() for part in parts) + "\n"


def _title(subject: Subject, run: Run | None) -> str:
    if run is None:
        return str(subject.facts["model"])
    method = METHODS[str(subject.facts["optimizer"])]
    return f"{subject.network.name}, trained with {method} on {run.setting('data.name')}"


def _front_matter(subject: Subject, described: dict[str, Any], name: str, rows: list[dict], run: Run | None) -> str:
    results, data = _metrics(rows), None if run is None else ON_THE_HUB.get(str(run.setting("data.name")))
    known = {"eval_results": results, "model_name": name} if results else {}
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=described["pretrained_cfg"]["license"],
        tags=["image-classification", "timm", *([subject.facts["optimizer"]] if run is not None else [])],
        datasets=[data] if data else None,
        metrics=["accuracy"] if results else None,
        **known,
    ).to_yaml()


def _metrics(rows: list[dict]) -> list[EvalResult]:
    if not rows:
        return []
    card = make_card(rows)
    scores = [*card.sets, *(group.mean for group in card.corrupted if group.mean)]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=ON_THE_HUB.get(score.name, score.name),
            dataset_name=score.label,
            metric_type="accuracy",
            metric_name=metric,
            metric_value=round(100 * value, 3),
        )
        for score in scores
        for metric, value in (("Top-1 accuracy, %", score.top1), ("Top-5 accuracy, %", score.top5))
    ]


def _results(rows: list[dict], run: Run | None, subject: Subject) -> str:
    if rows:
        page = re.sub(r"^#", "##", markdown(make_card(rows)), flags=re.M)
        return f"{page}\nEvery row with its predictions' protocol: [results.jsonl](results.jsonl)."
    weights, step = subject.facts["weights"], subject.facts["step"]
    during = [row for row in (run.evals if run else []) if row.get("weights") == weights and row.get("step") == step]
    text = "evaluate.py was **not run** on these weights."
    for row in during[-1:]:
        text += (
            f" The training's own validation at step {step}: top-1 {percent(row['top1'])} % of {row['n']:,} pictures."
        )
    return f"## Results\n\n{text}"


def _use(subject: Subject, described: dict[str, Any], name: str) -> str:
    arguments = {"num_classes": subject.num_classes, **described.get("model_args", {})}
    classes = {key: f'timm.layers.get_act_layer("{layer}")' for key, layer in hub.not_by_name(described).items()}
    listed = ",\n    ".join(f"{key}={classes.get(key) or repr(value)}" for key, value in arguments.items())
    extra = "".join(f", {key}={text}" for key, text in classes.items())
    notes = [f"Pictures: {subject.preprocess.text()}. timm's transform from config.json does the same: equal pixels."]
    if classes:
        notes.append(
            f"timm's {described['architecture']} takes {', '.join(classes)} as a class, which no JSON file can hold, "
            "and raises TypeError without it."
        )
    own = not hub.is_timms(described)
    imported = "import gsam.models.zoo\n" if own else ""
    if own:
        notes.append("The network is not one of timm's; importing `gsam.models.zoo` registers it with timm.")
    return f"""\
## Use

```python
import json
from pathlib import Path

import timm
from PIL import Image
{imported}
model = timm.create_model("local-dir:{name}", pretrained=True{extra}).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model, use_test_size=True), is_training=False)
logits = model(transform(Image.open("picture.jpg").convert("RGB"))[None])

# The same by its name; the transform is in the pretrained_cfg.
model = timm.create_model(
    "{described["architecture"]}",
    checkpoint_path="{name}/model.safetensors",
    {listed},
    pretrained_cfg_overlay=json.loads(Path("{name}/config.json").read_text())["pretrained_cfg"],
).eval()
```

{" ".join(notes)} On the Hub it is `hf-hub:<user>/{name}` instead of `local-dir:{name}`."""


def _training(run: Run, recipe: Recipe) -> str:
    lines = ["| setting | value | from |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | {_cell(value)} | {_cell(source)} |" for key, value, source in recipe.settings]
    table, m = "\n".join(lines), run.meta.get("m")
    shared = f", {m} images share a perturbation (m)" if m else ""
    return f"""\
## Training

Everything that decides the weights. Sources are those of the project's `configs/ledger.yaml`: *paper* is Zhuang et al., ICLR
2022 ({PAPER}). {run.meta.get("world", "?")} rank(s){shared}.

<details><summary>{len(recipe.settings)} settings</summary>

{table}

</details>"""


def _commands(recipe: Recipe, subject: Subject) -> str:
    if recipe.command is None:
        train = "# no command line gives this configuration any more: run/config.yaml has it"
    else:
        train = f"python train.py {' '.join(map(shlex.quote, recipe.command))}"
    data, place = subject.run.data.name, "runs/{experiment}/{config_hash}"
    if subject.facts["checkpoint"] != "last.pt":
        place += "/checkpoints/{checkpoint}"
    run = (place + "@{weights}").format(**subject.facts)
    lines = [train]
    if (CONFIGS / "evalset" / f"{data}.yaml").is_file():
        lines.append(f"python evaluate.py weights={run} evalset={data}")
        lines.append(
            f"python evaluate.py weights=model.safetensors evalset={data}       # this folder's file: the same numbers"
        )
    where = "In a checkout of gsam-imagenet, the project that trained it:"
    return f"## Commands\n\n{where}\n\n```bash\n" + "\n".join(lines) + "\n```"


def _provenance(subject: Subject, run: Run | None, digest: str) -> str:
    facts = {
        key: subject.facts.get(key) for key in ("experiment", "config_hash", "seed", "weights", "checkpoint", "step")
    }
    facts["gradient evaluations, images"] = subject.facts.get("grad_evals")
    if run is not None:
        if not run.done:
            facts["training"] = "**not finished** when this was exported"
        facts |= {"trained with": _versions(run.meta), "trained on": run.meta.get("device"),
                  "training's commit": run.meta.get("git_hash")}  # fmt: skip
    facts |= {
        "checkpoint file": f"sha256 {subject.facts['weights_hash']}…" if subject.facts["weights_hash"] else None,
        "model.safetensors": f"sha256 {digest}",
        "exported with": f"python {platform.python_version()}, torch {version('torch')}, timm {version('timm')}",
        "export's commit": git_hash(),
    }
    lines = [f"- {key}: {value}" for key, value in facts.items() if value is not None]
    where = (
        "\n\n[run/config.yaml](run/config.yaml) and [run/meta.json](run/meta.json) are the run's own." if run else ""
    )
    return "## Provenance\n\n" + "\n".join(lines) + where


def _versions(meta: dict[str, Any]) -> str | None:
    found = {name: number for name, number in meta.get("versions", {}).items() if number is not None}
    return ", ".join(f"{name} {number}" for name, number in found.items()) or None


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")
