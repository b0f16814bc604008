"""An engine without a model: the words of the last message come back, one token each.

It answers as vLLM does (tests/contract/test_llm_client.py compares the two), also in what is
awkward: in a stream, the usage that each event has is that of its own choice and prompt; only the
last event has the sum. Another choice of the same answer is a word shorter for each.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from rayapp.errors import Unavailable
from rayapp.schemas.language import Adapter, Answering, Prefix

_WORD = re.compile(r"\S+\s*")
_LAST = b"data: [DONE]\n\n"
Pieces = Callable[[bytes], Iterable[bytes]]


def words(text: str) -> list[str]:
    """Joined, they are the text again, but for space that it begins with."""
    return _WORD.findall(text)


def texts_of(fields: Mapping[str, Any]) -> list[str]:
    """One for each prompt of a request, or each input."""
    if "messages" in fields:
        return [" ".join(_content(message) for message in fields["messages"])]
    given = fields.get("prompt", fields.get("input"))
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(one, int) for one in given):
        return [" ".join(map(str, given))]
    return [one if isinstance(one, str) else " ".join(map(str, one)) for one in given]


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part if isinstance(part, str) else part["text"] for part in content)


def count(fields: Mapping[str, Any]) -> list[int]:
    """Tokens of each prompt, as the engine counts them."""
    return [len(words(text)) for text in texts_of(fields)]


@dataclass
class Trouble:
    """What goes wrong with requests. is_away: nobody can be asked. is_loading: nobody is there yet,
    and requests wait. status: of an answer that is the engine's own mistake. hangs_at, breaks_at,
    ends_at, errs_at: the number of an event, or of a whole answer's half: there it stays, raises
    Unavailable, ends without a word, or sends an error event. hangs_before: an answer begins.
    goes_on: ends what hangs there."""

    is_away: bool = False
    is_loading: bool = False
    status: int | None = None
    hangs_before: bool = False
    hangs_at: int | None = None
    breaks_at: int | None = None
    ends_at: int | None = None
    errs_at: int | None = None
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class FakeLlm:
    """logprob: of every token, where it is asked for. pieces: how the bytes of a whole stream come,
    where that is not event by event. asked: every request, as (path, fields). adapters: what each
    was to be answered by."""

    model: str = "engine"
    max_context_tokens: int = 64
    trouble: Trouble = field(default_factory=Trouble)
    logprob: float = -0.01
    pieces: Pieces | None = None
    num_ongoing: int = 0
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    prefixes: list[Prefix | None] = field(default_factory=list)
    adapters: list[Adapter | None] = field(default_factory=list)

    async def open(
        self,
        path: str,
        body: bytes,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Answering:
        if self.trouble.is_away:
            raise Unavailable("nobody is there", "try again")
        fields = orjson.loads(body)
        self.asked.append((path, fields))
        self.prefixes.append(prefix)
        self.adapters.append(adapter)
        refused = self._refused(path, fields, self.model if adapter is None else adapter.release_id)
        self.num_ongoing += 1
        try:
            if self.trouble.hangs_before or self.trouble.is_loading:
                await self.trouble.goes_on.wait()
            status = refused[0] if refused else 200
            found = self._document(refused[1]) if refused else self._answer(path, fields)
            started = self._counted(found)
            await anext(started)  # so that closing it runs what is to be done at its end
        except BaseException:
            self.num_ongoing -= 1
            raise
        return Answering(status, started)

    async def is_there(self) -> bool:
        return not self.trouble.is_loading

    async def _counted(self, answer: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        try:
            yield b""
            async for piece in answer:
                yield piece
        finally:
            self.num_ongoing -= 1

    def _refused(self, path: str, fields: Mapping[str, Any], known: str) -> tuple[int, Any] | None:
        if self.trouble.status is not None:
            return self.trouble.status, error("inside", "InternalServerError", self.trouble.status)
        if fields["model"] != known:
            told = f"The model `{fields['model']}` does not exist."
            return 404, error(told, "NotFoundError", 404, "model")
        most = max(count(fields)) + fields.get("max_tokens", 0)
        if most > self.max_context_tokens:
            told = f"maximum context length is {self.max_context_tokens} tokens, asked for {most}"
            return 400, error(told, "BadRequestError", 400, "input_tokens")
        if fields.get("temperature", 0) == 1.5:  # what only an engine would find wrong
            return 400, error("not that hot", "BadRequestError", 400)
        return None

    def _answer(self, path: str, fields: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        if path == "/v1/embeddings":
            return self._document(self._embeddings(fields))
        said = _Said(path == "/v1/chat/completions", fields, self.logprob)
        if not fields.get("stream"):
            return self._document(said.document())
        return self._events(said) if self.pieces is None else self._cut(said, self.pieces)

    async def _cut(self, said: "_Said", pieces: Pieces) -> AsyncGenerator[bytes, None]:
        for piece in pieces(b"".join([event async for event in self._events(said)])):
            await asyncio.sleep(0)
            yield piece

    async def _document(self, value: Any) -> AsyncGenerator[bytes, None]:
        body = orjson.dumps(value)
        for number, half in enumerate((body[: len(body) // 2], body[len(body) // 2 :])):
            if await self._goes_wrong(number):
                return
            yield half

    async def _events(self, said: "_Said") -> AsyncGenerator[bytes, None]:
        """What goes wrong at an event comes after those before it have gone out."""
        for number, event in enumerate(said.events()):
            if number == self.trouble.errs_at:
                told = orjson.dumps(error("inside", "InternalServerError", 500))
                yield b"data: " + told + b"\n\n" + _LAST
                return
            if await self._goes_wrong(number):
                return
            yield b"data: " + orjson.dumps(event) + b"\n\n"
        yield _LAST

    async def _goes_wrong(self, number: int) -> bool:
        await asyncio.sleep(0)
        trouble = self.trouble
        if number == trouble.hangs_at:
            await trouble.goes_on.wait()
        if number == trouble.breaks_at:
            raise Unavailable("the replica is gone", "try again")
        return number == trouble.ends_at

    def _embeddings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        counts = count(fields)
        data = [
            {"index": at, "object": "embedding", "embedding": [float(number), 1.0]}
            for at, number in enumerate(counts)
        ]
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts), "completion_tokens": 0}
        return {"id": "e", "object": "list", "created": 1, "model": "m", "data": data} | {
            "usage": usage | {"prompt_tokens_details": None}
        }


def error(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    """In vLLM's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Said:
    """What is answered to one request, by choice, and how it is written."""

    def __init__(self, is_chat: bool, fields: Mapping[str, Any], logprob: float) -> None:
        self._is_chat = is_chat
        self._logprob = logprob
        self._fields = fields
        self._num_choices = fields.get("n") or 1
        self._counts = count(fields)
        most = fields.get("max_tokens") or 16
        last = [_content(fields["messages"][-1])] if is_chat else texts_of(fields)
        self._choices: list[tuple[list[str], str]] = []
        for text in last:
            for number in range(self._num_choices):
                tokens = words(text)
                tokens = tokens[: max(1, len(tokens) - number)]
                reason = "stop" if len(tokens) <= most else "length"
                self._choices.append((tokens[:most], reason))
        self._tool = None
        if is_chat and fields.get("tools") and fields.get("tool_choice") != "none":
            self._tool = fields["tools"][0]["function"]["name"]

    @property
    def _base(self) -> dict[str, Any]:
        kind = "chat.completion" if self._is_chat else "text_completion"
        if self._fields.get("stream") and self._is_chat:
            kind += ".chunk"
        return {"id": "cmpl-1", "object": kind, "created": 1, "model": self._fields["model"]}

    def document(self) -> dict[str, Any]:
        num_output = sum(len(tokens) for tokens, _ in self._choices)
        return {
            **self._base,
            "choices": [self._choice(at) for at in range(len(self._choices))],
            "service_tier": None,
            "system_fingerprint": None,
            "usage": _usage(sum(self._counts), num_output) | {"prompt_tokens_details": None},
            "prompt_logprobs": None,
            "kv_transfer_params": None,
        }

    def _choice(self, at: int) -> dict[str, Any]:
        tokens, reason = self._choices[at]
        made: dict[str, Any] = {
            "index": at,
            "logprobs": self._logprobs(tokens),
            "stop_reason": None,
        }
        if not self._is_chat:
            return made | {"text": "".join(tokens), "finish_reason": reason}
        message: dict[str, Any] = {"role": "assistant", "refusal": None, "tool_calls": []}
        if self._tool is None:
            message |= {"content": "".join(tokens), "reasoning": None}
        else:
            function = {"name": self._tool, "arguments": "".join(tokens)}
            call = {"id": "call-1", "type": "function", "function": function}
            message |= {"content": None, "tool_calls": [call]}
            reason = "tool_calls"
        return made | {"message": message, "finish_reason": reason, "token_ids": None}

    def events(self) -> Iterable[dict[str, Any]]:
        told = self._fields.get("stream_options") or {}
        if self._is_chat:
            for at in range(len(self._choices)):
                yield self._event(at, 0, {"role": "assistant", "content": ""}, None)
        longest = max(len(tokens) for tokens, _ in self._choices)
        for number in range(longest):
            for at, (tokens, reason) in enumerate(self._choices):
                if number < len(tokens):
                    is_last = number + 1 == len(tokens)
                    delta = self._delta(tokens[number], number)
                    event = self._event(at, number + 1, delta, reason if is_last else None)
                    event["choices"][0]["logprobs"] = self._logprobs([tokens[number]])
                    yield event
        if told.get("include_usage"):
            num_output = sum(len(tokens) for tokens, _ in self._choices)
            yield {**self._base, "choices": [], "usage": _usage(sum(self._counts), num_output)}

    def _logprobs(self, tokens: Sequence[str]) -> dict[str, Any] | None:
        wanted = self._fields.get("logprobs")
        if wanted is None or wanted is False:
            return None
        if self._is_chat:
            return {"content": [{"token": one, "logprob": self._logprob} for one in tokens]}
        return {"tokens": list(tokens), "token_logprobs": [self._logprob] * len(tokens)}

    def _delta(self, token: str, number: int) -> dict[str, Any]:
        if not self._is_chat:
            return {"text": token}
        if self._tool is None:
            return {"content": token}
        call: dict[str, Any] = {"index": 0, "function": {"arguments": token}}
        if number == 0:
            call |= {"id": "call-1", "type": "function"}
            call["function"]["name"] = self._tool
        return {"tool_calls": [call]}

    def _event(
        self, at: int, num_output: int, delta: dict[str, Any], reason: str | None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": at, "logprobs": None, "finish_reason": reason}
        choice |= {"delta": delta, "token_ids": None} if self._is_chat else delta
        if self._tool is not None and reason == "stop":
            choice["finish_reason"] = "tool_calls"
        event = {**self._base, "choices": [choice]}
        told = self._fields.get("stream_options") or {}
        if told.get("include_usage") and told.get("continuous_usage_stats"):
            event["usage"] = _usage(self._counts[at // self._num_choices], num_output)
        return event


def _usage(num_prompt: int, num_output: int) -> dict[str, Any]:
    return {
        "prompt_tokens": num_prompt,
        "total_tokens": num_prompt + num_output,
        "completion_tokens": num_output,
    }
