"""A small real bundle and a gateway around it, for the tests of serving."""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from rayapp.config.serving import ServingConfig
from rayapp.config.training import TabularConfig
from rayapp.families.base import Batch, Compute, Problem, Progress, family
from rayapp.families.bundle import Bundle, write_bundle
from rayapp.families.encoding import Encode
from rayapp.register.manifest import seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.schemas.data import Column, Profile, Task
from rayapp.schemas.model import BundleRef, BundleSchema, EncodedFeature
from rayapp.schemas.operations import Pointer
from rayapp.schemas.release import (
    Estimate,
    Evaluation,
    Latency,
    Manifest,
    SignedManifest,
    SliceEvaluation,
    Verdict,
)
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.background import Background
from rayapp.serve.batching import Batcher
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.endpoints.cascade import Counts
from rayapp.serve.feeds import Feeds
from rayapp.serve.flags import Flags
from rayapp.serve.follow import ChampionFollower, OpenRelease
from rayapp.serve.gateway import Gateway
from rayapp.serve.loading import Evaluated, Inline, Store
from rayapp.serve.tracing.span import Tracer
from rayapp.storage import Workspace, commit_bytes, commit_folder, folder_digest

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ENDPOINT = "flight-delay"
CLASSES: dict[Task, tuple[str, ...]] = {
    "binary": ("on_time", "late"),
    "multiclass": ("short", "middle", "long"),
    "regression": (),
}
INPUTS = (
    Column(name="distance", type="number", minimum=0, maximum=5000),
    Column(name="flight", type="integer", minimum=1),
    Column(name="carrier", type="string", allowed=("AA", "DL", "UA")),
    Column(name="temp", type="number", nullable=True),
    Column(name="is_holiday", type="boolean", nullable=True),
    Column(name="departure", type="timestamp"),
)
FEATURES = (
    EncodedFeature(name="distance", expression="distance", kind="number"),
    EncodedFeature(name="flight", expression="flight", kind="number"),
    EncodedFeature(
        name="carrier", expression="carrier", kind="category", vocabulary=("AA", "DL", "UA")
    ),
    EncodedFeature(name="temp", expression="temp", kind="number"),
    EncodedFeature(name="is_holiday", expression="if_else(is_holiday, 1, 0)", kind="number"),
    EncodedFeature(name="hour", expression="hour(departure, 'UTC')", kind="number"),
)
ROW: dict[str, Any] = {
    "distance": 733.0,
    "flight": 1545,
    "carrier": "UA",
    "temp": 39.0,
    "is_holiday": False,
    "departure": "2013-10-01T12:15:00Z",
}


