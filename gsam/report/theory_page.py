"""docs/theory.md: each experiment's statement, picture and sentence of what was found, from the rows of analysis=theory."""

from __future__ import annotations

import importlib
from typing import NamedTuple

HEADER = (
    "<!-- Written by `scripts/analyze.py analysis=theory theory.docs=docs/theory.md`. Do not edit: run it again. -->"
)


class Experiment(NamedTuple):
    title: str
    claim: str


EXPERIMENTS = {
    "fig1": Experiment(
        "Figure 1: a low perturbed loss need not be flat",
        "A smaller f_p does not imply a smaller dominant eigenvalue (Lemma 3.1). Three minima on a line; the "
        "two outer ones are "
        "built to have the same f_p. f_p is the exact maximum over [w − ρ, w + ρ].",
    ),
    "lemma_3_1": Experiment(
        "Lemma 3.1 on a real network",
        "The same question for minima that training found: one loss, several first weights, each trained to a "
        "gradient of 1e-10 "
        "or less. f_p and h use the maximum over the ball (projected ascent).",
    ),
    "lemma_3_2": Experiment(
        "Lemma 3.2: the gap is not negative for small ρ",
        "h(w) ≈ f(w + ρ∇f/‖∇f‖) − f(w) ≥ 0 at every w if ρ is small enough, because h = ρ‖∇f‖ + O(ρ²).",
    ),
    "lemma_3_3": Experiment(
        "Lemma 3.3: at a minimum 2h/ρ² is the dominant eigenvalue",
        "σ_max ≈ 2h/ρ² at a local minimum, for small ρ. Projected ascent in float64, against the dense "
        "Hessian's eigenvalue.",
    ),
    "fig2": Experiment(
        "Figure 2: one training step, taken apart",
        "∇f splits into a part along ∇f_p and ∇f_⊥; GSAM uses ∇f_p − α∇f_⊥. The ascent along ∇f_⊥ should lower "
        "h and leave "
        "f_p as it is, to first order. All vectors lie in one plane, so the picture is exact.",
    ),
    "fig3": Experiment(
        "Figure 3: walking along the ridge",
        "With sharp minima on both sides of a ridge, SGD and SAM should fall into sharp ones and GSAM reach a "
        "flat one. The surface "
        "is written down in `gsam/analysis/theory/fig3.py`; the methods are the project's own, gradients are exact.",
    ),
    "theorem_5_1": Experiment(
        "Theorem 5.1: GSAM converges at rate log T/√T",
        "With η_t = η₀/√t and ρ_t = ρ₀/√t the means of E‖∇f‖² and E‖∇f_p‖² over T steps are at most (C + C′ "
        "log T)/√T. Random batches.",
    ),
    "theorem_5_3": Experiment(
        "Theorem 5.3: the ascent step lowers the gap",
        "The decreases Δh_t caused by the ascent step add up to something between αc²ρ₀²η₀|σ|²_min/G² and 2.7αL²η₀ρ₀².",
    ),
}


def page(rows: dict[str, dict], pictures: str) -> str:
    """Markdown. rows: by name of EXPERIMENTS; a missing one reads "not run". pictures: their folder, seen from it."""
    parts = [
        HEADER,
        "# The paper's theory, measured",
        "Zhuang et al. 2022 ([arXiv 2203.08065](https://arxiv.org/abs/2203.08065)), sections 3 to 5 and "
        "appendix A. f is the loss, "
        "f_p its maximum within radius ρ, h = f_p − f the surrogate gap, σ_max the Hessian's dominant eigenvalue. A "
        "*network* is one hidden layer of tanh units on Fashion-MNIST pictures averaged to 7 × 7, cross-entropy plus ½ · decay "
        "· ‖w‖², float64.",
        "```bash\npython scripts/analyze.py analysis=theory theory.docs=docs/theory.md    # everything on this page\n"
        "python scripts/analyze.py analysis=fig3 fig3.alpha=0.3                     # one of them, with "
        "another setting\n```",
    ]
    for name, (title, claim) in EXPERIMENTS.items():
        parts += [f"## {title}", claim, *_found(name, rows.get(name), pictures)]
    return "\n\n".join(parts) + "\n"


def _found(name: str, row: dict | None, pictures: str) -> list[str]:
    if row is None:
        return ["**Found:** not run."]
    figure = importlib.import_module(f"gsam.report.figures.{name}")
    moving = [f"![the trajectories as they grow]({pictures}/{name}.gif)"] if hasattr(figure, "animate") else []
    where = (
        f"`analysis={name}`, git {row['git_hash'][:8]}, torch {row['torch']}, {row['device']}, {row['wall_s']:.0f} s"
    )
    return [
        f"![{EXPERIMENTS[name].title}]({pictures}/{name}.png)",
        *moving,
        f"**Found:** {figure.sentence(row)}",
        where,
    ]
