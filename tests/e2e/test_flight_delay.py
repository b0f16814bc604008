"""The whole path on the real data, on a head of its own, as a user walks it."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from shells import PROJECT, Shell
from waiting import until

from rayapp.cli.ask import sample_requests
from rayapp.ledger import Ledger
from rayapp.release.promote import champion_pointer
from rayapp.schemas.operations import EventKind

GOLDEN_PATH = "configs/golden_paths/flight_delay.yaml"
ENDPOINT = "flight-delay"
COMMIT_WAIT_S = 60


@dataclass(frozen=True)
class Walked:
    """The path, walked once; figures are the job's last line."""

    shell: Shell
    figures: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.shell.environ['RAYAPP_HTTP_PORT']}"

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
        request = urllib.request.Request(
            self.url + path, body, {"Content-Type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, dict(response.headers), json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), json.load(error)

    def rows(self, num_rows: int) -> list[dict[str, Any]]:
        return sample_requests(self.shell.workspace, ENDPOINT, num_rows)

    def ledger(self) -> Ledger:
        return Ledger.of(self.shell.workspace, "test")


@pytest.fixture(scope="module")
def walked(shell: Shell) -> Walked:
    finished = shell.rayapp("submit", GOLDEN_PATH, "--json", timeout_s=900)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Walked(shell, json.loads(finished.stdout)["figures"])


def test_both_families_beat_their_floor(walked: Walked) -> None:
    value, low, high = walked.figures["test"]["auc"]
    assert low < value < high
    assert value >= 0.70
    runs = walked.figures["runs"]
    assert set(runs) == {"flight_delay_trees", "flight_delay_neural"}


def test_what_the_readme_says_to_ask_is_answered(walked: Walked, tmp_path: Path) -> None:
    text = (PROJECT / "README.md").read_text()
    lines = text.partition("## Asking the endpoint")[2].split("```")[1].strip().splitlines()
    assert sum(line.startswith("curl") for line in lines) == 2
    port = walked.shell.environ["RAYAPP_HTTP_PORT"]
    for line in lines:
        script = line.replace("localhost:8000", f"localhost:{port}").replace("curl", "curl --fail")
        told = walked.shell.in_folder(tmp_path).run("bash", "-c", script)
        assert told.returncode == 0, told.stderr
    assert len(json.loads(told.stdout)["predictions"]) == 3


def test_a_real_oip_client_works_unchanged(walked: Walked) -> None:
    client = triton.InferenceServerClient(walked.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_model_ready(ENDPOINT)
    metadata = client.get_model_metadata(ENDPOINT)
    rows = walked.rows(3)
    inputs = []
    for tensor in metadata["inputs"]:
        values = [row[tensor["name"]] for row in rows]
        kinds = {"BYTES": np.object_, "FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}
        filled = [np.nan if v is None and tensor["datatype"] == "FP64" else v for v in values]
        made = triton.InferInput(tensor["name"], [len(rows)], tensor["datatype"])
        made.set_data_from_numpy(np.array(filled, dtype=kinds[tensor["datatype"]]))
        inputs.append(made)
    answer = client.infer(ENDPOINT, inputs, request_id="from-triton")
    probability = answer.as_numpy("probability")
    body = json.dumps({"dataframe_records": rows}).encode()
    _, _, same = walked.post(f"/endpoints/{ENDPOINT}/invocations", body)
    assert np.allclose(probability.reshape(3, -1)[:, -1], _positive(same), atol=1e-6)


def _positive(answer: dict[str, Any]) -> list[float]:
    """P(late) of each row of an MLflow answer."""
    return [
        float(np.ravel(p["probability"] if isinstance(p, dict) else p)[-1])
        for p in answer["predictions"]
    ]


def test_every_answer_has_a_receipt_that_can_be_explained(walked: Walked) -> None:
    body = json.dumps({"dataframe_records": walked.rows(1)}).encode()
    status, headers, _ = walked.post(
        f"/endpoints/{ENDPOINT}/invocations", body, **{"x-request-id": "explain-me"}
    )
    assert status == 200
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers["x-release"] == walked.figures["release_id"]
    assert "explain-me" in headers["x-request-id"]
    until(
        lambda: walked.shell.rayapp("explain", "explain-me").returncode == 0, wait_s=COMMIT_WAIT_S
    )
    told = walked.shell.rayapp("explain", "explain-me").stdout
    for known in (walked.figures["release_id"][:12], walked.figures["snapshot_id"][:12]):
        assert known in told


def _changed(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: {k: v for k, v in (row | changes).items() if v != "drop"}


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        (_changed(distance="far"), 422, "distance"),
        (_changed(carrier="drop"), 422, "carrier"),
        (_changed(origin="XXX"), 422, "origin"),
        (_changed(carrier="??"), 422, "carrier"),
        (_changed(distance=float("nan")), 422, "distance"),
        (_changed(distance=None), 422, "distance"),
        (_changed(unknown_column=1), 422, "unknown_column"),
    ],
)
def test_a_row_that_breaks_its_contract_names_the_field(
    walked: Walked, change: Callable[[dict[str, Any]], dict[str, Any]], status: int, param: str
) -> None:
    body = json.dumps({"dataframe_records": [change(walked.rows(1)[0])]}).encode()
    got, _, answer = walked.post(f"/endpoints/{ENDPOINT}/invocations", body)
    assert (got, answer["error"]["param"]) == (status, param), answer
    assert answer["error"]["next"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"/endpoints/{ENDPOINT}/invocations", b"{", 400),
        (f"/endpoints/{ENDPOINT}/invocations", b'{"dataframe_records": []}', 400),
        (f"/endpoints/{ENDPOINT}/invocations", b" " * 10_000_000, 413),
        ("/endpoints/nobody/invocations", b"{}", 404),
        ("/v2/models/nobody/infer", b"{}", 404),
        ("/no/such/path", b"{}", 404),
    ],
)
def test_a_bad_request_is_refused_with_its_status(
    walked: Walked, path: str, body: bytes, status: int
) -> None:
    got, _, answer = walked.post(path, body)
    assert got == status, answer
    assert {"type", "message", "param", "next"} == set(answer["error"])


def test_feedback_is_joined_and_monitored(walked: Walked) -> None:
    rows = walked.rows(40)
    body = json.dumps({"dataframe_records": rows}).encode()
    walked.post(f"/endpoints/{ENDPOINT}/invocations", body, **{"x-request-id": "watched"})
    for row in range(40):
        said = {"request_id": "watched", "row": row, "label": row % 3 == 0}
        status, _, answer = walked.post("/feedback", json.dumps(said).encode())
        assert status == 202, answer
    monitor = "configs/operations/flight_delay_monitor.yaml"

    def is_joined() -> bool:
        finished = walked.shell.rayapp("submit", monitor, "min_rows=40", "--json")
        assert finished.returncode == 0, finished.stderr
        figures = json.loads(finished.stdout)["figures"]
        # rows that earlier tests sent have outcomes too: the snapshot holds them by row id
        return figures.get("num_outcomes", 0) >= 40 and "auc" in figures["quality"]

    until(is_joined, wait_s=COMMIT_WAIT_S)
    kinds = {e.payload["signal"] for e in walked.ledger().events(EventKind.SIGNAL_MEASURED)}
    assert "auc" in kinds
    assert any(kind.startswith("drift/") for kind in kinds)


def test_a_month_is_scored_in_batch_once(walked: Walked) -> None:
    config = "configs/operations/flight_delay_score_december.yaml"
    finished = walked.shell.rayapp("submit", config, "--json")
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout)["figures"]
    assert figures["num_rows"] > 25_000
    assert figures["num_errors"] == 0


