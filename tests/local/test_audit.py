"""The audit finds any changed byte in anything that the ledger names, and says where."""

import json
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
from released import NOW, Released, digest_of_table, release

from rayapp.data.delta import commit, recomputed_digest, write_file
from rayapp.data.digest import digest_of, hash_rows
from rayapp.errors import TamperedError
from rayapp.govern.audit import audit
from rayapp.ledger import Ledger
from rayapp.register.manifest import manifest_uri, read_manifest, seal
from rayapp.register.signing import load_or_create_key
from rayapp.schemas.data import TableVersion
from rayapp.schemas.operations import EventKind, Problem
from rayapp.schemas.record import canonical_json
from rayapp.storage import sha256


@pytest.fixture
def released(tmp_path: Path) -> Released:
    return release(tmp_path)


def _audit(released: Released) -> list[Problem]:
    return list(audit(released.ledger, released.workspace, digest_of_table).problems)


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_an_untouched_release_has_no_problem(released: Released) -> None:
    assert _audit(released) == []


def test_finds_a_flipped_byte_in_every_artefact_but_the_report(
    released: Released,
) -> None:
    root = released.workspace.local
    paths = sorted(p for folder in ("artifacts", "tables") for p in (root / folder).rglob("*"))
    files = [p for p in paths if p.is_file() and p.name != "report.html"]
    assert (
        len(files) == 8
    )  # two of the bundle, manifest, card, evaluation, what it took, two tables
    for path in files:
        _flip(path, path.stat().st_size // 2)
        problems = _audit(released)
        assert [p for p in problems if str(path.parent) in p.where], path
        _flip(path, path.stat().st_size // 2)
    assert _audit(released) == []


def test_finds_every_flipped_byte_of_a_manifest(released: Released) -> None:
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    for position in range(0, path.stat().st_size, 41):
        _flip(path, position)
        assert [p.where for p in _audit(released)] == [str(path)], position
        _flip(path, position)


@pytest.mark.parametrize(
    "kind", ["bundles/b1/schema.json", "evaluations/*/report.html", "cards/*/card.md"]
)
def test_names_a_missing_file(released: Released, kind: str) -> None:
    (path,) = (released.workspace.local / "artifacts").glob(kind)
    path.unlink()
    assert _audit(released) == [Problem(where=str(path), what="missing")]


def test_a_missing_manifest_is_a_problem(released: Released) -> None:
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    path.unlink()
    assert _audit(released) == [Problem(where=str(path), what="missing")]


def test_a_table_that_cannot_be_read_is_a_problem_and_the_audit_goes_on(
    released: Released,
) -> None:
    def broken(version: TableVersion) -> str:
        raise OSError("Parquet magic bytes not found in footer")

    problems = audit(released.ledger, released.workspace, broken).problems
    assert [p.where for p in problems] == [
        f"{t.uri} version 3" for t in (*released.snapshot.tables, released.snapshot.view)
    ]
    assert "Parquet magic bytes" in problems[0].what


@pytest.mark.parametrize("position", [0, 40, -3])
def test_finds_a_flipped_byte_of_a_delta_table(released: Released, position: int) -> None:
    version = _store_table(released)
    of_table = [p for p in _audit_tables(released) if p.where.startswith(version.uri)]
    assert of_table == []
    (path,) = Path(version.uri).glob("*.parquet")
    _flip(path, position)
    of_table = [p for p in _audit_tables(released) if p.where.startswith(version.uri)]
    assert path.name in of_table[0].what


def test_finds_a_delta_table_without_its_log(released: Released) -> None:
    version = _store_table(released)
    for path in (Path(version.uri) / "_delta_log").iterdir():
        path.unlink()
    (problem,) = [p for p in _audit_tables(released) if p.where.startswith(version.uri)]
    assert problem.where == f"{version.uri} version 0"


def _audit_tables(released: Released) -> list[Problem]:
    return list(audit(released.ledger, released.workspace, recomputed_digest).problems)


def _store_table(released: Released) -> TableVersion:
    """A real Delta table, named by a snapshot in the ledger."""
    table = pa.table({"dep_delay": [1.0, 2.0, None]})
    (hashes,) = hash_rows(table, [table.column_names])
    uri = released.workspace.table("real")
    file = write_file(uri, table, hashes.total())
    number = commit(uri, table.schema, [file], digest_of(table))
    version = released.snapshot.view.model_copy(
        update={"uri": uri, "version": number, "digest": digest_of(table), "num_rows": 3}
    )
    snapshot = released.snapshot.model_copy(update={"view": version})
    payload = {"snapshot": snapshot.model_dump(mode="json")}
    released.ledger.append(EventKind.SNAPSHOT_BUILT, snapshot.content_digest(), payload)
    return version


def test_a_key_that_is_not_trusted_is_a_problem(released: Released) -> None:
    (public,) = (released.workspace.keys / "trusted").iterdir()
    public.unlink()
    (problem,) = _audit(released)
    assert "not among the trusted keys" in problem.what


def test_a_release_signed_by_a_stranger_is_a_problem(released: Released, tmp_path: Path) -> None:
    stranger = load_or_create_key(tmp_path / "stranger")
    forged = seal(released.signed.manifest, stranger)
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    path.write_bytes(forged.canonical())
    (problem,) = _audit(released)
    assert stranger.key_id in problem.what


def test_a_replaced_public_key_is_a_problem(released: Released, tmp_path: Path) -> None:
    stranger = load_or_create_key(tmp_path / "stranger")
    (public,) = (released.workspace.keys / "trusted").iterdir()
    other = tmp_path / "stranger" / "trusted" / f"{stranger.key_id}.pub"
    public.write_bytes(other.read_bytes())
    (problem,) = _audit(released)
    assert "is not the public key" in problem.what


def test_another_release_under_this_id_is_a_problem(released: Released) -> None:
    manifest = released.signed.manifest.model_copy(update={"created_at": NOW.replace(year=2014)})
    other = seal(manifest, load_or_create_key(released.workspace.keys))
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    path.write_bytes(other.canonical())
    (problem,) = _audit(released)
    assert problem.what == f"holds release {other.release_id[:12]}… instead"


def test_a_release_of_another_version_is_told_as_one(released: Released) -> None:
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    content = json.loads(released.signed.manifest.canonical()) | {"mlflow_version": "3"}
    key = load_or_create_key(released.workspace.keys)
    envelope = {
        "release_id": sha256(canonical_json(content)),
        "manifest": content,
        "key_id": key.key_id,
        "signature": key.sign(canonical_json(content)),
    }
    path.write_bytes(canonical_json(envelope))
    (problem,) = _audit(released)
    assert problem.where == str(path)
    assert "another version of rayapp" in problem.what
    assert "mlflow_version" in problem.what


@pytest.mark.parametrize(
    "change",
    [
        {"release_id": 5},
        {"release_id": None},
        {"key_id": "k" * 300},
        {"key_id": 7},
        {"signature": None},
        {"note": "not signed"},
    ],
)
def test_a_seal_of_another_form_is_tampering(released: Released, change: dict[str, object]) -> None:
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    path.write_bytes(canonical_json(json.loads(path.read_bytes()) | change))
    (problem,) = _audit(released)
    assert problem.what.startswith("altered")
    with pytest.raises(TamperedError):
        read_manifest(released.workspace, released.signed.release_id)


def test_a_deeply_nested_manifest_is_a_finding(released: Released) -> None:
    path = Path(manifest_uri(released.workspace, released.signed.release_id))
    path.write_bytes(b'{"manifest":' + b"[" * 100_000)
    (problem,) = _audit(released)
    assert problem.what.startswith("altered")


def test_a_champion_that_was_never_sealed_is_a_problem(released: Released) -> None:
    released.ledger.move_pointer(
        "champion/other",
        "x" * 64,
        0,
        EventKind.CHAMPION_MOVED,
        {"release_id": "x" * 64},
    )
    (problem,) = _audit(released)
    assert "never sealed" in problem.what


def test_a_payload_of_another_form_is_a_problem(released: Released) -> None:
    event = released.ledger.append(EventKind.RUN_FINISHED, "run-2", {"ran": {}})
    (problem,) = _audit(released)
    assert problem.where == f"ledger event {event.sequence}"


def test_an_altered_event_is_a_problem(released: Released) -> None:
    _rewrite(released.ledger, "UPDATE events SET actor = 'mallory' WHERE sequence = 2")
    assert [p.where for p in _audit(released)] == ["ledger event 2"]


def test_an_event_that_cannot_be_read_is_a_problem(released: Released) -> None:
    _rewrite(released.ledger, "UPDATE events SET payload = '{' WHERE sequence = 2")
    first, last = _audit(released)
    assert first.where == "ledger event 2"
    assert last.where == "artefacts"
    assert last.what.startswith("not checked: ledger event 2 cannot be read")


@pytest.mark.parametrize("column", ["at", "kind", "subject", "actor", "payload", "hash"])
def test_names_an_event_with_a_flipped_bit(released: Released, column: str) -> None:
    events = released.ledger.events()
    for event in events:
        for bit in (0x01, 0x80):  # another character, and no character at all
            before = _flip_in_database(released.ledger, event.sequence, column, bit)
            assert _audit(released)[0].where == f"ledger event {event.sequence}"
            _set_in_database(released.ledger, event.sequence, column, before)
    assert _audit(released) == []


def _flip_in_database(ledger: Ledger, sequence: int, column: str, bit: int) -> bytes:
    connection = sqlite3.connect(ledger.url.removeprefix("sqlite:///"))
    connection.text_factory = bytes
    query = f"SELECT {column} FROM events WHERE sequence = ?"
    before: bytes = connection.execute(query, (sequence,)).fetchone()[0]
    connection.close()
    changed = bytearray(before)
    changed[len(changed) // 2] ^= bit
    _set_in_database(ledger, sequence, column, bytes(changed))
    return before


def _set_in_database(ledger: Ledger, sequence: int, column: str, value: bytes) -> None:
    connection = sqlite3.connect(ledger.url.removeprefix("sqlite:///"))
    with connection:
        statement = f"UPDATE events SET {column} = CAST(? AS TEXT) WHERE sequence = ?"
        connection.execute(statement, (value, sequence))
    connection.close()


def _rewrite(ledger: Ledger, statement: str) -> None:
    connection = sqlite3.connect(ledger.url.removeprefix("sqlite:///"))
    with connection:
        connection.execute(statement)
    connection.close()
