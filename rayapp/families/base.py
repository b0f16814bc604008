"""The plug-in contract: what a model family must bring, and the table of those there are.

A family never sees YAML, Ray Data or MLflow. It gets encoded rows and gives back a model that
answers encoded rows; everything else (encoding, schema, digest, serving) is the same for all.

To add one: write a module with a class that satisfies Family, add a line to FAMILIES, a settings
class to config/training.py, and run the contract tests in tests/contract/test_families.py.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rayapp.errors import UserError
from rayapp.schemas.data import Task
from rayapp.schemas.model import EncodedFeature

Floats = npt.NDArray[np.float32]

FAMILIES = {
    "tabular": "rayapp.families.tabular:Tabular",
    "neural": "rayapp.families.neural:Neural",
}


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
    """Rounds or epochs done so far, counted from 1 over the whole run, resumed parts included."""
    total_steps: int
    metrics: dict[str, float]
    is_checkpoint: bool
    """True when the model below is worth keeping; it is written by `save(folder)`."""
    save: Callable[[Path], None]
    """Writes the model, and under RESUME what only going on with the fit needs: a bundle leaves
    that subfolder out."""


RESUME = "resume"


BatchSource = Callable[[], Iterator[Batch]]
"""Called once per pass over the rows; each pass may come in another order."""


class Model(Protocol):
    """A fitted model. predict gives scores [N, K]: P(class) per class, or [N, 1] the value."""

    def predict(self, x_NF: Floats) -> Floats: ...


class Family(Protocol):
    def trainer(self) -> str:
        """Which Ray Trainer runs `fit`: "xgboost" or "torch"."""
        ...

    def unit(self) -> str:
        """What a step is called: "round" or "epoch"."""
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
