"""The HTTP interface described for tools: OpenAPI 3.1, made from the bundles' own schemas.

https://spec.openapis.org/oas/v3.1.0 ; each endpoint has its paths, and its rows their columns with
types, limits and allowed values, so a client that keeps to the description is not refused for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayapp.schemas.data import Column, ColumnType
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.traffic import LARGEST_ROW, UNIT_ID
from rayapp.serve.wire.oip import DATATYPES, output_names
from rayapp.serve.wire.protocols import LARGEST_KEY, LEAST_KEY

Json = dict[str, Any]
_TYPES: dict[ColumnType, str] = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "timestamp": "string",
}
_ERRORS = {
    "400": "The request cannot be read",
    "401": "No API key, or none that is known",
    "403": "The key may look, not ask",
    "404": "No such endpoint or release",
    "408": "The body did not come in time",
    "413": "The body or the batch is too large",
    "415": "Not JSON",
    "422": "A row breaks the contract; param names the field",
    "429": "The tenant's rate is used up; see retry-after",
    "500": "The server failed",
    "503": "Nothing can answer now; see retry-after",
    "504": "No answer within the deadline",
}


@dataclass(frozen=True)
class LookedUp:
    """columns: inputs that need not be sent, since a feed has them. keys: columns by which they are
    found and which are no inputs."""

    columns: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()


def describe(
    schemas: Mapping[str, BundleSchema],
    looked_up: Mapping[str, LookedUp],
    version: str,
    requires_key: bool,
    max_rows: int,
) -> Json:
    """The document. schemas: of each endpoint that has a champion now; looked_up: of those that
    have feeds."""
    paths: Json = {
        "/v2/health/live": {"get": _plain("The process answers")},
        "/v2/health/ready": {"get": _plain("Every released endpoint is loaded")},
        "/feedback": {"post": _operation("Say what happened after an answer", _FEEDBACK, "202")},
    }
    rows: Json = {}
    for name, schema in schemas.items():
        found = looked_up.get(name, LookedUp())
        rows[name] = _row(schema, found)
        row = {"$ref": f"#/components/schemas/{name}"}
        model = f"/v2/models/{name}"
        paths[model] = {"get": _plain(f"Inputs, outputs and releases of {name}")}
        paths[f"{model}/infer"] = {
            "post": _operation(
                f"Ask {name} by the Open Inference Protocol",
                _tensors(schema, found, max_rows),
                "200",
                {"type": "object", "required": ["model_name", "model_version", "id", "outputs"]},
            )
        }
        paths[f"/endpoints/{name}/invocations"] = {
            "post": _operation(
                f"Ask {name} by MLflow's scoring protocol",
                _records(row, max_rows),
                "200",
                _predictions(schema),
            )
        }
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "rayapp endpoints", "version": version},
        "paths": paths,
        "components": {"schemas": {**rows, "Error": _ERROR}},
    }
    if requires_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _row(schema: BundleSchema, looked_up: LookedUp) -> Json:
    columns = {column.name: _column(column) for column in schema.inputs}
    needed = [name for name in columns if name not in looked_up.columns]
    columns |= {name: {"description": "Features are looked up by it"} for name in looked_up.keys}
    if UNIT_ID not in columns:
        columns[UNIT_ID] = {
            "type": ["string", "integer", "null"],
            "minimum": LEAST_KEY,
            "maximum": LARGEST_KEY,
            "description": "The row's business key, which an outcome is joined to later",
        }
    return {
        "type": "object",
        "properties": columns,
        "required": needed,
        "additionalProperties": False,
    }


def _column(column: Column) -> Json:
    kind = _TYPES[column.type]
    made: Json = {"type": [kind, "null"] if column.nullable else kind}
    if column.description:
        made["description"] = column.description
    if column.type == "timestamp":
        made |= {"format": "date-time", "examples": ["2013-10-01T12:00:00Z"]}
    if column.type == "integer":
        made |= {"format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
    if column.minimum is not None:
        made["minimum"] = column.minimum
    if column.maximum is not None:
        made["maximum"] = column.maximum
    if column.allowed is not None:
        values: list[Any] = list(column.allowed)
        if column.type == "integer":
            values = [int(value) for value in values]
        made["enum"] = [*values, None] if column.nullable else values
    return made


def _records(row: Json, max_rows: int) -> Json:
    records = {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}
    return {
        "type": "object",
        "properties": {"dataframe_records": records},
        "required": ["dataframe_records"],
        "additionalProperties": False,
        "description": "dataframe_split, inputs and instances are taken too, as MLflow has them.",
    }


def _tensors(schema: BundleSchema, looked_up: LookedUp, max_rows: int) -> Json:
    inputs = [
        {
            "type": "object",
            "properties": {
                "name": {"const": column.name},
                "datatype": {"const": DATATYPES[column.type]},
                "shape": {
                    "type": "array",
                    "prefixItems": [
                        {"type": "integer", "minimum": 1, "maximum": max_rows},
                        {"const": 1},
                    ],
                    "minItems": 1,
                    "maxItems": 2,
                },
                "data": {
                    "type": "array",
                    "items": _column(column),
                    "minItems": 1,
                    "maxItems": max_rows,
                    "description": "As many as shape says",
                },
            },
            "required": ["name", "datatype", "shape", "data"],
        }
        for column in schema.inputs
    ]
    tensors: Json = {"type": "array", "minItems": len(inputs), "maxItems": len(inputs)}
    if looked_up.columns:
        keys = [{"type": "object", "properties": {"name": {"const": k}}} for k in looked_up.keys]
        tensors["items"] = {"anyOf": [*inputs, *keys]}
        tensors["minItems"] -= len(looked_up.columns)
        tensors["maxItems"] += len(keys)
    else:
        tensors["prefixItems"] = inputs
    return {
        "type": "object",
        "properties": {"id": {"type": ["string", "null"]}, "inputs": tensors},
        "required": ["inputs"],
    }


def _predictions(schema: BundleSchema) -> Json:
    """Per row the positive class's probability, every class's for multiclass, or the value."""
    one: Json = {"type": "number"}
    if schema.task == "multiclass":
        size = len(schema.classes)
        one = {"type": "array", "items": one, "minItems": size, "maxItems": size}
    return {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": one}},
        "required": ["predictions"],
        "description": f"The output {output_names(schema)[0]!r} of each row",
    }


def _operation(summary: str, body: Json, status: str, answer: Json | None = None) -> Json:
    made = _plain(summary, status, answer)
    made["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return made


def _plain(summary: str, status: str = "200", answer: Json | None = None) -> Json:
    content = {"application/json": {"schema": answer or {"type": "object"}}}
    told = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: Json = {status: {"description": "Done", "content": content}}
    responses |= {code: {"description": why, "content": told} for code, why in _ERRORS.items()}
    return {"summary": summary, "responses": responses}


_ERROR: Json = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "next": {"type": "string"},
            },
            "required": ["type", "message", "param", "next"],
        }
    },
    "required": ["error"],
}
_FEEDBACK: Json = {
    "type": "object",
    "properties": {
        "request_id": {"type": "string", "minLength": 1},
        "row": {"type": "integer", "minimum": 0, "maximum": LARGEST_ROW},
        "at": {"type": "string", "format": "date-time"},
        "label": {"type": ["string", "number", "boolean", "null"]},
        "score": {"type": ["number", "null"]},
        "comment": {"type": ["string", "null"]},
    },
    "required": ["request_id"],
    "additionalProperties": False,
    "anyOf": [
        {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
        for name in ("label", "score", "comment")
    ],
}
