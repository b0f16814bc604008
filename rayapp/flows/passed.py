"""A release that may be served or scored with, by its id, and what kind of model it has."""

import time
from collections.abc import Callable
from functools import partial

from rayapp.errors import RayappError
from rayapp.register.manifest import read_manifest
from rayapp.release.promote import refuse_unless_passed
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.record import short
from rayapp.schemas.release import SignedManifest
from rayapp.storage import Workspace

READ_AGAIN_S = 5.0
"""Replicas look four times a second; a manifest that cannot be read is left alone for so long."""


def passed(workspace: Workspace, release_id: str) -> SignedManifest:
    """Its manifest, verified. Raises GateRefused where a gate refused the release, and what
    read_manifest raises."""
    signed = read_manifest(workspace, release_id)
    refuse_unless_passed(f"release {short(release_id)}", signed.manifest.verdicts)
    return signed


def schema_of(workspace: Workspace, release_id: str) -> BundleSchema | None:
    """Of its model; None where its manifest cannot be read, or a gate refused it."""
    try:
        return passed(workspace, release_id).manifest.bundle.bundle_schema
    except RayappError:
        return None


class Kinds:
    """Which releases have a language model, of one process. read: the schema of a release's model,
    None where it cannot be read; then again only after READ_AGAIN_S. Else once, as a manifest never
    changes."""

    def __init__(
        self,
        read: Callable[[str], BundleSchema | None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock_s = clock_s
        self._known: dict[str, bool] = {}
        self._failed_s: dict[str, float] = {}

    @classmethod
    def of(cls, workspace: Workspace) -> "Kinds":
        return cls(partial(schema_of, workspace))

    def is_language(self, release_id: str) -> bool:
        """False also while that is not known: what is wrong is told where other models are."""
        known = self._known.get(release_id)
        if known is not None:
            return known
        failed_s = self._failed_s.get(release_id)
        if failed_s is not None and self._clock_s() < failed_s + READ_AGAIN_S:
            return False
        schema = self._read(release_id)
        if schema is None:
            self._failed_s[release_id] = self._clock_s()
            return False
        self._failed_s.pop(release_id, None)
        found = self._known[release_id] = schema.language is not None
        return found
