"""Evaluate, gate, sign and promote the newest run of a release config (configs/releases/)."""

import sys

from jobs.entry import run_job
from rayapp.config.release import ReleaseConfig


def main() -> int:
    return run_job(__doc__ or "", ReleaseConfig, "rayapp.flows.stages:release")


if __name__ == "__main__":
    sys.exit(main())
