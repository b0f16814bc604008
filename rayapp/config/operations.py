"""configs/operations/*.yaml: batch scoring, monitoring, and the whole path in one."""

from datetime import datetime

from pydantic import Field

from rayapp.config.language import VllmConfig
from rayapp.config.load import Config


class AnswersConfig(VllmConfig):
    """How a language model's release answers rows: by an engine of the job's own."""

    max_output_tokens: int | None = Field(default=None, ge=1)
    """Of one answer, which is cut there and told as an error; null: a quarter more than the longest
    answer in training, as in evaluation."""
    batch_rows: int = Field(default=64, ge=1)
    """Rows that are handed to the engine together; it has up to eight times as many in hand."""
    commit_rows: int = Field(default=1000, ge=1)
    """Rows that are written at a time: about so many, and what the engine has in hand, are answered
    again where a job was killed and is submitted once more."""
    max_restarts: int = Field(default=3, ge=0)
    """Times that an engine which died is started again in a job, and asked again what it had in
    hand. After that the job ends; what was committed stays."""


class ScoreConfig(Config):
    """jobs.score_batch: the champion (or one release) over rows of a snapshot's view."""

    section = "score_batch"

    endpoint: str
    snapshot: str
    """Path of the snapshot config whose newest snapshot is scored."""
    release_id: str | None = None
    """None takes the champion."""
    split: str | None = None
    since: datetime | None = None
    """Prediction time, included."""
    until: datetime | None = None
    """Prediction time, not included."""
    output_table: str
    """Delta table in the workspace that receives row id, release and scores, or answers."""
    language: AnswersConfig | None = None
    """Of a language model's release, and of none else; null: as the defaults are."""


class FeatureFeedConfig(Config):
    """jobs.publish_features: the point-in-time features of a snapshot's view, as of now, for
    endpoints to look up."""

    section = "publish_features"

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """As `feeds` of an endpoint's serving config calls it."""
    snapshot: str
    """Path of the snapshot config whose sources are read and whose view.features are computed."""
    features: tuple[str, ...] = ()
    """Their columns; empty means all."""
    every_s: float | None = Field(default=None, gt=0)
    """Publish again so often, until the job is stopped; null: once."""


class MonitorConfig(Config):
    """jobs.monitor: live quality from joined outcomes, and drift against the training profile."""

    section = "monitor"

    endpoint: str
    since: datetime | None = None
    until: datetime | None = None
    outcomes_snapshot: str | None = None
    """Snapshot config whose view holds the true labels by row id, joined with feedback."""
    psi_alert: float = Field(default=0.25, gt=0)
    """Population stability index over which a column counts as drifted."""
    min_rows: int = Field(default=200, ge=1)
    """Fewer joined rows than this: "insufficient data", never a number."""


class GoldenPathConfig(Config):
    """jobs.golden_path: every stage of one use case as one job."""

    section = "golden_path"

    snapshot: str
    """Path of the snapshot config; each training config must name the same one."""
    sweep: str | None = None
    """Sweep whose best settings replace those of the training config it names."""
    releases: tuple[str, ...] = Field(min_length=1)
    """Release configs, one per candidate; all for one endpoint. The candidate with the best
    tune-split metric goes on to evaluation, gates and promotion."""
    serving: str | None = None
    """Serve config file that is deployed once the release is promoted; None deploys nothing."""
