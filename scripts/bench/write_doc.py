"""docs/benchmarks.md from docs/bench/results.jsonl, where `--record docs/bench/results.jsonl` of every benchmark appends."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD, PAGE = ROOT / "docs" / "bench" / "results.jsonl", ROOT / "docs" / "benchmarks.md"

HEAD = """\
# Benchmarks

Written by `python scripts/bench/write_doc.py` from [bench/results.jsonl](bench/results.jsonl), which has every part of every
number. To repeat one: `python scripts/bench/<name>.py … --record docs/bench/results.jsonl`. Everything is measured in turns in
one run, medians over rounds: compare ratios, not seconds of different machines. What has no row was not run. The newest row is
the last; **bold**: misses its target.
"""

# name: (what it measures, {column: (key of the JSON line, format)})
TABLES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "optimizer": (
        "What a GSAM step costs beyond two gradients and its base optimizer. *Of the floor*: over 12 N x 4 bytes / the best "
        "bandwidth of the same run. *Of the peer*: over the same difference of pytorch_optimizer's GSAM, and of its SAM; "
        "*floor, of the peer*: what the first would be at the floor. *Copies*: peak memory beyond vanilla, in copies of the "
        "weights, with one group and with four.",
        {
            "model": ("model", ""), "of the floor": ("ratio_to_floor", ".2f"), "of the peer": ("ratio_to_peer", ".2f"),
            "floor, of the peer": ("floor_to_peer", ".2f"), "SAM, of the peer": ("sam_ratio_to_peer", ".2f"),
            "overhead, ms": ("gsam_overhead_s", "ms"),
            "GB/s": ("bandwidth_gb_s", ".1f"), "copies, 1 group": ("copies_1_groups", ".2f"),
            "copies, 4": ("copies_4_groups", ".2f"), "peer": ("pytorch_optimizer", ""),
        },
    ),
    "train_step": (
        "The trainer's whole step. *GSAM*: of its vanilla step. *Vanilla*: of a plain torch loop over the same model. Both are "
        "medians of the rounds' ratios (the first row: ratios of medians).",
        {
            "model": ("model", ""), "batch": ("batch", ""), "precision": ("precision", ""), "compiled": ("compile", ""),
            "GSAM": ("gsam_to_vanilla", ".2f"), "vanilla": ("vanilla_to_plain", ".2f"), "GSAM step, ms": ("gsam_s", "ms"),
        },
    ),
    "evaluate": (
        "evaluate.py on JPEGs. *Of the limit*: images/s over 1 / (1 / decode + 1 / forward) on a CPU, the slower on a GPU. "
        "*Of the cores*: processor seconds of the parts alone over those of the whole.",
        {
            "model": ("model", ""), "batch": ("batch", ""), "precision": ("precision", ""), "of the limit": ("ratio", ".2f"),
            "of the cores": ("core_ratio", ".2f"), "images/s": ("evaluate_per_s", ".1f"), "decode": ("decode_per_s", ".1f"),
            "forward": ("forward_per_s", ".1f"),
        },
    ),
    "loader": (
        "Images per second into a training batch, random crops of 224 pixels from photographs of about 500 x 375, uint8, over "
        "those of FFCV's own Loader, of torchvision's ImageFolder with Pillow and of torchvision.io; `jpeg` is the default "
        "preset, `raw` 256_raw (Pillow and torchvision.io always read the JPEGs). The same crop rule on all sides; "
        "*inception*: the recipes' rule for ours; *linear*: augment.filter=linear for ours. *First batch*: seconds in a second "
        "process, with the kernels on disk.",
        {
            "workers": ("workers", ""), "FFCV, jpeg": ("ratio_to_ffcv_jpeg", ".2f"), "raw": ("ratio_to_ffcv_raw", ".2f"),
            "jpeg, inception": ("ratio_to_ffcv_jpeg_inception", ".2f"), "jpeg, linear": ("ratio_to_ffcv_jpeg_linear", ".2f"),
            "Pillow, jpeg": ("ratio_to_pil_jpeg", ".2f"),
            "Pillow, raw": ("ratio_to_pil_raw", ".2f"), "torchvision.io, jpeg": ("ratio_to_tv_jpeg", ".2f"),
            "first batch, s": ("second_start_first_batch_s", ".2f"),
        },
    ),
    "corruptions": (
        "ImageNet-C made of 50,000 pictures, 15 corruptions at 5 severities, in hours of one core: sum of medians, and in a "
        "real run that writes the files. The rows of bench/results.jsonl have each corruption's images per second.",
        {"pictures": ("pictures", ""), "core hours": ("core_hours", ".2f"), "in a run": ("run_core_hours", ".2f")},
    ),
}  # fmt: skip
# The largest values that are good enough.
TARGETS: dict[str, dict[str, float]] = {
    "optimizer": {"ratio_to_floor": 1.5, "ratio_to_peer": 0.4, "copies_1_groups": 2, "copies_4_groups": 3},
    "train_step": {"gsam_to_vanilla": 2.06, "vanilla_to_plain": 1},
}
WHERE = {
    "device": ("device", ""), "processor": ("machine", ""), "torch": ("torch", ""), "rounds": ("rounds", ""),
    "commit": ("git_hash", ""),
}  # fmt: skip


def cell(row: dict[str, Any], key: str, how: str) -> str:
    limit = TARGETS.get(row["benchmark"], {}).get(key)
    text = plain(row, key, how)
    missed = limit is not None and row.get(key) is not None and float(text) > limit  # as printed: 1.004 is 1.00
    return f"**{text}**" if missed else text


def plain(row: dict[str, Any], key: str, how: str) -> str:
    value = row.get(key)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{1e3 * value:.1f}" if how == "ms" else format(value, how)


def page(rows: list[dict[str, Any]]) -> str:
    parts = [HEAD]
    for name, (text, columns) in TABLES.items():
        mine, shown = [row for row in rows if row["benchmark"] == name], columns | WHERE
        parts.append(f"## `scripts/bench/{name}.py`\n\n{text}\n")
        lines = ["| " + " | ".join(shown) + " |", "|" + " --- |" * len(shown)]
        lines += ["| " + " | ".join(cell(row, *column) for column in shown.values()) + " |" for row in mine]
        if limits := TARGETS.get(name):
            named = {key: column for column, (key, _) in columns.items()}
            parts.append("Targets: " + " · ".join(f"{named[key]} ≤ {limit}" for key, limit in limits.items()) + "\n")
        parts.append("\n".join(lines) + "\n" if mine else "Not run.\n")
        if mine and all(row["device"].startswith("CPU") for row in mine):
            parts.append("On a CUDA device: not run.\n")
    return "\n".join(parts)


def main() -> int:
    if not RECORD.exists():
        print(f"error: {RECORD.relative_to(ROOT)} is not there; a benchmark with --record writes it", file=sys.stderr)
        return 2
    PAGE.write_text(page([json.loads(line) for line in RECORD.read_text().splitlines()]))
    print(f"written: {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
