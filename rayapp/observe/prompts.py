"""The prompt log: what language models were asked and answered, as far as the serving config keeps
it, and what it cost."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from rayapp.observe.commit import RecordTable
from rayapp.observe.tables import TIME, answered, dated, on_dates, parsed, read_table, where
from rayapp.schemas.language import PromptRecord
from rayapp.storage import Workspace

PROMPTS_TABLE = "prompts"
_SCHEMA = pa.schema(
    {
        "endpoint": pa.string(),
        "date": pa.string(),
        "request_id": pa.string(),
        "part": pa.int64(),
        "release_id": pa.string(),
        "at": TIME,
        "route": pa.string(),
        "num_prompt_tokens": pa.int64(),
        "num_cached_tokens": pa.int64(),
        "num_output_tokens": pa.int64(),
        "latency_ms": pa.float64(),
        "first_token_ms": pa.float64(),
        "finish_reason": pa.string(),
        "prompt": pa.string(),
        "output": pa.string(),
        "degraded": pa.string(),
        "arm": pa.string(),
        "propensity": pa.float64(),
        "unit": pa.string(),
        "tenant": pa.string(),
        "trace_id": pa.string(),
        "cost_nano_usd": pa.int64(),
        "loan_id": pa.string(),
        "token_loan_id": pa.string(),
        "prompt_digest": pa.string(),
        "confidence": pa.float64(),
        "max_error": pa.float64(),
    }
)


def _rows(records: Sequence[bytes]) -> pa.Table:
    return dated(parsed(b"".join(record + b"\n" for record in records), _SCHEMA))


PROMPTS = RecordTable(
    _SCHEMA,
    ("endpoint", "date"),
    _rows,
    # a model's answers differ each time, so one that was begun twice was paid for twice
    key=("endpoint", "tenant", "request_id", "part", "at"),
)


def read_prompts(
    table_uri: str,
    endpoint: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    request_id: str | None = None,
) -> pa.Table:
    """Committed parts of answers in order of time; no rows where there is no table yet. since is
    included, until is not."""
    wanted = where(endpoint, since, until, request_id) & on_dates(since, until)
    found = read_table(table_uri, _SCHEMA, wanted)
    return found.sort_by([("at", "ascending"), ("request_id", "ascending"), ("part", "ascending")])


def find_prompts(
    workspace: Workspace, request_id: str, with_shadows: bool = False
) -> list[PromptRecord]:
    """The parts of the answer to a request; empty while they are not committed. with_shadows: also
    of what shadows made of it, which nobody was answered with."""
    table = read_prompts(workspace.table(PROMPTS_TABLE), request_id=request_id)
    if not with_shadows:
        table = answered(table)
    return [PromptRecord(**row) for row in table.drop_columns(["date"]).to_pylist()]
