"""Bring a language model's weights into the workspace (configs/weights/)."""

import sys

from jobs.entry import run_job
from rayapp.config.weights import WeightsConfig


def main() -> int:
    return run_job(__doc__ or "", WeightsConfig, "rayapp.flows.adding_weights:add_weights_job")


if __name__ == "__main__":
    sys.exit(main())
