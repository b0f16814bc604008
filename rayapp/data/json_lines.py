"""Files of one JSON object a line, read as text cells, which the contract's types then convert.

What is no object costs its line. Text stays as it is; numbers, true and false are spelled as JSON
spells them; an object or a list inside is its JSON text. A key that a line leaves out is null.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from rayapp.errors import DataError


def keys_of(uri: str, text: bytes) -> tuple[str, ...]:
    """Every key of the objects in the start of a file, in order of appearance. Raises DataError
    where there is none."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        row = _object(line)
        found |= dict.fromkeys(row or ())
    if not found:
        raise DataError(f"{uri}: no JSON object stands on a line of its own", "check `format`")
    return tuple(found)


def read_json_lines(
    text: bytes, keys: Sequence[str], null_values: Collection[str]
) -> tuple[pa.Table, tuple[str, ...]]:
    """The values of `keys` as text, and the lines that are no JSON object."""
    rows, misshapen = [], []
    for line in text.splitlines():
        if not line.strip():
            continue
        row = _object(line)
        if row is None:
            misshapen.append(line.decode("utf-8", "replace"))
        else:
            rows.append(row)
    cells = {key: [_cell(row.get(key), null_values) for row in rows] for key in keys}
    return pa.table({key: pa.array(column, pa.string()) for key, column in cells.items()}), tuple(
        misshapen
    )


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _cell(value: Any, null_values: Collection[str]) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return None if text in null_values else text
