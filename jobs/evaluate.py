"""Evaluate the newest run of a release config and decide its gates (configs/releases/)."""

import sys

from jobs.entry import run_job
from rayapp.config.release import ReleaseConfig


def main() -> int:
    return run_job(__doc__ or "", ReleaseConfig, "rayapp.flows.stages:evaluate")


if __name__ == "__main__":
    sys.exit(main())
