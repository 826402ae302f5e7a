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
}
