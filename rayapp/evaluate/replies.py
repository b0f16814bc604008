"""Chats answered by weights of the workspace, in the evaluation's own workers."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from rayapp.config.release import AnswerWorkersConfig
from rayapp.evaluate.workers import in_batches, reserving
from rayapp.families.llm.reply import CHAT, SAID, Replies
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.prompt import Message

BATCH_ROWS = 16


def replies_of(
    chats: Sequence[Sequence[Message]],
    weights: WeightsRef,
    max_tokens: int,
    workers: AnswerWorkersConfig,
    runtime_env: Mapping[str, Any],
    on_progress: Callable[[int], object] = lambda num_replies: None,
) -> list[str]:
    """In their order. on_progress: told how many there are."""
    asked = pa.table({CHAT: pa.array([json.dumps(list(chat)) for chat in chats], pa.string())})
    answered = in_batches(asked, BATCH_ROWS).map_batches(
        Replies,
        fn_constructor_args=(weights, max_tokens, workers.num_threads),
        **reserving(workers, runtime_env),
    )
    said: list[str] = []
    for block in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
        said += block.column(SAID).to_pylist()
        if len(block):
            on_progress(len(said))
    return said
