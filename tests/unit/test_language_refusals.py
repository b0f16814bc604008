"""What callers are told of a request that an engine does not take."""

from typing import Annotated, Any, Literal

import orjson
import pytest
from pydantic import BaseModel, Field, ValidationError, WrapValidator, model_validator
from typing_extensions import TypedDict

from rayapp.errors import RequestError
from rayapp.serve.language.refusals import MAX_MESSAGE_CHARS, refusal

Wrapped = Annotated[str, WrapValidator(lambda value, handler: handler(value))]


class TextPart(TypedDict):
    type: Literal["text"]
    text: str


class Message(TypedDict):
    role: Wrapped
    content: str | list[TextPart]


class Options(BaseModel):
    logit_bias: dict[str, float] = {}
    messages: list[Message] = []
    stop: str | Annotated[list[str], Field(max_length=2)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _together(cls, given: Any) -> Any:
        if "suffix" in given:
            raise ValueError("it isn't supported (parameter=suffix, value={'a': 1})")
        return given


def _errors(fields: dict[str, Any]) -> ValidationError:
    with pytest.raises(ValidationError) as error:
        Options.model_validate(fields)
    return error.value


def _listed(fields: dict[str, Any]) -> str:
    """As an engine of vLLM passes them on."""
    errors: list[Any] = [
        {**error, "loc": ("body", "function-wrap[__log_extra_fields__()]", *error["loc"])}
        for error in _errors(fields).errors()
    ]
    return f"{len(errors)} validation errors:\n" + "".join(f"  {error}\n" for error in errors)


def _refused(message: Any, param: Any = None) -> RequestError:
    error = {"message": message, "type": "BadRequestError", "param": param, "code": 400}
    return refusal(400, "invalid_request", orjson.dumps({"error": error}))


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"logit_bias": {"a": "b"}}, "logit_bias.a", "Input should be a valid number"),
    ({"stop": ["a", "b", "c"]}, "stop", "Input should be a valid string"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": object()}]}]},
        "messages[0].content",
        "Input should be a valid string",
    ),
    ({"messages": [{"role": 1, "content": "a"}]}, "messages[0].role", "valid string"),
]


@pytest.mark.parametrize(("fields", "param", "says"), CASES)
@pytest.mark.parametrize("told", [_listed, lambda fields: str(_errors(fields))])
def test_the_field_and_the_first_reason_are_told(
    told: Any, fields: dict[str, Any], param: str, says: str
) -> None:
    error = _refused(told(fields), "body.elsewhere")
    assert (error.param, error.status, error.kind) == (param, 400, "invalid_request")
    assert f"`{param}`: " in error.what
    assert says in error.what
    assert param in error.next_step
    for inside in ("validation error", "type", "loc", "pydantic", "function-wrap", "Options"):
        assert inside not in str(error)


@pytest.mark.parametrize("told", [_listed, lambda fields: str(_errors(fields))])
def test_a_reason_that_is_of_no_field_is_told_alone(told: Any) -> None:
    error = _refused(told({"suffix": 1}), "suffix")
    assert error.what == "it isn't supported"
    assert error.param == "suffix"


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ("not that hot", "not that hot"),
        ("\n  the grammar is no grammar\nTraceback …\n  File …", "the grammar is no grammar"),
        ("", "the engine does not take this request"),
        ("3 validation errors:\n  ?", "it is not as it should be"),
    ],
)
def test_else_the_first_line_is_told(message: str, what: str) -> None:
    assert _refused(message).what == what


def test_no_refusal_is_long() -> None:
    assert len(_refused("x" * 10**6).what) == MAX_MESSAGE_CHARS + 1
    assert len(_refused(_listed({"logit_bias": {"a" * 10**5: "b"}})).what) <= MAX_MESSAGE_CHARS + 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error": 1}', b'{"error": "x"}'])
def test_an_answer_that_is_no_error_says_nothing(body: bytes) -> None:
    assert refusal(400, "invalid_request", body).what == "the engine does not take this request"
