"""Rules and flags on Ray Serve: what is published reaches replicas that nobody deploys anew."""

from typing import Any

import httpx
import pytest
from local_cluster import until
from ray import serve
from served import RECORDS, SCORE, Served
from serving_case import ENDPOINT

from rayapp.config.routing import FlagsConfig
from rayapp.config.serving import ServingConfig
from rayapp.govern.flags import publish_flags
from rayapp.govern.keys import create_key
from rayapp.observe.predictions import find_predictions
from serve_apps.predict import build

pytestmark = pytest.mark.usefixtures("ray_local")


def published(**more: Any) -> FlagsConfig:
    model = {"variants": {"current": 1, "next": 2}, "default": "current"} | more
    return FlagsConfig.model_validate({"name": "s", "flags": {"model": model}})


def test_a_published_flag_moves_requests(
    tmp_path_factory: pytest.TempPathFactory, ray_local: None
) -> None:
    served = Served(tmp_path_factory.mktemp("routed"))
    old, new = (release.release_id for release in served.releases)
    rules = [
        {"name": "next", "release": new, "when": {"flag": "model", "is": "next"}},
        {"name": "acme", "release": new, "when": {"tenants": ["acme"]}},
    ]
    config = ServingConfig.model_validate(
        {
            "workspace": served.workspace.uri,
            "num_cpus": 0.1,
            "follow_every_ms": 100,
            "commit_every_s": 0.2,
            "endpoints": {ENDPOINT: {"rules": rules}},
        }
    )
    served.promote(served.releases[0])
    key, _ = create_key(served.ledger, "acme", "caller")
    serve.start(http_options={"host": "127.0.0.1", "port": served.port})
    serve.run(build(config), name="gateway", route_prefix="/")

    def asked(headers: dict[str, str] | None = None) -> str | None:
        answer = httpx.post(served.url + SCORE, json=RECORDS, headers=headers, timeout=30)
        found: str | None = answer.headers.get("x-release")
        return found

    try:
        until(lambda: asked() == old)
        assert asked({"authorization": f"Bearer {key}"}) == new
        problems = httpx.get(served.url).json()["problems"]
        assert problems == {f"{ENDPOINT}/next": "flag 'model' is not published"}
        publish_flags(served.ledger, published(targeting=[{"shares": {"next": 1}}]))
        until(lambda: asked() == new)
        assert asked({"x-request-id": "moved"}) == new
        publish_flags(served.ledger, published())
        until(lambda: asked() == old)
        until(lambda: bool(find_predictions(served.workspace, "moved")))
    finally:
        serve.shutdown()
    (found,) = find_predictions(served.workspace, "moved")
    assert (found.arm, found.propensity, found.unit) == ("next", 1.0, "moved")
