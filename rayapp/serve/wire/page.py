"""The descriptions of our interfaces as self-contained HTML pages, for people who call."""

import json
import re
from collections.abc import Mapping
from typing import Any

from rayapp.pages import page
from rayapp.serve.wire.protocols import LARGEST_KEY, LEAST_KEY

_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
_USUAL_HOST = "localhost:8000"
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "array": "list",
    "object": "object",
}
_LINE_CHARS = 100
_MAX_VALUES = 40
"""Allowed values of a column that are shown; of more the rest is counted."""


def render_page(document: Mapping[str, Any], host: str) -> str:
    """A complete HTML document. host: where the page was asked for, as the caller says it."""
    has_keys = "security" in document
    feedback = document["paths"]["/feedback"]["post"]
    return _rendered(
        "docs.html",
        document,
        host,
        description="/openapi.json",
        endpoints=[_endpoint(document, tag, has_keys) for tag in document["tags"]],
        feedback=_curl("/feedback", _example(feedback["requestBody"]), has_keys),
    )


def render_models(document: Mapping[str, Any], host: str) -> str:
    """As render_page, of the description of wire/openai_described.py."""
    paths = document["paths"]
    asked = {path: of["post"] for path, of in paths.items() if "post" in of}
    return _rendered(
        "models.html",
        document,
        host,
        description="/v1/openapi.json",
        models=[_model(asked, tag, "security" in document) for tag in document["tags"]],
        paths=[
            {"path": path, "what": operation["summary"], "fields": _fields(operation)}
            for path, operation in asked.items()
        ],
    )


def _rendered(template: str, document: Mapping[str, Any], host: str, **more: Any) -> str:
    operations = [
        (method, path, operation)
        for path, of in document["paths"].items()
        for method, operation in of.items()
    ]
    return page(
        "rayapp.serve.wire",
        template,
        title=document["info"]["title"],
        host=host if _HOST.fullmatch(host) else _USUAL_HOST,
        has_keys="security" in document,
        tags=document["tags"],
        headers=list(document["components"]["parameters"].values()),
        others=[
            {"method": method.upper(), "path": path, "what": operation["summary"]}
            for method, path, operation in operations
            if "tags" not in operation and "requestBody" not in operation
        ],
        errors=[
            {"status": status, "why": response["description"]}
            for status, response in operations[0][2]["responses"].items()
            if not status.startswith("2")
        ],
        **more,
    )


def _model(
    asked: Mapping[str, Mapping[str, Any]], tag: Mapping[str, Any], has_keys: bool
) -> dict[str, Any]:
    name = tag["name"]
    examples = []
    for path, operation in asked.items():
        content = operation["requestBody"]["content"]["application/json"]
        if name in content["schema"]["properties"]["model"]["enum"]:
            body = {**content["example"], "model": name}
            curl = _curl(path, body, has_keys)
            examples.append({"what": operation["summary"], "curl": curl})
    return {
        "name": name,
        "kinds": tag["x-kinds"],
        "release": tag["x-release"],
        "max_context_tokens": tag["x-max-context-tokens"],
        "max_output_tokens": tag["x-max-output-tokens"],
        "asked": examples,
    }


def _fields(operation: Mapping[str, Any]) -> list[dict[str, Any]]:
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    needed = schema["required"]
    fields = sorted(schema["properties"].items(), key=lambda field: field[0] not in needed)
    return [_column(name, described, name in needed) for name, described in fields]


def _endpoint(
    document: Mapping[str, Any], tag: Mapping[str, Any], has_keys: bool
) -> dict[str, Any]:
    name, paths = tag["name"], document["paths"]
    by_rows, by_tensors = f"/endpoints/{name}/invocations", f"/v2/models/{name}/infer"
    asked, asked_tensors = paths[by_rows]["post"], paths[by_tensors]["post"]
    answered = asked["responses"]["200"]["content"]["application/json"]
    body = asked["requestBody"]["content"]["application/json"]["schema"]
    row = document["components"]["schemas"][name]
    return {
        "name": name,
        "releases": tag["x-releases"],
        "max_rows": body["properties"]["dataframe_records"]["maxItems"],
        "answer": answered["schema"]["description"],
        "curl": _curl(by_rows, _example(asked["requestBody"]), has_keys),
        "answered": _text(answered["example"]),
        "curl_tensors": _curl(by_tensors, _example(asked_tensors["requestBody"]), has_keys),
        "answered_tensors": _text(_example(asked_tensors["responses"]["200"])),
        "columns": [
            _column(column, described, column in row["required"])
            for column, described in row["properties"].items()
        ],
    }


def _column(name: str, described: Mapping[str, Any], is_needed: bool) -> dict[str, Any]:
    kinds = _kinds(described)
    words = [_WORDS[kind] for kind in kinds if kind != "null"]
    is_time = described.get("format") == "date-time"
    return {
        "name": name,
        "what": described.get("description", ""),
        "type": "time, ISO 8601 with a zone" if is_time else " or ".join(words),
        "limits": _limits(described),
        "may_be": [
            *(["null"] if "null" in kinds else []),
            *(["left out"] if not is_needed else []),
        ],
    }


def _kinds(described: Mapping[str, Any]) -> list[str]:
    """The types that a value may have."""
    if "anyOf" in described:
        return list(dict.fromkeys(kind for one in described["anyOf"] for kind in _kinds(one)))
    kinds = described.get("type", "string")
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _limits(described: Mapping[str, Any]) -> str:
    values = [value for value in described.get("enum", ()) if value is not None]
    if values:
        shown = ", ".join(str(value) for value in values[:_MAX_VALUES])
        num_more = len(values) - _MAX_VALUES
        return f"one of {shown}" + (f" and {num_more:,} more" if num_more > 0 else "")
    low, high = described.get("minimum"), described.get("maximum")
    low = None if low == LEAST_KEY else low
    high = None if high in (2**63 - 1, LARGEST_KEY) else high
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    if low is not None:
        return f"at least {_number(low)}"
    return "" if high is None else f"at most {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,g}"


def _example(of: Mapping[str, Any]) -> Any:
    return of["content"]["application/json"]["example"]


def _text(value: Any, margin: str = "") -> str:
    """JSON, in as many lines as it takes for each to be a short one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= _LINE_CHARS or not isinstance(value, list | dict):
        return line
    inner = margin + "  "
    if isinstance(value, list):
        parts = [_text(one, inner) for one in value]
    else:
        parts = [f"{json.dumps(key)}: {_text(one, inner)}" for key, one in value.items()]
    listed = ",".join(f"\n{inner}{part}" for part in parts)
    return f"{line[0]}{listed}\n{margin}{line[-1]}"


def _curl(path: str, body: Any, has_keys: bool) -> str:
    """For a shell in which URL, and KEY where one is needed, are set."""
    quoted = _text(body).replace("'", "'\\''")
    headers = ["-H 'content-type: application/json'"]
    if has_keys:
        headers.append('-H "authorization: Bearer $KEY"')
    return " \\\n  ".join([f'curl -s "$URL{path}"', *headers, f"-d '{quoted}'"])
