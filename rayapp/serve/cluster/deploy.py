"""Deploying a Serve config to the cluster this job runs on, and waiting until it answers."""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve.schema import ApplicationStatusOverview, gRPCOptionsSchema

from rayapp.config.serving import ServeFile
from rayapp.errors import Unavailable, UserError

_WAIT_S, _LONG_S = 600, 15
_ATTEMPT = "RAYAPP_DEPLOY_ATTEMPT"


def deploy(
    file: ServeFile,
    dashboard_url: str | None,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    on_wait: Callable[[Sequence[str]], None] = lambda names: None,
    keeps_others: bool = False,
) -> dict[str, str]:
    """Send the Serve config to the cluster behind the dashboard and wait until every application
    runs. Returns URLs. on_wait gets the applications that do not run yet, once, where that takes
    longer than it should. keeps_others: applications that run and are not in the file stay; else
    they are taken away, which is told.

    The port is RAYAPP_HTTP_PORT's, else the file's. Replicas run the code that is installed on
    their nodes. Raises UserError for grpc_options that cannot be had, and Unavailable when the
    applications do not come up; what answered before goes on.
    """
    if dashboard_url is None:
        raise Unavailable(
            "this cluster has no dashboard, through which Ray Serve takes its config",
            "start it with one (`rayapp up` does), or leave `serving` out of the golden path",
        )
    config = file.model_dump(exclude_unset=True)
    port = int(environ.get("RAYAPP_HTTP_PORT") or file.http_options.get("port", 8000))
    config["http_options"] = {**file.http_options, "port": port}
    client = ServeSubmissionClient(dashboard_url)
    running = client.get_serve_details()
    config["grpc_options"] = grpc_options(file.grpc_options, environ, running.get("grpc_options"))
    config["applications"] = tried_again(file.applications, running["applications"])
    others = those_beside(file.applications, running["applications"], keeps_others)
    config["applications"] += others.kept
    if others.gone:
        say(f"serve takes away {', '.join(others.gone)}: they run now, and are not in this file")
    client.deploy_applications(config)
    _wait_until_running([application["name"] for application in file.applications], say, on_wait)
    return {"endpoint_url": f"http://127.0.0.1:{port}", "dashboard_url": dashboard_url}


def grpc_options(
    wanted: Mapping[str, Any], environ: Mapping[str, str], running: Mapping[str, Any] | None
) -> dict[str, Any]:
    """All of them, with RAYAPP_GRPC_PORT's port if it is set. running: those that Serve has; None
    where it does not run yet.

    Raises UserError for others than those, which Serve would pass over in silence, and for a port
    that is taken, with which Serve would not come up, HTTP included.
    """
    made = gRPCOptionsSchema(**wanted)
    if made.grpc_servicer_functions:
        made.port = int(environ.get("RAYAPP_GRPC_PORT") or made.port)
    options: dict[str, Any] = made.model_dump()
    if running is None:
        if made.grpc_servicer_functions and not _is_free(made.port):
            raise UserError(
                f"port {made.port} (gRPC) is taken by another process",
                "end it, or take another: `port` of grpc_options, or RAYAPP_GRPC_PORT of `up`",
            )
    elif options != running:
        kept = running if running["grpc_servicer_functions"] else "none"
        raise UserError(
            f"Serve runs with other grpc_options ({kept}), and keeps them until it ends",
            'end it, which takes its endpoints away until the next deployment: env="$(rayapp env)" '
            '&& eval "$env" && serve shutdown -y, and submit again',
        )
    return options


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Others(NamedTuple):
    """Applications that run and are not in a file: kept, as they are to be sent again, and the
    names of those that go, each with its route."""

    kept: list[dict[str, Any]]
    gone: list[str]


def those_beside(
    applications: Sequence[Mapping[str, Any]], deployed: Mapping[str, Any], keeps_others: bool
) -> Others:
    """deployed: details of those that Serve has. One whose route the file gives to another one goes
    in any case."""
    names = {application["name"] for application in applications}
    routes = {application.get("route_prefix", "/") for application in applications} - {None}
    kept, gone = [], []
    for name, found in deployed.items():
        config = found["deployed_app_config"]
        if name in names or config is None:
            continue
        route = found.get("route_prefix")
        if keeps_others and route not in routes:
            kept.append(dict(config))
        else:
            gone.append(name if route is None else f"{name} ({route})")
    return Others(kept, gone)


def tried_again(
    applications: Sequence[Mapping[str, Any]], deployed: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The applications as they are to be sent. deployed: details of those that Serve has.

    Serve does not try again what failed with the same config, though the code was mended since; and
    to delete it would take away the replicas of the version before, which may still answer. So each
    attempt after a failure is a version of its own, which stays with what runs until the next
    failure: an unchanged config starts no replica anew.
    """
    return [
        _with_attempt(dict(application), deployed.get(application["name"]))
        for application in applications
    ]


def _with_attempt(application: dict[str, Any], found: Mapping[str, Any] | None) -> dict[str, Any]:
    if found is None:
        return application
    runtime_env = (found["deployed_app_config"] or {}).get("runtime_env", {})
    attempt = int(runtime_env.get("env_vars", {}).get(_ATTEMPT, 0))
    attempt += found["status"] == "DEPLOY_FAILED"
    if attempt:
        runtime_env = dict(application.get("runtime_env", {}))
        runtime_env["env_vars"] = runtime_env.get("env_vars", {}) | {_ATTEMPT: str(attempt)}
        application["runtime_env"] = runtime_env
    return application


def _wait_until_running(
    names: list[str], say: Callable[[str], None], on_wait: Callable[[Sequence[str]], None]
) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    tell_at_s: float | None = time.monotonic() + _LONG_S
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
            reasons = "; ".join(f"{name}: {_reason(applications[name])}" for name in failed)
            raise Unavailable(
                f"deployment failed: {reasons}",
                "mend it and submit again; replicas of the version before, if there are any, go on "
                "answering. All of the traceback: the Serve page of the dashboard",
            )
        if tell_at_s is not None and time.monotonic() >= tell_at_s:
            on_wait([name for name in names if states[name] != "RUNNING"])
            tell_at_s = None
        time.sleep(0.5)  # Serve offers no event for this; the status call is a cheap actor call
    raise Unavailable(f"{shown} after {_WAIT_S} s", "see the Serve page of the dashboard")


def _reason(application: ApplicationStatusOverview) -> str:
    """The exception that ended it, without the frames that led there."""
    deployments = application.deployments.values()
    told = [d.message for d in deployments if d.message and d.status.value != "HEALTHY"]
    return "; ".join(without_frames(message) for message in told or [application.message])


def without_frames(traceback: str) -> str:
    """What follows the last frame of a traceback; a text without frames as it is."""
    lines = traceback.rstrip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("    ")]
    return "\n".join(lines[frames[-1] + 1 :] if frames else lines)
