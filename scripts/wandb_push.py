"""Upload a run's metrics.jsonl to Weights & Biases as one continuous run.

    python scripts/wandb_push.py runs/quickstart/1a2b3c4d
    python scripts/wandb_push.py runs/quickstart/1a2b3c4d --mode offline    # a copy in <run folder>/wandb, for `wandb sync`

For a run that was trained without wandb, or whose server was away for a while. It is the run that train.py with
wandb.mode=online writes: same id, same names. Only rows that the server does not have are sent, so it may be called again,
also while the run is being trained.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gsam.train.wandb_copy import copy_rows, reachable, start  # noqa: E402


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The whole rows; the last one may just be being written."""
    with open(folder / "metrics.jsonl") as f:
        for line in f:
            if line.endswith("\n"):
                yield json.loads(line)


def push(folder: Path, mode: str, project: str | None) -> int:
    """Returns how many rows were sent. Raises ValueError where the folder holds no run, OSError where no server answers."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "metrics.jsonl").stat()
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is no run folder of train.py: no {error.filename}") from None
    if mode == "online" and not reachable():
        raise ConnectionError("the server does not answer; try again later, nothing was changed")
    name = f"{meta['experiment']}/{meta['config_hash']}"
    run = start(folder, project or config["wandb"]["project"], config, name, mode)
    count = copy_rows(run, rows(folder))
    run.finish()
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the run: it holds config.yaml, meta.json and metrics.jsonl")
    parser.add_argument("--mode", choices=["online", "offline"], default="online", help="default: %(default)s")
    parser.add_argument("--project", help="default: the run's wandb.project")
    args = parser.parse_args()
    try:
        count = push(args.folder, args.mode, args.project)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.folder}: {count} rows of {sum(1 for _ in rows(args.folder))} sent ({args.mode})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
