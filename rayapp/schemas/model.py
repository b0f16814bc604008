"""Nouns of training: the feature, the bundle's schema, the run."""

from typing import Any, Literal

from rayapp.schemas.data import Column, Task
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.record import GrownRecord, Record


class Feature(Record):
    """One model input: an expression over raw columns (a bare column name is one too)."""

    name: str
    expression: str


class EncodedFeature(Record):
    """How a feature becomes one float: a number as it is, or a category's place in `vocabulary`.

    A category that training never saw becomes len(vocabulary): one shared place for the unknown.
    mean and std describe the training rows and serve families that need scaled inputs.
    """

    name: str
    expression: str
    kind: Literal["number", "category"]
    vocabulary: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0


class LanguageSchema(GrownRecord):
    """How a language model's bundle is asked, and which weights it goes with.

    system, prompt: the chat, with {name} for each of `features`; the base model's chat template
    spells it. prompt_name: of the file that they are from. fields: of the JSON object that it
    answers, empty where the answer is plain text.
    method: lora or qlora where the bundle is an adapter, full where it is whole weights.
    """

    ADDED = ("prompt_name",)

    base_name: str
    base_digest: str
    method: str
    system: str | None
    prompt: str
    features: tuple[Feature, ...]
    fields: tuple[str, ...]
    prompt_name: str | None = None

    @property
    def chat(self) -> Prompt:
        return Prompt(name=self.prompt_name or "", system=self.system, user=self.prompt)


class BundleSchema(GrownRecord):
    """What a bundle takes and gives. `inputs` are raw contract columns: a caller sends these.

    language: of a language model's bundle, else None.
    """

    ADDED = ("language",)

    name: str
    family: str
    task: Task
    label: str
    classes: tuple[str, ...]
    inputs: tuple[Column, ...]
    features: tuple[EncodedFeature, ...]
    language: LanguageSchema | None = None

    @property
    def num_scores(self) -> int:
        """Of each row: a probability for each class, or the one value of a regression."""
        return 1 if self.task == "regression" else len(self.classes)


class FileDigest(Record):
    path: str
    """Relative to the artefact's folder, with forward slashes."""
    sha256: str
    num_bytes: int


class BundleRef(Record):
    """A bundle by content: digest is over the sorted file list."""

    uri: str
    digest: str
    files: tuple[FileDigest, ...]
    bundle_schema: BundleSchema


class Run(Record):
    """One finished training: what came out, of what, and how to do it again."""

    run_id: str
    mlflow_run_id: str
    snapshot_id: str
    bundle: BundleRef
    config: dict[str, Any]
    metrics: dict[str, float]
    num_rows: int
    cpu_s: float
    code_digest: str
    environment_digest: str
