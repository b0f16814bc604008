"""Artefacts are written once, whole, and read back only if they are what they were."""

from pathlib import Path

import pytest

from rayapp.errors import NotFoundError, TamperedError, WorkspaceError
from rayapp.storage import (
    Workspace,
    commit_bytes,
    commit_folder,
    digest_folder,
    exists,
    fetch_folder,
    folder_digest,
    read_bytes,
)


def test_commit_is_once(tmp_path: Path) -> None:
    uri = f"{tmp_path}/a/b.json"
    commit_bytes(uri, b"one")
    commit_bytes(uri, b"one")
    assert read_bytes(uri) == b"one"
    with pytest.raises(TamperedError, match="other bytes"):
        commit_bytes(uri, b"two")
    assert read_bytes(uri) == b"one"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


def test_missing_is_a_clear_error_and_another_than_unreadable(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be read"):
        read_bytes(f"{tmp_path}/nothing")
    with pytest.raises(WorkspaceError, match="cannot be read") as unreadable:
        read_bytes(str(tmp_path))
    assert not isinstance(unreadable.value, NotFoundError)
    assert not exists(f"{tmp_path}/nothing")


def test_folder_round_trip_checks_every_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "model").mkdir(parents=True)
    (source / "schema.json").write_text("{}")
    (source / "model" / "model.ubj").write_bytes(bytes(range(256)))
    files = commit_folder(source, f"{tmp_path}/store")
    assert files == digest_folder(source)
    assert folder_digest(files) == folder_digest(tuple(reversed(files)))
    fetch_folder(f"{tmp_path}/store", files, tmp_path / "copy")
    assert digest_folder(tmp_path / "copy") == files
    broken = tmp_path / "store" / "model" / "model.ubj"
    broken.write_bytes(b"\x01" + broken.read_bytes()[1:])
    with pytest.raises(TamperedError, match=r"model\.ubj"):
        fetch_folder(f"{tmp_path}/store", files, tmp_path / "again")


def test_workspace_of_the_environment(tmp_path: Path) -> None:
    workspace = Workspace.from_environment({"RAYAPP_WORKSPACE": str(tmp_path / "w")})
    assert workspace.table("flights") == f"{tmp_path}/w/tables/flights"
    assert workspace.keys.stat().st_mode & 0o777 == 0o700


def test_workspace_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be created"):
        Workspace.from_environment({"RAYAPP_WORKSPACE": str(tmp_path / "file" / "w")})
