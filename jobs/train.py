"""Train one model on the newest snapshot (configs/training/)."""

import sys

from jobs.entry import run_job
from rayapp.config.training import TrainConfig


def main() -> int:
    return run_job(__doc__ or "", TrainConfig, "rayapp.flows.stages:train")


if __name__ == "__main__":
    sys.exit(main())
