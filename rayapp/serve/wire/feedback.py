"""The body of POST /feedback: what happened after an answer, by request id. Pure."""

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rayapp.errors import RequestError
from rayapp.families.inputs import shown
from rayapp.schemas.traffic import LARGEST_ROW, Feedback
from rayapp.serve.wire.protocols import bad_request, decode_json

_FIELDS = set(Feedback.model_fields)
_CONTENT = ("label", "score", "comment")
_WANTED = {
    "request_id": "a text",
    "row": f"a whole number from 0 to {LARGEST_ROW}",
    "at": "an ISO 8601 time in the years 1 to 9999",
    "label": "a text, true, false or a finite number",
    "score": "a finite number",
    "comment": "a text",
}
_KINDS = {
    **dict.fromkeys(("greater_than_equal", "less_than_equal", "int_parsing_size"), "range"),
    "finite_number": "not_finite",
}
"""By pydantic's kind of error."""


def parse_feedback(body: bytes, now: datetime) -> dict[str, Any]:
    """{request_id, row?, label | score | comment, at?} as the record that is kept; `at` is now
    unless the caller says when the outcome became known. Raises RequestError."""
    given = decode_json(body)
    unknown = sorted(set(given) - _FIELDS)
    if unknown:
        raise bad_request(
            f"feedback has no field {shown(unknown[0])}",
            f"fields are {', '.join(Feedback.model_fields)}",
            unknown[0],
        )
    if not given.get("request_id"):
        raise bad_request(
            "request_id is missing", "send the x-request-id of the answer", "request_id"
        )
    if all(given.get(name) is None for name in _CONTENT):
        raise bad_request(
            "feedback without a label, a score or a comment says nothing",
            "send at least one of label, score, comment",
            "label",
        )
    try:
        record = Feedback.model_validate({"at": now, **given})
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise RequestError(
            f"{name} is {shown(given[name])}, must be {_WANTED[name]}",
            f"send {_WANTED[name]} as {name}",
            422,
            _KINDS.get(problem["type"], "wrong_type"),
            name,
        ) from None
    return record.model_dump()
