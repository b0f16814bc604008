"""Where a benchmark's figures go: benchmarks/results/NAME-DATE.json, or the file that was named."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def path_of(name: str, given: str | None) -> Path:
    """given: as it was named on the command line, if it was."""
    today = now().date().isoformat()
    return Path(given or f"benchmarks/results/{name}-{today}.json")


def now() -> datetime:
    return datetime.now(UTC)


def measured_here() -> dict[str, Any]:
    """On what and when, beside every benchmark's figures."""
    return {"num_cpus": os.cpu_count(), "at": now().isoformat(timespec="seconds")}


def write(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def tell(path: Path, result: Mapping[str, Any]) -> None:
    """Into the file, and on stdout."""
    write(path, result)
    sys.stdout.write(path.read_text())
