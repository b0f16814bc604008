"""What an interface says of itself, as those read it who use it: people its page, programs its
description."""

import json
import re
import shlex
from collections.abc import Mapping
from html import unescape
from typing import Any

import httpx


class Moving:
    """A follower whose champions move once they were read so often."""

    problems: Mapping[str, str] = {}

    def __init__(self, before: Mapping[str, Any], after: Mapping[str, Any], num_reads: int) -> None:
        self._reads = [before] * num_reads
        self._after = after
        self.endpoints = frozenset(before)

    @property
    def current(self) -> Mapping[str, Any]:
        return self._reads.pop() if self._reads else self._after


def blocks(page: str) -> list[str]:
    return [unescape(block) for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]


def in_shell(command: str, **variables: str) -> tuple[str, dict[str, str], Any]:
    """What a curl sends: where to, its headers, its body."""
    words = shlex.split(command.replace("\\\n", " "))
    for name, value in variables.items():
        words = [word.replace(f"${name}", value) for word in words]
    headers = [words[place + 1] for place, word in enumerate(words) if word == "-H"]
    body = json.loads(words[words.index("-d") + 1])
    return words[2], dict(header.split(": ", 1) for header in headers), body


async def described(client: httpx.AsyncClient, path: str = "/openapi.json") -> dict[str, Any]:
    async with client:
        response = await client.get(path)
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


def body_schema(document: dict[str, Any], path: str) -> dict[str, Any]:
    """Of what is posted there, with what it refers to."""
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema | {"components": document["components"]}
