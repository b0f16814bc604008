"""Read raw tables, apply their contracts, and build a use case's snapshot (configs/snapshots/)."""

import sys

from jobs.entry import run_job
from rayapp.config.snapshot import SnapshotConfig


def main() -> int:
    return run_job(__doc__ or "", SnapshotConfig, "rayapp.flows.stages:build_snapshot")


if __name__ == "__main__":
    sys.exit(main())
