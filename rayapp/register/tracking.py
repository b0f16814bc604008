"""A run's parameters, metrics and files, in MLflow."""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# first, because it switches MLflow's telemetry off before mlflow is imported
from rayapp.register.store import open_client  # isort: split

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient

from rayapp.errors import WorkspaceError
from rayapp.schemas.operations import Tracker

MAX_NAME_CHARS = 250
MAX_VALUE_CHARS = 500
_PARAMS_PER_BATCH = 100  # MLflow refuses more at once
_METRICS_PER_BATCH = 1000
_SystemMetricsMonitor: Any = SystemMetricsMonitor  # has no types
_ILLEGAL = re.compile(r"[^\w\-. :/]")


class MlflowTracker:
    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    @property
    def run_id(self) -> str:
        return self._run_id

    def log_params(self, params: dict[str, Any]) -> None:
        """Nested settings become dotted names. MLflow never changes a parameter once it is set, so
        the same parameters again, as a continued run logs them, are fine."""
        entries = [Param(name, value) for name, value in flat_params(params).items()]
        for start in range(0, len(entries), _PARAMS_PER_BATCH):
            batch = entries[start : start + _PARAMS_PER_BATCH]
            self._client.log_batch(self._run_id, params=batch)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        now_ms = int(time.time() * 1000)
        entries = [Metric(n, v, now_ms, step) for n, v in finite_metrics(metrics).items()]
        for start in range(0, len(entries), _METRICS_PER_BATCH):
            batch = entries[start : start + _METRICS_PER_BATCH]
            self._client.log_batch(self._run_id, metrics=batch)

    def log_text(self, text: str, path: str) -> None:
        self._client.log_text(self._run_id, text, path)

    def log_file(self, local_path: str, folder: str) -> None:
        self._client.log_artifact(self._run_id, local_path, folder)


class MemoryTracker:
    """The same promises, kept in memory: for a fit whose record nobody needs, and for tests."""

    def __init__(self, run_id: str = "memory") -> None:
        self._run_id = run_id
        self.params: dict[str, str] = {}
        self.metrics: dict[str, list[tuple[int, float]]] = {}
        self.files: dict[str, bytes] = {}

    @property
    def run_id(self) -> str:
        return self._run_id

    def log_params(self, params: dict[str, Any]) -> None:
        for name, value in flat_params(params).items():
            if self.params.setdefault(name, value) != value:
                raise ValueError(f"parameter {name} is {self.params[name]!r}, not {value!r}")

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        for name, value in finite_metrics(metrics).items():
            self.metrics.setdefault(name, []).append((step, value))

    def log_text(self, text: str, path: str) -> None:
        self.files[path] = text.encode()

    def log_file(self, local_path: str, folder: str) -> None:
        path = Path(local_path)
        self.files[f"{folder}/{path.name}"] = path.read_bytes()


@contextmanager
def open_tracker(
    mlflow_url: str,
    artifacts_uri: str,
    experiment: str,
    run_name: str,
    tags: Mapping[str, str],
    resume_run_id: str | None = None,
) -> Iterator[Tracker]:
    """A run that ends FINISHED, or FAILED when the block raises; a resumed one goes on as itself.

    Processor, memory, disk and network use of this machine are sampled while the block runs
    (MLflow's system metrics). Raises WorkspaceError when the store or the resumed run is gone.
    """
    client = open_client(mlflow_url)
    run_id = resume_run_id or _create_run(client, artifacts_uri, experiment, run_name, tags)
    _start(client, run_id, tags)
    status = "FAILED"
    try:
        with _system_metrics(mlflow_url, run_id, resume_run_id is not None):
            yield MlflowTracker(client, run_id)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


def _start(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    try:
        client.update_run(run_id, status="RUNNING")
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
    except MlflowException as error:
        raise WorkspaceError(
            f"MLflow run {run_id!r} cannot be continued: {str(error).splitlines()[0]}",
            "restore the MLflow store, or change the config so that a new run begins",
        ) from error


@contextmanager
def _system_metrics(mlflow_url: str, run_id: str, is_resumed: bool) -> Iterator[None]:
    monitor = _SystemMetricsMonitor(run_id, resume_logging=is_resumed, tracking_uri=mlflow_url)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _create_run(
    client: MlflowClient,
    artifacts_uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
) -> str:
    experiment_id = _experiment(client, artifacts_uri, experiment)
    run = client.create_run(experiment_id, run_name=name, tags=dict(tags))
    return str(run.info.run_id)


def _experiment(client: MlflowClient, artifacts_uri: str, name: str) -> str:
    """The experiment's id; of two processes that create it at once, both get the same one."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, f"{artifacts_uri}/{name}"))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    return str(found.experiment_id)


def flat_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted name → text, as MLflow allows them: other characters become "_", a text that is too
    long is cut (the whole config is stored with the run as a file)."""
    found: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            found |= flat_params(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            legal = _ILLEGAL.sub("_", f"{prefix}{name}")[:MAX_NAME_CHARS]
            found[legal] = text[:MAX_VALUE_CHARS]
    return found


def finite_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """A store may turn infinity into the largest float and NaN into 0, so neither is logged."""
    return {
        _ILLEGAL.sub("_", n)[:MAX_NAME_CHARS]: float(v)
        for n, v in metrics.items()
        if math.isfinite(v)
    }
