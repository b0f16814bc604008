"""Deploying a Serve config file to the cluster this job runs on, and waiting until it answers."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve.schema import ServeDeploySchema

from rayapp.config.load import read_yaml
from rayapp.errors import ConfigError, Unavailable

_WAIT_S = 180


def deploy(
    config_path: str,
    dashboard_url: str | None,
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[str, str]:
    """Send the Serve config file to the cluster behind the dashboard and wait until every
    application runs. Returns URLs.

    The port is RAYAPP_HTTP_PORT's, else the file's. Replicas run the code that is installed on
    their nodes. Raises ConfigError, or Unavailable when they do not come up.
    """
    config, _ = read_yaml(config_path)
    http = config.setdefault("http_options", {})
    http["port"] = int(environ.get("RAYAPP_HTTP_PORT") or http.get("port", 8000))
    _check(config, config_path)
    if dashboard_url is None:
        raise Unavailable(
            "this cluster has no dashboard, through which Ray Serve takes its config",
            "start it with one (`rayapp up` does), or leave `serving` out of the golden path",
        )
    names = [application["name"] for application in config["applications"]]
    _clear_failed(names)
    ServeSubmissionClient(dashboard_url).deploy_applications(config)
    _wait_until_running(names, say)
    base = f"http://127.0.0.1:{http['port']}"
    return {"endpoint_url": base, "dashboard_url": dashboard_url}


def _check(config: dict[str, Any], path: str) -> None:
    try:
        ServeDeploySchema.model_validate(config)
    except ValueError as error:
        raise ConfigError(f"{path}: not a Serve config: {error}", "see configs/serving/") from None


def _clear_failed(names: list[str]) -> None:
    """Serve does not try again what failed with the same config, though the code was mended since.
    An application of which replicas still answer is left alone."""
    applications = serve.status().applications
    for name in names:
        found = applications.get(name)
        if found is None or found.status.value != "DEPLOY_FAILED":
            continue
        states = [set(d.replica_states) for d in found.deployments.values()]
        if not any("RUNNING" in own for own in states):
            serve.delete(name)


def _wait_until_running(names: list[str], say: Callable[[str], None]) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    shown = ""
    while time.monotonic() < deadline_s:
        applications = serve.status().applications
        states = {
            n: applications[n].status.value if n in applications else "WAITING" for n in names
        }
        text = ", ".join(f"{name} {state}" for name, state in states.items())
        if text != shown:
            say(f"serve {text}")
            shown = text
        if all(state == "RUNNING" for state in states.values()):
            return
        failed = [n for n in names if states[n] in ("DEPLOY_FAILED", "UNHEALTHY")]
        if failed:
            reasons = "; ".join(f"{n}: {applications[n].message}" for n in failed)
            raise Unavailable(
                f"deployment failed: {reasons}", "see the Serve page of the dashboard"
            )
        time.sleep(0.5)  # Serve offers no event for this; the status call is a cheap actor call
    raise Unavailable(f"{shown} after {_WAIT_S} s", "see the Serve page of the dashboard")
