"""What callers notice when feature values go stale: how soon, and how much slower.

    python -m benchmarks.stale [--rate 100] [OUTPUT.json]

Needs a workspace with a champion of flight-delay (scripts/quickstart makes one; RAYAPP_WORKSPACE
names it) whose head is down. A model whose callers leave out two columns, which a feed has, and a
stand-in that was trained without them, in a workspace of their own. One run of open loop; the feed
is published for the first third of it only, and again for the last. Told: the 95th percentile of
either's answers, how long after the limit the last answer of the champion came, and how long after
the second publication its first.
"""

import argparse
import dataclasses
import io
import os
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import uvloop

from benchmarks import gateway, results_file
from benchmarks.open_loop import post, run
from benchmarks.served import ENDPOINT, Case, Row, champion_of, head, prepared, typed
from benchmarks.serving import TOLERANCE
from rayapp.data.feed_store import make_newest
from rayapp.ledger import Ledger
from rayapp.register.manifest import seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.release.promote import promote
from rayapp.schemas.features import FeatureFeed, FeatureTable
from rayapp.schemas.model import BundleRef
from rayapp.schemas.release import Manifest
from rayapp.storage import Workspace, commit_bytes, commit_folder, folder_digest, sha256

FEED, KEY, COLUMNS = "live", "t0", ("n0", "n1")
BASIC = "basic"
PHASE_S, WARM_S = 15.0, 5.0
SETTINGS = {
    "max_replicas": 1,
    "endpoints": {ENDPOINT: {"feeds": [FEED], "fallback": [{"endpoint": BASIC}]}, BASIC: {}},
}


def release(
    workspace: Workspace, form: Manifest, folder: Path, endpoint: str, without: tuple[str, ...]
) -> list[float]:
    """A champion of the endpoint; its own answers to `rows`, as callers of it get them."""
    bundle = gateway.make_bundle(folder, without)
    uri = workspace.artifact("bundles", endpoint)
    files = commit_folder(folder, uri)
    ref = BundleRef(uri=uri, digest=folder_digest(files), files=files, bundle_schema=bundle.schema)
    signed = seal(
        form.model_copy(update={"endpoint": endpoint, "bundle": ref}),
        load_or_create_key(workspace.keys),
    )
    write_manifest(workspace, signed)
    promote(Ledger.of(workspace, "benchmark"), signed, 0)
    x_NF = bundle.encode(typed(rows(), bundle))
    return [float(score) for score in bundle.score(x_NF)[:, 1]]


def rows() -> list[Row]:
    """Whole ones; the columns of the feed are the same for each of its keys."""
    return [row | _values(row[KEY]) for row in gateway.make_rows(256)]


def _values(key: str) -> Row:
    return {name: (ord(key) - ord("c")) / (number + 2) for number, name in enumerate(COLUMNS)}


def publish(workspace: Workspace, stale_at: datetime) -> None:
    keys = list("abcdef")
    values = {name: [_values(key)[name] for key in keys] for name in COLUMNS}
    out = io.BytesIO()
    pq.write_table(pa.table({KEY: keys} | values), out)
    now = datetime.now(UTC)
    uri = workspace.artifact("feeds", now.isoformat())
    commit_bytes(uri, out.getvalue())
    table = FeatureTable(
        keys=(KEY,),
        columns=tuple((name, "number") for name in COLUMNS),
        uri=uri,
        digest=sha256(out.getvalue()),
        num_rows=len(keys),
        as_of=now,
        stale_at=stale_at,
    )
    make_newest(workspace, FeatureFeed(name=FEED, at=now, tables=(table,)))


def measured(
    workspace: Workspace, port: int, expected: dict[str, list[float]], rate_rps: float
) -> dict[str, Any]:
    sent = [{k: v for k, v in row.items() if k not in COLUMNS} for row in rows()]
    requests = [
        post(f"/endpoints/{ENDPOINT}/invocations", orjson.dumps({"dataframe_records": [row]}))
        for row in sent
    ]
    answers: list[tuple[float, bool]] = []  # when each came, and whether it was the champion's

    def check(index: int, body: bytes) -> bool:
        (found,) = orjson.loads(body)["predictions"]
        by = {name for name in expected if abs(found - expected[name][index]) <= TOLERANCE}
        answers.append((time.time(), ENDPOINT in by))
        return bool(by)

    def go(seconds: float) -> Any:
        return uvloop.run(run("127.0.0.1", port, requests, check, rate_rps, seconds))

    publish(workspace, datetime.now(UTC) + timedelta(seconds=WARM_S + PHASE_S + 2))
    go(WARM_S)  # until the gateway has found the feed
    answers.clear()
    began = datetime.now(UTC)
    stale_at = began + timedelta(seconds=PHASE_S)
    publish(workspace, stale_at)
    again_at = began + timedelta(seconds=2 * PHASE_S)
    again = threading.Timer(2 * PHASE_S, publish, (workspace, again_at + timedelta(hours=1)))
    again.start()
    outcome = go(3 * PHASE_S)
    again.join()
    came_s = np.array([at for at, _ in answers])
    is_own = np.array([own for _, own in answers])
    is_stale = (came_s > stale_at.timestamp()) & (came_s < again_at.timestamp())
    due_s = outcome.due_s[outcome.is_ok] + began.timestamp()
    fresh = due_s < stale_at.timestamp() - 1
    stale = (due_s > stale_at.timestamp() + 1) & (due_s < again_at.timestamp())
    last_own_s = came_s[is_own & is_stale].max(initial=stale_at.timestamp())
    first_own_s = came_s[is_own & (came_s > again_at.timestamp())].min()
    p95_ms = [float(np.percentile(outcome.latencies_ms[part], 95)) for part in (fresh, stale)]
    return {
        "rate_rps": rate_rps,
        "num_sent": outcome.num_sent,
        "num_not_answered": outcome.num_sent - outcome.num_ok,
        "p95_fresh_ms": round(p95_ms[0], 2),
        "p95_stale_ms": round(p95_ms[1], 2),
        "p95_ratio": round(p95_ms[1] / p95_ms[0], 2),
        "champion_after_limit_s": round(float(last_own_s - stale_at.timestamp()), 3),
        "recovered_after_s": round(float(first_own_s - again_at.timestamp()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/stale-DATE.json")
    chosen = parser.parse_args()
    output = results_file.path_of("stale", chosen.output)
    known = Workspace.from_environment(os.environ)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with prepared(known, folder / "bundle") as source:
            form = champion_of(known)
            (folder / "workspace").mkdir()
            workspace = Workspace(str(folder / "workspace"))
            expected = {
                name: release(workspace, form, folder / name, name, without)
                for name, without in ((ENDPOINT, ()), (BASIC, COLUMNS))
            }
            case: Case = dataclasses.replace(source, workspace=workspace)
            with head(case, folder, SETTINGS, core=None) as (_, port):
                told = measured(workspace, port, expected, chosen.rate)
    results_file.tell(output, told | results_file.measured_here())


if __name__ == "__main__":
    main()
