"""Bytes at a URI: a local path, file://, s3:// or gs://, all through pyarrow.fs.

Artefacts are written once. Writing the same bytes again is fine, so an interrupted job may simply
run again; writing other bytes to the same place is refused, because somebody may have signed what
was there. Local writes go to a temporary name first and are renamed, so no reader sees half a file.
"""

import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs

from rayapp.errors import NotFoundError, TamperedError, WorkspaceError
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import BundleRef, FileDigest
from rayapp.schemas.record import canonical_json, short

if TYPE_CHECKING:  # whoever reads tables has imported them; to import them costs every command
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

_LOOK = "check RAYAPP_WORKSPACE; `rayapp audit verify` lists what is missing"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_bytes(uri: str) -> bytes:
    """Raises NotFoundError when there is nothing at `uri`, WorkspaceError when it cannot be
    reached."""
    filesystem, path = _resolve(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data
    except FileNotFoundError:
        raise NotFoundError(f"{uri}: cannot be read, since there is nothing", _LOOK) from None
    except OSError as error:
        raise WorkspaceError(
            f"{uri}: cannot be read ({_first_line(error)})",
            _LOOK,
        ) from None


def exists(uri: str) -> bool:
    filesystem, path = _resolve(uri)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def commit_bytes(uri: str, data: bytes) -> None:
    """Write once, atomically. Raises TamperedError if other bytes are there already."""
    filesystem, path = _resolve(uri)
    if filesystem.get_file_info(path).type != fs.FileType.NotFound:
        if read_bytes(uri) != data:
            raise TamperedError(
                f"{uri} already holds other bytes than the {len(data)} about to be written",
                "artefacts are written once; `rayapp audit verify` tells which one is right",
            )
        return
    _put(filesystem, path, uri, data)


def replace_bytes(uri: str, data: bytes) -> None:
    """Write atomically, whatever is there: for what says which artefact is the newest."""
    filesystem, path = _resolve(uri)
    _put(filesystem, path, uri, data)


def remove(uri: str) -> None:
    """What nobody will read any more. Raises WorkspaceError."""
    filesystem, path = _resolve(uri)
    try:
        filesystem.delete_file(path)
    except OSError as error:
        raise WorkspaceError(
            f"{uri}: cannot be removed ({_first_line(error)})", "check that you may write there"
        ) from None


def _put(filesystem: fs.FileSystem, path: str, uri: str, data: bytes) -> None:
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_durably(temporary, path, data)
        else:
            with filesystem.open_output_stream(temporary) as stream:
                stream.write(data)
            filesystem.move(temporary, path)
    except OSError as error:
        raise WorkspaceError(
            f"{uri}: cannot be written ({_first_line(error)})",
            "check that the workspace exists and that you may write to it",
        ) from None


def _write_durably(temporary: str, path: str, data: bytes) -> None:
    """Bytes, then name, then folder reach the disk in this order, so a power cut leaves all or
    none."""
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def commit_folder(local: Path, uri: str) -> tuple[FileDigest, ...]:
    """Commit every file below `local`; returns their digests sorted by path."""
    found = []
    for path in sorted(p for p in local.rglob("*") if p.is_file()):
        data = path.read_bytes()
        name = path.relative_to(local).as_posix()
        commit_bytes(f"{uri}/{name}", data)
        found.append(FileDigest(path=name, sha256=sha256(data), num_bytes=len(data)))
    return tuple(found)


def digest_file(path: Path) -> str:
    """SHA-256 of a file that may be too large to be held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(local: Path) -> tuple[FileDigest, ...]:
    """Digests of the files below `local`, sorted by path, without copying them."""
    paths = sorted(p for p in local.rglob("*") if p.is_file())
    return tuple(
        FileDigest(
            path=p.relative_to(local).as_posix(),
            sha256=digest_file(p),
            num_bytes=p.stat().st_size,
        )
        for p in paths
    )


def fetch_folder(uri: str, files: Sequence[FileDigest], local: Path) -> None:
    """Copy exactly `files` from `uri` to `local`, checking each. TamperedError names the first bad
    one."""
    for file in files:
        data = read_bytes(f"{uri}/{file.path}")
        if sha256(data) != file.sha256:
            raise TamperedError(
                f"{uri}/{file.path}: sha256 is {short(sha256(data))}…, "
                f"recorded is {short(file.sha256)}…",
                "do not use it; restore the file from a backup or release again",
            )
        target = local / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def local_folder(uri: str, cache: Path) -> Path:
    """Where this machine has, or will have, a folder's files: the folder itself where it is one
    here, else `cache`."""
    path = uri.removeprefix("file://")
    return cache if "://" in path else Path(path)


def present_files(
    uri: str,
    listed: Sequence[FileDigest],
    cache: Path,
    is_wanted: Callable[[str], bool] = lambda path: True,
) -> Path:
    """The folder of `local_folder`, once it has the wanted of the listed files and nothing else,
    each what it was. What a cache lacks is fetched, by one process of a machine at a time.

    Raises TamperedError.
    """
    folder = local_folder(uri, cache)
    wanted = [file for file in listed if is_wanted(file.path)]
    if folder == cache:
        folder.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lacking = [file for file in wanted if not _is_as_listed(folder, file)]
            fetch_folder(uri, lacking, folder)
    known = {file.path for file in listed}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    wrong = [file.path for file in wanted if not _is_as_listed(folder, file)]
    for path in [*wrong, *sorted(found - known)]:
        raise TamperedError(
            f"{folder / path} is not what was recorded",
            "do not use it; restore the folder from a backup, or make it again",
        )
    return folder


def present_weights(
    weights: WeightsRef, cache: Path, is_wanted: Callable[[str], bool] = lambda path: True
) -> Path:
    """`present_files` of a model's weights. Raises TamperedError."""
    require_list(weights.uri, weights.files, weights.digest)
    return present_files(weights.uri, weights.files, cache, is_wanted)


def _is_as_listed(folder: Path, file: FileDigest) -> bool:
    path = folder / file.path
    return path.is_file() and digest_file(path) == file.sha256


def fetch_bundle(ref: BundleRef, local: Path) -> None:
    """`fetch_folder` of a bundle, once its list of files is the one that its digest is over."""
    require_list(ref.uri, ref.files, ref.digest)
    fetch_folder(ref.uri, ref.files, local)


def require_list(uri: str, files: Sequence[FileDigest], digest: str) -> None:
    """Raises TamperedError unless it is of these files."""
    if folder_digest(files) != digest:
        raise TamperedError(
            f"{uri}: its list of files does not have the digest {short(digest)}",
            "do not use it; make it again",
        )


def folder_digest(files: Sequence[FileDigest]) -> str:
    """One digest for a folder: over paths and contents, in path order."""
    listed = sorted((f.path, f.sha256) for f in files)
    return sha256(canonical_json(listed))


@dataclass(frozen=True)
class Workspace:
    """Where state lives (design §5). uri: a local folder or a bucket; never inside the project."""

    uri: str
    own_ledger_url: str | None = None
    own_mlflow_url: str | None = None
    """Databases outside the workspace, shared by several nodes."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Workspace":
        """RAYAPP_WORKSPACE, or ~/.rayapp; RAYAPP_LEDGER_URL and MLFLOW_TRACKING_URI where set.
        Raises WorkspaceError when it cannot be made or written."""
        uri = environ.get("RAYAPP_WORKSPACE") or str(Path.home() / ".rayapp")
        workspace = cls(
            uri if "://" in uri else str(Path(uri).expanduser().absolute()),
            environ.get("RAYAPP_LEDGER_URL") or None,
            environ.get("MLFLOW_TRACKING_URI") or None,
        )
        local = workspace.local
        try:
            local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(
                f"workspace {uri}: cannot be created ({error.strerror})",
                "set RAYAPP_WORKSPACE to a folder or bucket that you may write to",
            ) from None
        if not os.access(local, os.W_OK):
            raise WorkspaceError(
                f"workspace {uri}: {local} is not writable",
                "set RAYAPP_WORKSPACE to another folder",
            )
        return workspace

    @property
    def is_bucket(self) -> bool:
        return "://" in self.uri and not self.uri.startswith("file://")

    @property
    def local(self) -> Path:
        """This machine's own part: the whole workspace when it is a folder, else keys and spool."""
        if self.is_bucket:
            return Path.home() / ".rayapp" / sha256(self.uri.encode())[:12]
        return Path(self.uri.removeprefix("file://"))

    def table(self, name: str) -> str:
        return f"{self.uri}/tables/{name}"

    def artifact(self, kind: str, artifact_id: str) -> str:
        return f"{self.uri}/artifacts/{kind}/{artifact_id}"

    def feed(self, name: str) -> str:
        """Says which values of a feature feed are the newest."""
        return f"{self.uri}/feeds/{name}.json"

    @property
    def ledger_url(self) -> str:
        return self.own_ledger_url or f"sqlite:///{self.local}/ledger.db"

    @property
    def mlflow_url(self) -> str:
        return self.own_mlflow_url or f"sqlite:///{self.local}/mlflow.db"

    @property
    def mlflow_artifacts(self) -> str:
        return f"{self.uri}/artifacts/mlflow"

    @property
    def train_storage(self) -> str:
        """Where Ray Train and Ray Tune keep checkpoints."""
        return f"{self.uri}/artifacts/checkpoints"

    @property
    def keys(self) -> Path:
        folder = self.local / "keys"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def spool(self, endpoint: str) -> Path:
        return self.local / "spool" / endpoint


def dataset_of(table: "DeltaTable", since: datetime | None = None) -> "ds.Dataset":
    """The files of a Delta table; with `since`, those that may have rows whose `at` is from then
    on. Each file of a dataset costs 0.4 ms before anything of it is read, and a table that is
    committed to every few seconds has ten thousand of them after a day.

    Arrow reads them by itself. Through the file system that deltalake would give it, its threads
    call into Python, and one that is not done when the interpreter ends takes the process down.
    """
    filesystem, path = _resolve(table.table_uri)
    pruned = None if since is None else [("at", ">=", since)]
    return table.to_pyarrow_dataset(
        filesystem=fs.SubTreeFileSystem(path, filesystem), file_pruning_predicate=pruned
    )


def _resolve(uri: str) -> tuple[fs.FileSystem, str]:
    if "://" not in uri:
        uri = str(Path(uri).absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"{uri}: cannot be reached ({_first_line(error)})", "check the URI and the credentials"
        ) from None
    return filesystem, path


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
