"""One torchrun under supervision.

torchrun's agent dies of SIGUSR1 and kills its ranks 30 s after SIGTERM, starts ranks that left with exit code 75 again, can
hang without ranks when the host of the rendezvous is gone, and leaves its ranks behind when it is killed. So the supervisor

- passes SIGTERM, SIGINT and SIGUSR1 on to the ranks alone, as SIGUSR1: they save and leave, and tell it so (rank.py);
- kills an agent that outlives its ranks without starting others, or that is asked a second time;
- adopts what a killed agent leaves, and ends it. The agent, and by it the ranks, end when the supervisor itself is killed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from tempfile import TemporaryFile
from types import FrameType
from typing import IO

from gsam.cli import REQUEUE, SIGNALS
from gsam.launch.network import settle
from gsam.launch.options import Options, read
from gsam.launch.process import adopt_orphans, catches, children, end_with, environment
from gsam.launch.rank import NOTES, SUPERVISOR

TICK_S = 0.1
AGAIN_S = 5  # a scheduler may send one wish to several processes, and so twice; as gsam.train.signals has it
LEAVE_S = 30  # for ranks that are asked to leave before they are killed, as torchrun has it
FAILED_S = 10  # for an agent whose ranks failed and that will start no others
ENDED_S = 30  # for an agent whose ranks ended well: it waits for those of other hosts
MARGIN_S = 60  # for an agent in a rendezvous, beyond the time-outs that it should keep itself


def run(arguments: Sequence[str]) -> int:
    """torchrun with these arguments, in a process of its own (it adopts orphans and takes signals): the exit code.

    0: the ranks ended well. REQUEUE: they left when they were asked to, and saved; the same command continues. Otherwise that
    of the failure. Raises ValueError for arguments or a system with which it cannot begin.
    """
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        raise ValueError(
            "torchrun cannot be supervised here: that needs Linux's /proc/…/children; start torchrun itself"
        )
    options = read(arguments)
    with TemporaryFile("w+") as notes:  # without a name: it vanishes with this process, however that ends
        supervisor = _Supervisor(options, notes)
        arguments, found = settle(arguments, options)
        if supervisor.asked:
            return REQUEUE
        supervisor.start(arguments, found)
        return supervisor.wait()


class _Supervisor:
    """Takes the signals."""

    agent: subprocess.Popen | None = None

    def __init__(self, options: Options, notes: IO[str]):
        self.options, self.notes = options, notes
        self.asked = 0.0  # when first, on time.monotonic()'s clock
        self.again = self.killed = False
        self.group: set[int] = set()  # process ids of the ranks that were started last
        self.told: set[int] = set()  # … of those asked to leave
        self.restarts, self.seen = 0, time.monotonic()  # starts before theirs; when one of them was last alive
        self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def start(self, arguments: Sequence[str], found: dict[str, str]) -> None:
        notes = f"/proc/{os.getpid()}/fd/{self.notes.fileno()}"
        env = {**os.environ, **found, SUPERVISOR: str(os.getpid()), NOTES: notes}
        if self.options.nodes[1] > 1 and (self.options.max_restarts or self.options.elastic):
            # Else torch 2.14 may hand ranks that start again the addresses of the dead ones. See gsam.runtime._own_store.
            env.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        adopt_orphans()
        self.agent = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *arguments], env=env,
            start_new_session=True,  # Ctrl-C is the supervisor's
            preexec_fn=partial(self._begin, os.getpid()),
        )  # fmt: skip

    def _begin(self, supervisor: int) -> None:
        """In the agent. Both signals it passes on to the ranks, which save and leave. To ranks SIGTERM means besides that the
        other hosts may go on without this one; but in a Slurm job torchrun ignores it."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        end_with(supervisor, signal.SIGINT if self.before[signal.SIGTERM] is signal.SIG_IGN else signal.SIGTERM)

    def wait(self) -> int:
        """The exit code, after the end of the agent and all that it started."""
        try:
            while not self.killed and self.agent.poll() is None:
                self._look()
                _orphans(but=self.agent.pid)
                time.sleep(TICK_S)
        finally:
            self._clear()
        return self._code()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self.asked >= AGAIN_S:
            self.again = True
            return
        self.asked = self.asked or time.monotonic()
        ranks = self._ranks() if self.agent else set()
        if ranks and all(catches(pid, signal.SIGUSR1) for pid in ranks):
            self._tell(ranks)

    def _tell(self, ranks: set[int]) -> None:
        self.told |= ranks
        _send(signal.SIGUSR1, ranks)

    def _ranks(self) -> set[int]:
        """Those alive; remembers them."""
        found = {pid: environment(pid) for pid in children(self.agent.pid)}
        found = {pid: env for pid, env in found.items() if "TORCHELASTIC_RESTART_COUNT" in env}
        if found:
            self.seen = time.monotonic()
            self.restarts = int(next(iter(found.values()))["TORCHELASTIC_RESTART_COUNT"])
            self.group = set(found) | (self.group if self.group & set(found) else set())
        return set(found)

    def _look(self) -> None:
        ranks = self._ranks()
        alone_s = time.monotonic() - self.seen
        if self.again:
            self._kill_agent("asked a second time: torchrun is ended, and what has not left")
        elif self.asked and not self.group & self.told:
            self._kill_agent("")  # nothing to save: ranks that have just been started, or none
        elif self.asked and (late := ranks - self.told):  # Linux may leave one out of a list of children
            self._tell(late)
        elif not ranks and alone_s > (limit := self._limit()):
            self._kill_agent(f"torchrun has had no ranks for {limit:.0f} s and does not end (is a host gone?); killed")

    def _limit(self) -> float:
        """Seconds that an agent may live without ranks."""
        final = self.restarts >= self.options.max_restarts and not self.options.elastic
        if self.group and (final or self.told):
            return ENDED_S if self._codes() in ({0}, {REQUEUE}) else FAILED_S
        return self.options.rendezvous_s + MARGIN_S

    def _kill_agent(self, why: str) -> None:
        if why:
            print(f"launch: {why}", file=sys.stderr, flush=True)
        self.killed = True
        self.agent.kill()
        with suppress(subprocess.TimeoutExpired):
            self.agent.wait(LEAVE_S)

    def _codes(self) -> set[int | None]:
        """How the last ranks ended, or those told to leave, by their own account; None for one that gave none."""
        self.notes.seek(0)
        notes = dict(tuple(map(int, line.split())) for line in self.notes.read().splitlines())
        return {notes.get(pid) for pid in self.told or self.group}

    def _code(self) -> int:
        code, codes = self.agent.returncode, self._codes()
        code = -signal.SIGKILL if code is None else code  # not even that has ended it
        if self.asked and not self.told:
            return REQUEUE  # before the ranks had anything to save
        if codes == {REQUEUE} and (code >= 0 or self.killed):
            return REQUEUE
        if code == 0 or self.killed and codes == {0}:
            return 0
        if failures := codes - {None, 0, REQUEUE}:
            return max(failures)  # torchrun's is 1 for any
        return code if code > 0 else 128 - code

    def _clear(self) -> None:
        """End what is left of the agent and its ranks, which end with it if they can, and what they started."""
        deadline = time.monotonic() + LEAVE_S
        _send(signal.SIGTERM, _orphans())
        while left := _orphans():  # the end of one may orphan others
            time.sleep(TICK_S)
            if time.monotonic() > deadline + LEAVE_S:
                print(
                    f"launch: SIGKILL does not end {left}: do they wait for a disk or a device?",
                    file=sys.stderr,
                    flush=True,
                )
                return
            if time.monotonic() > deadline or not any(catches(pid, signal.SIGTERM) for pid in left):
                _send(signal.SIGKILL, _orphans())


def _orphans(but: int = 0) -> list[int]:
    """Adopted processes that live; the ended ones are buried."""
    alive = []
    for pid in set(children(os.getpid())) - {but}:
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                alive.append(pid)
    return alive


def _send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # ended meanwhile
            os.kill(pid, number)
