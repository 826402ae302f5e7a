"""Plans and the catalogue as tables for the terminal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gsam.catalogue import Row, departures, sets
from gsam.reproduce.cost import Speeds, evaluations
from gsam.reproduce.found import Found, damaged, scan
from gsam.reproduce.plan import plan
from gsam.reproduce.task import Request, Task, left_out
from gsam.runtime import Runtime

Say = Callable[[str], None]
WITHOUT = " (evaluations and analyses come on top, they are not counted)"


@contextmanager
def speeds(root: Path, say: Say, hours: bool) -> Iterator[Speeds | None]:
    """This device's speeds, kept in <runs>/speeds.json; None where hours are not wanted."""
    if not hours:
        yield None
        return
    with Runtime.start() as runtime:
        yield Speeds(root / "speeds.json", runtime, say)


def plan_table(request: Request, tasks: Sequence[Task], say: Say, *, hours: bool) -> Group:
    """Every training with its state and cost, the sum of what is left, and what is done with the runs afterwards."""
    entry, table = request.entry, Table("training")
    table.add_column("state", overflow="fold")
    for heading in ("gradient evaluations", "hours"):
        table.add_column(heading, justify="right")
    left, time = 0, 0.0
    with speeds(request.root, say, hours and bool(tasks)) as known:
        for task in tasks:
            count, took = cost(task, request, known)
            table.add_row(Text(name(task, request)), Text(state(task)), millions(count), _hours(took))
            if not task.done:
                left, time = left + (count or 0), time + (took or 0.0)
        notes = [known.text + f"; {request.gpus} process(es)"] if known is not None else []
    missing = sum(not task.done for task in tasks)
    total = f"{missing} of {len(tasks)} trainings left: {millions(left)} gradient evaluations" + (
        f", {_hours(time)} hours{WITHOUT}" if known is not None and missing else ""
    )
    then = []
    evalsets = [name for name in _sets(request, tasks) if name != "val"]
    then += [f"evaluates {', '.join(evalsets)}"] if evalsets else []
    then += [f"{' '.join(words)} of every run" for words in entry.analyses]
    then += [f"analysis {entry.theory}"] if entry.theory else []
    then += ["report"]
    lines = [f"{entry.name}: {entry.title} ({entry.source})", *([entry.note] if entry.note else [])]
    lines += [f"with {' '.join(request.extra)}"] if request.extra else []
    for experiment in dict.fromkeys(task.job.row.experiment for task in tasks):
        lines += [f"without {each} in {experiment}: no such key there" for each in left_out(experiment, request)]
    after = [*([total] if tasks else []), f"then: {'; '.join(then)}", *notes, *passed_over(request.root)]
    return Group(*map(Text, lines), *([table] if tasks else []), *map(Text, after))


def passed_over(root: Path) -> list[str]:
    """A line for each damaged run folder."""
    return [f"passed over: {each}: its config.yaml or meta.json is damaged" for each in damaged(root)]


def listing(request: Request, known: Speeds | None) -> Group:
    """The rows of an entry: their trainings with one seed, what those cost together, how many are finished."""
    entry = request.entry
    head = Text(f"\n{entry.name}: {entry.title} ({entry.source})")
    if not entry.rows or entry.settings:
        what = f"analysis={entry.theory}" if entry.theory else "read from the configurations of table1"
        return Group(head, Text(f"  nothing to train: {what}"))
    table = Table()
    table.add_column("experiment", no_wrap=True)
    table.add_column("grid", overflow="fold")
    table.add_column("run", no_wrap=True)
    for heading in ("gradient evaluations", "hours"):
        table.add_column(heading, justify="right")
    tasks, runs = plan(request), scan(request.root)
    for row in dict.fromkeys(row.experiment for row in entry.rows):
        mine = [task for task in tasks if task.job.row.experiment == row]
        costs = [cost(task, request, known) for task in mine]
        count, took = (_sum([each[i] for each in costs]) for i in (0, 1))
        first = mine[0].job.row
        departing = others(runs, first)
        done = f"{sum(task.done for task in mine)} of {len(mine)}" + (f", {departing} other" if departing else "")
        table.add_row(Text(row), Text(grid_text(first)), Text(done), millions(count), _hours(took))
    return Group(head, table)


def grid_text(row: Row) -> str:
    """An axis a line, its points with spaces between: a narrow terminal breaks lines there, not inside a number."""
    return "\n".join(f"{key.rsplit('.', 1)[-1]} {' | '.join(map(str, points))}" for key, points in row.grid().items())


def _sum(numbers: Sequence[float | None]) -> float | None:
    return None if None in numbers else sum(numbers)


def cost(task: Task, request: Request, known: Speeds | None) -> tuple[int | None, float | None]:
    """Gradient evaluations and hours of the whole training; None where unknown."""
    count = evaluations(task.config)
    if count is None or known is None:
        return count, None
    return count, count / known.rate(task.config) / request.gpus / 3600


def state(task: Task) -> str:
    if task.waits:
        return f"waits for {task.waits}"
    if task.found is None:
        return "not run"
    return f"done: {task.found.folder}" if task.done else f"started, step {task.found.step}: {task.found.folder}"


def others(runs: Sequence[Found], row: Row) -> int:
    """Runs of the row's experiment that depart from it."""
    return sum(run.experiment == row.experiment and bool(departures(run.config, row)) for run in runs)


def millions(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "-"
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def name(task: Task, request: Request) -> str:
    """The training's experiment and settings, without those that all have."""
    own = [each for each in task.overrides if each not in request.extra]
    return " ".join(each.removeprefix("experiment=") for each in own)


def _sets(request: Request, tasks: Sequence[Task]) -> list[str]:
    names = [name for task in tasks for name in sets(request.entry, task.config.data.name).values()]
    return list(dict.fromkeys(names))
