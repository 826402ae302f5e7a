"""Proofs of the optimizers on the user's own machine and device: `python -m gsam.verify`. Needs torch only."""
