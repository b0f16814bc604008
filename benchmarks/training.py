"""What Ray Train costs: CPU time of one worker's fit against the same fit in a plain process.

    python -m benchmarks.training [--family tabular] [--rows 200000] [--repeats 3]

Both sides fit the same encoded rows with the same settings and one thread, and count every CPU
second of their process from the first line of the loop to the last checkpoint, reading the rows
included (Ray Data's shard on one side, .npy files on the other). What Ray does before that line is
start-up, and is reported as wall seconds from the call of fit to the first report. The sides take
turns, so that other load on the machine meets both.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from rayapp.config.training import TrainConfig
from rayapp.families.base import (
    ENCODED_ROWS,
    Batch,
    BatchSource,
    Compute,
    Problem,
    Progress,
    family,
)
from rayapp.families.bundle import Bundle
from rayapp.families.encoding import Encode
from rayapp.families.meter import CpuMeter
from rayapp.schemas.data import Column, Snapshot, TableVersion
from rayapp.schemas.model import Feature
from rayapp.train.fit import fit

RESULTS = Path("benchmarks/results")
NUM_NUMBERS, NUM_TEXTS = 24, 4
SETTINGS: dict[str, dict[str, Any]] = {
    "tabular": {"tabular": {"num_rounds": 150}, "checkpoint_every": 50},
    "neural": {"neural": {"num_epochs": 3}, "checkpoint_every": 1},
}
NAMES = [f"n{i}" for i in range(NUM_NUMBERS)] + [f"t{i}" for i in range(NUM_TEXTS)]
COLUMNS = (
    *(Column(name=n, type="string" if n[0] == "t" else "number") for n in NAMES),
    Column(name="label", type="integer", known_at="outcome"),
)


@dataclass
class Clock:
    """A tracker that only notes when the first report came."""

    run_id: str = "benchmark"
    first_s: float | None = field(default=None)

    def log_params(self, params: dict[str, Any]) -> None: ...
    def log_text(self, text: str, path: str) -> None: ...
    def log_file(self, local_path: str, folder: str) -> None: ...
    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.first_s = self.first_s or time.monotonic()


def make_rows(num_rows: int) -> pa.Table:
    """As wide as flight-delay: 24 numbers, some missing, 4 texts with up to 100 values."""
    generator = np.random.default_rng(7)
    columns: dict[str, Any] = {}
    logit_N = np.zeros(num_rows)
    for i in range(NUM_NUMBERS):
        value_N = generator.normal(size=num_rows)
        logit_N += value_N / (i + 2)
        columns[f"n{i}"] = pa.array(value_N, mask=generator.random(num_rows) < 0.05)
    for i in range(NUM_TEXTS):
        columns[f"t{i}"] = [f"v{v}" for v in generator.integers(0, 3 + 32 * i, num_rows)]
    columns["label"] = (generator.random(num_rows) < 1 / (1 + np.exp(-logit_N))).astype(np.int64)
    return pa.table(columns)


def snapshot_of() -> Snapshot:
    view = TableVersion(
        name="views/benchmark",
        uri="memory",
        version=0,
        digest="0",
        num_rows=0,
        num_quarantined=0,
        columns=COLUMNS,
        watermark=None,
        contract=None,
    )
    return Snapshot(
        name="benchmark",
        task="binary",
        tables=(),
        view=view,
        label="label",
        classes=("no", "yes"),
        time_column=None,
        splits=(),
        config_digest="0",
    )


def on_ray(config: TrainConfig, train: pa.Table, tune: pa.Table, folder: Path) -> dict[str, float]:
    clock = Clock()
    start_s = time.monotonic()
    result = fit(
        config=config,
        snapshot=snapshot_of(),
        features=[Feature(name=n, expression=n) for n in NAMES],
        train=ray.data.from_arrow(train),
        tune=ray.data.from_arrow(tune),
        storage_uri=str(folder / "storage"),
        run_id=folder.name,
        tracker=clock,
        bundle_folder=folder / "bundle",
        on_progress=lambda line: None,
    )
    return {
        "cpu_s": result.cpu_s,
        "wall_s": time.monotonic() - start_s,
        "first_report_s": (clock.first_s or start_s) - start_s,
    }


def store_encoded(bundle: Path, train: pa.Table, tune: pa.Table, folder: Path) -> None:
    encode = Encode(Bundle.open(bundle).schema.features, "label", "binary", ("no", "yes"))
    for name, rows in (("train", train), ("tune", tune)):
        for key, array in encode(rows).items():
            np.save(folder / f"{name}_{key}.npy", array)


def in_plain_process(config: TrainConfig, bundle: Path, folder: Path) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_plain, args=(config, bundle, folder, queue))
    process.start()
    measured: dict[str, float] = queue.get()
    process.join()
    return measured


def _plain(config: TrainConfig, bundle: Path, folder: Path, queue: Any) -> None:
    features = Bundle.open(bundle).schema.features
    chosen = family(config.family)
    meter, start_s = CpuMeter(), time.monotonic()

    def source(name: str) -> BatchSource:
        def batches() -> Any:
            x_NF, y_N = np.load(folder / f"{name}_x.npy"), np.load(folder / f"{name}_y.npy")
            for at in range(0, len(y_N), ENCODED_ROWS.num_rows):
                yield Batch(
                    x_NF[at : at + ENCODED_ROWS.num_rows], y_N[at : at + ENCODED_ROWS.num_rows]
                )

        return batches

    def keep(progress: Progress) -> None:
        if progress.is_checkpoint:
            with tempfile.TemporaryDirectory() as checkpoint:
                progress.save(Path(checkpoint))

    num_rows = len(np.load(folder / "train_y.npy", mmap_mode="r"))
    chosen.fit(
        Problem("binary", 2, features, config.seed, num_rows),
        config.family_config.model_dump(),
        source("train"),
        source("tune"),
        config.checkpoint_every,
        None,
        keep,
        Compute(),
    )
    queue.put({"cpu_s": meter.read_s(), "wall_s": time.monotonic() - start_s})


def measure(name: str, num_rows: int, repeats: int, folder: Path) -> dict[str, Any]:
    config = TrainConfig.model_validate(
        {"name": "benchmark", "snapshot": "memory", "family": name, "features": tuple(NAMES)}
        | SETTINGS[name]
    )
    rows = make_rows(num_rows + num_rows // 8)
    train, tune = rows.slice(0, num_rows), rows.slice(num_rows)
    runs: list[dict[str, dict[str, float]]] = []
    for repeat in range(repeats):
        at = folder / f"run{repeat}"
        ray_side = on_ray(config, train, tune, at)
        if repeat == 0:
            store_encoded(at / "bundle", train, tune, folder)
        runs.append({"ray": ray_side, "plain": in_plain_process(config, at / "bundle", folder)})
    ratios = [run["ray"]["cpu_s"] / run["plain"]["cpu_s"] for run in runs]
    return {
        "benchmark": "training",
        "family": name,
        "num_rows": num_rows,
        "num_features": len(NAMES),
        "settings": SETTINGS[name],
        "runs": runs,
        "cpu_ratio": statistics.median(ratios),
        "cpu_ratio_limit": 1.15,
        "startup_s": statistics.median(run["ray"]["first_report_s"] for run in runs),
        "machine": {"cpus": multiprocessing.cpu_count(), "python": platform.python_version()},
        "ray": ray.__version__,
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(SETTINGS), default="tabular")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="rt") as folder:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        report = measure(arguments.family, arguments.rows, arguments.repeats, Path(folder))
        ray.shutdown()
    text = json.dumps(report, indent=1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    day = datetime.now(UTC).date().isoformat()
    (RESULTS / f"training-{arguments.family}-{day}.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 0 if report["cpu_ratio"] <= report["cpu_ratio_limit"] else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
