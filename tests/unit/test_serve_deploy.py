"""What of an application that runs becomes of it when another file is deployed."""

from typing import Any

import pytest

from rayapp.serve.cluster.deploy import those_beside

GATEWAY: dict[str, Any] = {"name": "gateway", "route_prefix": "/"}
ENGINE: dict[str, Any] = {"name": "engine", "route_prefix": None}
LLM: dict[str, Any] = {"name": "llm", "route_prefix": "/v1"}


def running(*configs: dict[str, Any]) -> dict[str, Any]:
    return {
        config["name"]: {
            "status": "RUNNING",
            "route_prefix": config["route_prefix"],
            "deployed_app_config": config,
        }
        for config in configs
    }


def test_a_golden_path_leaves_what_else_is_served() -> None:
    found = those_beside([GATEWAY], running(GATEWAY, ENGINE, LLM), keeps_others=True)
    assert (found.kept, found.gone) == ([ENGINE, LLM], [])


def test_a_file_is_all_that_is_served_and_what_goes_is_named() -> None:
    found = those_beside([GATEWAY], running(GATEWAY, ENGINE, LLM), keeps_others=False)
    assert (found.kept, found.gone) == ([], ["engine", "llm (/v1)"])


@pytest.mark.parametrize("application", [{"name": "new", "route_prefix": "/"}, {"name": "new"}])
def test_one_whose_route_is_wanted_goes(application: dict[str, Any]) -> None:
    found = those_beside([application], running(GATEWAY, ENGINE), keeps_others=True)
    assert (found.kept, found.gone) == ([ENGINE], ["gateway (/)"])


def test_one_that_was_not_deployed_by_a_file_is_not_ours_to_name() -> None:
    deployed = running(GATEWAY)
    deployed["gateway"]["deployed_app_config"] = None
    assert those_beside([LLM], deployed, keeps_others=False) == ([], [])
