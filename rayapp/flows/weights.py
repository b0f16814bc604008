"""Weights of language models, found again by their names.

Gateways import this module while they are built, and in each replica: nothing of a job is here.
"""

from rayapp.config.training import LlmConfig
from rayapp.errors import ConfigError, UserError
from rayapp.ledger import Ledger
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.operations import EventKind
from rayapp.schemas.record import short


def find_weights(ledger: Ledger, name: str) -> WeightsRef:
    """Those that were added last under this name. Raises ConfigError where none were."""
    event = ledger.latest(EventKind.WEIGHTS_ADDED, subject=name)
    if event is None:
        known = sorted({e.subject for e in ledger.events(EventKind.WEIGHTS_ADDED)})
        raise ConfigError(
            f"there are no weights {name!r} in this workspace, only {known}",
            "add them: rayapp submit configs/weights/NAME.yaml",
        )
    return event.record(WeightsRef, "weights")


def base_weights(ledger: Ledger, config: LlmConfig) -> WeightsRef:
    """What a training starts from. Raises ConfigError where they were never added, or as
    require_sequence does."""
    weights = find_weights(ledger, config.base_model)
    require_sequence(config, weights)
    return weights


def require_sequence(config: LlmConfig, weights: WeightsRef) -> None:
    """Raises ConfigError where the weights read less than a sequence."""
    if config.sequence_tokens > weights.max_context_tokens:
        raise ConfigError(
            f"llm.sequence_tokens is {config.sequence_tokens}, {weights.name} reads "
            f"{weights.max_context_tokens} at most",
            "lower it",
        )


def find_base(ledger: Ledger, name: str, digest: str) -> WeightsRef:
    """The weights that an adapter was tuned from: they stay in the workspace when others are added
    under their name. Raises UserError where they were never added."""
    events = ledger.events(EventKind.WEIGHTS_ADDED)
    for event in reversed(events):
        if event.payload["weights"]["digest"] == digest:
            return event.record(WeightsRef, "weights")
    known = sorted({short(e.payload["weights"]["digest"]) for e in events if e.subject == name})
    raise UserError(
        f"weights {name} ({short(digest)}), which the adapter was tuned from, were never added to "
        f"this workspace; under that name it has {known}",
        "add them (rayapp submit configs/weights/NAME.yaml), or train again from others",
    )
