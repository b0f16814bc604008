"""build_snapshot on a Ray of this machine: verdict, digest, versions, reading, damage."""

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from rayapp.config.snapshot import SnapshotConfig
from rayapp.data.delta import recomputed_digest
from rayapp.data.leakage import resolve_features
from rayapp.data.read import label_shares, read_view, sample_view
from rayapp.data.snapshot import build_snapshot
from rayapp.data.telltale import refuse_suspicious_features
from rayapp.errors import DataError, LeakageRefused, TamperedError
from rayapp.schemas.data import Snapshot, TableVersion
from rayapp.storage import Workspace

CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: visits
version: 1.0.0
status: active
schema:
  - name: visits
    logicalType: object
    properties:
      - {name: id, logicalType: integer, primaryKey: true}
      - {name: clinic, logicalType: string, required: true, relationships: [{to: clinics.clinic}]}
      - {name: at, logicalType: timestamp, required: true}
      - {name: wait_min, logicalType: number, logicalTypeOptions: {minimum: 0, maximum: 600}}
      - name: stayed
        logicalType: boolean
        customProperties: [{property: knownAt, value: outcome}]
"""
CLINICS = """
apiVersion: v3.1.0
kind: DataContract
id: clinics
version: 1.0.0
status: active
schema:
  - name: clinics
    logicalType: object
    properties:
      - {name: clinic, logicalType: string, primaryKey: true}
      - {name: beds, logicalType: integer, required: true}
