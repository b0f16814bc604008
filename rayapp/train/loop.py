"""What runs in each training worker: read the shard, fit the family, report, checkpoint."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train

from rayapp.errors import RayappError
from rayapp.families.base import (
    RESUME,
    BatchSource,
    Compute,
    Problem,
    Progress,
    Reading,
    family,
)
from rayapp.families.meter import CpuMeter, step_back
from rayapp.train.relay import Spent, Step

SPENT_FILE = f"{RESUME}/spent.json"


@dataclass(frozen=True)
class Plan:
    """The loop's whole configuration. relay: handle of a Relay actor."""

    family: str
    problem: Problem
    settings: dict[str, Any]
    checkpoint_every: int
    num_threads: int
    relay: Any


def train_loop(config: dict[str, Any]) -> None:
    """Entry of a Ray Train worker; config["plan"] is a Plan."""
    plan: Plan = config["plan"]
    meter = CpuMeter()
    step_back()
    chosen = family(plan.family)
    checkpoint = ray.train.get_checkpoint()
    with ExitStack() as stack:
        resume_from = Path(stack.enter_context(checkpoint.as_directory())) if checkpoint else None
        if resume_from is not None:
            ray.get(plan.relay.went_on.remote(_read_spent(resume_from)))
        try:
            chosen.fit(
                plan.problem,
                plan.settings,
                shard_source("train", chosen.reading()),
                shard_source("tune", chosen.reading()),
                plan.checkpoint_every,
                resume_from,
                _reporter(plan, meter),
                Compute(_device(chosen.trainer()), plan.num_threads),
            )
        except RayappError as error:
            ray.get(plan.relay.failed.remote(error))
            raise


def shard_source(name: str, reading: Reading) -> BatchSource:
    """This worker's shard of a dataset, in the dataset's order, as often as it is asked for."""
    shard = ray.train.get_dataset_shard(name)

    def batches() -> Any:
        for columns in shard.iter_batches(batch_size=reading.num_rows, batch_format="numpy"):
            yield reading.batch(columns)

    return batches


def _reporter(plan: Plan, meter: CpuMeter) -> Callable[[Progress], None]:
    context = ray.train.get_context()
    rank = context.get_world_rank()
    node = ray.get_runtime_context().get_node_id()

    def report(progress: Progress) -> None:
        used = plan.relay.used.remote(node, os.getpid(), meter.read_s())
        if rank == 0:
            step = Step(progress.step, progress.total_steps, progress.metrics)
            used = plan.relay.advanced.remote(step)
        if not progress.is_checkpoint:
            return
        ray.get(used)  # a checkpoint must not be older than what the relay knows of it
        metrics = progress.metrics | {"step": progress.step}
        if rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            progress.save(Path(folder))
            _write_spent(Path(folder), ray.get(plan.relay.spent.remote()))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    return report


def _device(trainer: str) -> str:
    """From what Ray gave this worker, not from the configuration."""
    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        return "cpu"
    if trainer == "torch":
        from ray.train.torch import (
            get_device,  # heavy, and only where torch runs anyway
        )

        return str(get_device())
    return "cuda"  # Ray lets this worker see its own device only


def _write_spent(folder: Path, spent: Spent) -> None:
    path = folder / SPENT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(spent)), encoding="utf-8")


def _read_spent(folder: Path) -> Spent:
    stored = json.loads((folder / SPENT_FILE).read_text(encoding="utf-8"))
    return Spent(stored["cpu_s"], [Step(**step) for step in stored["history"]])
