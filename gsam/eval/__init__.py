"""Evaluation: exact counts over any number of ranks, on clean pictures and on corrupted copies of them."""

from .evalsets import EvalSet
from .metrics import Metrics
from .runner import evaluate

__all__ = ["EvalSet", "Metrics", "evaluate"]
