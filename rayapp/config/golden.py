"""configs/golden/*.yaml: sets of questions with right answers that somebody answers for."""

from typing import Self

from pydantic import Field, model_validator

from rayapp.config.load import Config


class ContaminationConfig(Config):
    """What of a golden set may occur in the rows that a model was trained or tuned on. An item is
    contaminated where such a row has the same text (but for case, punctuation and white space), or
    too many of its runs of words. It is named and left out; more of them than `max_share` refuse
    the evaluation."""

    ngram_words: int = Field(default=13, ge=3, le=50)
    """Words in a run. A text with fewer words is held against whole texts only."""
    max_overlap: float | None = Field(default=0.5, ge=0, lt=1)
    """Of an item's runs of words, the share that may occur anywhere in the training rows. null:
    only whole texts are compared, as for texts that are all alike by nature."""
    max_share: float = Field(default=0.0, ge=0, lt=1)
    """Of all items, the share that may be contaminated."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if self.max_overlap is None and "ngram_words" in self.model_fields_set:
            raise ValueError("`ngram_words` has no effect where `max_overlap` is null")
        return self


class GoldenConfig(Config):
    """A golden set: one JSON object a line, with the columns that the model is asked by and the
    label. Its content is fixed by its digest, so a change to it needs another version."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: str = Field(min_length=1)
    """As people name it; what it holds is `sha256`."""
    owner: str = Field(min_length=1)
    """Who answers for its answers."""
    path: str
    """Of the file: JSON Lines, in the project or at a URI."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file, as `sha256sum` tells it."""
    min_items: int = Field(default=30, ge=1)
    """With fewer of them that are not contaminated nothing is evaluated."""
    contamination: ContaminationConfig = ContaminationConfig()