def test_a_leaking_feature_is_refused(walked: Walked, tmp_path: Path) -> None:
    text = (PROJECT / "configs/training/flight_delay_trees.yaml").read_text()
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "configs", project / "configs")
    leaking = text.replace("features:\n", "features:\n  - dep_delay\n")
    (project / "configs/training/leak.yaml").write_text(leaking)
    finished = walked.shell.in_folder(project).rayapp("submit", "configs/training/leak.yaml")
    assert finished.returncode == 3
    assert "dep_delay" in finished.stdout + finished.stderr


def test_a_second_walk_reuses_everything(walked: Walked) -> None:
    finished = walked.shell.rayapp("submit", GOLDEN_PATH, "--json")
    assert finished.returncode == 0, finished.stderr
    again = json.loads(finished.stdout)["figures"]
    assert not again["is_new"]
    assert again["release_id"] == walked.figures["release_id"]
    assert len(walked.ledger().events(EventKind.RUN_FINISHED)) == 2


def test_audit_names_a_flipped_byte(walked: Walked) -> None:
    assert walked.shell.rayapp("audit", "verify").returncode == 0
    pointer = walked.ledger().pointer(champion_pointer(ENDPOINT))
    assert pointer is not None
    folder = Path(walked.shell.workspace.artifact("releases", pointer.target))
    manifest = folder / "manifest.json"
    original = manifest.read_bytes()
    manifest.write_bytes(original.replace(b"flight-delay", b"flight-deloy", 1))
    try:
        found = walked.shell.rayapp("audit", "verify")
    finally:
        manifest.write_bytes(original)
    assert found.returncode == 3
    assert "manifest" in found.stdout + found.stderr
