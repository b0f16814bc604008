"""configs/releases/*.yaml (what is released where) and configs/policies/*.yaml (what it must
pass)."""

from typing import Annotated, Literal

from pydantic import Field

from rayapp.config.grading import Grader, Name, SamplesConfig
from rayapp.config.judging import JudgeConfig
from rayapp.config.language import Redaction
from rayapp.config.load import Config
from rayapp.config.workers import WorkersConfig


class FloorGate(Config):
    """A metric's interval must lie beyond a fixed limit: pass when all of it does, fail when
    none."""

    kind: Literal["floor", "ceiling"]
    metric: str
    limit: float


class ChampionGate(Config):
    """Non-inferiority against the champion on the same rows, paired. No champion: pass, said so."""

    kind: Literal["champion"]
    metric: str
    margin: float = Field(ge=0)
    """How much worse the candidate may be, in the metric's unit."""


class UntunedGate(Config):
    """Non-inferiority against the weights that the candidate was tuned from, on the same rows,
    paired. With `task: text` only. A margin of 0 asks it to be better than they are."""

    kind: Literal["untuned"]
    metric: str
    margin: float = Field(ge=0)
    """How much worse the candidate may be, in the metric's unit."""


class SliceGate(Config):
    """Non-inferiority against the champion in every declared slice, Holm-corrected across
    slices. No champion: pass, said so."""

    kind: Literal["slices"]
    metric: str
    margin: float = Field(ge=0)
    min_rows: int = Field(default=500, ge=1)
    """Smaller slices are reported, not judged."""


class GapGate(Config):
    """The largest difference of a metric between the values of one column stays under a limit."""

    kind: Literal["gap"]
    metric: str
    column: str
    limit: float = Field(gt=0)
    min_rows: int = Field(default=500, ge=1)


class LatencyGate(Config):
    """One row's time through the loaded bundle stays under a limit. Not with `task: text`, whose
    latency is an engine's."""

    kind: Literal["latency"]
    p95_ms: float = Field(gt=0)


Gate = Annotated[
    FloorGate | ChampionGate | UntunedGate | SliceGate | GapGate | LatencyGate,
    Field(discriminator="kind"),
]


class PolicyConfig(Config):
    """Gates by name. A release needs every one of them to pass; inconclusive is not a pass."""

    section = "policy"

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    gates: dict[str, Gate] = Field(min_length=1)


class AnswerWorkersConfig(WorkersConfig):
    """What Ray gives each worker that answers, or judges, in an evaluation. How many there are
    makes no difference to the answers."""

    cpus_per_worker: float = Field(default=2, gt=0)


class EvaluationConfig(Config):
    slices: tuple[str | dict[str, str], ...] = ()
    """Columns, or {name: expression}, whose values are each evaluated on their own."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    max_slices: int = Field(default=60, ge=1)
    graders: dict[Name, Grader] = Field(default_factory=dict)
    """With `task: text`: how answers in words are graded. Each is a metric by its name."""
    golden: str | None = None
    """With `task: text`: path of a golden set (configs/golden/) that is asked instead of the
    snapshot's split `test`."""
    samples: SamplesConfig | None = None
    """With `task: text`: several sampled answers an item. Unset: one, of the likeliest tokens."""
    judge: JudgeConfig | None = None
    """With `task: text`: a language model that says which answers are right. Unset: none."""
    cluster_by: str | None = None
    """With `task: text`: a column that is the same in rows which depend on each other, such as the
    document that they ask about. Unset: each row is independent."""
    redacts: Redaction = "contacts"
    """With `task: text`: what is left out of the rows and answers that the report shows, as in the
    prompt log: `nothing`; `contacts`; or all `text`, so that it shows none."""
    workers: AnswerWorkersConfig = AnswerWorkersConfig()
    """With `task: text`: where the models answer, and `judge.weights` judge. What has scores is
    evaluated on CPUs, whatever an overlay says of GPUs."""


class CardConfig(Config):
    """The words of a model card that no measurement can give."""

    intended_use: str
    out_of_scope: str
    owner: str
    license: str


class ReleaseConfig(Config):
    section = "release"
    endpoint: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    training: str
    """Path of the training config whose newest finished run is the candidate."""
    policy: str
    """Path of the policy file."""
    evaluation: EvaluationConfig = EvaluationConfig()
    card: CardConfig
