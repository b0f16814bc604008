"""Feature values from a job that publishes them again and again: looked up while they are fresh;
once the job is stopped a stand-in answers, from the moment on that the contract names; when it goes
on, so does the champion."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from serving_case import ROW, seal_release
from shells import Shell, head_in
from waiting import until

from rayapp.data.feed_store import newest
from rayapp.ledger import Ledger
from rayapp.release.promote import promote

ENDPOINT, BASIC = "weathered", "weathered-basic"
FRESH_S = 60
WAIT_S = 300
SENT = {name: value for name, value in ROW.items() if name != "temp"}
CONTRACT = {
    "apiVersion": "v3.1.0",
    "kind": "DataContract",
    "id": "urn:contract:observations",
    "name": "observations",
    "version": "1.0.0",
    "status": "active",
    "slaProperties": [
        {"property": "freshness", "value": FRESH_S, "unit": "s", "element": "o.seen_at"}
    ],
    "schema": [
        {
            "name": "observations",
            "logicalType": "object",
            "properties": [
                {
                    "name": "number",
                    "logicalType": "integer",
                    "required": True,
                    "primaryKey": True,
                    "primaryKeyPosition": 1,
                },
                {"name": "carrier", "logicalType": "string", "required": True},
                {"name": "seen_at", "logicalType": "timestamp", "required": True},
                {"name": "degrees", "logicalType": "number", "required": True},
            ],
        }
    ],
}
SNAPSHOT = {
    "name": "observations",
    "task": "regression",
    "tables": {
        "observations": {"contract": "configs/contracts/o.odcs.yaml", "num_blocks": 1},
    },
    "view": {
        "base": "observations",
        "key": ["number"],
        "prediction_time": "seen_at",
        "label": {"name": "next_degrees", "expression": "degrees"},
        "features": [
            {
                "kind": "last",
                "name": "temp",
                "key": ["carrier"],
                "value": "degrees",
                "known_at": "seen_at + minutes(0.001)",
                "max_age_h": 1,
            }
        ],
        "splits": {"kind": "hash"},
    },
}
FEED = {"name": "weather", "snapshot": "configs/snapshots/o.yaml", "every_s": 2}
SERVING = {
    "applications": [
        {
            "name": "gateway",
            "route_prefix": "/",
            "import_path": "serve_apps.predict:build",
            "args": {
                "max_replicas": 1,
                "num_cpus": 0.1,
                "endpoints": {
                    ENDPOINT: {"feeds": ["weather"], "fallback": [{"endpoint": BASIC}]},
                    BASIC: {},
                },
            },
        }
    ]
}


class Source:
    """A file that somebody else appends to, one observation a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        path.write_text("number,carrier,seen_at,degrees\n")
        self._append(0)
        self._thread.start()

    def _append(self, number: int) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._path.open("a") as file:
            file.write(f"{number},{ROW['carrier']},{at},{ROW['temp']}\n")

    def _write(self) -> None:
        number = 0
        while not self._stop.wait(1):
            number += 1
            self._append(number)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass(frozen=True)
class Answer:
    sent_at: datetime
    degraded: str | None
    body: str


@dataclass(frozen=True)
class Site:
    shell: Shell
    project: Path

    def ask(self) -> Answer:
        sent_at = datetime.now(UTC)
        answer = httpx.post(
            f"http://127.0.0.1:{self.shell.environ['RAYAPP_HTTP_PORT']}"
            f"/endpoints/{ENDPOINT}/invocations",
            content=json.dumps({"dataframe_records": [SENT]}),
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        return Answer(sent_at, answer.headers.get("x-degraded"), answer.text)

    def is_fresh(self, producer: "subprocess.Popen[str]") -> bool:
        assert producer.poll() is None, producer.communicate()[0]
        return self.ask().degraded is None

    def produce(self) -> "subprocess.Popen[str]":
        return self.shell.in_folder(self.project).start("submit", "configs/features/weather.yaml")


def _dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value, sort_keys=False))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("feeds")
    project = folder / "project"
    (project / "data").mkdir(parents=True)
    source = Source(project / "data/observations.csv")
    tables = {"observations": {"source": {"uri": str(project / "data/observations.csv")}}}
    own = SNAPSHOT["tables"]["observations"]  # type: ignore[index]
    _dump(project / "configs/contracts/o.odcs.yaml", CONTRACT)
    snapshot = SNAPSHOT | {"tables": {"observations": own | tables["observations"]}}
    _dump(project / "configs/snapshots/o.yaml", snapshot)
    _dump(project / "configs/features/weather.yaml", FEED)
    _dump(project / "configs/serving/gateway.yaml", SERVING)
    with head_in(folder) as shell:
        ledger = Ledger.of(shell.workspace, "test")
        promote(ledger, seal_release(shell.workspace, folder / "a", 1, ENDPOINT), 0)
        basic = seal_release(shell.workspace, folder / "b", 2, BASIC, without=("temp",))
        promote(ledger, basic, 0)
        yield Site(shell, project)
        source.stop()


def _stop(producer: "subprocess.Popen[str]") -> None:
    producer.send_signal(signal.SIGINT)
    producer.communicate(timeout=120)


def test_a_producer_that_stops_is_noticed_and_one_that_goes_on_is_too(site: Site) -> None:
    deployed = site.shell.in_folder(site.project).rayapp("submit", "configs/serving/gateway.yaml")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert site.ask().degraded == "stale:temp"  # nothing was published yet
    producer = site.produce()
    until(lambda: site.is_fresh(producer), wait_s=WAIT_S)
    fresh = [site.ask() for _ in range(50)]
    assert {answer.degraded for answer in fresh} == {None}
    _stop(producer)
    feed = newest(site.shell.workspace, "weather")
    assert feed is not None
    (table,) = feed.tables
    assert (table.keys, table.num_rows) == (("carrier",), 1)
    stale_at = table.stale_at
    answers: list[Answer] = []
    while datetime.now(UTC) < stale_at + timedelta(seconds=2):
        answers.append(site.ask())
    late = [a for a in answers if a.sent_at >= stale_at + timedelta(seconds=1)]
    early = [a for a in answers if a.sent_at < stale_at - timedelta(seconds=1)]
    assert {a.degraded for a in late} == {"stale:temp"}
    assert {a.degraded for a in early} == {None}
    assert {a.body for a in early} == {fresh[0].body} != {a.body for a in late}
    producer = site.produce()
    until(lambda: site.is_fresh(producer), wait_s=WAIT_S)
    assert site.ask().body == fresh[0].body
    _stop(producer)
