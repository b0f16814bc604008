"""A prompt is a file with tests, which are run when it is read."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from rayapp.config.prompts import PromptConfig

GOOD: dict[str, Any] = {
    "name": "greet",
    "system": "Be brief.",
    "user": 'Greet {name} in {language}, as {"json": true}.',
    "tests": [
        {
            "values": {"name": "Ada", "language": None},
            "user": 'Greet Ada in , as {"json": true}.',
        }
    ],
}


def test_its_version_is_its_content() -> None:
    prompt = PromptConfig.model_validate(GOOD).prompt
    other = PromptConfig.model_validate(GOOD | {"system": "Be very brief."}).prompt
    assert prompt.content_digest() != other.content_digest()
    assert prompt.messages({"name": "Ada", "language": "Greek"}) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": 'Greet Ada in Greek, as {"json": true}.'},
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tests": []}, "at least 1 item"),
        ({"user": "Hello {name}"}, "values for ['language', 'name'], `user` shows ['name']"),
        ({"user": "{name}: {language}"}, "number 1 expects 'Greet Ada in"),
        ({"user": "{name}: {language}"}, "gets 'Ada: '"),
        ({"template": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_a_prompt_that_says_something_else_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        PromptConfig.model_validate(GOOD | changes)
