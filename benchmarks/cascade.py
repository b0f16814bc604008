"""How much a cascade hands on, how good it is and what it costs, for several `max_error`.

    python -m benchmarks.cascade FIRST CHAMPION --first-usd 0.5 --champion-usd 2

FIRST and CHAMPION: ids of two releases, or of two runs, in the workspace. Both answer the test
split of the champion's snapshot, here and without Ray; the differences to the champion alone are
paired.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import results_file
from rayapp.data.read import sample_view
from rayapp.errors import RayappError, UserError
from rayapp.evaluate.cascade import CascadePoint, ScoredTwice
from rayapp.families.bundle import Bundle
from rayapp.families.encoding import label_numbers
from rayapp.ledger import Ledger
from rayapp.register.manifest import read_manifest
from rayapp.schemas.data import Snapshot
from rayapp.schemas.model import BundleRef, Run
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import Difference, Estimate
from rayapp.storage import Workspace, fetch_bundle

MAX_ERRORS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
METRICS = ("auc", "log_loss", "accuracy", "calibration_error")


def found(workspace: Workspace, ledger: Ledger, named: str) -> tuple[BundleRef, Snapshot]:
    """The bundle of a release or a run, and the snapshot that it learned from."""
    event = ledger.latest(EventKind.RUN_FINISHED, subject=named)
    if event is None:
        manifest = read_manifest(workspace, named).manifest
        event = ledger.latest(EventKind.RUN_FINISHED, subject=manifest.run_id)
    if event is None:
        raise UserError(f"there is no run {named!r}", "name a release or a run of this workspace")
    run = event.record(Run, "run")
    built = ledger.latest(EventKind.SNAPSHOT_BUILT, subject=run.snapshot_id)
    if built is None:
        raise UserError(f"run {named!r} has no snapshot in the ledger", "rayapp audit verify")
    return run.bundle, built.record(Snapshot, "snapshot")


def opened(ref: BundleRef) -> Bundle:
    with tempfile.TemporaryDirectory() as folder:
        fetch_bundle(ref, Path(folder))
        return Bundle.open(Path(folder))


def scores(bundle: Bundle, rows: pa.Table) -> Any:
    return np.asarray(bundle.predict(rows), np.float64)


def bounds(found: Mapping[str, Estimate | Difference]) -> dict[str, Any]:
    """By metric: the value, and its interval."""
    return {n: [found[n].value, found[n].low, found[n].high] for n in METRICS if n in found}


def line(point: CascadePoint) -> dict[str, Any]:
    return {
        "max_error": point.max_error,
        "escalated_share": round(point.escalated_share, 4),
        "usd_per_1000_rows": round(point.usd_per_1000_rows, 4),
        "metrics": bounds({one.metric: one for one in point.estimates}),
        "minus_champion": bounds({one.metric: one for one in point.differences}),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    workspace = Workspace.from_environment(os.environ)
    ledger = Ledger.of(workspace, "benchmark")
    first_ref, _ = found(workspace, ledger, arguments.first)
    champion_ref, snapshot = found(workspace, ledger, arguments.champion)
    first, champion = opened(first_ref), opened(champion_ref)
    if first.schema.classes != champion.schema.classes or not first.schema.classes:
        raise UserError(
            f"the models give {first.schema.classes} and {champion.schema.classes}",
            "take two classifiers of the same classes",
        )
    rows = sample_view(snapshot, "test", None, arguments.max_rows)
    schema = champion.schema
    y_N = label_numbers(rows.column(schema.label), schema.task, schema.classes)
    both = ScoredTwice(
        schema.task,
        np.asarray(y_N, np.float64),
        scores(first, rows),
        scores(champion, rows),
        arguments.first_usd,
        arguments.champion_usd,
    )
    return {
        "num_rows": rows.num_rows,
        "first_usd_per_1000_rows": arguments.first_usd,
        "champion_usd_per_1000_rows": arguments.champion_usd,
        "confidence": 0.95,
        "points": [line(point) for point in both.along(MAX_ERRORS)],
        **results_file.measured_here(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", help="a release or a run: the cheaper model")
    parser.add_argument("champion", help="a release or a run")
    parser.add_argument("--first-usd", type=float, required=True, help="of 1000 rows")
    parser.add_argument("--champion-usd", type=float, required=True, help="of 1000 rows")
    parser.add_argument("--max-rows", type=int, default=100_000, help="of the test split")
    parser.add_argument("--output", help="default: benchmarks/results/cascade-DATE.json")
    arguments = parser.parse_args()
    try:
        result = measure(arguments)
    except RayappError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    results_file.tell(results_file.path_of("cascade", arguments.output), result)


if __name__ == "__main__":
    main()
