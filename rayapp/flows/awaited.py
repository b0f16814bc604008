"""What a serving config names that is not there yet. It may still come, so nothing is refused;
until then `problems` of GET / says the same."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

from rayapp.config.language import LanguageConfig
from rayapp.config.routing import AnyRule
from rayapp.config.serving import ServingConfig
from rayapp.data.feed_store import newest
from rayapp.govern.flags import current_flags
from rayapp.ledger import Ledger
from rayapp.release.promote import champions
from rayapp.schemas.record import short
from rayapp.serve.flags import lack_of
from rayapp.storage import Workspace


def awaited(workspace: Workspace, config: ServingConfig) -> list[str]:
    """One sentence for each, with its next step."""
    ledger = Ledger.of(workspace, "deploy")
    rules = {f"endpoint {name!r}": one.rules for name, one in config.endpoints.items()}
    feeds = _feeds(workspace, config)
    return [*_releases(ledger, config), *feeds, *_flags(ledger, rules)]


def awaited_models(
    workspace: Workspace, config: LanguageConfig, answering: Collection[str]
) -> list[str]:
    """As `awaited`. answering: the names that an adapter answers for."""
    ledger = Ledger.of(workspace, "deploy")
    rules = {f"model {name!r}": one.rules for name, one in config.models.items()}
    return [*_unanswered(ledger, config, answering), *_flags(ledger, rules)]


def near(name: str, known: Iterable[str]) -> str:
    """How a sentence goes on that `name` is not among the known."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else " yet"


def _releases(ledger: Ledger, config: ServingConfig) -> list[str]:
    if not config.endpoints:
        return []
    released = champions(ledger)
    return [_unreleased(name, released) for name in sorted(config.named() - released.keys())]


def _unreleased(endpoint: str, released: Iterable[str]) -> str:
    return (
        f"nothing was released for endpoint {endpoint!r}{near(endpoint, released)}; next: correct "
        "the name, or release for it: rayapp submit configs/releases/NAME.yaml "
        f"endpoint={endpoint}"
    )


def _unanswered(ledger: Ledger, config: LanguageConfig, answering: Collection[str]) -> list[str]:
    """Models that nobody answers for."""
    released = champions(ledger)
    found = []
    for name, model in config.models.items():
        endpoint = model.endpoint
        if endpoint is None or name in answering:
            continue
        if model.release is None and endpoint not in released:
            lack = _unreleased(endpoint, released)
        else:
            release_id = model.release or released[endpoint].target
            lack = (
                f"release {short(release_id)} of endpoint {endpoint!r} is no adapter of weights "
                f"{config.engines[model.engine].weights!r} as they are now, or cannot be read; "
                "next: name another one, or release one that was tuned from them"
            )
        found.append(f"model {name!r}: {lack}")
    return found


def _feeds(workspace: Workspace, config: ServingConfig) -> list[str]:
    return [
        f"endpoint {name!r}: feed {feed!r} was never published; next: rayapp submit "
        "configs/features/NAME.yaml"
        for name, endpoint in config.endpoints.items()
        for feed in endpoint.feeds
        if newest(workspace, feed) is None
    ]


def _flags(ledger: Ledger, rules: Mapping[str, Sequence[AnyRule]]) -> list[str]:
    """rules: by what the sentence calls whose they are."""
    if not any(rule.when.asked for own in rules.values() for rule in own):
        return []
    flags = current_flags(ledger)
    return [
        f"{whose}: rule {rule.name!r} takes nothing: {lack}; next: rayapp flags publish "
        "configs/flags/NAME.yaml"
        for whose, own in rules.items()
        for rule in own
        if (lack := lack_of(rule, flags)) is not None
    ]
