"""What one answer costs in the gateway's process, step by step, without a server around it.

    python -m benchmarks.gateway [--rows 1] [OUTPUT.json]

A bundle as wide as flight-delay's (24 numbers, 4 texts, 3 parts of a time; 150 trees) behind the
real gateway with the real spool; requests come as ASGI messages in one process, so no socket, no
Ray and no metrics agent is in the figures. CPU time of the process, the lowest of several means,
for a whole request by each way (plain Python, and Arrow alone), for each step by itself, and what
each duty that can be configured adds to a request.
"""

import argparse
import asyncio
import json
import logging
import platform
import tempfile
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost as xgb

from benchmarks import results_file
from benchmarks.stand_ins import LIMITS, TRACING, Encoded, NoMeter, always, lowest_us
from rayapp.config.serving import ServingConfig
from rayapp.config.tracing import TracingConfig
from rayapp.families.base import Floats
from rayapp.families.bundle import Bundle, write_bundle
from rayapp.families.tabular import MODEL_FILE
from rayapp.govern.accounts import Accounts
from rayapp.observe.spool import Spool
from rayapp.schemas.data import Column, Profile
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.schemas.release import Estimate
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.batching import Batcher
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.endpoints.base import Ask, Reply
from rayapp.serve.follow import Loaded, release_key
from rayapp.serve.gateway import Gateway
from rayapp.serve.predicting import prediction_records
from rayapp.serve.tracing.otlp import OtlpTracer
from rayapp.serve.wire.protocols import parse_mlflow, render_mlflow
from rayapp.serve.wire.rows import RowEncoder, row_encoder
from rayapp.serve.wire.validation import validated
from rayapp.storage import sha256

NUM_NUMBERS, NUM_TEXTS, NUM_TREES = 24, 4, 150
ENDPOINT, OTHER = "benchmark", "b" * 64
COLUMNS = (
    *(
        Column(name=f"n{i}", type="number", nullable=True, minimum=-9, maximum=9)
        for i in range(NUM_NUMBERS)
    ),
    *(Column(name=f"t{i}", type="string", allowed=tuple("abcdef")) for i in range(NUM_TEXTS)),
    Column(name="at", type="timestamp"),
)
PARTS = ("hour", "minute_of_hour", "day_of_week")
FEATURES = (
    *(EncodedFeature(name=f"n{i}", expression=f"n{i}", kind="number") for i in range(NUM_NUMBERS)),
    *(
        EncodedFeature(name=f"t{i}", expression=f"t{i}", kind="category", vocabulary=tuple("abcde"))
        for i in range(NUM_TEXTS)
    ),
    *(
        EncodedFeature(name=part, expression=f"{part}(at, 'America/New_York')", kind="number")
        for part in PARTS
    ),
)
SCHEMA = BundleSchema(
    name="benchmark",
    family="tabular",
    task="binary",
    label="y",
    classes=("no", "yes"),
    inputs=COLUMNS,
    features=FEATURES,
)


def make_bundle(folder: Path, without: tuple[str, ...] = ()) -> Bundle:
    """without: columns that the model is not trained on."""
    generator = np.random.default_rng(7)
    x_NF = generator.normal(size=(20_000, len(FEATURES))).astype(np.float32)
    texts = slice(NUM_NUMBERS, NUM_NUMBERS + NUM_TEXTS)
    x_NF[:, texts] = generator.integers(0, 6, (len(x_NF), NUM_TEXTS))
    y_N = generator.random(len(x_NF)) < 1 / (1 + np.exp(-x_NF[:, :8].sum(axis=1)))
    is_used = [feature.name not in without for feature in FEATURES]
    features = tuple(f for f, used in zip(FEATURES, is_used, strict=True) if used)
    kinds = ["c" if f.kind == "category" else "q" for f in features]
    matrix = xgb.DMatrix(x_NF[:, is_used], y_N, feature_types=kinds, enable_categorical=True)
    params = {"objective": "binary:logistic", "max_depth": 6, "nthread": 2}
    booster = xgb.train(params, matrix, NUM_TREES)
    inputs = tuple(column for column in COLUMNS if column.name not in without)
    write_bundle(
        folder,
        SCHEMA.model_copy(update={"inputs": inputs, "features": features}),
        Profile(num_rows=len(x_NF), columns=()),
        lambda model: booster.save_model(model / MODEL_FILE),
    )
    return Bundle.open(folder)


