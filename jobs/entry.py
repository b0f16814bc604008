"""What every job does around its flow: arguments, config, connection, exit code.

The config, and what it leads to, is read and checked before Ray is imported, so a mistake costs a
second.
"""

import argparse
import importlib
import json
import os
import sys
import time
from typing import Any

from rich.console import Console

from rayapp.config.load import Config, load
from rayapp.errors import RayappError
from rayapp.storage import Workspace
from rayapp.telemetry import configure_logging


def run_job(description: str, config_class: type[Config], flow: str) -> int:
    """Run `module:function`(session, config) and print its figures as one last JSON line.

    Exit codes: 0 done, 2 the input is wrong, 3 refused by a gate or a policy, 1 a bug (traceback).
    """
    arguments = _parse(description)
    configure_logging()
    try:
        environment = os.environ.get("RAYAPP_ENVIRONMENT")
        config = load(config_class, arguments.config, arguments.overrides, environment)
        workspace = Workspace.from_environment(os.environ)
        references = importlib.import_module("rayapp.flows.references")
        references.check_references(config, arguments.config, environment, workspace)
        figures = _run(flow, config)
    except RayappError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", highlight=False, markup=False)
        return error.exit_code
    sys.stdout.write(json.dumps(figures, sort_keys=True, default=str) + "\n")
    return 0


def _parse(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="a YAML file below configs/")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for example workers.num_workers=2"
    )
    return parser.parse_args()


def _run(flow: str, config: Config) -> dict[str, Any]:
    module, _, function = flow.partition(":")
    session_module = importlib.import_module("rayapp.flows.session")
    run = getattr(importlib.import_module(module), function)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    began_s = time.monotonic()
    session = session_module.open_session(
        os.environ,
        lambda text: console.print(f"{time.monotonic() - began_s:6.1f}s  {text}"),
    )
    figures: dict[str, Any] = run(session_module.connect(session), config)
    return figures
