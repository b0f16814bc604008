"""The base model's files on this machine, once they are what their digest says."""

import fcntl
import tempfile
from functools import lru_cache
from pathlib import Path

from rayapp.errors import TamperedError
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.record import short
from rayapp.storage import digest_folder, fetch_folder, folder_digest


@lru_cache(maxsize=4)
def base_folder(weights: WeightsRef) -> Path:
    """Where the workspace is a folder here, its own copy; else one that each machine fetches once.

    Raises TamperedError where the files are not those of the digest.
    """
    local = Path(weights.uri.removeprefix("file://"))
    if not local.is_dir():
        local = Path(tempfile.gettempdir()) / "rayapp-weights" / weights.digest
        local.mkdir(parents=True, exist_ok=True)
        with local.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers on a machine one fetches
            if _digest(local) != weights.digest:
                fetch_folder(weights.uri, weights.files, local)
    found = _digest(local)
    if found != weights.digest:
        raise TamperedError(
            f"weights {weights.name} in {local}: digest is {short(found)}…, recorded is "
            f"{short(weights.digest)}…",
            "restore them, or add them again: rayapp submit configs/weights/…",
        )
    return local


def _digest(folder: Path) -> str:
    return folder_digest(digest_folder(folder))
