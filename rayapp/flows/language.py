"""A tuned language model against the weights that it was tuned from, on the rows held out."""

import tempfile
from pathlib import Path

from rayapp.config.release import ReleaseConfig
from rayapp.data.read import read_view
from rayapp.errors import TamperedError
from rayapp.evaluate.text import answer_rows, decoding_of, evaluate_answers
from rayapp.families.base import Base
from rayapp.families.bundle import MODEL_FOLDER, described
from rayapp.flows.room import tell_if_it_waits
from rayapp.flows.session import Session
from rayapp.flows.weights import find_weights
from rayapp.llm.environment import TUNING, runtime_env
from rayapp.schemas.data import Profile, Snapshot
from rayapp.schemas.model import LanguageSchema, Run
from rayapp.schemas.release import Evaluation
from rayapp.storage import fetch_bundle

NUM_CPUS = 2
SPARE = 1.25
"""Longer answers than any in training, times this, are cut."""


def evaluate_language(
    session: Session, config: ReleaseConfig, run: Run, snapshot: Snapshot
) -> Evaluation:
    """Raises TamperedError where the workspace has other weights under the base model's name."""
    with tempfile.TemporaryDirectory() as folder:
        fetch_bundle(run.bundle, Path(folder))
        schema, profile = described(Path(folder))
        files = {
            path.name: path.read_bytes()
            for path in (Path(folder) / MODEL_FOLDER).iterdir()
            if path.is_file()
        }
    assert schema.language is not None, "a language model's bundle says how it is asked"
    base = _base(session, schema.language)
    (num_rows,) = [split.num_rows for split in snapshot.splits if split.name == "test"]
    session.say(f"evaluate {run.run_id}: answering {num_rows:,} test rows, tuned and untuned")
    tell_if_it_waits(session, {"CPU": NUM_CPUS})
    decoding = decoding_of(config.evaluation.samples, _max_tokens(profile))
    answered = answer_rows(
        read_view(snapshot, "test"),
        base,
        schema.language,
        files,
        snapshot.label,
        decoding,
        NUM_CPUS,
        lambda done: session.say(f"evaluate {run.run_id}: {done:,} of {num_rows:,} rows answered"),
    )
    return evaluate_answers(
        answered=answered,
        label=snapshot.label,
        language=schema.language,
        config=config.evaluation,
        decoding=decoding,
        run_id=run.run_id,
        snapshot_id=snapshot.content_digest(),
        split="test",
        bundle_digest=run.bundle.digest,
    )


def _base(session: Session, language: LanguageSchema) -> Base:
    weights = find_weights(session.ledger, language.base_name)
    if weights.digest != language.base_digest:
        raise TamperedError(
            f"weights {language.base_name} are {weights.digest[:12]}…, the adapter was tuned from "
            f"{language.base_digest[:12]}…",
            "train again from the weights that there are now",
        )
    environment = runtime_env(session.environ, TUNING)
    return Base(weights, environment, language.chat, language.fields)


def _max_tokens(profile: Profile) -> int:
    (answers,) = [column for column in profile.columns if column.name == "answer_tokens"]
    return int(answers.edges[-1] * SPARE) + 1
