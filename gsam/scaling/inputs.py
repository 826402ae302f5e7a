"""The inputs: committed files, and what the command line says instead."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gsam.files import write_atomic
from gsam.scaling.cost import Machine, base_s, machine_of
from gsam.scaling.text import AT_ONCE
from gsam.scaling.traffic import Network

BENCH = Path(__file__).resolve().parents[2] / "docs" / "bench"
STATED, COUNTED, MEASURED = BENCH / "scaling.yaml", BENCH / "networks.jsonl", BENCH / "results.jsonl"
OPTIMIZER_MODEL = "vit_base_patch32_224"  # whose measured overhead stands for all


@dataclass(frozen=True)
class Inputs:
    """stated: scaling.yaml by key. loader, optimizer: the last rows of these benchmarks. machine, slow: made of them; slow has
    the other network."""

    stated: dict[str, dict[str, Any]]
    networks: dict[str, Network]
    loader: dict[str, Any]
    optimizer: dict[str, Any]
    machine: Machine
    slow: Machine

    def value(self, key: str) -> float:
        return float(self.stated[key]["value"])


def read(given: dict[str, float] | None = None, changed: dict[str, float] | None = None) -> Inputs:
    """given: images per second of a vanilla step, by network; changed: other values of scaling.yaml. Raises ValueError for
    unknown names and speeds that cannot be."""
    stated = yaml.safe_load(STATED.read_text())
    networks = {row["name"]: Network(**row) for row in _lines(COUNTED)}
    for what, words, known in (("--images-per-second", given or {}, networks), ("--set", changed or {}, stated)):
        for key in words.keys() - known.keys():
            raise ValueError(f"{what} {key}=…: unknown; choose one of {', '.join(known)}")
    for key, value in (changed or {}).items():
        stated[key] = {"value": value, "source": "given on the command line"}
    rows = _lines(MEASURED)
    optimizer = [row for row in rows if row["benchmark"] == "optimizer" and row["model"] == OPTIMIZER_MODEL][-1]
    loader = [row for row in rows if row["benchmark"] == "loader"][-1]
    machine, slow = (machine_of(stated, optimizer, given or {}, key) for key in ("network", "slow_network"))
    for name, speed in (given or {}).items():
        if AT_ONCE / speed <= (base := base_s(networks[name], machine)):
            raise ValueError(
                f"--images-per-second {name}={speed:g}: a step of {AT_ONCE} images would take {1e3 * AT_ONCE / speed:.2f} ms, "
                f"the base optimizer alone takes {1e3 * base:.2f} ms; give that of a vanilla step of {AT_ONCE} images, or set "
                "memory_share"
            )
    return Inputs(stated, networks, loader, optimizer, machine, slow)


def write_networks() -> None:
    """Count the networks of Table 1 into networks.jsonl."""
    from gsam.scaling.count import count, networks

    write_atomic(COUNTED, "".join(json.dumps(asdict(count(name))) + "\n" for name in networks()))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
