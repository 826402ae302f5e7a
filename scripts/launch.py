"""torchrun under supervision, with torchrun's own arguments: `python scripts/launch.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

if __name__ == "__main__":
    from gsam.launch.__main__ import main

    sys.exit(main("python scripts/launch.py"))
