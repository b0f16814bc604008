"""An answer's fields, as a caller reads them: who grades answers and who keeps them agree."""

from typing import Any

import orjson


def json_value(text: str) -> Any:
    """The value that the whole text is, by RFC 8259: NaN is none. Raises ValueError."""
    return orjson.loads(text)


def json_object(text: str) -> dict[str, Any] | None:
    """None where the text is no JSON object.

    >>> json_object('{"a": 1}'), json_object('{"a": NaN}'), json_object('{"a": 1} and more')
    ({'a': 1}, None, None)
    """
    try:
        found = json_value(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
