"""What would keep the trainings of a plan from starting, found before the first one starts."""

from collections.abc import Sequence

from gsam.config import CHECKED, load, read_composed
from gsam.fill import ConfigError
from gsam.reproduce.task import Request, Task


def check(request: Request, tasks: Sequence[Task]) -> list[str]:
    """Every problem of the trainings that are not done, once, each with the experiments that have it where not all do."""
    found: dict[str, dict[str, None]] = {}
    checked: set[str] = set()
    for task in (task for task in tasks if not task.done):
        name = task.job.row.experiment
        for problem in _more(task) if name in checked else _all(task, request):
            found.setdefault(problem, {})[name] = None
        checked.add(name)
    return [text if len(rows) == len(checked) else f"{text} (in {', '.join(rows)})" for text, rows in found.items()]


def _all(task: Task, request: Request) -> list[str]:
    try:
        load(task.config, request.gpus)
    except ConfigError as error:
        return error.problems
    return []


def _more(task: Task) -> list[str]:
    """What another point of the grid can add: not the network, nor the pictures, whose check takes longest."""
    try:
        config = read_composed(task.config)
    except ConfigError as error:
        return error.problems
    return [problem for key in CHECKED for problem in getattr(config, key).problems()]
