"""configs/prompts/*.yaml: what a language model is told, with tests of it."""

from typing import Self

from pydantic import Field, model_validator

from rayapp.config.load import Config
from rayapp.schemas.prompt import Prompt


class PromptTest(Config):
    """What the user must say for these values."""

    values: dict[str, str | int | float | bool | None]
    """One for each {name} in `user`."""
    user: str


class PromptConfig(Config):
    """A prompt by itself, so that it can be read, reviewed and compared. Its version is its
    content: a training, its bundle and the sealed release name the digest."""

    section = "prompt"

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    system: str | None = None
    """What is said before; null leaves it to the model's chat template."""
    user: str
    """What the user says, with {name} for a value; other braces stand for themselves."""
    tests: tuple[PromptTest, ...] = Field(min_length=1)
    """Run each time the file is read."""

    @model_validator(mode="after")
    def _passes_its_tests(self) -> Self:
        prompt = self.prompt
        for number, test in enumerate(self.tests, 1):
            if test.values.keys() != prompt.places:
                raise ValueError(
                    f"`tests`: number {number} has values for {sorted(test.values)}, `user` shows "
                    f"{sorted(prompt.places)}"
                )
            found = prompt.filled(test.values)
            if found != test.user:
                raise ValueError(f"`tests`: number {number} expects {test.user!r}, gets {found!r}")
        return self

    @property
    def prompt(self) -> Prompt:
        return Prompt(name=self.name, system=self.system, user=self.user)
