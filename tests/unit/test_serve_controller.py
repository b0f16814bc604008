"""What Serve's controller knows of an application while its next configuration is built."""

from typing import Any

import pytest
from ray.serve._private.application_state import ApplicationState
from ray.serve.schema import LoggingConfig, ServeApplicationSchema

from rayapp.serve.cluster.controller import keep_ingress

CLEAR = "_clear_target_state_and_store_config"


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Any:
    # only to have it put back
    monkeypatch.setattr(ApplicationState, CLEAR, getattr(ApplicationState, CLEAR))
    nothing: Any = None
    made: Any = ApplicationState("gateway", nothing, nothing, nothing, LoggingConfig(), False)
    made._ingress_deployment_name = "gateway"
    made._ingress_request_router_deployment_name = "router"
    return made


def _next_config() -> ServeApplicationSchema:
    return ServeApplicationSchema(name="gateway", import_path="serve_apps.predict:build")


def test_serve_forgets_who_takes_requests_in(application: Any) -> None:
    """Once it does not any more, controller.py has no purpose."""
    getattr(application, CLEAR)(_next_config())
    assert application.ingress_deployment is None


def test_with_ours_it_knows_it_until_it_is_told_otherwise(application: Any) -> None:
    keep_ingress()
    getattr(application, CLEAR)(_next_config())
    assert application.ingress_deployment == "gateway"
    assert application.ingress_request_router_deployment == "router"
    application.delete()
    assert application.ingress_deployment is None
