"""How Ray Serve takes requests in: the environment that every node's `ray start` needs.

    eval "$(python -m rayapp.serve.cluster.ingress)"; ray start …     what a cluster's nodes do

Serve reads these once, when a process first imports it; so they are set for the node, and its
controller, proxies and replicas inherit them. HAProxy passes requests straight to the replicas'
own HTTP servers, and the door (door.py) answers in there.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rayapp.config.serving import MOST_ONGOING
from rayapp.serve.callers.admission import MOST
from rayapp.serve.cluster import throttle

CLUSTER_PORTS = (8404, 9101, 8500, 9500)
"""Of a node that has no other Ray beside it: Ray's own defaults."""
CLUSTER_FOLDER = Path("/tmp/rayapp-ingress")  # noqa: S108 - HAProxy's files; a socket's path is short
NUM_PORTS = 4
"""Ports that one node's ingress needs beside the endpoints' own."""
REPEATABLE_BYTES = 64 * 1024
"""Longer requests, headers included, get an error when their replica dies."""
MAX_CONNECTIONS = MOST * MOST_ONGOING
"""Of HAProxy to one replica: as many requests as it may ever take."""
QUEUE_MS = 50
"""A request that finds all connections to all replicas taken for so long gets 503."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Of one gRPC call, as of a body that the gateway still reads to say that it is too long."""
REQUEST_TIMEOUT_S = 10
"""So long a client may take to send its headers, and a body of REPEATABLE_BYTES."""
READER_TIMEOUT_S = 60
"""So long a client may leave what waits for it unread; waiting for an answer is no such time. In
the hour that is Serve's default it would hold its place, and its part of a language model."""
# Serve has no settings for most lines of HAProxy's configuration, but copies a few of its settings
# there as they are: one amid `defaults`, one at their end, one amid each application's `backend`.
#
# HAProxy repeats only what it has whole, so it waits for the body first, which also keeps slow
# clients away from the replicas.
_RETRY_ON = f"""conn-failure empty-response
    option http-buffer-request
    timeout http-request {REQUEST_TIMEOUT_S}s"""
_BALANCE = f"leastconn\n{throttle.TABLE}"
# Without a limit to a replica's connections HAProxy opens another for each request that finds none
# idle, and a flood waits, unseen by anybody, until its connections are accepted.
_CHECK_EVERY = "\n    ".join(
    [
        f"5s maxconn {MAX_CONNECTIONS}",
        f"timeout queue {QUEUE_MS}ms",
        *throttle.rules(),
        "default-server",
    ]
)
DOOR = "rayapp.serve.cluster.door:middlewares"
CONTROLLER = "rayapp.serve.cluster.controller:keep_ingress"


def ingress_settings(folder: Path, ports: Sequence[int]) -> dict[str, str]:
    """The environment for one node. folder: its own, a short path, for HAProxy's files and
    sockets. ports: NUM_PORTS free ones.

    Empty where there is no HAProxy (it comes with ray[serve] on Linux only): Serve's own proxy then
    answers, more slowly, with the same behaviour.
    """
    if sys.platform != "linux":
        return {}
    stats, metrics, fallback_http, fallback_grpc = (str(port) for port in ports)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # User code on the event loop of its HTTP server, buffered request logs, gRPC between
        # replicas: without the first the door stays shut.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": DOOR,
        "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": CONTROLLER,
        # Serve's default of 0.1 s takes its controller a twentieth of a core while nothing happens.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # Every replica and handle hands on its counts ten times a second by default; Ray exports
        # them every ten seconds.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
        # Ray starts every worker at the lowest priority but four, so that its own daemons stay
        # responsive. A replica would wait for each of them, tens of milliseconds on a full core;
        # what may wait (a fit) lowers itself.
        "RAY_worker_niceness": "0",
        # A replica that dies with a request has its connection closed or reset without a byte of an
        # answer; the request goes to another one. A prediction may be computed again, and
        # observe/commit.py keeps its row single. Twice again and no more: a request that kills its
        # replica must not take them all along.
        "RAY_SERVE_HAPROXY_RETRY_ON": _RETRY_ON,
        "RAY_SERVE_HAPROXY_RETRIES": "2",
        # A node that is gone without a word answers no connection. Callers would not wait for
        # Serve's default of 5 s; a packet that was merely lost is sent again after 1 s.
        "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "2",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(READER_TIMEOUT_S),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(REPEATABLE_BYTES),
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": _BALANCE,
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": _CHECK_EVERY,
        # A dead HAProxy is started again after three checks. Every 10 s, Serve's default, is half a
        # minute without an answer.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # Serve's default of 4 on a node of few cores wake one another up for every request.
        "RAY_SERVE_HAPROXY_NBTHREAD": str(num_threads(len(os.sched_getaffinity(0)))),
        # One datagram a request, parsed by a Python actor: dearer than the answer. The gateway
        # counts requests itself.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Serve's default for a gRPC message is 2 GiB, all of which would be read before the gateway
        # sees that it is too long.
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_BYTES),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback_http,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": fallback_grpc,
    }


def num_threads(num_cores: int) -> int:
    """Of HAProxy. One passes on tens of thousands of requests a second."""
    return max(1, min(4, num_cores // 4))


def main() -> None:
    """Print the environment of a cluster's node as a shell reads it."""
    CLUSTER_FOLDER.mkdir(mode=0o700, exist_ok=True)
    for name, value in ingress_settings(CLUSTER_FOLDER, CLUSTER_PORTS).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    main()
