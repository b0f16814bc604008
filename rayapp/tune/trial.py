"""What runs in each trial: one fit in the trial's own process, on rows that all trials share."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray import tune

from rayapp.families.base import Batch, BatchSource, Compute, Problem, Progress, family
from rayapp.families.meter import CpuMeter, step_back

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class TrialData:
    """What every trial gets, once per process, from the object store."""

    family: str
    problem: Problem
    settings: dict[str, Any]
    """Of the training config; a trial lays its own over these."""
    train: Batch
    tune: Batch
    num_reports: int
    num_threads: int
    budget_s: float


def run_trial(found: dict[str, Any], data: TrialData) -> None:
    """Tune's trainable. Reports the tune-split metrics and used_s at every checkpoint, and at once
    where this trial alone has used the whole budget."""
    step_back()
    chosen = family(data.family)
    settings = data.settings | found
    on_gpu = bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
    used_s = _gpu_meter() if on_gpu else CpuMeter().read_s

    def report(progress: Progress) -> None:
        used = used_s()
        if progress.is_checkpoint or used >= data.budget_s:
            tune.report(progress.metrics | {"used_s": used, "step": progress.step})

    chosen.fit(
        data.problem,
        settings,
        array_source(data.train),
        array_source(data.tune),
        math.ceil(chosen.num_steps(settings) / data.num_reports),
        None,
        report,
        Compute("cuda" if on_gpu else "cpu", data.num_threads),
    )


def array_source(rows: Batch) -> BatchSource:
    """Passes over rows held in memory. Copies, because shared memory is read-only."""

    def batches() -> Any:
        for start in range(0, len(rows.y_N), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            yield Batch(np.array(rows.x_NF[part]), np.array(rows.y_N[part]))

    return batches


def _gpu_meter() -> Callable[[], float]:
    """Seconds that this trial has held its GPU, busy or not."""
    start_s = time.monotonic()
    return lambda: time.monotonic() - start_s
