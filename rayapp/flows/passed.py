"""A release that may be served or scored with, by its id."""

from rayapp.register.manifest import read_manifest
from rayapp.release.promote import refuse_unless_passed
from rayapp.schemas.record import short
from rayapp.schemas.release import SignedManifest
from rayapp.storage import Workspace


def passed(workspace: Workspace, release_id: str) -> SignedManifest:
    """Whoever names it. Raises GateRefused for one that a gate refused, and as read_manifest."""
    signed = read_manifest(workspace, release_id)
    refuse_unless_passed(f"release {short(release_id)}", signed.manifest.verdicts)
    return signed
