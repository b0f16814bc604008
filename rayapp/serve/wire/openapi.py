"""The HTTP interface described for tools: OpenAPI 3.1, made from the bundles' own schemas.

https://spec.openapis.org/oas/v3.1.0 ; each endpoint has its paths, and its rows their columns with
types, limits and allowed values, so a client that keeps to the description is not refused for them.
Each endpoint is a tag. wire/page.py shows the same to people.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rayapp.schemas.data import Column, ColumnType
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.traffic import LARGEST_ROW, UNIT_ID
from rayapp.serve.wire.described import (
    HEADERS,
    Json,
    document_of,
    errors_of,
    get,
    headers,
    post,
)
from rayapp.serve.wire.examples import NOTHING, TIME, LookedUp, answer, outputs, row, tensors
from rayapp.serve.wire.oip import DATATYPES
from rayapp.serve.wire.protocols import LARGEST_KEY, LEAST_KEY

_TYPES: dict[ColumnType, str] = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "timestamp": "string",
}
_ERRORS = errors_of(
    {
        "400": "The request cannot be read",
        "404": "No such endpoint or release",
        "413": "The body or the batch is too large",
        "422": "A row breaks the contract; param names the field",
    }
)
_get, _post = partial(get, errors=_ERRORS), partial(post, errors=_ERRORS)


def describe(
    releases: Mapping[str, Mapping[str, BundleSchema]],
    looked_up: Mapping[str, LookedUp],
    version: str,
    requires_key: bool,
    max_rows: int,
) -> Json:
    """The document. releases: endpoint → release id → schema, the champion's first, of each that
    has a champion now; looked_up: of releases whose endpoint has feeds, by their ids."""
    paths: Json = {
        "/": {"get": _get("Endpoints, their releases and problems, and all paths")},
        "/v2": {"get": _get("Version and extensions of the Open Inference Protocol")},
        "/v2/health/live": {"get": _get("The process answers")},
        "/v2/health/ready": {"get": _get("Every released endpoint is loaded")},
        "/feedback": {
            "post": _post("Say what happened after an answer", _FEEDBACK, _RATED, "202")
            | {"parameters": headers("x-request-id", "x-deadline-ms")}
        },
    }
    rows: Json = {}
    for name, schemas in releases.items():
        release_id, champion = next(iter(schemas.items()))
        rows[name] = _row(champion, looked_up.get(release_id, NOTHING))
        of_endpoint = _of_endpoint(name, schemas, looked_up, max_rows)
        for operations in of_endpoint.values():
            for method, operation in operations.items():
                operation["tags"] = [name]
                if method == "post":
                    operation["parameters"] = headers(*HEADERS)
        paths |= of_endpoint
    tags = [
        {
            "name": name,
            "description": f"The champion is release {next(iter(schemas))}",
            "x-releases": list(schemas),
        }
        for name, schemas in releases.items()
    ]
    components = {**rows, "Error": _ERROR}
    return document_of("rayapp endpoints", version, requires_key, tags, paths, components)


def _of_endpoint(
    name: str,
    schemas: Mapping[str, BundleSchema],
    looked_up: Mapping[str, LookedUp],
    max_rows: int,
) -> Json:
    release_id, champion = next(iter(schemas.items()))
    found = looked_up.get(release_id, NOTHING)
    by_rows = _post(
        f"Ask {name} by MLflow's scoring protocol",
        _records({"$ref": f"#/components/schemas/{name}"}, max_rows),
        {"dataframe_records": [row(champion, found)]},
        "200",
        _predictions(champion),
        {"predictions": [answer(champion)]},
    )
    model = f"/v2/models/{name}"
    made = {
        f"/endpoints/{name}/invocations": {"post": by_rows},
        **_of_model(model, name, release_id, champion, found, max_rows),
    }
    for release_id, schema in schemas.items():
        path, found = f"{model}/versions/{release_id}", looked_up.get(release_id, NOTHING)
        made |= _of_model(path, name, release_id, schema, found, max_rows)
    return made


def _of_model(
    path: str,
    name: str,
    release_id: str,
    schema: BundleSchema,
    looked_up: LookedUp,
    max_rows: int,
) -> Json:
    """The Open Inference Protocol's paths of an endpoint, or of one release of it."""
    return {
        path: {"get": _get("Inputs, outputs and releases")},
        f"{path}/ready": {"get": _get("It is loaded")},
        f"{path}/infer": {
            "post": _post(
                "Ask by the Open Inference Protocol",
                _tensors(schema, looked_up, max_rows),
                {"inputs": tensors(schema, looked_up)},
                "200",
                {"type": "object", "required": ["model_name", "model_version", "id", "outputs"]},
                {
                    "model_name": name,
                    "model_version": release_id,
                    "id": "REQUEST_ID",
                    "outputs": outputs(schema),
                },
            )
        },
    }


def _row(schema: BundleSchema, looked_up: LookedUp) -> Json:
    columns = {column.name: _column(column) for column in schema.inputs}
    needed = [name for name in columns if name not in looked_up.columns]
    columns |= {column.name: _column(column) for column in looked_up.keys}
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
        made |= {"format": "date-time", "examples": [TIME]}
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
    inputs = [_tensor(column, max_rows) for column in schema.inputs]
    listed: Json = {"type": "array", "minItems": len(inputs), "maxItems": len(inputs)}
    if looked_up.columns:
        keys = [_tensor(column, max_rows) for column in looked_up.keys]
        listed["items"] = {"anyOf": [*inputs, *keys]}
        listed["minItems"] -= len(looked_up.columns)
        listed["maxItems"] += len(keys)
    else:
        listed["prefixItems"] = inputs
    return {
        "type": "object",
        "properties": {"id": {"type": ["string", "null"]}, "inputs": listed},
        "required": ["inputs"],
    }


def _tensor(column: Column, max_rows: int) -> Json:
    return {
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


def _predictions(schema: BundleSchema) -> Json:
    """Per row the positive class's probability, every class's for multiclass, or the value."""
    what = f"the value of {schema.label}"
    if schema.task == "binary":
        what = f"the probability that {schema.label} is {schema.classes[1]!r}"
    elif schema.task == "multiclass":
        what = f"the probability of each {schema.label}: {', '.join(schema.classes)}"
    one: Json = {"type": "number"}
    if schema.task == "multiclass":
        size = len(schema.classes)
        one = {"type": "array", "items": one, "minItems": size, "maxItems": size}
    return {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": one}},
        "required": ["predictions"],
        "description": f"Of each row {what}",
    }


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
_RATED: Json = {"request_id": "REQUEST_ID", "row": 0, "label": 1}
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
