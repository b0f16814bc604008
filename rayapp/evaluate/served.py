"""Chats answered by a served language model, by OpenAI's HTTP interface, several at a time."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rayapp.config.judging import ServedJudgeConfig
from rayapp.errors import ConfigError, JudgeRefused, Unavailable, UserError
from rayapp.schemas.prompt import Message

BUSY = (408, 429, 500, 502, 503, 504)
"""Statuses by which a service says that another try may be answered."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
_MAX_BODY_CHARS = 300


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


Post = Callable[[str, bytes, Mapping[str, str], float], Response]
"""(url, body, headers, timeout_s) → what came back. Raises OSError where nothing did."""


class _StayThere(urllib.request.HTTPRedirectHandler):
    """A key is for the host that the config names, and for none that it sends us to."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_StayThere)


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Response:
    request = urllib.request.Request(url, body, dict(headers))
    try:
        with _OPENER.open(request, timeout=timeout_s) as found:
            return Response(found.status, dict(found.headers), found.read())
    except urllib.error.HTTPError as error:
        return Response(error.code, dict(error.headers), error.read())
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error


def key_of(config: ServedJudgeConfig, environ: Mapping[str, str]) -> str | None:
    """Raises ConfigError where the variable is not set in the job's environment."""
    if config.key_env is None:
        return None
    if not environ.get(config.key_env):
        raise ConfigError(
            f"evaluation.judge.served.key_env: {config.key_env} is not set where the job runs",
            f"export {config.key_env}=… before `rayapp up`, or in the job's environment",
        )
    return environ[config.key_env]


@dataclass(frozen=True)
class ServedJudge:
    """key: told to the service, and to nobody else. sleep: waits so many seconds. answered_by: the
    models that answered so far, by their releases where the service tells them."""

    config: ServedJudgeConfig
    key: str | None
    max_tokens: int
    post: Post = post
    sleep: Callable[[float], None] = time.sleep
    answered_by: set[str] = field(default_factory=set)

    def replies(
        self,
        chats: Sequence[Sequence[Message]],
        on_progress: Callable[[int], object] = lambda num_replies: None,
    ) -> list[str]:
        """In their order. Raises UserError for what the service refuses, Unavailable where it is
        away, JudgeRefused where not one and the same model answered, these chats and those
        before."""
        said: list[str] = []
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            try:
                for text, who in pool.map(self._reply, chats):
                    said.append(text)
                    self.answered_by.add(who)
                    on_progress(len(said))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if len(self.answered_by) > 1:
            raise JudgeRefused(
                f"judge {self.config.model} at {self.config.url}: {len(self.answered_by)} models "
                f"answered: {', '.join(sorted(self.answered_by))}; the errors of one say nothing "
                "of another's",
                "name one model without fallbacks, and evaluate again once its release is done",
            )
        return said

    def _reply(self, chat: Sequence[Message]) -> tuple[str, str]:
        """What was said, and by what."""
        body = json.dumps(
            {
                "model": self.config.model,
                "messages": list(chat),
                "temperature": 0,
                "max_tokens": self.max_tokens,
            }
        )
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        found = self._tried(body.encode(), headers)
        try:
            fields = json.loads(found.body)
            text = fields["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise self._refused(found, "no answer by OpenAI's interface") from None
        names = {name.lower(): value for name, value in found.headers.items()}
        return text or "", names.get("x-release") or str(fields.get("model"))

    def _tried(self, body: bytes, headers: Mapping[str, str]) -> Response:
        url, wait_s = f"{self.config.url}/chat/completions", FIRST_WAIT_S
        for left in reversed(range(self.config.num_tries)):
            why, asked_s = "", 0.0
            try:
                found = self.post(url, body, headers, self.config.timeout_s)
                if found.status == 200:
                    return found
                if found.status not in BUSY:
                    raise self._refused(found, f"status {found.status}")
                why, asked_s = f"status {found.status}", _retry_after_s(found.headers)
            except OSError as error:
                why = str(error) or type(error).__name__
            if left:
                self.sleep(min(max(wait_s, asked_s), LONGEST_WAIT_S))
                wait_s *= 2
        raise Unavailable(
            f"judge {self.config.model} at {self.config.url} did not answer in "
            f"{self.config.num_tries} tries ({why})",
            "see that it is served, or raise served.num_tries and served.timeout_s",
        )

    def _refused(self, found: Response, what: str) -> UserError:
        said = found.body.decode(errors="replace")
        said = (said.replace(self.key, "[key]") if self.key else said)[:_MAX_BODY_CHARS]
        return UserError(
            f"judge {self.config.model} at {self.config.url}: {what}: {said}",
            "check served.url, served.model and the key that served.key_env names",
        )


def _retry_after_s(headers: Mapping[str, Any]) -> float:
    given = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    return float(given) if str(given).isdigit() else 0.0
