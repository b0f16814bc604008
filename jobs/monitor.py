"""Live quality from arrived outcomes, and drift against training (configs/operations/)."""

import sys

from jobs.entry import run_job
from rayapp.config.operations import MonitorConfig


def main() -> int:
    return run_job(__doc__ or "", MonitorConfig, "rayapp.flows.monitoring:monitor")


if __name__ == "__main__":
    sys.exit(main())
