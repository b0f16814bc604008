"""Rows answered by a released adapter through ray.data.llm: an engine of vLLM of the job's own.

Runs where vLLM is, in the environment of language models, on the node that the engine will be on:
its weights and its adapter are folders there, checked before vLLM reads them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import ray.data
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayapp.config.language import AdapterRank
from rayapp.config.operations import AnswersConfig
from rayapp.errors import DataError
from rayapp.families.llm.rows import tokenizer_of
from rayapp.families.llm.weights import base_folder
from rayapp.schemas.data import ROW_ID_COLUMN
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import BundleSchema
from rayapp.score.answers import (
    Answer,
    Limits,
    Question,
    Reply,
    answer_of,
    answer_table,
    in_row_order,
    questions_of,
    unasked,
)

_ENGINE = "vLLMEngineStage"
BATCHES_IN_HAND = 8
"""As ray.data.llm hands them to an engine at a time."""
_ROW, _FAILURE = "row", "__inference_error__"


@dataclass(frozen=True)
class Asking:
    """Who is asked, and how. schema: the bundle's. weights: those that its adapter was tuned
    from."""

    release_id: str
    input_digest: str
    schema: BundleSchema
    weights: WeightsRef
    limits: Limits
    config: AnswersConfig


@dataclass(frozen=True)
class Placed:
    """What the engine gets on this node. group: its place, of one bundle. rank: the adapter's."""

    adapter: Path
    rank: int
    group: PlacementGroup


def bundle_of(config: AnswersConfig) -> dict[str, float]:
    """What an engine needs, by Ray's names of resources."""
    if not config.has_gpu:
        return {"CPU": config.num_cpus}
    kind = config.accelerator_type
    typed = {} if kind is None else {f"accelerator_type:{kind}": 0.001}
    return {"CPU": config.num_cpus, "GPU": 1.0, **typed}


def answer_rows(asking: Asking, placed: Placed, rows: pa.Table) -> Iterator[pa.Table]:
    """Tables of answers, in the order of `rows`, as the engine comes to them.

    Raises TamperedError where the weights are not what they were, DataError where the engine does
    not start, or cannot go on.
    """
    tokenizer = tokenizer_of(asking.weights)
    questions = questions_of(tokenizer, asking.schema, asking.limits, rows)
    language = asking.schema.language
    assert language is not None
    known = {row: unasked(one) for row, one in enumerate(questions) if one.error is not None}

    def found() -> Iterator[Mapping[int, Answer]]:
        for replies in _replies(asking, placed, questions):
            yield {
                row: answer_of(questions[row], reply, tokenizer.eos_token_id, language.fields)
                for row, reply in replies.items()
            }

    row_ids, begin = rows.column(ROW_ID_COLUMN).to_pylist(), 0
    try:
        for some in in_row_order(known, found(), len(questions)):
            end = begin + len(some)
            yield answer_table(row_ids[begin:end], some, asking.release_id, asking.input_digest)
            begin = end
    except RayActorError:
        raise died(asking, row_ids[begin:]) from None


def died(asking: Asking, unanswered: Sequence[str]) -> DataError:
    """Of an engine that was started again as often as it may be. unanswered: the ids of rows that
    have no answer yet, in their order."""
    config = asking.config
    num_in_hand = min(config.batch_rows * BATCHES_IN_HAND, len(unanswered))
    return DataError(
        f"the engine for {asking.weights.name} died {config.max_restarts + 1} times, max_restarts "
        f"is {config.max_restarts}: one of {num_in_hand:,} rows from {unanswered[0]!r} on may be "
        "what kills it",
        "the log of its worker says why: more memory, a smaller batch_rows to find the row, or a "
        "split without it; submitted again, the job goes on after what was committed",
    )


def _replies(
    asking: Asking, placed: Placed, questions: Sequence[Question]
) -> Iterator[dict[int, Reply]]:
    items = _asked(questions, str(placed.adapter))
    if not items:
        return  # an engine takes half a minute to start
    # a block's answers come out together. (from_arrow would wait for a CPU to look at its tables)
    num_blocks = ceil(len(items) / asking.config.batch_rows)
    asked = ray.data.from_items(items, override_num_blocks=num_blocks)
    yield from replies_in(_processor(asking, placed)(asked), asking.weights.name)


def replies_in(dataset: Any, weights: str) -> Iterator[dict[int, Reply]]:
    """Block by block. Raises RayActorError where the engine has died too often, DataError for what
    else keeps it from going on."""
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield {row[_ROW]: _reply(row) for row in block.to_pylist()}
    except RayError as error:
        if isinstance(error, RayActorError) and not error.actor_init_failed:
            raise
        reason = str(error).strip().splitlines()[-1]
        raise DataError(
            f"the engine for {weights} did not start, or did not go on: {reason}",
            "the log of its worker says more; correct `language` of the config, and run this again",
        ) from None


def _asked(questions: Sequence[Question], adapter: str) -> list[dict[str, Any]]:
    """model: what is not the engine's weights, vLLM takes for the folder of an adapter."""
    return [
        {
            _ROW: row,
            "model": adapter,
            "tokenized_prompt": list(one.tokens),
            "sampling_params": {"temperature": 0.0, "max_tokens": one.max_tokens},
        }
        for row, one in enumerate(questions)
        if one.error is None
    ]


def _processor(asking: Asking, placed: Placed) -> Any:
    """Prompts are tokenised already, by what tokenised them in training. What is left beside the
    engine takes no CPU, so it never waits for the one that the engine holds."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    config, resources = asking.config, bundle_of(asking.config)
    made = vLLMEngineProcessorConfig(
        model_source=str(base_folder(asking.weights)),
        engine_kwargs={
            "max_model_len": asking.limits.context,
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": min(size for size in get_args(AdapterRank) if size >= placed.rank),
            **config.arguments,
        },
        batch_size=config.batch_rows,
        concurrency=1,
        accelerator_type=config.accelerator_type,
        placement_group_config={
            "bundles": [{k: v for k, v in resources.items() if k in ("CPU", "GPU")}]
        },
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    beside = {"num_cpus": 0, "compute": ray.data.TaskPoolStrategy(size=1)}
    processor = build_processor(
        made, postprocess=_kept, preprocess_map_kwargs=beside, postprocess_map_kwargs=beside
    )
    engine = processor.get_stage_by_name(_ENGINE)
    engine.map_batches_kwargs["max_restarts"] = config.max_restarts
    engine.map_batches_kwargs["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
        placed.group, placement_group_bundle_index=0
    )
    return processor


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    tokens = row["generated_tokens"]
    return {
        _ROW: row[_ROW],
        "text": row["generated_text"],
        "num_tokens": len(tokens),
        "last_token": int(tokens[-1]) if len(tokens) else None,
    }


def _reply(row: Mapping[str, Any]) -> Reply:
    """A row that failed has not been through `_kept`."""
    if row[_FAILURE]:
        return Reply("", 0, None, row[_FAILURE])
    return Reply(row["text"], row["num_tokens"], row["last_token"], "")
