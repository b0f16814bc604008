"""An endpoint whose part in a trace is to be seen."""

from collections.abc import Callable

from rayapp.serve.endpoints.base import Ask, Endpoint, Reply
from rayapp.serve.tracing.span import step


class Traced:
    """Each ask of the wrapped endpoint is a span: a second ask, a stand-in and a shadow are more of
    them. endpoint: whose model it is. release_id: its id, or None while there is none. is_call:
    another process answers."""

    def __init__(
        self,
        inner: Endpoint,
        endpoint: str,
        release_id: Callable[[], str | None],
        is_call: bool = False,
    ) -> None:
        self._inner = inner
        self._endpoint = endpoint
        self._release_id = release_id
        self._is_call = is_call

    async def predict(self, ask: Ask) -> Reply:
        with step(f"model {self._endpoint}", self._is_call) as span:
            if span is not None:
                span.note(
                    {
                        "rayapp.endpoint": self._endpoint,
                        "rayapp.release": self._release_id() or "none",
                        "rayapp.rows": ask.parsed.num_rows,
                    }
                )
            return await self._inner.predict(ask)
