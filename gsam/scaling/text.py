"""Bits of the page, and the sizes that it is worked out for."""

from gsam.scaling.traffic import METHODS

BATCH, AT_ONCE, EXAMPLE = 4096, 64, "vit_b32"
VANILLA, SAM, GSAM, GLOBAL, ENTROPY = METHODS


def table(head: list[str], rows: list[list[str]]) -> str:
    """A GitHub table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def mb(size: float) -> str:
    return f"{size / 1e6:.2f}"


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"
