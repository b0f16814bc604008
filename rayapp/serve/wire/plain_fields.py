"""The fields of OpenAI's interface, and of vLLM's beside it, that are one value each: their types
and limits. openai_schemas.py describes them from the same tables.

https://platform.openai.com/docs/api-reference ; https://docs.vllm.ai (sampling parameters)
"""

from collections.abc import Mapping
from typing import Any

from rayapp.serve.wire.mistakes import flag, told, whole, wrong

NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
COUNTS: dict[str, tuple[int, int]] = {
    "max_tokens": (1, 10**7),
    "max_completion_tokens": (1, 10**7),
    "min_tokens": (0, 10**7),
    "top_k": (-1, 10**7),
    "top_logprobs": (0, 20),
    "dimensions": (1, 10**7),
    "seed": (-(2**63), 2**63 - 1),
}
WHOLE = (*COUNTS, "n", "logprobs")
FLAGS = (
    *("ignore_eos", "skip_special_tokens", "include_stop_str_in_output", "parallel_tool_calls"),
    *("add_generation_prompt", "continue_final_message", "echo", "stream"),
)
TEXTS = ("user", "suffix", "reasoning_effort")
ENCODINGS = ("float", "base64")
MOST_LOGPROBS = 20
"""To each token of a completion. A chat asks for them by a flag, and says how many beside it."""
MOST_BIAS = 100
LARGEST_TOKEN = 2**31 - 1


def is_token(value: Any) -> bool:
    """Whether it can be the id of one."""
    return type(value) is int and 0 <= value <= LARGEST_TOKEN


def as_whole(fields: Mapping[str, Any]) -> dict[str, Any]:
    """2.0 as 2, where a whole number is meant. fields: as they were checked."""
    floats = [name for name in WHOLE if type(fields.get(name)) is float]
    return {**fields, **{name: int(fields[name]) for name in floats}}


def check_plain(kind: str, fields: Mapping[str, Any]) -> None:
    """Raises RequestError 400."""
    for name, limits in NUMBERS.items():
        _number(fields.get(name), name, *limits)
    for name, (least, most) in COUNTS.items():
        whole(fields, name, least, most)
    for name in FLAGS:
        flag(fields, name)
    for name in TEXTS:
        if not isinstance(fields.get(name), str | None):
            raise wrong(f"`{name}` is {told(fields[name])}, must be a text", "correct it", name)
    if kind == "completion":
        whole(fields, "logprobs", 0, MOST_LOGPROBS)
    else:
        flag(fields, "logprobs")
    _check_rest(fields)


def _check_rest(fields: Mapping[str, Any]) -> None:
    penalty = fields.get("repetition_penalty")
    if penalty is not None and (type(penalty) not in (int, float) or penalty <= 0):
        what = f"`repetition_penalty` is {told(penalty)}, must be a number above 0"
        raise wrong(what, "correct it; 1 is none", "repetition_penalty")
    tokens = fields.get("stop_token_ids")
    if tokens is not None and not (isinstance(tokens, list) and all(map(is_token, tokens))):
        what = f"`stop_token_ids` is {told(tokens)}, must be a list of token ids"
        raise wrong(what, "send whole numbers from 0 on", "stop_token_ids")
    bias = fields.get("logit_bias")
    if not isinstance(bias, dict | None):
        what = f"`logit_bias` is {told(bias)}, must be an object"
        raise wrong(what, 'send {"TOKEN_ID": BIAS, …}', "logit_bias")
    for token, value in (bias or {}).items():
        _number(value, f"logit_bias.{token}", -MOST_BIAS, MOST_BIAS)
    outputs = fields.get("structured_outputs")
    if not isinstance(outputs, dict | None):
        what = f"`structured_outputs` is {told(outputs)}, must be an object"
        raise wrong(what, "send one with json, regex, choice or grammar", "structured_outputs")
    encoding = fields.get("encoding_format")
    if encoding is not None and encoding not in ENCODINGS:
        what = f"`encoding_format` is {told(encoding)}, must be one of {', '.join(ENCODINGS)}"
        raise wrong(what, "correct it", "encoding_format")


def _number(value: Any, name: str, low: float, high: float) -> None:
    if value is None:
        return
    if type(value) not in (int, float) or not low <= value <= high:
        limit = f"must be a number from {low} to {high}"
        raise wrong(f"`{name}` is {told(value)}, {limit}", "correct it", name)
