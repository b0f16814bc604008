"""A tuned language model against the weights that it was tuned from: on the rows held out, or on a
golden set."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayapp.config.golden import GoldenConfig
from rayapp.config.release import ReleaseConfig
from rayapp.data.golden import as_dataset, golden_rows, golden_table
from rayapp.data.read import read_view
from rayapp.evaluate.contamination import find_contamination, refuse_contaminated
from rayapp.evaluate.text import answer_rows, decoding_of, evaluate_answers
from rayapp.families.base import Base
from rayapp.families.bundle import MODEL_FOLDER, described
from rayapp.flows.judging import measure_judge
from rayapp.flows.room import tell_if_it_waits
from rayapp.flows.session import Session
from rayapp.flows.weights import find_base
from rayapp.llm.environment import tuning_env
from rayapp.schemas.data import Profile, Snapshot
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import LanguageSchema, Run
from rayapp.schemas.release import Evaluation, GoldenRef
from rayapp.storage import fetch_bundle

NUM_CPUS = 2
SPARE = 1.25
"""Longer answers than any in training, times this, are cut."""


@dataclass(frozen=True)
class Questions:
    """What the models are asked. rows: a dataset of Ray's. golden: where it is a set of its own."""

    rows: Any
    num_rows: int
    split: str
    golden: GoldenRef | None = None


def evaluate_language(
    session: Session, config: ReleaseConfig, run: Run, snapshot: Snapshot
) -> Evaluation:
    """Raises UserError where the workspace never had the base model's weights, and
    ContaminationRefused where a golden set occurs in the training data; what `measure_judge`
    raises."""
    with tempfile.TemporaryDirectory() as folder:
        fetch_bundle(run.bundle, Path(folder))
        schema, profile = described(Path(folder))
        files = {
            path.name: path.read_bytes()
            for path in (Path(folder) / MODEL_FOLDER).iterdir()
            if path.is_file()
        }
    assert schema.language is not None, "a language model's bundle says how it is asked"
    weights = weights_of(session, schema.language)
    environment = tuning_env(session.environ)
    base = Base(weights, environment, schema.language.chat, schema.language.fields)
    max_tokens = max_answer_tokens(profile)
    assert max_tokens is not None, "training measures the answers that it learns from"
    asked = _questions(session, config, run, snapshot)
    judge = measure_judge(session, config.evaluation, schema.language, run, snapshot)
    session.say(
        f"evaluate {run.run_id}: answering {asked.num_rows:,} {asked.split} rows, tuned and untuned"
    )
    tell_if_it_waits(session, {"CPU": NUM_CPUS})
    decoding = decoding_of(config.evaluation.samples, max_tokens)
    answered = answer_rows(
        asked.rows,
        base,
        schema.language,
        files,
        snapshot.label,
        decoding,
        NUM_CPUS,
        lambda done: session.say(
            f"evaluate {run.run_id}: {done:,} of {asked.num_rows:,} rows answered"
        ),
    )
    return evaluate_answers(
        answered=answered,
        label=snapshot.label,
        language=schema.language,
        config=config.evaluation,
        decoding=decoding,
        run_id=run.run_id,
        snapshot_id=snapshot.content_digest(),
        split=asked.split,
        bundle_digest=run.bundle.digest,
        golden=asked.golden,
        judging=None if judge is None else judge.judge(answered, snapshot.label),
    )


def _questions(session: Session, config: ReleaseConfig, run: Run, snapshot: Snapshot) -> Questions:
    if config.evaluation.golden is None:
        (num_rows,) = [split.num_rows for split in snapshot.splits if split.name == "test"]
        return Questions(read_view(snapshot, "test"), num_rows, "test")
    golden = session.load(GoldenConfig, config.evaluation.golden)
    schema = run.bundle.bundle_schema
    assert schema.language is not None
    columns = snapshot.view.columns
    rows, fields = golden_rows(golden), schema.language.fields
    items = golden_table(rows, schema.inputs, columns, snapshot.label, fields)
    inputs = [column.name for column in schema.inputs]
    found, is_clean = find_contamination(
        items,
        schema.language.features,
        [read_view(snapshot, split, inputs) for split in ("train", "tune")],
        golden.contamination,
    )
    session.say(
        f"evaluate {run.run_id}: {len(found.items)} of {len(rows):,} items of golden set "
        f"{golden.name} {golden.version} occur in {found.num_training_rows:,} training rows"
    )
    refuse_contaminated(golden, found, len(rows))
    asked = items.filter(pa.array(is_clean))
    ref = GoldenRef(
        name=golden.name,
        version=golden.version,
        owner=golden.owner,
        sha256=golden.sha256,
        num_items=len(rows),
        contamination=found,
    )
    return Questions(as_dataset(asked), len(asked), "golden", ref)


def weights_of(session: Session, language: LanguageSchema) -> WeightsRef:
    """Those that an adapter was tuned from. Raises UserError where there never were any such."""
    return find_base(session.ledger, language.base_name, language.base_digest)


def max_answer_tokens(profile: Profile) -> int | None:
    """Where answers are cut; None where the profile has no answers' lengths."""
    found = [column.edges[-1] for column in profile.columns if column.name == "answer_tokens"]
    return int(found[0] * SPARE) + 1 if found else None
