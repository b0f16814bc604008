"""Where language models answer an evaluation: what is asked for, and how it is cut.

Each block of rows is one batch, whatever the number of workers. A batch is padded to its longest
prompt and sampled by its own seed, so rows that were cut otherwise might get other answers.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from rayapp.config.release import AnswerWorkersConfig


def in_batches(table: pa.Table, num_rows: int) -> Any:
    """A dataset whose blocks are batches, and are answered in their order."""
    cuts = range(0, len(table), num_rows)
    dataset: Any = ray.data.from_arrow([table.slice(start, num_rows) for start in cuts])
    dataset.context.execution_options.preserve_order = True
    return dataset


def reserving(workers: AnswerWorkersConfig, runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `map_batches` for a step that is an actor."""
    asked: dict[str, Any] = {
        "batch_format": "pyarrow",
        "batch_size": None,
        "compute": ActorPoolStrategy(size=workers.num_workers),
        "num_cpus": workers.cpus_per_worker,
    }
    if workers.use_gpu:
        asked["num_gpus"] = workers.each_needs["GPU"]
    if workers.accelerator_type is not None:
        asked["accelerator_type"] = workers.accelerator_type
    if runtime_env:
        asked["runtime_env"] = dict(runtime_env)
    return asked
