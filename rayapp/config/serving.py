"""configs/serving/*.yaml: the `args` of serve_apps/predict.py, inside a Serve config file."""

from typing import Annotated

from pydantic import Field

from rayapp.config.load import Config

EndpointName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]


class ServingConfig(Config):
    """One gateway answers for several endpoints: a new champion needs no new deployment."""

    endpoints: tuple[EndpointName, ...] = ()
    """Endpoints to answer for; empty means each one that has a champion in the ledger."""
    workspace: str | None = None
    """URI of the workspace; None takes RAYAPP_WORKSPACE from the replica's environment."""
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=2, ge=1)
    target_busy_share: float = Field(default=0.6, gt=0, le=1)
    """Share of one core above which a replica should have company."""
    target_ongoing_requests: float = Field(default=16, gt=0)
    """Requests in a replica's hands above which it should have company."""
    max_ongoing_requests: int = Field(default=128, ge=1)
    """More than these a replica refuses with 503."""
    num_cpus: float = Field(default=0.5, ge=0)
    num_gpus: float = Field(default=0, ge=0)
    max_batch_rows: int = Field(default=256, ge=1)
    """Rows of one model call; requests that arrive together share it."""
    batch_wait_ms: float = Field(default=0, ge=0)
    """How long an idle model waits for more rows; 0 takes what has arrived by then."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    max_rows: int = Field(default=10_000, ge=1)
    """Rows of one request."""
    follow_every_ms: float = Field(default=250, ge=10)
    """How often a replica looks for a moved champion."""
    commit_every_s: float = Field(default=5, gt=0)
    """How often spooled predictions are committed to the table."""
