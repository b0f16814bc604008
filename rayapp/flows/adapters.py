"""Which released adapters answer behind a gateway for language models, as far as the ledger tells
it."""

from rayapp.config.language import LanguageConfig
from rayapp.errors import RayappError
from rayapp.flows.passed import passed
from rayapp.flows.weights import find_weights
from rayapp.ledger import Ledger
from rayapp.release.promote import champions
from rayapp.schemas.release import SignedManifest
from rayapp.storage import Workspace


def adapters(workspace: Workspace, config: LanguageConfig) -> dict[str, SignedManifest]:
    """By the names that callers send. A release that cannot be read answers nobody. Raises
    ConfigError for weights that were never added."""
    ledger = Ledger.of(workspace, "deploy")
    released = {name: pointer.target for name, pointer in champions(ledger).items()}
    found = {}
    for name, model in config.models.items():
        weights = find_weights(ledger, config.engines[model.engine].weights)
        wanted: dict[str, str] = {}
        if model.adapters:
            wanted = {own: one for own, one in released.items() if own not in config.models}
        elif model.endpoint is not None and (model.release or model.endpoint in released):
            wanted = {name: model.release or released[model.endpoint]}
        for own, release_id in wanted.items():
            signed = _adapter_of(workspace, release_id, weights.digest)
            if signed is not None:
                found[own] = signed
    return found


def _adapter_of(workspace: Workspace, release_id: str, digest: str) -> SignedManifest | None:
    """digest: of the weights that it must be an adapter of."""
    try:
        signed = passed(workspace, release_id)
    except RayappError:
        return None
    language = signed.manifest.bundle.bundle_schema.language
    if language is None or language.method == "full" or language.base_digest != digest:
        return None
    return signed
