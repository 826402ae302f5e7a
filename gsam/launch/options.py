"""What a supervisor reads of torchrun's arguments. torchrun itself judges them."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    nodes: tuple[int, int]  # at least, at most
    max_restarts: int
    backend: str
    endpoint: str
    rendezvous: dict[str, str]  # --rdzv-conf
    local_addr: str

    @property
    def elastic(self) -> bool:
        return self.nodes[0] < self.nodes[1]

    @property
    def rendezvous_s(self) -> int:
        """How long an agent may wait for others, with torchrun's defaults: for the endpoint, to join, for a last call."""
        defaults = {"read_timeout": 60, "join_timeout": 600, "last_call_timeout": 30}
        return sum(int(self.rendezvous.get(key, seconds)) for key, seconds in defaults.items())


def read(arguments: Sequence[str]) -> Options:
    """Raises ValueError for what torchrun would not understand either."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("nnodes", "max-restarts", "rdzv-backend", "rdzv-endpoint", "rdzv-conf", "local-addr"):
        words = {f"--{name}", f"--{name.replace('-', '_')}"}
        default = os.environ.get(f"PET_{name.replace('-', '_').upper()}", "")  # torchrun's own
        parser.add_argument(*sorted(words), dest=name, default=default)
    given = vars(parser.parse_known_args(list(arguments))[0])
    fewest, _, most = (given["nnodes"] or "1").partition(":")
    pairs = (pair.partition("=") for pair in given["rdzv-conf"].replace(" ", "").split(",") if pair)
    try:
        nodes, restarts = (int(fewest), int(most or fewest)), int(given["max-restarts"] or 0)
    except ValueError:
        raise ValueError(
            f"--nnodes={given['nnodes']} --max-restarts={given['max-restarts']}: numbers, as in --nnodes=2 or --nnodes=1:4"
        ) from None
    conf = {key: value for key, _, value in pairs}
    return Options(nodes, restarts, given["rdzv-backend"], given["rdzv-endpoint"], conf, given["local-addr"])
