"""Which raw files a source names. A package's data file is found without importing the package."""

import difflib
import fnmatch
import hashlib
import importlib.util
from pathlib import Path

from pyarrow import fs

from rayapp.config.snapshot import SourceConfig
from rayapp.errors import DataError

_SUFFIXES = {
    "csv": (".csv", ".csv.gz", ".csv.zip", ".txt", ".tsv"),
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zip", ".ndjson"),
}


def expand(config: SourceConfig) -> list[str]:
    """The files a source names, sorted. Raises DataError when there is none."""
    if config.package is not None:
        return [str(_package_file(config.package, config.path or ""))]
    uri = config.uri or ""
    folder, _, pattern = uri.rpartition("/")
    if "*" not in pattern and "?" not in pattern:
        filesystem, path = open_uri(uri)
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.File:
            return [uri]
        if kind == fs.FileType.NotFound:
            raise DataError(f"source {uri}: there is nothing", "check `uri` in the snapshot config")
        folder, pattern = uri.rstrip("/"), "*"
    found = _listed(folder or ".", pattern, _SUFFIXES[config.format])
    if not found:
        raise DataError(
            f"source {uri}: no {config.format} file matches", "check `uri` in the snapshot config"
        )
    return found


def _listed(folder: str, pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    filesystem, path = open_uri(folder)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = [i.base_name for i in infos if i.type == fs.FileType.File]
    chosen = [n for n in names if fnmatch.fnmatch(n, pattern)]
    if pattern == "*":
        chosen = [n for n in chosen if n.lower().endswith(suffixes)]
    return sorted(f"{folder}/{name}" for name in chosen)


def _package_file(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    roots = list(spec.submodule_search_locations or []) if spec else []
    if not roots:
        raise DataError(
            f"source package {package!r} is not installed", f"pip install {package}, or set `uri`"
        )
    file = Path(roots[0]) / path
    if not file.is_file():
        names = [str(p.relative_to(roots[0])) for p in Path(roots[0]).rglob("*") if p.is_file()]
        near = difflib.get_close_matches(path, names, n=1)
        raise DataError(
            f"source package {package!r} has no file {path!r}",
            f"did you mean {near[0]!r}?" if near else "check `path` in the snapshot config",
        )
    return file


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        if "://" not in uri:
            uri = str(Path(uri).expanduser().absolute())
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    except (OSError, ValueError) as error:
        raise DataError(f"{uri}: cannot be reached ({error})", "check the URI") from None


def digest_source(config: SourceConfig) -> str:
    """What the source holds now: SHA-256 of local files; size and time of remote ones."""
    digest = hashlib.sha256()
    for uri in expand(config):
        filesystem, path = open_uri(uri)
        digest.update(uri.encode())
        if isinstance(filesystem, fs.LocalFileSystem):
            with Path(path).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            info = filesystem.get_file_info(path)
            digest.update(f"{info.size} {info.mtime_ns}".encode())
    return digest.hexdigest()
