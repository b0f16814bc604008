"""A language model that judges answers, and how often it errs: `evaluation.judge` of a release
config."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from rayapp.config.golden import ContaminationConfig
from rayapp.config.grading import Name, Phrase
from rayapp.config.language import WeightsName
from rayapp.config.load import Config


class ServedJudgeConfig(Config):
    """A served language model, by OpenAI's HTTP interface."""

    url: str = Field(pattern=r"^https?://[^@\s]+[^@\s/]$")
    """What `/chat/completions` comes after, without a slash at its end; for a gateway of ours
    http://HOST:PORT/v1."""
    model: str = Field(min_length=1)
    """As the service calls it."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable of the job that has the service's key. The key itself is in no config.
    null: none is sent."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests at a time."""
    timeout_s: float = Field(default=120, gt=0)
    """Seconds that one answer may take."""
    num_tries: int = Field(default=4, ge=1, le=20)
    """Requests for one answer, where the service is away or says that it has too much to do."""


class VerdictConfig(Config):
    """The two words that a judge may say. Case, punctuation and white space around them do not
    matter; anything else is no verdict, and is counted as none."""

    right: Phrase
    wrong: Phrase
    take: Literal["whole", "last_line"] = "whole"
    """Whether the word must be all that it says, or the last line that is not empty, so that it may
    reason before."""


class AnchorsConfig(Config):
    """Answers that people have labelled, by which the judge's errors are measured. JSON Lines: the
    columns that the model is asked by, `answered` (an answer that some model gave) and `is_right`
    (what people say of it); and the label, where the judge's prompt shows {expected}. They should
    be answers as the judged models give them, of both kinds."""

    path: str
    """Of the file, in the project or at a URI."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file, as `sha256sum` tells it."""
    owner: str = Field(min_length=1)
    """Who answers for the labels."""
    min_of_each: int = Field(default=30, ge=10)
    """Anchors that are right, and as many that are wrong, with a verdict each; with fewer nothing
    is evaluated."""
    contamination: ContaminationConfig = ContaminationConfig()
    """Anchors may not be rows that the judged model was trained or tuned on: it answers them better
    than what it is asked, and so errs otherwise."""


class JudgeConfig(Config):
    """A language model says of each answer whether it is right. How often it errs is measured on
    anchors; the share that it calls right is then corrected by that."""

    metric: Name
    """By this name the corrected share is a metric, for gates, report and model card."""
    prompt: str
    """Path of a prompt file (configs/prompts/). It may show features of the judged model by their
    names, {expected} (the right answer) and must show {answered} (the one that was given)."""
    weights: WeightsName | None = None
    """Weights of the workspace (configs/weights/), run in the evaluation's own workers. Either
    this, or `served`."""
    served: ServedJudgeConfig | None = None
    """Or a served model, which need not be of this workspace."""
    verdict: VerdictConfig
    anchors: AnchorsConfig
    max_tokens: int = Field(default=8, ge=1, le=8192)
    """Tokens that it may say, at most. It says the likeliest ones."""
    max_unread_share: float = Field(default=0.05, ge=0, lt=0.5)
    """Of the anchors, and of each model's answers, the share that may have no verdict. These are in
    no share; the interval is wide enough for all of them to be right, or wrong."""

    @field_validator("prompt")
    @classmethod
    def _is_named(cls, prompt: str) -> str:
        if not prompt.endswith((".yaml", ".yml")):
            raise ValueError(f"{prompt!r} is no path of a YAML file: put the prompt into one")
        return prompt

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.weights is None) == (self.served is None):
            raise ValueError("a judge is either `weights` of the workspace, or `served`")
        return self
