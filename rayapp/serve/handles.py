"""Calls through Ray Serve's handles: what they raise where nobody can answer."""

import grpc
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

from rayapp.errors import Unavailable

GONE = (
    RayActorError,
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    grpc.aio.AioRpcError,
)
"""A replica is dead, away or full, or none is there."""


def not_there(who: str, error: Exception) -> Unavailable:
    """who: for example `the replicas of pool 'small'`."""
    what = "all busy" if isinstance(error, BackPressureError) else "not there"
    return Unavailable(f"{who} are {what}", "try again after the seconds in retry-after")
