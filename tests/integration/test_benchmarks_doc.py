"""docs/benchmarks.md says what docs/bench/results.jsonl holds."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_command_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import json

    write_doc = __import__("write_doc")
    rows = [json.loads(line) for line in write_doc.RECORD.read_text().splitlines()]
    assert write_doc.PAGE.read_text() == write_doc.page(rows), "run python scripts/bench/write_doc.py"
    row = {"benchmark": "train_step", "device": "CPU", "gsam_to_vanilla": 2.2, "vanilla_to_plain": 1.004}
    assert "| **2.20** | 1.00 |" in write_doc.page([row]) and "On a CUDA device: not run." in write_doc.page([row])
    assert "| – | 1.00 |" in write_doc.page([row | {"gsam_to_vanilla": None}])
    assert "CUDA device" not in write_doc.page([row, row | {"device": "NVIDIA H200"}])
    assert all(row["device"] and row["torch"] and row["git_hash"] for row in rows)
    assert {"optimizer", "train_step"} <= {row["benchmark"] for row in rows}
    sys.modules.pop("write_doc")
