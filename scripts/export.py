"""Export a trained model as a folder that timm loads and the Hugging Face Hub takes: safetensors, config.json, model card."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
  python scripts/export.py weights=runs/table1/vit_b32_gsam/1a2b3c4d --out vit_b32_gsam
  python scripts/export.py weights=runs/table1/vit_b32_gsam/1a2b3c4d@raw checkpoint=best.pt --out vit_b32_gsam_best
  python scripts/export.py weights=model.pth network=vit_b32 --out vit_b32 --license cc-by-4.0

The words are evaluate.py's: weights, network, checkpoint, which, and out, the folder of evaluate.py's results where it was
given one. The moving average is exported where the run has it; @raw or which=raw takes the weights themselves. docs/export.md
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", metavar="key=value", help="weights=… and what goes with it, see below")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument(
        "--license", metavar="ID", help="of the weights, a name of the Hub (default: apache-2.0 for a run)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in DIR")
    args = parser.parse_args()

    from omegaconf import OmegaConf

    from gsam.config import WEIGHTS_MISSING, ConfigError, WeightsConfig
    from gsam.export import export
    from gsam.fill import fill

    try:
        problems = [f"{word}: not key=value" for word in args.settings if "=" not in word]
        words = [word for word in args.settings if "=" in word]
        config = fill(OmegaConf.from_dotlist(words), WeightsConfig, problems)
        problems += [WEIGHTS_MISSING] * (config.weights is None)
        if problems:
            raise ConfigError(problems)
        export(config, args.out, license=args.license, overwrite=args.overwrite)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {args.out}/model.safetensors, config.json, README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
