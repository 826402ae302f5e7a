"""Sharpness-aware training for PyTorch: `from gsam import GSAM`.

The names are imported on first use, so that `train.py --help` does not wait for torch. They need torch and nothing else.
"""

__all__ = ["ASAM", "GSAM", "SAM", "EntropySGD", "WeightedSAM"]


def __getattr__(name: str):
    if name in __all__:
        import gsam.optim

        return getattr(gsam.optim, name)
    raise AttributeError(f"module 'gsam' has no attribute {name!r}")
