"""What a language model is told: a chat with places for the values of a row."""

import re
from collections.abc import Mapping
from typing import Any

from rayapp.schemas.record import Record

_PLACE = re.compile(r"\{(\w+)\}")
Message = dict[str, str]


class Prompt(Record):
    """name: of the file that it is kept in; its content digest is its version. system: None leaves
    it to the chat template, which may have one of its own. user: text with {name} for a value;
    other braces stand for themselves."""

    name: str
    system: str | None
    user: str

    @property
    def places(self) -> frozenset[str]:
        """The values that it shows."""
        return frozenset(_PLACE.findall(self.user))

    @property
    def is_user_alone(self) -> bool:
        """Whether the user says one value, and nothing around it."""
        return _PLACE.fullmatch(self.user) is not None

    def filled(self, values: Mapping[str, Any]) -> str:
        """What the user says. A null is left empty."""
        return _PLACE.sub(lambda found: _shown(values[found[1]]), self.user)

    def messages(self, values: Mapping[str, Any]) -> list[Message]:
        said = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*said, {"role": "user", "content": self.filled(values)}]


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
