"""Weights of language models: brought into the workspace, and found again by their names."""

from typing import Any

import ray

from rayapp.config.training import LlmConfig
from rayapp.config.weights import WeightsConfig
from rayapp.errors import ConfigError, UserError
from rayapp.flows.room import telling_waits
from rayapp.flows.session import Session
from rayapp.ledger import Ledger
from rayapp.llm.environment import runtime_env
from rayapp.llm.weights import add_weights, source_of
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.operations import EventKind
from rayapp.schemas.record import short

_A_LITTLE = {"CPU": 0.1}
"""Copying and hashing, for some seconds; engines that serve may hold most of what there is."""


def add_weights_job(session: Session, config: WeightsConfig) -> dict[str, Any]:
    """Returns the figures of the job's last line."""
    environment = runtime_env(session.environ)
    if config.package is None:  # else it is installed where transformers is
        source_of(config)
    with session.exclusive(f"weights-{config.name}"), telling_waits(session, _A_LITTLE):
        session.say(f"weights {config.name}: reading {config.source_path}")
        # where transformers is, which reads them
        task = ray.remote(add_weights).options(runtime_env=environment, num_cpus=_A_LITTLE["CPU"])
        try:
            made: WeightsRef = ray.get(task.remote(config, session.workspace))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        last = session.ledger.latest(EventKind.WEIGHTS_ADDED, subject=config.name)
        is_new = last is None or last.record(WeightsRef, "weights") != made
        if is_new:
            payload = {"weights": made.model_dump(mode="json")}
            session.ledger.append(EventKind.WEIGHTS_ADDED, config.name, payload)
    num_bytes = sum(file.num_bytes for file in made.files)
    session.say(
        f"weights {made.name}: {'added' if is_new else 'unchanged'}, {short(made.digest)} "
        f"({made.architecture}, {made.num_parameters / 1e6:.0f} million parameters, "
        f"{num_bytes / 1e6:.0f} MB, {made.license}) in {made.uri}"
    )
    return {"weights": made.name, "digest": made.digest, "uri": made.uri, "is_new": is_new}


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
