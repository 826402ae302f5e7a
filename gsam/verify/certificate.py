"""What the proofs leave behind: a JSON file that training copies into its run folder."""

import hashlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from gsam.files import write_atomic
from gsam.runtime import environment


def default_path() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gsam" / "verify.json"


def code_hash() -> str:
    """Of the code that the proofs are about: a certificate of other code proves nothing."""
    parts = sorted((Path(__file__).parents[1] / "optim").glob("*.py"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()[:12]


def certificate_for(meta: dict[str, Any]) -> bytes | None:
    """The certificate at the default path, if it passed with this code, this torch and the device of `meta` (a run's
    environment); else None."""
    try:
        data = default_path().read_bytes()
        found = json.loads(data)
        kinds = [m["device"].split(",")[0] for m in (found, meta)]  # the number of CPU threads does not matter
        now = (True, code_hash(), meta["versions"]["torch"], kinds[1])
        return data if (found["passed"], found["code"], found["versions"]["torch"], kinds[0]) == now else None
    except (OSError, ValueError, KeyError):
        return None


def write(path: Path, proofs: list[dict[str, Any]], device: torch.device, seconds: float) -> dict[str, Any]:
    """The certificate of these proofs, written atomically to `path`."""
    certificate = {
        "passed": all(proof["passed"] for proof in proofs), **environment(device), "code": code_hash(), "proofs": proofs,
        "seconds": round(seconds, 1), "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_atomic(path, json.dumps(certificate, indent=1))
    return certificate
