"""A tuned language model against the weights that it was tuned from, and against the champion: on
the rows held out, or on a golden set."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayapp.config.golden import GoldenConfig
from rayapp.config.language import Redaction
from rayapp.config.release import ReleaseConfig
from rayapp.data.golden import as_dataset, golden_rows, golden_table
from rayapp.data.read import read_view
from rayapp.errors import UserError
from rayapp.evaluate.contamination import find_contamination, refuse_contaminated
from rayapp.evaluate.shown import shown_rows
from rayapp.evaluate.text import answer_rows, decoding_of, evaluate_answers
from rayapp.families.bundle import MODEL_FOLDER, described
from rayapp.families.llm.answer import Tuned
from rayapp.flows.judging import measure_judge
from rayapp.flows.room import ONE_CPU, telling_waits
from rayapp.flows.session import Session, now_and_then
from rayapp.flows.weights import find_base
from rayapp.llm.environment import tuning_env
from rayapp.schemas.data import Profile, Snapshot
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import BundleRef, LanguageSchema, Run
from rayapp.schemas.record import short
from rayapp.schemas.release import Evaluation, GoldenRef, ShownRow, SignedManifest
from rayapp.serve.language.redaction import redacted
from rayapp.storage import fetch_bundle

SPARE = 1.25
"""Longer answers than any in training, times this, are cut."""


@dataclass(frozen=True)
class Questions:
    """What the models are asked. rows: a dataset of Ray's, with `columns`. golden: where it is a
    set of its own."""

    rows: Any
    num_rows: int
    columns: tuple[str, ...]
    split: str
    golden: GoldenRef | None = None


@dataclass(frozen=True)
class Opened:
    """A tuned language model at hand. max_tokens: where its answers are cut."""

    tuned: Tuned
    max_tokens: int


def evaluate_language(
    session: Session,
    config: ReleaseConfig,
    run: Run,
    snapshot: Snapshot,
    champion: SignedManifest | None,
) -> Evaluation:
    """Raises UserError where the workspace never had the weights beneath a model, or the champion
    cannot be asked the same; ContaminationRefused where a golden set occurs in the training data;
    what `measure_judge` raises."""
    own = _opened(session, run.bundle)
    asked = _questions(session, config, run, snapshot)
    other = None if champion is None else _opened_champion(session, champion, asked.columns)
    language = own.tuned.language
    judge = measure_judge(session, config.evaluation, language, run, snapshot)
    beside = "" if champion is None else f", and by champion {short(champion.release_id)}"
    session.say(
        f"evaluate {run.run_id}: answering {asked.num_rows:,} {asked.split} rows, tuned and untuned"
        f"{beside}"
    )
    workers = config.evaluation.workers
    max_tokens = max(own.max_tokens, 0 if other is None else other.max_tokens)
    decoding = decoding_of(config.evaluation.samples, max_tokens)
    with telling_waits(session, workers.each_needs, workers.num_workers):
        answered = answer_rows(
            asked.rows,
            own.tuned,
            None if other is None else other.tuned,
            snapshot.label,
            decoding,
            workers,
            tuning_env(session.environ),
            now_and_then(
                lambda done: session.say(
                    f"evaluate {run.run_id}: {done:,} of {asked.num_rows:,} rows answered"
                )
            ),
        )
    evaluation = evaluate_answers(
        answered=answered,
        label=snapshot.label,
        language=language,
        config=config.evaluation,
        decoding=decoding,
        run_id=run.run_id,
        snapshot_id=snapshot.content_digest(),
        split=asked.split,
        bundle_digest=run.bundle.digest,
        champion_release=None if champion is None else champion.release_id,
        golden=asked.golden,
        judging=None if judge is None else judge.judge(answered, snapshot.label),
    )
    shown = shown_of(answered, snapshot.label, language, config.evaluation.redacts)
    return evaluation.model_copy(update={"shown": shown})


def shown_of(
    answered: pa.Table, label: str, language: LanguageSchema, level: Redaction
) -> tuple[ShownRow, ...]:
    """The rows that the report shows, without what the prompt log would leave out."""
    if level == "text":
        return ()
    return shown_rows(answered, label, language, lambda text: str(redacted(text, level)))


def _opened(session: Session, bundle: BundleRef) -> Opened:
    """Its files are what their digests say."""
    with tempfile.TemporaryDirectory() as folder:
        fetch_bundle(bundle, Path(folder))
        schema, profile = described(Path(folder))
        files = {
            path.name: path.read_bytes()
            for path in (Path(folder) / MODEL_FOLDER).iterdir()
            if path.is_file()
        }
    assert schema.language is not None, "a language model's bundle says how it is asked"
    max_tokens = max_answer_tokens(profile)
    assert max_tokens is not None, "training measures the answers that it learns from"
    weights = weights_of(session, schema.language)
    return Opened(Tuned(weights, schema.language, files), max_tokens)


def _opened_champion(session: Session, champion: SignedManifest, columns: Sequence[str]) -> Opened:
    """It answers as it is served: by its own prompt, and by its own base weights, which need not be
    the candidate's. columns: of the questions. Raises UserError where it cannot answer them."""
    schema = champion.manifest.bundle.bundle_schema
    endpoint = champion.manifest.endpoint
    who = f"release {short(champion.release_id)}, the champion of {endpoint!r},"
    if schema.language is None:
        raise UserError(
            f"{who} is of family {schema.family}: it gives no answers to compare with",
            "release the language model under an endpoint of its own",
        )
    missing = [column.name for column in schema.inputs if column.name not in columns]
    if missing:
        raise UserError(
            f"{who} is asked by {missing[0]!r}, which the questions do not have",
            "add that column to the snapshot (or the golden set), or take another endpoint",
        )
    return _opened(session, champion.manifest.bundle)


def _questions(session: Session, config: ReleaseConfig, run: Run, snapshot: Snapshot) -> Questions:
    if config.evaluation.golden is None:
        (num_rows,) = [split.num_rows for split in snapshot.splits if split.name == "test"]
        names = tuple(column.name for column in snapshot.view.columns)
        return Questions(read_view(snapshot, "test"), num_rows, names, "test")
    golden = session.load(GoldenConfig, config.evaluation.golden)
    schema = run.bundle.bundle_schema
    assert schema.language is not None
    columns = snapshot.view.columns
    rows, fields = golden_rows(golden), schema.language.fields
    items = golden_table(rows, schema.inputs, columns, snapshot.label, fields)
    inputs = [column.name for column in schema.inputs]
    with telling_waits(session, ONE_CPU):
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
    names = tuple(asked.column_names)
    return Questions(as_dataset(asked), len(asked), names, "golden", ref)


def weights_of(session: Session, language: LanguageSchema) -> WeightsRef:
    """Those that an adapter was tuned from. Raises UserError where there never were any such."""
    return find_base(session.ledger, language.base_name, language.base_digest)


def max_answer_tokens(profile: Profile) -> int | None:
    """Where answers are cut; None where the profile has no answers' lengths."""
    found = [column.edges[-1] for column in profile.columns if column.name == "answer_tokens"]
    return int(found[0] * SPARE) + 1 if found else None
