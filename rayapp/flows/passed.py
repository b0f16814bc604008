"""A release that may be served or scored with, by its id, and what kind of model it has."""

from rayapp.errors import RayappError
from rayapp.register.manifest import read_manifest
from rayapp.release.promote import refuse_unless_passed
from rayapp.schemas.record import short
from rayapp.schemas.release import SignedManifest
from rayapp.storage import Workspace


def passed(workspace: Workspace, release_id: str) -> SignedManifest:
    """Its manifest, verified. Raises GateRefused where a gate refused the release, and what
    read_manifest raises."""
    signed = read_manifest(workspace, release_id)
    refuse_unless_passed(f"release {short(release_id)}", signed.manifest.verdicts)
    return signed


def is_language(workspace: Workspace, release_id: str) -> bool | None:
    """Whether its model is a language model's adapter; None where its manifest cannot be read."""
    try:
        signed = passed(workspace, release_id)
    except RayappError:
        return None
    return signed.manifest.bundle.bundle_schema.language is not None
