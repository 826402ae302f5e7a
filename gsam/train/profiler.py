"""A trace of a few training steps."""

from pathlib import Path

import torch


class Profiler:
    """torch's profiler over `steps` steps after LEAD others."""

    LEAD = 5

    def __init__(self, steps: int, path: Path):
        schedule = torch.profiler.schedule(wait=2, warmup=self.LEAD - 2, active=steps, repeat=1)
        self.left, self.path, self.profile = self.LEAD + steps, path, torch.profiler.profile(schedule=schedule)
        self.profile.start()

    def step(self) -> None:
        """After each training step; the last one writes the trace and prints where the time went."""
        self.left -= 1
        self.profile.step()
        if self.left:
            return
        self.profile.stop()
        self.profile.export_chrome_trace(str(self.path))
        print(self.profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
        print(f"trace for chrome://tracing or ui.perfetto.dev: {self.path}")
