"""How answers in words are graded: each grader of a release config becomes a metric by its name."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rayapp.config.load import Config

Phrase = Annotated[str, Field(min_length=1)]


class _OfField(Config):
    field: str | None = None
    """Of the JSON object that is the answer: this field alone is graded, as text. An answer without
    it is graded 0. Unset: the whole answer."""


class ExactGrader(_OfField):
    """The answer is the right one, but for white space around it."""

    kind: Literal["exact"]


class NormalisedGrader(_OfField):
    """The answer is the right one, but for case, white space, punctuation and Unicode's ways to
    write the same (NFKC)."""

    kind: Literal["normalised"]


class RegexGrader(_OfField):
    """The answer has the pattern in it."""

    kind: Literal["regex"]
    pattern: str = Field(min_length=1)
    """As Python's `re` has it, found anywhere; `\\A` and `\\Z` hold it to the whole answer."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern


class JsonSchemaGrader(Config):
    """The answer is one JSON value that a JSON Schema accepts. What it refers to must be in it."""

    kind: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(min_length=1)


class NumericGrader(_OfField):
    """The answer is the right number, or near enough: |answer − right| ≤ the larger tolerance. With
    neither tolerance it must be that number."""

    kind: Literal["numeric"]
    absolute: float = Field(default=0.0, ge=0)
    """Tolerance in the number's own unit."""
    relative: float = Field(default=0.0, ge=0, lt=1)
    """Tolerance as a share of the right number's size."""
    take: Literal["whole", "last"] = "whole"
    """Whether the answer must be a number and nothing else, or its last number counts. The right
    answer is read in the same way."""


class RefusalGrader(Config):
    """The answer declines, as its phrases tell; or it does not, where that is wanted."""

    kind: Literal["refusal"]
    phrases: tuple[Phrase, ...] = Field(min_length=1)
    """Any of these in the answer is a refusal; case, white space and punctuation do not matter."""
    wanted: bool = True
    """false: the grade is 1 where it does not refuse."""


class LengthGrader(_OfField):
    """The answer is neither too short nor too long."""

    kind: Literal["length"]
    unit: Literal["characters", "tokens"] = "characters"
    """tokens: of the base model, with the one that ends the answer."""
    min: int | None = Field(default=None, ge=1)
    max: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a length without `min` and `max` has no effect")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` {self.min} is above `max` {self.max}")
        if self.unit == "tokens" and self.field is not None:
            raise ValueError("`unit`: tokens are counted of whole answers, not of a `field`")
        return self


Grader = Annotated[
    ExactGrader
    | NormalisedGrader
    | RegexGrader
    | JsonSchemaGrader
    | NumericGrader
    | RefusalGrader
    | LengthGrader,
    Field(discriminator="kind"),
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class SamplesConfig(Config):
    """Each item is answered several times, by sampling, instead of once by the likeliest tokens.
    Every metric is then a mean over an item's samples, and there are two more for each number of
    tries: NAME_pass_at_K, that one of K answers is a success, and NAME_pass_all_K, that all are."""

    per_item: int = Field(ge=2, le=100)
    """Answers that each item gets."""
    tries: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """The K of pass_at_K and pass_all_K, none above `per_item`. At 1 both are the same, so there is
    only pass_at_1."""
    success: tuple[Name, ...] = ("exact_match",)
    """The metrics or graders by which an answer is a success: where its grade is 1."""
    temperature: float = Field(default=0.8, gt=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the likeliest tokens that together have this probability."""
    seed: int = Field(default=7, ge=0)
    """The same seed, rows and machine give the same answers."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if max(self.tries) > self.per_item:
            raise ValueError(f"`tries`: {max(self.tries)} is above `per_item` {self.per_item}")
        for name in ("tries", "success"):
            listed = getattr(self, name)
            if len(set(listed)) < len(listed):
                raise ValueError(f"`{name}`: {list(listed)} has one of them twice")
        if not self.success:
            raise ValueError("`success` names nothing, so `tries` has no effect")
        return self
