"""Sharpness-aware training for PyTorch. Importing this package needs torch and nothing else."""

from gsam.optim import ASAM, GSAM, SAM

__all__ = ["ASAM", "GSAM", "SAM"]
