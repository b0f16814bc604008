"""Serve's controller, mended where that takes replicas away from callers which could answer them.

    RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH=rayapp.serve.cluster.controller:keep_ingress

Ray 2.60 forgets which deployment of an application takes requests in while it builds the
application's next configuration, which takes seconds, and for good where that cannot be built.
HAProxy then has no replica and passes every request to Serve's own proxy, at several times the CPU
and without a second try where a replica dies. The replicas are there all the time.
"""

from functools import wraps
from typing import Any

from ray.serve._private.application_state import ApplicationState
from ray.serve.schema import ServeApplicationSchema


def keep_ingress() -> None:
    """Called by Serve's controller as it starts, in its process."""
    serve: Any = ApplicationState  # it has nothing public for this
    forget = serve._clear_target_state_and_store_config

    @wraps(forget)
    def clear(state: Any, target_config: ServeApplicationSchema | None) -> None:
        ingress = state._ingress_deployment_name
        router = state._ingress_request_router_deployment_name
        forget(state, target_config)
        state._ingress_deployment_name = ingress
        state._ingress_request_router_deployment_name = router

    serve._clear_target_state_and_store_config = clear
