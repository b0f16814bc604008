"""Weights of language models, brought into the workspace."""

from typing import Any

import ray

from rayapp.config.weights import WeightsConfig
from rayapp.flows.room import telling_waits
from rayapp.flows.session import Session
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
