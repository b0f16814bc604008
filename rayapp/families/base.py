"""The plug-in contract: what a model family must bring, and the table of those there are.

A family never sees YAML, Ray Data or MLflow. Most get encoded rows and give back a model that
answers encoded rows; everything else (encoding, schema, digest, serving) is the same for all. A
language model gets packed sequences of tokens instead (families/llm) and gives back an adapter or
weights, which an engine answers with; its fit is the same to whoever runs it.

To add one: write a module with a class that satisfies Family, add a line to FAMILIES, a settings
class to config/training.py, and run the contract tests in tests/contract/test_families.py.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rayapp.errors import UserError
from rayapp.schemas.data import Task
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import EncodedFeature
from rayapp.schemas.prompt import Prompt

Floats = npt.NDArray[np.float32]

FAMILIES = {
    "tabular": "rayapp.families.tabular:Tabular",
    "neural": "rayapp.families.neural:Neural",
    "llm": "rayapp.families.llm.family:LanguageModel",
}
ENCODED = ("tabular", "neural")
"""Those that learn from encoded rows and give scores."""


@dataclass(frozen=True)
class Batch:
    """Encoded rows. Shape suffixes: N rows, F features."""

    x_NF: Floats
    """Numbers as they are (NaN where missing); categories as their place in the vocabulary."""
    y_N: Floats
    """0/1 for binary, the class's index for multiclass, the value for regression."""


@dataclass(frozen=True)
class Problem:
    """What is to be learned, as a family needs to know it."""

    task: Task
    num_classes: int
    """2 for binary, K for multiclass, 0 for regression."""
    features: tuple[EncodedFeature, ...]
    seed: int
    num_rows: int
    """Training rows over all workers: what a learning-rate schedule is laid out on."""
    base: WeightsRef | None = None
    """The weights that a language model's fit starts from; None for every other family."""


@dataclass(frozen=True)
class Base:
    """What a language model is tuned from, and in which environment of Ray's that can be done.
    prompt: what it is told of a row. fields: of the JSON object that it learns to answer; empty
    where answers are plain text."""

    weights: WeightsRef
    runtime_env: Mapping[str, Any]
    prompt: Prompt
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compute:
    """What this process may use. device: "cpu" or a CUDA device as the worker's context names it
    ("cuda", "cuda:1")."""

    device: str = "cpu"
    num_threads: int = 1


@dataclass(frozen=True)
class Progress:
    """Given to `on_progress` as fitting goes on."""

    step: int
    """Rounds, epochs or steps done so far, counted from 1 over the whole run, resumed parts
    included."""
    total_steps: int
    metrics: dict[str, float]
    is_checkpoint: bool
    """True when the model below is worth keeping; it is written by `save(folder)`."""
    save: Callable[[Path], None]
    """Writes the model, and under RESUME what only going on with the fit needs: a bundle leaves
    that subfolder out."""


RESUME = "resume"


BatchSource = Callable[[], Iterator[Any]]
"""Called once per pass over the rows; each pass may come in another order. Gives what the family's
`reading` makes of them: Batch for encoded rows."""


@dataclass(frozen=True)
class Reading:
    """How a family takes rows out of the dataset that was made for it. batch: of their columns, as
    arrays that it may write to. num_rows: how many at a time; it cuts its own batches of them."""

    batch: Callable[[Mapping[str, Any]], Any]
    num_rows: int


def _encoded(columns: Mapping[str, Any]) -> Batch:
    """The object store's memory is read-only, which PyTorch does not take."""
    x_NF, y_N = (np.require(columns[name], np.float32, ["C", "W"]) for name in ("x", "y"))
    return Batch(x_NF, y_N)


ENCODED_ROWS = Reading(_encoded, 65_536)


class Model(Protocol):
    """A fitted model. predict gives scores [N, K]: P(class) per class, or [N, 1] the value."""

    def predict(self, x_NF: Floats) -> Floats: ...


class Family(Protocol):
    def trainer(self) -> str:
        """Which Ray Trainer runs `fit`: "xgboost" or "torch"."""
        ...

    def unit(self) -> str:
        """What a step is called: "round", "epoch" or "step"."""
        ...

    def reading(self) -> Reading:
        """How it takes its rows."""
        ...

    def num_steps(self, settings: dict[str, Any]) -> int:
        """Steps of a whole fit with these settings."""
        ...

    def fit(
        self,
        problem: Problem,
        settings: dict[str, Any],
        train: BatchSource,
        valid: BatchSource | None,
        checkpoint_every: int,
        resume_from: Path | None,
        on_progress: Callable[[Progress], None],
        compute: Compute,
    ) -> None:
        """Fit in this process (one worker of a group, or alone). The last Progress is a checkpoint.

        settings: the family's settings class, dumped. resume_from: a folder that `save` wrote; one
        that was already complete gives that last Progress and nothing else.
        Raises DataError when a pass over `train` yields no row, or when the loss is not finite.
        """
        ...

    def load(self, folder: Path, num_threads: int = 1) -> Model:
        """Read all of what `save` wrote: the folder may go afterwards. Never executes anything from
        it (no pickle)."""
        ...


def family(name: str) -> Family:
    """The family of that name; its libraries are imported only now. Raises UserError."""
    if name not in FAMILIES:
        raise UserError(f"family {name!r} is not one of {sorted(FAMILIES)}", "see families/base.py")
    module, _, attribute = FAMILIES[name].partition(":")
    made: Family = getattr(importlib.import_module(module), attribute)()
    return made
