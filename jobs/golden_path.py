"""Every stage of one use case as one job, from raw data to an endpoint (configs/golden_paths/)."""

import sys

from jobs.entry import run_job
from rayapp.config.operations import GoldenPathConfig


def main() -> int:
    return run_job(__doc__ or "", GoldenPathConfig, "rayapp.flows.golden_path:golden_path")


if __name__ == "__main__":
    sys.exit(main())
