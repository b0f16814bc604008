"""Score rows of a snapshot with the champion of an endpoint (configs/operations/)."""

import sys

from jobs.entry import run_job
from rayapp.config.operations import ScoreConfig


def main() -> int:
    return run_job(__doc__ or "", ScoreConfig, "rayapp.flows.scoring:score_rows")


if __name__ == "__main__":
    sys.exit(main())
