"""The loss on the line or plane from one checkpoint to another: see gsam.analysis.landscape."""

from gsam.analysis.landscape import Between as Settings
from gsam.analysis.landscape import run_between as run

__all__ = ["Settings", "run"]
