"""Batch answers: rows of a snapshot through a language model's release.

    rows of the view ─▶ what is not there yet ─▶ a task where vLLM is ─▶ tables of answers
                              ▲                                               │
                              └────────── the table, as far as it is ◀────────┘

The driver holds the rows, and commits. The task, and the engine that it starts, are on one node.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayapp.config.operations import AnswersConfig, ScoreConfig
from rayapp.data.read import read_rows
from rayapp.errors import RayappError, UserError
from rayapp.families.bundle import adapter_of, described
from rayapp.flows.language import max_answer_tokens, weights_of
from rayapp.flows.room import telling_waits
from rayapp.flows.session import Session
from rayapp.llm.adapters import local_adapter, rank_of
from rayapp.llm.environment import engine_variables, runtime_env
from rayapp.schemas.data import ROW_ID_COLUMN, Profile, Snapshot
from rayapp.schemas.language import Adapter
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.release import SignedManifest
from rayapp.score.answers import ANSWER_SCHEMA, Limits
from rayapp.score.inputs import digest_of, hashes_of, need_inputs
from rayapp.score.language import Asking, Placed, answer_rows, bundle_of
from rayapp.score.table import come_to, commit_scored, count_scored, scored_by
from rayapp.storage import Workspace, fetch_bundle, sha256

TELL_EVERY_S = 10


def answer_view(
    session: Session, config: ScoreConfig, signed: SignedManifest, snapshot: Snapshot
) -> dict[str, Any]:
    """Ask what was not asked yet, and commit it in the order of row ids. Returns the figures of all
    rows, those that were there already among them."""
    schema = signed.manifest.bundle.bundle_schema
    rows = _rows(config, schema, snapshot)
    asking = _asking(session, config, signed, digest_of(hashes_of(rows)))
    uri, total = session.workspace.table(config.output_table), rows.num_rows
    application = scored_by(asking.release_id, asking.input_digest)
    with session.exclusive(f"score-{sha256(f'{uri} {application}'.encode())[:16]}"):
        before = done = come_to(uri, application, ANSWER_SCHEMA)
        if before:
            session.say(f"score {config.endpoint}: {before:,} of {total:,} rows were there already")
        if before < total:
            for some in _chunks(session, config, _answered(session, asking, signed, rows, done)):
                end = done + some.num_rows
                commit_scored(uri, some, application, before=done, after=end)
                done = end
                session.say(f"score {config.endpoint}: {done:,} of {total:,} rows")
    counted = count_scored(uri, asking.release_id, asking.input_digest)
    return {**counted, "num_rows_before": before}


def _rows(config: ScoreConfig, schema: BundleSchema, snapshot: Snapshot) -> pa.Table:
    """By row id, so that the same rows have the same order in whatever files they lie."""
    names = need_inputs(schema, [ROW_ID_COLUMN, *(c.name for c in snapshot.view.columns)])
    rows = read_rows(snapshot, config.split, names, config.since, config.until)
    row_ids = pc.cast(rows.column(ROW_ID_COLUMN), pa.string())
    place = rows.column_names.index(ROW_ID_COLUMN)
    return rows.set_column(place, ROW_ID_COLUMN, row_ids).sort_by(ROW_ID_COLUMN)


def _asking(
    session: Session, config: ScoreConfig, signed: SignedManifest, input_digest: str
) -> Asking:
    with tempfile.TemporaryDirectory() as folder:
        fetch_bundle(signed.manifest.bundle, Path(folder))
        schema, profile = described(Path(folder))
    assert schema.language is not None, "a language model's bundle says how it is asked"
    weights = weights_of(session, schema.language)
    language = config.language or AnswersConfig()
    limits = Limits(
        context=language.context_of(weights),
        output=language.max_output_tokens or _longest(profile),
    )
    return Asking(signed.release_id, input_digest, schema, weights, limits, language)


def _longest(profile: Profile) -> int:
    found = max_answer_tokens(profile)
    if found is None:
        raise UserError(
            "the release does not say how long its answers were in training",
            "set `language.max_output_tokens`",
        )
    return found


def _answered(
    session: Session, asking: Asking, signed: SignedManifest, rows: pa.Table, done: int
) -> Iterator[pa.Table]:
    """Answers of the rows after the first `done`."""
    config = asking.config
    environment = runtime_env(session.environ)
    needs = bundle_of(config)
    of_room = {name: number for name, number in needs.items() if name in ("CPU", "GPU")}
    with telling_waits(session, of_room), _place(needs) as group:
        endpoint = signed.manifest.endpoint
        session.say(f"score {endpoint}: starting an engine for {asking.weights.name}")
        there = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        task = ray.remote(_answers).options(
            num_cpus=0,
            num_returns="streaming",
            max_retries=0,  # a job that is submitted again goes on
            scheduling_strategy=there,
            runtime_env={**environment, "env_vars": engine_variables(config)},
        )
        adapter = adapter_of(signed.release_id, signed.manifest.bundle)
        left = rows.slice(done).combine_chunks()
        stream: Any = task.remote(asking, adapter, left, session.workspace, group)
        for some in _as_they_come(session, endpoint, stream):
            try:
                yield ray.get(some)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, RayappError):
                    raise error.cause from None
                raise


def _as_they_come(session: Session, endpoint: str, stream: Any) -> Iterator[Any]:
    """References to answers. Until the first is there people are told what is being waited for, and
    for how long: weights are checked and loaded, and whole chunks answered, before one is."""
    began_s = time.monotonic()
    while not ray.wait([stream], timeout=TELL_EVERY_S)[0]:
        waited_s = time.monotonic() - began_s
        session.say(
            f"score {endpoint}: no answer yet after {waited_s:.0f} s, the engine loads its weights "
            "and reads the first rows"
        )
    yield from stream


@contextmanager
def _place(needs: dict[str, float]) -> Iterator[PlacementGroup]:
    """Room for the engine on one node, kept for it while the task beside it gets ready."""
    group = placement_group([needs])
    try:
        yield group
    finally:
        remove_placement_group(group)


def _answers(
    asking: Asking, adapter: Adapter, rows: pa.Table, workspace: Workspace, group: PlacementGroup
) -> Iterator[pa.Table]:
    folder = local_adapter(adapter, workspace)
    yield from answer_rows(asking, Placed(folder, rank_of(folder), group), rows)


def _chunks(
    session: Session, config: ScoreConfig, tables: Iterator[pa.Table]
) -> Iterator[pa.Table]:
    """At least commit_rows rows each, but for the last."""
    enough = (config.language or AnswersConfig()).commit_rows
    waiting: list[pa.Table] = []
    told_s = time.monotonic()
    for table in tables:
        waiting.append(table)
        num_waiting = sum(map(len, waiting))
        if num_waiting >= enough:
            yield pa.concat_tables(waiting)
            waiting, told_s = [], time.monotonic()
        elif time.monotonic() - told_s >= TELL_EVERY_S:
            session.say(f"score {config.endpoint}: {num_waiting:,} more rows answered")
            told_s = time.monotonic()
    if waiting:
        yield pa.concat_tables(waiting)
