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
    assert all(row["device"] and row["torch"] and row["git_hash"] for row in rows)
    assert {"optimizer", "train_step"} <= {row["benchmark"] for row in rows}
    sys.modules.pop("write_doc")
