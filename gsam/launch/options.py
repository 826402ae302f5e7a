"""What a supervisor reads of torchrun's arguments. torchrun itself judges them."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

# torchrun's options, all of them: an abbreviation means what is unique, and the script is the first word that is no value.
VALUES = """nnodes nproc-per-node rdzv-backend rdzv-endpoint rdzv-id rdzv-conf max-restarts monitor-interval start-method
event-log-handler role log-dir redirects tee log-line-prefix-template local-ranks-filter duplicate-stdout-filters
duplicate-stderr-filters node-rank master-addr master-port local-addr logs-specs numa-binding signals-to-handle
shutdown-timeout print-completion""".split()
FLAGS = ("standalone", "module", "no-python", "run-path", "virtual-local-rank")
SHORT = {"module": "-m", "redirects": "-r", "tee": "-t"}
TIMEOUTS = {"read_timeout": 60, "join_timeout": 600, "last_call_timeout": 30}  # torchrun's defaults, seconds


@dataclass(frozen=True)
class Options:
    nodes: tuple[int, int]  # at least, at most
    max_restarts: int
    backend: str
    endpoint: str
    rendezvous: dict[str, str]  # --rdzv-conf
    local_addr: str
    count: int
    """words before the script and before a `--` in front of it"""

    @property
    def elastic(self) -> bool:
        return self.nodes[0] < self.nodes[1]

    @property
    def rendezvous_s(self) -> int:
        """How long an agent may wait for others: for the endpoint, to join, for a last call."""
        return sum(int(self.rendezvous.get(key, seconds)) for key, seconds in TIMEOUTS.items())

    def added(self, arguments: Sequence[str], more: Sequence[str]) -> list[str]:
        """With further options, which count: they are the last."""
        return [*arguments[: self.count], *more, *arguments[self.count :]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; torchrun's options come before the script (--help shows them)")


def read(arguments: Sequence[str]) -> Options:
    """Raises ValueError for what torchrun would not understand either."""
    parser = _Parser(add_help=False)
    for name in (*VALUES, *FLAGS):
        plain = name.replace("-", "_")
        words = dict.fromkeys((*filter(None, [SHORT.get(name)]), f"--{name}", f"--{plain}"))
        if name in FLAGS:
            parser.add_argument(*words, dest=plain, action="store_true")
        else:
            parser.add_argument(
                *words, dest=plain, default=os.environ.get(f"PET_{plain.upper()}", "")
            )  # torchrun's own
    parser.add_argument("script")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    given = parser.parse_known_args(list(arguments))[0]
    count = len(arguments) - len(given.rest) - 1
    count -= list(arguments[count - 1 : count]) == ["--"]
    fewest, _, most = (given.nnodes or "1").partition(":")
    try:
        nodes, restarts = (int(fewest), int(most or fewest)), int(given.max_restarts or 0)
    except ValueError:
        raise ValueError(
            f"--nnodes={given.nnodes} --max-restarts={given.max_restarts}: numbers, as in --nnodes=2 or --nnodes=1:4"
        ) from None
    conf = {
        key: value
        for key, _, value in (pair.partition("=") for pair in given.rdzv_conf.replace(" ", "").split(",") if pair)
    }
    for key in TIMEOUTS:
        if not conf.get(key, "0").isdecimal():
            raise ValueError(f"--rdzv-conf={key}={conf[key]}: a number of seconds, as in --rdzv-conf={key}=60")
    return Options(nodes, restarts, given.rdzv_backend, given.rdzv_endpoint, conf, given.local_addr, count)
