"""The base model's files on this machine, once they are what their digest says."""

import tempfile
from functools import lru_cache
from pathlib import Path

from rayapp.schemas.language import WeightsRef
from rayapp.storage import present_weights


@lru_cache(maxsize=4)
def base_folder(weights: WeightsRef) -> Path:
    """Where the workspace is a folder here, its own copy; else one that each machine fetches once.

    Raises TamperedError where the files are not those of the digest.
    """
    cache = Path(tempfile.gettempdir()) / "rayapp-weights" / weights.digest
    return present_weights(weights, cache)
