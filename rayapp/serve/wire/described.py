"""What the descriptions of our HTTP interfaces have in common: operations, headers and errors of
OpenAPI 3.1. https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
ERROR_REF: Json = {"$ref": "#/components/schemas/Error"}

ERRORS = {
    "401": "No API key, or none that is known",
    "403": "The key may look, not ask",
    "408": "The body did not come in time",
    "415": "Not JSON",
    "429": "The tenant's rate or budget is used up; see retry-after",
    "500": "The server failed",
    "503": "Nothing can answer now; see retry-after",
    "504": "No answer within the deadline",
}
"""What a status means wherever it is answered."""


def errors_of(own: Mapping[str, str]) -> dict[str, str]:
    """In order of status. own: what the others mean here."""
    return dict(sorted({**ERRORS, **own}.items()))


def document_of(
    title: str,
    version: str,
    requires_key: bool,
    tags: Sequence[Json],
    paths: Json,
    schemas: Json,
) -> Json:
    """schemas: of the components, `Error` among them."""
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "tags": list(tags),
        "paths": paths,
        "components": {"schemas": schemas, "parameters": HEADERS},
    }
    if requires_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def get(
    summary: str,
    status: str = "200",
    answered: Json | None = None,
    shown: Json | None = None,
    *,
    errors: Mapping[str, str],
) -> Json:
    """An operation. errors: what each other status means. answered: the schema of an answer.
    shown: one."""
    content: Json = {"application/json": {"schema": answered or {"type": "object"}}}
    if shown is not None:
        content["application/json"]["example"] = shown
    told = {"application/json": {"schema": ERROR_REF}}
    responses: Json = {status: {"description": "Done", "content": content}}
    responses |= {code: {"description": why, "content": told} for code, why in errors.items()}
    return {"summary": summary, "responses": responses}


def post(
    summary: str,
    body: Json,
    sent: Json,
    status: str = "200",
    answered: Json | None = None,
    shown: Json | None = None,
    *,
    errors: Mapping[str, str],
) -> Json:
    """An operation with a body. sent: a good one."""
    made = get(summary, status, answered, shown, errors=errors)
    content = {"application/json": {"schema": body, "example": sent}}
    made["requestBody"] = {"required": True, "content": content}
    return made


def headers(*names: str) -> list[Json]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _header(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "header", "schema": schema, "description": description}


HEADERS: Json = {
    "x-request-id": _header(
        "x-request-id",
        {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        "An id of your own for the answer, by which it can be explained",
    ),
    "x-deadline-ms": _header(
        "x-deadline-ms",
        {"type": "integer", "minimum": 0, "maximum": 10**9 - 1},
        "Milliseconds that the answer may take; no more than the server allows",
    ),
    "x-unit-id": _header(
        "x-unit-id",
        {"type": "string"},
        "Whom the request is about: the same one gets the same arm of a split",
    ),
}
"""What a request may say in its headers. A key has its place in the security schemes: OpenAPI
passes over a parameter of the name authorization."""
