"""Deploy a Ray Serve config file and wait until it answers (configs/serving/)."""

import sys

from jobs.entry import run_job
from rayapp.config.serving import ServeFile


def main() -> int:
    return run_job(__doc__ or "", ServeFile, "rayapp.flows.deploying:deploy_file")


if __name__ == "__main__":
    sys.exit(main())
