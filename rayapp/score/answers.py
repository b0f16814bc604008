"""What a row is asked, and what is kept of the answer: as in training and evaluation, without an
engine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import orjson
import pyarrow as pa

from rayapp.families.inputs import typed_inputs
from rayapp.families.llm.fields import json_object
from rayapp.families.llm.prompt import Tokenizer, prompt_tokens
from rayapp.schemas.data import ROW_ID_COLUMN
from rayapp.schemas.model import BundleSchema
from rayapp.score.inputs import row_faults
from rayapp.transforms import feature_table

ANSWER_SCHEMA = pa.schema(
    {
        ROW_ID_COLUMN: pa.string(),
        "release_id": pa.string(),
        "input_digest": pa.string(),
        "answer": pa.string(),
        "fields": pa.string(),
        "error": pa.string(),
        "num_prompt_tokens": pa.int64(),
        "num_output_tokens": pa.int64(),
    }
)
"""answer: the model's text, null where it was not asked or could not answer. fields: the answer's
JSON object, null where it is none or the model answers in plain text. error: why the answer is not
what a caller wants, whatever there is of it; null where it is. num_prompt_tokens: 0 where the row
could not be asked."""


@dataclass(frozen=True)
class Limits:
    """In tokens. context: of prompt and answer together; output: of the answer."""

    context: int
    output: int


@dataclass(frozen=True)
class Question:
    """A row as the model reads it. max_tokens: of its answer. error: why it cannot be asked."""

    tokens: Sequence[int]
    max_tokens: int
    error: str | None = None


@dataclass(frozen=True)
class Reply:
    """What an engine made of a question. last_token: None where it gave none. error: empty where it
    could answer."""

    text: str
    num_tokens: int
    last_token: int | None
    error: str


@dataclass(frozen=True)
class Answer:
    """A line of the table, as in ANSWER_SCHEMA."""

    answer: str | None
    fields: str | None
    error: str | None
    num_prompt_tokens: int
    num_output_tokens: int


def questions_of(
    tokenizer: Tokenizer, schema: BundleSchema, limits: Limits, rows: pa.Table
) -> list[Question]:
    """rows: the bundle's inputs, as they are in the snapshot's view."""
    language = schema.language
    assert language is not None, "a language model's bundle says how it is asked"
    typed = typed_inputs(rows, schema.inputs)
    errors = row_faults(typed)
    values = feature_table(language.features, typed.table).to_pylist()
    asked = []
    for row, error in zip(values, errors, strict=True):
        tokens = prompt_tokens(tokenizer, language.chat.messages(row)) if error is None else []
        room = limits.context - len(tokens)
        if error is None and room < 1:
            error = (
                f"the prompt has {len(tokens):,} tokens, the context takes {limits.context:,} "
                "of prompt and answer together"
            )
        asked.append(Question(tokens, min(room, limits.output), error))
    return asked


def answer_of(question: Question, reply: Reply, end: int, fields: Sequence[str]) -> Answer:
    """end: the token that ends a turn."""
    asked = len(question.tokens)
    if reply.error:
        return Answer(None, None, reply.error, asked, 0)
    text = reply.text.strip()
    found, error = _fields(text, fields) if fields else (None, None)
    if reply.num_tokens >= question.max_tokens and reply.last_token != end:
        found, error = None, f"the answer was cut after {reply.num_tokens:,} tokens"
    return Answer(text, found, error, asked, reply.num_tokens)


def unasked(question: Question) -> Answer:
    return Answer(None, None, question.error, len(question.tokens), 0)


def _fields(text: str, wanted: Sequence[str]) -> tuple[str | None, str | None]:
    """The answer's object as JSON, and what is wrong with it."""
    found = json_object(text)
    if found is None:
        return None, "the answer is not a JSON object"
    lacking = [name for name in wanted if name not in found]
    error = f"the answer has no {', '.join(lacking)}" if lacking else None
    return orjson.dumps(found).decode(), error


def in_row_order(
    known: Mapping[int, Answer], found: Iterable[Mapping[int, Answer]], num_rows: int
) -> Iterator[list[Answer]]:
    """The answers of rows 0, 1, … as far as they are there, whatever order they are found in.

    >>> a, b, c = (Answer(text, None, None, 1, 1) for text in "abc")
    >>> [[one.answer for one in some] for some in in_row_order({1: b}, [{2: c}, {0: a}], 3)]
    [['a', 'b', 'c']]
    """
    waiting, begin = dict(known), 0
    for some in chain(({},), found):
        waiting.update(some)
        end = begin
        while end in waiting:
            end += 1
        if end > begin:
            yield [waiting.pop(row) for row in range(begin, end)]
            begin = end
    assert begin == num_rows, "the engine answers every row that it is asked"


def answer_table(
    row_ids: Sequence[str], answers: Sequence[Answer], release_id: str, input_digest: str
) -> pa.Table:
    same = {"release_id": release_id, "input_digest": input_digest}
    lines = [
        {ROW_ID_COLUMN: row_id, **same, **asdict(answer)}
        for row_id, answer in zip(row_ids, answers, strict=True)
    ]
    return pa.Table.from_pylist(lines, ANSWER_SCHEMA)
