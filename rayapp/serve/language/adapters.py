"""Released adapters, as the gateway follows them: verified here, loaded by engines when asked."""

from collections.abc import Collection
from dataclasses import dataclass

from rayapp.errors import DataError
from rayapp.families.bundle import adapter_of
from rayapp.schemas.language import Adapter
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.record import short
from rayapp.schemas.release import Evaluation
from rayapp.serve.follow import endpoint_of
from rayapp.serve.loading import Store, sealed_for, usable_evaluation


@dataclass(frozen=True)
class Adapted:
    """A release whose model is an adapter. language: how it was tuned to be asked, and of which
    weights it is. evaluation: what it was sealed with, where it is chosen by that; else None."""

    endpoint: str
    release_id: str
    adapter: Adapter
    language: LanguageSchema
    evaluation: Evaluation | None = None


class AdapterOpener:
    """Opens releases for ChampionFollower. digests: of the weights of those engines that take
    adapters. evaluated: endpoints whose releases are chosen by their evaluations. One whose
    evaluation is not what was sealed is not chosen, and still answers where there is no choice."""

    def __init__(
        self, store: Store, digests: Collection[str], evaluated: Collection[str] = ()
    ) -> None:
        self._store = store
        self._digests = digests
        self._evaluated = evaluated

    def __call__(self, key: str, release_id: str, previous: Adapted | None) -> Adapted:
        endpoint = endpoint_of(key)
        manifest = sealed_for(self._store, endpoint, release_id)
        bundle = manifest.bundle
        language = bundle.bundle_schema.language
        if language is None or language.method == "full":
            raise DataError(
                "its model is no adapter",
                "add merged weights by a config of configs/weights/, for an engine of their own",
            )
        if language.base_digest not in self._digests:
            base = f"{language.base_name} ({short(language.base_digest)})"
            raise DataError(
                f"it is an adapter of {base}, and no engine here that takes adapters has those",
                "deploy an engine for these weights, or train again from weights that are served",
            )
        evaluation = None
        if endpoint in self._evaluated:
            evaluation = usable_evaluation(self._store, endpoint, release_id, manifest)
        return Adapted(endpoint, release_id, adapter_of(release_id, bundle), language, evaluation)
