"""Prints a table of the proofs, writes the certificate, exits with 1 if a proof fails."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from gsam.verify.certificate import default_path, write
from gsam.verify.proofs import prove


def show(rows: list[dict[str, Any]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for row in rows:
            print(
                f"{'passed' if row['passed'] else 'FAILED'}  {row['name']:<16} {row['seconds']:>6.1f} s  {row['detail']}"
            )
        return
    table = Table("proof", "", "s", "")
    for row in rows:
        mark = "[green]passed[/]" if row["passed"] else "[bold red]FAILED[/]"
        table.add_row(row["name"], mark, f"{row['seconds']:.1f}", row["detail"].replace("[", "\\["))
    Console(width=None if sys.stdout.isatty() else 128).print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gsam.verify", description="Prove the optimizers on this machine.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=default_path(), help="where the certificate goes (%(default)s)")
    args = parser.parse_args(argv)
    device, began = torch.device(args.device), time.monotonic()
    rows = prove(device)
    show(rows)
    certificate = write(args.out, rows, device, time.monotonic() - began)
    passed = certificate["passed"]
    print(f"{'all proofs hold' if passed else 'a proof FAILED'} on {certificate['device']}; certificate: {args.out}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
