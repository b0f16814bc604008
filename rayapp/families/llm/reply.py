"""What weights as they are say to chats, a batch at a time, by the likeliest tokens."""

import json
from typing import Any

import pyarrow as pa

from rayapp.families.llm.answer import Decoding, Writer, device_of, network_of
from rayapp.families.llm.prompt import prompt_tokens
from rayapp.families.llm.rows import tokenizer_of
from rayapp.families.llm.weights import base_folder
from rayapp.schemas.language import WeightsRef

CHAT, SAID = "chat", "said"
"""Columns: the messages as JSON, and what is said to them."""


class Replies:
    """A step of Ray Data, in an actor. A chat that leaves no room for max_tokens gets an empty
    reply: the weights have never seen one so long."""

    def __init__(self, weights: WeightsRef, max_tokens: int, num_threads: int) -> None:
        device = device_of(num_threads)
        self._model: Any = network_of(base_folder(weights)).to(device).eval()
        self._tokenizer: Any = tokenizer_of(weights)
        self._writer = Writer(self._tokenizer, device)
        self._decoding = Decoding(max_tokens)
        self._room = weights.max_context_tokens - max_tokens

    def __call__(self, table: pa.Table) -> pa.Table:
        chats = [json.loads(chat) for chat in table.column(CHAT).to_pylist()]
        asked = [prompt_tokens(self._tokenizer, chat) for chat in chats]
        fits = [tokens for tokens in asked if len(tokens) <= self._room]
        written = iter(self._writer.answers(self._model, fits, self._decoding))
        said = [next(written)[0] if len(tokens) <= self._room else "" for tokens in asked]
        return table.append_column(SAID, pa.array(said, pa.string()))
