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
    def rendezvous_s(self) -> float:
        """How long an agent may wait for others, with torchrun's defaults: join, then last call."""
        return sum(float(self.rendezvous.get(key, s)) for key, s in (("join_timeout", 600), ("last_call_timeout", 30)))


def read(arguments: Sequence[str]) -> Options:
    """Raises ValueError for what torchrun would not understand either."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("nnodes", "max-restarts", "rdzv-backend", "rdzv-endpoint", "rdzv-conf", "local-addr"):
        words = {f"--{name}", f"--{name.replace('-', '_')}"}
        default = os.environ.get(f"PET_{name.replace('-', '_').upper()}", "")  # torchrun's own
        parser.add_argument(*sorted(words), dest=name, default=default)
    given = vars(parser.parse_known_args(list(arguments))[0])
    fewest, _, most = (given["nnodes"] or "1").partition(":")
    conf = dict(pair.split("=", 1) for pair in given["rdzv-conf"].replace(" ", "").split(",") if pair)
    return Options(
        (int(fewest), int(most or fewest)), int(given["max-restarts"] or 0), given["rdzv-backend"], given["rdzv-endpoint"],
        conf, given["local-addr"],
    )  # fmt: skip
