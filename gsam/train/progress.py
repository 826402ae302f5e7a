"""What a person sees while it runs: a bar with the time left on a terminal, one plain line now and then elsewhere."""

import sys
import time
from contextlib import suppress


def duration(seconds: float) -> str:
    """ "1:02:03" or "2:03"."""
    minutes, secs = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def say(text: str) -> None:
    """A line on stdout. A full disk behind it, or a reader that has gone, does not end a training."""
    with suppress(OSError):
        print(text, flush=True)


class Progress:
    """`update(done, text)` at any rate; prints nothing unless `active`."""

    def __init__(self, label: str, total: int, *, start: int = 0, active: bool = True, every_s: float = 10.0):
        self.label, self.total, self.first, self.active, self.every_s = label, total, start, active, every_s
        self.began = time.monotonic()
        self.last_line = self.began - every_s
        self.bar = None
        if active and sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            count, text = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[text]}")
            times = [TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()]
            self.bar = RichProgress(TextColumn("{task.description}"), BarColumn(), count, *times, text)
            self.task = self.bar.add_task(label, total=total, completed=start, text="")
            self.bar.start()

    def update(self, done: int, text: str = "") -> None:
        if not self.active:
            return
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self.last_line >= self.every_s or done == self.total:
            self.last_line = now
            words = [f"{self.label} {done}/{self.total}", text, f"ETA {self.eta(done, now)}"]
            say(" · ".join(word for word in words if word))

    def eta(self, done: int, now: float) -> str:
        if done <= self.first:
            return "?"
        return duration((now - self.began) / (done - self.first) * (self.total - done))

    def note(self, text: str) -> None:
        """A line that stays."""
        if self.active:
            (self.bar.console.print if self.bar is not None else say)(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