def rows_table(num_rows: int, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    start_us = 1_380_000_000_000_000
    return pa.table(
        {
            "distance": rng.uniform(100, 3000, num_rows),
            "flight": rng.integers(1, 5000, num_rows),
            "carrier": pa.array(rng.choice(["AA", "DL", "UA"], num_rows).tolist()),
            "temp": pa.array(rng.normal(50, 10, num_rows), mask=rng.random(num_rows) < 0.2),
            "is_holiday": pa.array(rng.random(num_rows) < 0.1),
            "departure": pa.array(
                start_us + rng.integers(0, 10**12, num_rows), pa.timestamp("us", "UTC")
            ),
            "y": rng.integers(0, 2, num_rows),
        }
    )


def make_bundle(
    folder: Path, task: Task = "binary", seed: int = 1, without: tuple[str, ...] = ()
) -> BundleSchema:
    """A few trees; another seed gives another model. without: columns that it does not have."""
    table = rows_table(300, seed)
    features = tuple(f for f in FEATURES if f.name not in without)
    encoded = Encode(features, "y", "regression", ())(table)
    classes = CLASSES[task]
    y_N = encoded["y"] if task != "multiclass" else (np.arange(300) % 3).astype(np.float32)
    schema = BundleSchema(
        name="small",
        family="tabular",
        task=task,
        label="y",
        classes=classes,
        inputs=tuple(c for c in INPUTS if c.name not in without),
        features=features,
    )
    saved: list[Progress] = []
    trees = family("tabular")
    settings = TabularConfig(num_rounds=5, max_depth=3, min_child_weight=1).model_dump()
    problem = Problem(task, len(classes), features, 7, len(y_N))
    rows = [Batch(encoded["x"], y_N)]
    trees.fit(problem, settings, lambda: iter(rows), None, 5, None, saved.append, Compute())
    write_bundle(folder, schema, Profile(num_rows=300, columns=()), saved[-1].save)
    return schema


def signed_manifest(
    release_id: str, schema: BundleSchema, endpoint: str, uri: str = "memory"
) -> SignedManifest:
    """Of the right form; signatures are register's to verify, and its tests do."""
    manifest = Manifest(
        endpoint=endpoint,
        created_at=NOON,
        run_id="run",
        bundle=BundleRef(uri=uri, digest="d", files=(), bundle_schema=schema),
        snapshot_id="s",
        data_digests={},
        contracts=(),
        config={},
        code_digest="c",
        environment_digest="e",
        evaluation_digest="v",
        evaluation_uri="memory",
        verdicts=(),
        policy_digest="p",
        card_digest="k",
        card_uri="memory",
        mlflow_run_id="m",
    )
    return SignedManifest(release_id=release_id, manifest=manifest, key_id="k", signature="s")


def estimate(metric: str, low: float | None, high: float | None) -> Estimate:
    value = None if low is None or high is None else (low + high) / 2
    return Estimate(metric=metric, value=value, low=low, high=high, num_rows=100, confidence=0.95)


def evaluation_of(estimates: tuple[Estimate, ...]) -> Evaluation:
    return Evaluation(
        run_id="run",
        snapshot_id="s",
        split="test",
        task="binary",
        bundle_digest="d",
        champion=None,
        overall=SliceEvaluation(slice="", num_rows=100, estimates=estimates),
        slices=(),
        curves=(),
        label_shares=(),
        latency=Latency(p50_ms=1, p95_ms=1, p99_ms=1, num_calls=100),
    )


def seal_release(
    workspace: Workspace,
    folder: Path,
    seed: int,
    endpoint: str = ENDPOINT,
    without: tuple[str, ...] = (),
    estimates: tuple[Estimate, ...] = (),
) -> SignedManifest:
    """A bundle made in `folder`, stored in the workspace and sealed by its key with an evaluation
    of these estimates."""
    schema = make_bundle(folder, seed=seed, without=without)
    uri = workspace.artifact("bundles", str(seed))
    files = commit_folder(folder, uri)
    bundle = BundleRef(uri=uri, digest=folder_digest(files), files=files, bundle_schema=schema)
    passed = (Verdict(gate="auc", value="pass", reason="fine"),)
    form = signed_manifest("", schema, endpoint).manifest
    evaluation = evaluation_of(estimates)
    evaluated = f"{workspace.artifact('evaluations', evaluation.content_digest())}/evaluation.json"
    commit_bytes(evaluated, evaluation.canonical())
    update = {
        "bundle": bundle,
        "verdicts": passed,
        "evaluation_uri": evaluated,
        "evaluation_digest": evaluation.content_digest(),
    }
    manifest = form.model_copy(update=update)
    signed = seal(manifest, load_or_create_key(workspace.keys))
    write_manifest(workspace, signed)
    return signed


class MemorySink:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.error: OSError | None = None

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self.error is not None:
            raise self.error
        self.records += [dict(record) for record in records]


class MemoryMeter:
    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []
        self.num_rows = 0
        self.num_kept_out = 0
        self.num_flushed = 0
        self.batches: list[int] = []
        self.degradations: list[tuple[str, str]] = []
        self.breakers: list[tuple[str, str]] = []
        self.lookups: list[bool] = []
        self.second_asks: list[str] = []
        self.feature_reads: list[bool] = []
        self.costs: list[tuple[str | None, int]] = []
        self.costs_of: list[tuple[str, int]] = []
        self.choices: list[tuple[str, str]] = []
        self.cascades: list[Counts] = []
        self.token_counts: list[tuple[str, str, str | None, dict[str, int]]] = []
        self.first_tokens: list[str] = []
        self.cuts: list[tuple[str, str]] = []

    def flush(self) -> None:
        self.num_flushed = len(self.requests)

    def kept_out(self, tenant: str | None, num_requests: int) -> None:
        self.num_kept_out += num_requests

    def request(self, endpoint: str, release: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((endpoint, release, status))

    def rows(self, endpoint: str, release: str, num_rows: int) -> None:
        self.num_rows += num_rows

    def degraded(self, endpoint: str, reason: str) -> None:
        self.degradations.append((endpoint, reason))

    def breaker(self, endpoint: str, target: str, state: str) -> None:
        self.breakers.append((target, state))

    def cache(self, endpoint: str, is_hit: bool) -> None:
        self.lookups.append(is_hit)

    def second_ask(self, endpoint: str, reason: str) -> None:
        self.second_asks.append(reason)

    def feature_read(self, endpoint: str, is_fresh: bool) -> None:
        self.feature_reads.append(is_fresh)

    def cost(self, endpoint: str, release: str, tenant: str | None, nano_usd: int) -> None:
        asyncio.get_running_loop()  # as the real one, which is no thread's
        self.costs.append((tenant, nano_usd))
        self.costs_of.append((release, nano_usd))

    def choice(self, endpoint: str, arm: str, reason: str) -> None:
        self.choices.append((arm, reason))

    def cascade(self, endpoint: str, counts: Counts) -> None:
        self.cascades.append(counts)

    def tokens(
        self, endpoint: str, release: str, tenant: str | None, counts: Mapping[str, int]
    ) -> None:
        self.token_counts.append((endpoint, release, tenant, dict(counts)))

    def first_token(self, endpoint: str, seconds: float) -> None:
        assert seconds >= 0
        self.first_tokens.append(endpoint)

    def cut(self, endpoint: str, reason: str) -> None:
        self.cuts.append((endpoint, reason))


@dataclass
class Case:
    """A gateway whose ledger and store are dictionaries: releases[id] is a bundle's folder.
    endpoints: those that releases are sealed for, where it is not sealed_for."""

    config: ServingConfig
    releases: dict[str, Path] = field(default_factory=dict)
    pointers: dict[str, Pointer] = field(default_factory=dict)
    refusals: dict[str, Exception] = field(default_factory=dict)
    sealed_for: str = ENDPOINT
    endpoints: dict[str, str] = field(default_factory=dict)
    now_s: float = 0.0
    budgets: Budgets | None = None
    feeds: Feeds | None = None
    flags: Flags | None = None
    tracer: Tracer | None = None
    estimates: dict[str, tuple[Estimate, ...]] = field(default_factory=dict)
    """By release, of its evaluation."""

    def __post_init__(self) -> None:
        self.predictions = MemorySink()
        self.feedback = MemorySink()
        self.meter = MemoryMeter()
        self.keys: dict[str, ApiKey] = {}
        self.ring = KeyRing(lambda: self.keys, self.config.requires_key)
        store = Store(self.read, self.fetch, self.evaluation)
        opener: OpenRelease = Inline(store, self.batcher)
        if self.config.evaluated():
            opener = Evaluated(store, opener)
        self.follower = ChampionFollower(lambda: self.pointers, opener, clock_s=lambda: self.now_s)
        background = Background(self.follower.refresh, 1, lambda: None, 1, lambda: None)
        self.app = Gateway(
            self.config,
            self.follower,
            lambda endpoint: self.predictions,
            self.feedback,
            self.meter,
            background,
            lambda: NOON,
            self.ring,
            budgets=self.budgets,
            feeds=self.feeds,
            flags=self.flags,
            tracer=self.tracer,
        )

    def break_model(self, key: str = ENDPOINT) -> None:
        """From now on this release's model raises."""

        def fail(x_NF: Any) -> Any:
            raise ValueError("a broken model")

        batcher = self.follower.current[key].scorer
        assert isinstance(batcher, Batcher)
        batcher._score = fail

    def batcher(self, endpoint: str, bundle: Bundle) -> Batcher:
        config = self.config
        count = self.meter.batches.append
        return Batcher(bundle.score, config.max_batch_rows, config.batch_wait_ms, count)

    def read(self, release_id: str) -> SignedManifest:
        if release_id in self.refusals:
            raise self.refusals[release_id]
        folder = self.releases[release_id]
        schema = BundleSchema.parse((folder / "schema.json").read_bytes())
        endpoint = self.endpoints.get(release_id, self.sealed_for)
        return signed_manifest(release_id, schema, endpoint, uri=str(folder))

    def evaluation(self, manifest: Manifest) -> Evaluation:
        by_uri = {str(folder): release_id for release_id, folder in self.releases.items()}
        return evaluation_of(self.estimates.get(by_uri[manifest.bundle.uri], ()))

    @staticmethod
    def fetch(bundle: BundleRef, folder: Path) -> None:
        shutil.copytree(bundle.uri, folder, dirs_exist_ok=True)

    def promote(self, release_id: str, endpoint: str = ENDPOINT) -> None:
        old = self.pointers.get(endpoint)
        revision = old.revision + 1 if old else 1
        name = f"champion/{endpoint}"
        self.pointers[endpoint] = Pointer(name=name, target=release_id, revision=revision)

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def case_of_tasks(folder: Path) -> Case:
    """An endpoint for each task, named by it."""
    releases = {str(task): folder / task for task in CLASSES}
    for task in CLASSES:
        make_bundle(folder / task, task)
    names = {str(task): str(task) for task in CLASSES}
    case = Case(ServingConfig(), releases=releases, endpoints=names)
    for task in CLASSES:
        case.promote(task, endpoint=task)
    case.follower.refresh()
    return case


async def until(is_done: Callable[[], object]) -> None:
    """Lets others go on until it is. The bound only keeps a test that hangs from saying nothing."""
    async with asyncio.timeout(10):
        while not is_done():
            await asyncio.sleep(0.001)


async def in_parallel(*calls: Any) -> list[Any]:
    return list(await asyncio.gather(*calls))


def oip_body(rows: Sequence[Mapping[str, Any]], **extra: Any) -> dict[str, Any]:
    datatypes = {
        "string": "BYTES",
        "timestamp": "BYTES",
        "number": "FP64",
        "integer": "INT64",
        "boolean": "BOOL",
    }
    inputs = [
        {
            "name": column.name,
            "shape": [len(rows)],
            "datatype": datatypes[column.type],
            "data": [row[column.name] for row in rows],
        }
        for column in INPUTS
    ]
    return {"inputs": inputs, **extra}


def triton_inputs(rows: Sequence[Mapping[str, Any]], tensor: type[Any]) -> list[Any]:
    """As a user of Triton's client makes them. tensor: the InferInput of its HTTP or gRPC half."""
    made = []
    for given in oip_body(rows)["inputs"]:
        kind = {"FP64": np.float64, "BYTES": np.object_}.get(given["datatype"])
        made.append(tensor(given["name"], given["shape"], given["datatype"]))
        made[-1].set_data_from_numpy(np.array(given["data"], kind))
    return made
