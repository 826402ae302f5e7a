"""What a trained network's loss looks like around its weights: curvature, sharpness, and the theory behind the methods.

`ANALYSES` names them: the file configs/analysis/<name>.yaml, and a module with

    Settings                 dataclass of the file's keys, with problems() -> Iterator[str]
    run(settings, task)      measures, adds its rows through task.rows and returns them (gsam.analysis.task.Task)
"""

from typing import NamedTuple


class Analysis(NamedTuple):
    """A line of ANALYSES."""

    module: str
    needs_weights: bool = True  # False: theory, which brings its own functions


ANALYSES = {
    "hessian": Analysis("gsam.analysis.hessian"),
    "sharpness": Analysis("gsam.analysis.sharpness"),
    "landscape": Analysis("gsam.analysis.landscape"),
    "between": Analysis("gsam.analysis.between"),
    "fig1": Analysis("gsam.analysis.theory.fig1", needs_weights=False),
    "fig2": Analysis("gsam.analysis.theory.fig2", needs_weights=False),
    "fig3": Analysis("gsam.analysis.theory.fig3", needs_weights=False),
    "lemma_3_1": Analysis("gsam.analysis.theory.lemma_3_1", needs_weights=False),
    "lemma_3_2": Analysis("gsam.analysis.theory.lemma_3_2", needs_weights=False),
    "lemma_3_3": Analysis("gsam.analysis.theory.lemma_3_3", needs_weights=False),
    "theorem_5_1": Analysis("gsam.analysis.theory.theorem_5_1", needs_weights=False),
    "theorem_5_3": Analysis("gsam.analysis.theory.theorem_5_3", needs_weights=False),
    "theory": Analysis("gsam.analysis.theory.page", needs_weights=False),
}
