"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), as far as
OpenAI's interface uses them: `data` alone, one line each, and `[DONE]` as the last."""

from typing import Any

import orjson

CONTENT_TYPE = b"text/event-stream; charset=utf-8"
DONE = b"[DONE]"
_DATA, _END = b"data:", b"\n\n"


class EventReader:
    """Bytes come in any pieces; events are whole."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete by now; comments have none."""
        *events, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(_END)
        return [data for event in events if (data := _data_of(event))]


def _data_of(event: bytes) -> bytes:
    lines = [line[len(_DATA) :] for line in event.split(b"\n") if line.startswith(_DATA)]
    return b"\n".join(line.removeprefix(b" ") for line in lines)


def event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + _END


LAST_EVENT = b"data: " + DONE + _END