"""
NUM_ROWS = 3_000
FAULTS = {
    10: ("wait_min", "-3", "range:wait_min"),
    777: ("at", "soon", "type:at"),
    1500: ("clinic", "nowhere", "reference:clinic"),
    2900: ("id", "5", "duplicate:id"),
}


def _rows() -> list[dict[str, Any]]:
    return [
        {
            "id": n,
            "clinic": f"c{n % 4}",
            "at": f"2020-01-{n // 100 + 1:02d}T{n % 24:02d}:00:00Z",
            "wait_min": n % 50,
            "stayed": "true" if n * 7919 % 1009 % 10 < 3 else "false",
        }
        for n in range(NUM_ROWS)
    ]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rows = _rows()
    for index, (column, value, _) in FAULTS.items():
        rows[index][column] = value
    with (tmp_path / "visits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "clinics.csv").write_text("clinic,beds\nc0,3\nc1,4\nc2,5\nc3,6\n")
    (tmp_path / "visits.odcs.yaml").write_text(CONTRACT)
    (tmp_path / "clinics.odcs.yaml").write_text(CLINICS)
    return tmp_path


def _config(files: Path, num_blocks: int) -> SnapshotConfig:
    def table(name: str, blocks: int) -> dict[str, Any]:
        return {
            "contract": str(files / f"{name}.odcs.yaml"),
            "source": {"uri": str(files / f"{name}.csv")},
            "num_blocks": blocks,
        }

    return SnapshotConfig.model_validate(
        {
            "name": "stays",
            "task": "binary",
            "tables": {"visits": table("visits", num_blocks), "clinics": table("clinics", 1)},
            "view": {
                "base": "visits",
                "key": ["id"],
                "prediction_time": "at",
                "label": {"name": "stays", "expression": "stayed"},
                "features": [
                    {
                        "kind": "rolling",
                        "name": "stay_share_48h",
                        "key": ["clinic"],
                        "value": "stayed",
                        "known_at": "at + hours(12)",
                        "window_h": 48,
                    }
                ],
                "splits": {"kind": "hash"},
            },
        }
    )


def _build(files: Path, workspace: str, num_blocks: int) -> tuple[Snapshot, list[str]]:
    said: list[str] = []
    snapshot = build_snapshot(_config(files, num_blocks), Workspace(workspace), said.append)
    return snapshot, said


def _by_name(snapshot: Snapshot) -> dict[str, TableVersion]:
    return {t.name: t for t in (*snapshot.tables, snapshot.view)}


def test_blocks_change_nothing_and_bad_rows_are_told(
    ray_local: None, files: Path, tmp_path: Path
) -> None:
    digests = []
    for num_blocks in (1, 4, 16):
        workspace = str(tmp_path / f"ws{num_blocks}")
        snapshot, said = _build(files, workspace, num_blocks)
        tables = _by_name(snapshot)
        digests.append({name: table.digest for name, table in tables.items()})
        assert tables["visits"].num_quarantined == len(FAULTS)
        bad = DeltaTable(f"{workspace}/tables/quarantine/visits").to_pyarrow_table()
        assert sorted(bad.column("_reasons").to_pylist()) == sorted(
            r for _, _, r in FAULTS.values()
        )
        assert any("range:wait_min 1" in line for line in said)
    assert digests[0] == digests[1] == digests[2]


def test_building_again_is_no_new_version(ray_local: None, files: Path, tmp_path: Path) -> None:
    workspace = str(tmp_path / "ws")
    first, _ = _build(files, workspace, 2)
    again, _ = _build(files, workspace, 3)
    assert again == first
    with (files / "visits.csv").open("a") as file:
        file.write("99999,c1,2020-01-05T00:00:00Z,4,true\n")
    changed, _ = _build(files, workspace, 2)
    assert _by_name(changed)["visits"].version == 1
    assert _by_name(changed)["clinics"].version == 0
    assert changed.content_digest() != first.content_digest()
    assert read_view(first).count() == first.view.num_rows
    assert changed.view.num_rows == first.view.num_rows + 1


def test_reading(ray_local: None, files: Path, tmp_path: Path) -> None:
    snapshot, _ = _build(files, str(tmp_path / "ws"), 2)
    for split in snapshot.splits:
        assert read_view(snapshot, split.name).count() == split.num_rows
    since = snapshot.view.watermark
    assert since is not None
    late = read_view(snapshot, columns=["_row_id", "clinic"], since=since).take_all()
    assert late
    assert set(late[0]) == {"_row_id", "clinic"}
    sample = sample_view(snapshot, "test", None, 50)
    assert len(sample) == 50
    assert set(sample.column("_split").to_pylist()) == {"test"}
    shares = label_shares(snapshot)
    assert sum(s.num_rows for s in shares) == snapshot.view.num_rows
    assert {s.period for s in shares} == {"2020-01"}


def test_a_changed_byte_is_named(ray_local: None, files: Path, tmp_path: Path) -> None:
    snapshot, _ = _build(files, str(tmp_path / "ws"), 2)
    for table in _by_name(snapshot).values():
        assert recomputed_digest(table) == table.digest
        path = Path(DeltaTable(table.uri, version=table.version).file_uris()[0])
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(TamperedError, match=path.name):
            recomputed_digest(table)


def test_a_table_without_a_good_row_stops_the_build(
    ray_local: None, files: Path, tmp_path: Path
) -> None:
    (files / "clinics.csv").write_text("clinic,beds\nc0,many\n")
    with pytest.raises(DataError, match="clinics"):
        _build(files, str(tmp_path / "ws"), 2)


def test_an_error_in_a_task_arrives_as_itself(ray_local: None, files: Path, tmp_path: Path) -> None:
    with (files / "visits.csv").open("ab") as file:
        file.write(b"77777,\xff\xfe,2020-01-05T00:00:00Z,4,true\n")
    with pytest.raises(DataError, match="UTF-8"):
        _build(files, str(tmp_path / "ws"), 2)


def test_a_feature_that_ranks_too_well_is_refused(
    ray_local: None, files: Path, tmp_path: Path
) -> None:
    snapshot, _ = _build(files, str(tmp_path / "ws"), 2)
    refuse_suspicious_features(resolve_features(["wait_min"]), snapshot, 0.9)
    leaky = resolve_features([{"tell": "if_else(stayed, 1, 0)"}])
    with pytest.raises(LeakageRefused, match="tell"):
        refuse_suspicious_features(leaky, snapshot, 0.9)


def test_view_holds_what_it_says(ray_local: None, files: Path, tmp_path: Path) -> None:
    snapshot, _ = _build(files, str(tmp_path / "ws"), 2)
    sample = sample_view(snapshot, None, None, 10)
    names = {c.name for c in snapshot.view.columns}
    assert set(sample.column_names) == names | {"_row_id", "_prediction_time", "_split"}
    assert sample.schema.field("stays").type == pa.int64()