def make_rows(num_rows: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(11)
    return [
        {f"n{i}": round(float(generator.normal()), 3) for i in range(NUM_NUMBERS)}
        | {f"t{i}": str(generator.choice(list("abcdef"))) for i in range(NUM_TEXTS)}
        | {"at": f"2013-10-{generator.integers(10, 31)}T12:{generator.integers(10, 60)}:00Z"}
        for _ in range(num_rows)
    ]


@dataclass
class Fixed:
    """A follower whose champion does not move."""

    current: dict[str, Loaded]

    @property
    def endpoints(self) -> frozenset[str]:
        return frozenset(self.current)

    problems: Any = None


def step(work: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """A plain function as something that is awaited, at 0.1 µs a call."""

    async def call() -> Any:
        return work()

    return call


class Site:
    """A bundle, and gateways around it that differ in what they are configured to do."""

    def __init__(self, folder: Path) -> None:
        self.bundle = make_bundle(folder / "bundle")
        self.spool = Spool(folder / "spool")
        self.loaded = self._loaded(row_encoder(self.bundle.schema))
        secret = "s" * 43
        digest = sha256(secret.encode())
        self._key = ApiKey(key_id="0" * 12, tenant="acme", role="caller", secret_sha256=digest)
        self.tracers: list[OtlpTracer] = []
        self.bank = Accounts(f"sqlite:///{folder}/ledger.db", "benchmark")
        self.authorization = f"Bearer rk_{self._key.key_id}_{secret}".encode()

    def _loaded(self, encoder: RowEncoder | None) -> Loaded:
        manifest: Any = None  # no answer needs it
        batcher = Batcher(self.bundle.score, 256, 0, lambda num_rows: None)
        return Loaded(
            ENDPOINT, "r" * 64, manifest, self.bundle, batcher, encoder, (AUC, CALIBRATION)
        )

    def gateway(
        self,
        endpoint: Mapping[str, Any],
        by_arrow: bool = False,
        limits: Any = None,
        budgets: Any = None,
        tracing: Any = None,
    ) -> Gateway:
        plain = {"endpoints": {ENDPOINT: {"breaker": None} | dict(endpoint)}}
        config = ServingConfig.model_validate(
            plain | {"limits": limits, "budgets": budgets, "tracing": tracing}
        )
        loaded = self._loaded(None) if by_arrow else self.loaded
        releases = {ENDPOINT: loaded, release_key(ENDPOINT, OTHER): loaded}
        follower: Any = Fixed(releases, {})
        background: Any = None
        keys = KeyRing(lambda: {self._key.key_id: self._key}, requires_key=False)
        keys.refresh()
        limiter = None
        if config.limits is not None:
            limiter = Limiter(config.limits, always, share=1)
        return Gateway(
            config,
            follower,
            lambda endpoint: self.spool,
            self.spool,
            NoMeter(),
            background,
            lambda: datetime.now(UTC),
            keys,
            limiter,
            Budgets(config.budgets, self.bank, deadline_s=10) if config.budgets else None,
            tracer=self._tracer(config.tracing) if config.tracing else None,
        )

    def _tracer(self, config: TracingConfig) -> OtlpTracer:
        made = OtlpTracer(config, "benchmark", lambda service, num_spans: None, Encoded())
        self.tracers.append(made)
        return made


AUC, CALIBRATION = (
    Estimate(metric=metric, value=value, low=value, high=value, num_rows=1000, confidence=0.95)
    for metric, value in (("auc", 0.8), ("calibration_error", 0.01))
)
PRICED = {"usd_per_1000_rows": 0.01}
CHEAPER = {"release": OTHER, "usd_per_1000_rows": 0.005}
OBJECTIVE = {
    "max_p95_ms": 1000,
    "metric": "auc",
    "min_quality": 0.7,
    "candidates": {"cheaper": CHEAPER},
}
NEW_ARM = {"release": OTHER, "share": 0.1}
DUTIES: dict[str, dict[str, Any]] = {
    "breaker": {"endpoint": {"breaker": {}}},
    "fallback": {"endpoint": {"fallback": [{"scores": [0.5, 0.5]}]}},
    "timeout": {"endpoint": {"timeout_ms": 1000, "fallback": [{"scores": [0.5, 0.5]}]}},
    "split": {"endpoint": {"split": {"salt": "s", "arms": {"new": NEW_ARM}}}},
    "cache_hit": {"endpoint": {"cache": {}}},
    "api_key": {"endpoint": {}, "with_key": True},
    "rate_limit": {"endpoint": {}, "limits": LIMITS},
    "price": {"endpoint": PRICED},
    "tracing_not_sampled": {"endpoint": {}, "tracing": TRACING | {"sample_share": 0}},
    "tracing_sampled": {"endpoint": {}, "tracing": TRACING | {"sample_share": 1}},
    "budget": {"endpoint": PRICED, "budgets": {"default_usd": 1e6}},
    "objective": {"endpoint": {**PRICED, "objective": OBJECTIVE}},
    "cascade_kept": {"endpoint": {**PRICED, "cascade": {"first": CHEAPER, "max_error": 0.499}}},
    "cascade_escalated": {
        "endpoint": {**PRICED, "cascade": {"first": CHEAPER, "max_error": 0.001}}
    },
}
"""Each by itself on top of a gateway that only answers and keeps its records; what chooses by cost
has a price too. cascade_escalated: both models answer every row."""


def request(
    gateway: Gateway, body: bytes, authorization: bytes | None = None
) -> Callable[[], Awaitable[bytes]]:
    headers = [(b"content-type", b"application/json")]
    if authorization is not None:
        headers.append((b"authorization", authorization))
    path = f"/endpoints/{ENDPOINT}/invocations"

    async def ask() -> bytes:
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        await gateway(scope, receive, send)
        if sent[0]["status"] != 200:
            raise AssertionError(sent[1]["body"])
        answer: bytes = sent[1]["body"]
        return answer

    return ask


async def measure(folder: Path, num_rows: int) -> dict[str, Any]:
    body = json.dumps({"dataframe_records": make_rows(num_rows)}).encode()
    site = Site(folder)
    asked = {
        "plain_python": request(site.gateway({}), body),
        "arrow": request(site.gateway({}, by_arrow=True), body),
    }
    for name, duty in DUTIES.items():
        configured = {name: duty[name] for name in ("limits", "budgets", "tracing") if name in duty}
        gateway = site.gateway(duty["endpoint"], **configured)
        key = site.authorization if duty.get("with_key") else None
        asked[name] = request(gateway, body, key)
    answers = {await ask() for name, ask in asked.items() if name in ("plain_python", "arrow")}
    if len(answers) != 1:
        raise AssertionError(f"the ways differ: {answers}")
    whole = await lowest_us(asked)
    plain = whole["plain_python"]
    result = {
        "num_rows": num_rows,
        "num_inputs": len(COLUMNS),
        "num_features": len(FEATURES),
        "num_trees": NUM_TREES,
        "request_cpu_us": {name: whole[name] for name in ("plain_python", "arrow")},
        "duty_added_cpu_us": {name: round(whole[name] - plain, 1) for name in DUTIES},
        "step_cpu_us": await lowest_us(_steps(site, body, num_rows)),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "pyarrow": pa.__version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    site.spool.close()
    for tracer in site.tracers:
        tracer.close()
    return result


def _steps(site: Site, body: bytes, num_rows: int) -> dict[str, Callable[[], Awaitable[Any]]]:
    loaded = site.loaded
    parsed = parse_mlflow(body, num_rows)
    rows = validated(parsed, loaded.bundle, loaded.row_encoder)
    scores_NK: Floats = site.bundle.score(rows.x_NF)
    at = datetime.now(UTC)
    ask = Ask("id", body, parsed)
    reply = Reply(loaded.release_id, loaded.schema, rows, scores_NK)
    records = prediction_records(ENDPOINT, ask, reply, at, 1.0)
    works: dict[str, Callable[[], Any]] = {
        "parse": lambda: parse_mlflow(body, num_rows),
        "check_and_encode": lambda: validated(parsed, loaded.bundle, loaded.row_encoder),
        "check_and_encode_by_arrow": lambda: validated(parsed, loaded.bundle, None),
        "model": lambda: site.bundle.score(rows.x_NF),
        "make_records": lambda: prediction_records(ENDPOINT, ask, reply, at, 1.0),
        "spool": lambda: site.spool.append(records),
        "render": lambda: render_mlflow(scores_NK, SCHEMA),
    }
    return {name: step(work) for name, work in works.items()}


def main() -> None:
    logging.disable(logging.INFO)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1, help="rows of each request")
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/gateway-DATE.json")
    chosen = parser.parse_args()
    output = results_file.path_of("gateway", chosen.output)
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(Path(folder), chosen.rows))
    results_file.tell(output, result)


if __name__ == "__main__":
    main()
