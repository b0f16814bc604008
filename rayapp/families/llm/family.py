"""Fine-tuning of a language model: the plug-in, which imports transformers and peft only to fit.

A step is one of the optimizer. A checkpoint is the adapter (or, in full fine-tuning, the weights),
the optimizer's state and the place in the data, all as safetensors and JSON. Order and dropout are
functions of the seed and the step, so a fit on one CPU worker that was resumed ends with the same
weights as a whole one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayapp.errors import UserError
from rayapp.families.base import (
    BatchSource,
    Compute,
    Model,
    Problem,
    Progress,
    Reading,
)
from rayapp.families.llm.packing import Packed

NUM_REPORTS = 5
"""Progress reports between two checkpoints, at most; each is a line that a person reads."""


class LanguageModel:
    def trainer(self) -> str:
        return "torch"

    def unit(self) -> str:
        return "step"

    def reading(self) -> Reading:
        return Reading(Packed.from_columns, 1_024)

    def num_steps(self, settings: dict[str, Any]) -> int:
        return int(settings["num_steps"])

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
        from rayapp.families.llm.tuning import Tuning  # in the environment of language models only

        run = Tuning(problem, settings, compute, resume_from)
        total = self.num_steps(settings)
        pace = max(1, checkpoint_every // NUM_REPORTS)

        def tell(done: int, metrics: dict[str, float]) -> None:
            is_checkpoint = done == total or done % checkpoint_every == 0
            if is_checkpoint:
                metrics |= run.measure(valid)
            if is_checkpoint or done % pace == 0:
                save = run.save_last if done == total else run.save
                on_progress(Progress(done, total, metrics, is_checkpoint, save))

        if run.steps_done >= total:
            tell(total, {})
            return
        for loss in run.steps(train, total):
            tell(run.steps_done, {"train_loss": loss})

    def load(self, folder: Path, num_threads: int = 1) -> Model:
        """Raises UserError: it has no scores to give."""
        raise UserError(
            f"{folder} holds a language model, which is not asked for scores",
            "serve its base model with this adapter in an engine",
        )
