"""A cascade on Ray Serve, over releases with sealed evaluations: what is read, answered, logged and
charged."""

from typing import Any

import httpx
import pytest
from local_cluster import until
from ray import serve
from served import SCORE, Served
from serving_case import ENDPOINT, ROW, estimate, seal_release

from rayapp.config.serving import ServingConfig
from rayapp.observe.predictions import find_predictions
from serve_apps.predict import build

pytestmark = pytest.mark.usefixtures("ray_local")

ROWS: list[dict[str, Any]] = [
    {**ROW, "distance": 50.0 * n, "flight": 1 + 311 * n} for n in range(16)
]


def test_a_cascade_answers_each_row_by_the_cheaper_model_that_is_sure(
    tmp_path_factory: pytest.TempPathFactory, ray_local: None
) -> None:
    folder = tmp_path_factory.mktemp("cascade")
    served = Served(folder)
    calibrated = (estimate("calibration_error", 0.0, 0.03),)
    small = seal_release(
        served.workspace, folder / "small", 3, without=("temp",), estimates=calibrated
    )
    champion = served.releases[0]
    first = {"release": small.release_id, "usd_per_1000_rows": 0.5}

    config = ServingConfig.model_validate(
        {
            "workspace": served.workspace.uri,
            "num_cpus": 0.1,
            "follow_every_ms": 100,
            "commit_every_s": 0.2,
            "usd_per_1000_rows": 2,
            "endpoints": {ENDPOINT: {"cascade": {"first": first, "max_error": 0.45}}},
        }
    )
    served.promote(champion)
    serve.start(http_options={"host": "127.0.0.1", "port": served.port})
    try:
        serve.run(build(config), name="gateway", route_prefix="/")
        until(lambda: httpx.get(f"{served.url}/v2/health/ready").status_code == 200)
        until(lambda: httpx.get(served.url).json()["problems"] == {})
        headers = {"x-request-id": "divided"}
        body = {"dataframe_records": ROWS}
        answer = httpx.post(served.url + SCORE, json=body, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        until(lambda: len(find_predictions(served.workspace, "divided")) == len(ROWS))
    finally:
        serve.shutdown()
    kept = find_predictions(served.workspace, "divided")
    by_arm = {
        arm: {(r.release_id, r.cost_nano_usd, r.propensity) for r in kept if r.arm == arm}
        for arm in ("first", "champion")
    }
    assert by_arm == {
        "first": {(small.release_id, 500_000, 1.0)},
        "champion": {(champion.release_id, 2_500_000, 1.0)},
    }
    assert answer.headers["x-release"] == champion.release_id
    told = answer.json()["predictions"]
    assert [told[r.row] for r in kept] == pytest.approx([r.scores[1] for r in kept])
