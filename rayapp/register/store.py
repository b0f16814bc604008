"""The one place that opens MLflow."""

import fcntl
import logging
import os
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read once, when mlflow is imported

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from rayapp.errors import WorkspaceError

_SQLITE = "sqlite:///"


def open_client(mlflow_url: str) -> MlflowClient:
    """A client whose store exists and answers. Raises WorkspaceError.

    Two processes that meet a new SQLite file would both create its tables and one would fail, so
    the first question is asked under a file lock beside the database.
    """
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not mlflow_url.startswith(_SQLITE):
        return _answering(mlflow_url)
    database = Path(mlflow_url.removeprefix(_SQLITE))
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return _answering(mlflow_url)
    except OSError as error:
        raise WorkspaceError(
            f"MLflow store {database}: cannot be opened ({error.strerror})",
            "check RAYAPP_WORKSPACE or MLFLOW_TRACKING_URI",
        ) from None


def _answering(mlflow_url: str) -> MlflowClient:
    client = MlflowClient(tracking_uri=mlflow_url, registry_uri=mlflow_url)
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise WorkspaceError(
            f"the MLflow store does not answer: {str(error).splitlines()[0]}",
            "check RAYAPP_WORKSPACE or MLFLOW_TRACKING_URI",
        ) from error
    return client
