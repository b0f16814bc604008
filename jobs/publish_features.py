"""Publish feature values for endpoints to look up, once or again and again (configs/features/)."""

import sys

from jobs.entry import run_job
from rayapp.config.operations import FeatureFeedConfig


def main() -> int:
    return run_job(__doc__ or "", FeatureFeedConfig, "rayapp.flows.publishing:publish_features")


if __name__ == "__main__":
    sys.exit(main())
