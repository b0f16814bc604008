"""Search a model's settings within a budget (configs/sweeps/)."""

import sys

from jobs.entry import run_job
from rayapp.config.sweep import SweepConfig


def main() -> int:
    return run_job(__doc__ or "", SweepConfig, "rayapp.flows.stages:tune")


if __name__ == "__main__":
    sys.exit(main())
