"""Chats answered by weights of the workspace, in the evaluation's own workers."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from rayapp.families.llm.reply import CHAT, SAID, Replies
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.prompt import Message

BATCH_ROWS = 16


def replies_of(
    chats: Sequence[Sequence[Message]],
    weights: WeightsRef,
    max_tokens: int,
    num_cpus: int,
    runtime_env: Mapping[str, Any],
    on_progress: Callable[[int], object] = lambda num_replies: None,
) -> list[str]:
    """In their order. on_progress: told how many there are."""
    asked = pa.table({CHAT: pa.array([json.dumps(list(chat)) for chat in chats], pa.string())})
    dataset: Any = ray.data.from_arrow(asked)
    dataset.context.execution_options.preserve_order = True
    answered = dataset.map_batches(
        Replies,
        batch_format="pyarrow",
        batch_size=BATCH_ROWS,
        fn_constructor_args=(weights, max_tokens, num_cpus),
        compute=ActorPoolStrategy(size=1),
        num_cpus=num_cpus,
        **({"runtime_env": dict(runtime_env)} if runtime_env else {}),
    )
    said: list[str] = []
    for block in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
        said += block.column(SAID).to_pylist()
        if len(block):
            on_progress(len(said))
    return said
