"""Say where a run differs from the recipe it was started from, and where the recipe's value comes from.

python scripts/recipe_diff.py runs/table1/vit_b32_gsam/1a2b3c4d [--recipe vit_b32_sam]

Exit code: 0 without differences, 1 with, 2 when the folder or the recipe cannot be read.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from gsam.recipes import compare  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, with its config.yaml")
    parser.add_argument("--recipe", help="compare with this recipe instead of the run's own experiment")
    args = parser.parse_args()
    try:
        differences = compare(args.run, args.recipe)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for key, recipe, run, source in differences:
        print(f"{key}: {run} in the run, {recipe} in the recipe ({source})")
    print(f"{len(differences)} of the recipe's values differ" if differences else "the run follows its recipe")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
