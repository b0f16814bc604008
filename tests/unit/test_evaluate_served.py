"""A judge behind OpenAI's HTTP interface: what is sent, what is tried again, what is refused."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from rayapp.config.judging import ServedJudgeConfig
from rayapp.errors import ConfigError, JudgeRefused, Unavailable, UserError
from rayapp.evaluate.served import Response, ServedJudge, key_of

CHATS = [[{"role": "user", "content": f"is {i} right?"}] for i in range(5)]
KEY = "sk-secret"


def answer(text: str | None, model: str = "m", **headers: str) -> Response:
    body = {"model": model, "choices": [{"message": {"content": text}}]}
    return Response(200, headers, json.dumps(body).encode())


@dataclass
class Service:
    """Gives these one after the other, then the last one again. An OSError is raised."""

    given: Sequence[Response | OSError]
    asked: list[tuple[str, dict[str, Any], Mapping[str, str]]] = field(default_factory=list)
    slept_s: list[float] = field(default_factory=list)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], _: float) -> Response:
        self.asked.append((url, json.loads(body), headers))
        found = self.given[min(len(self.asked), len(self.given)) - 1]
        if isinstance(found, OSError):
            raise found
        return found

    def replies(self, chats: Sequence[Any] = CHATS[:1], **settings: Any) -> list[str]:
        given = {"url": "http://judge/v1", "model": "big", "concurrency": 1, **settings}
        config = ServedJudgeConfig.model_validate(given)
        return ServedJudge(config, KEY, 8, self.post, self.slept_s.append).replies(chats)


def test_each_chat_is_asked_for_its_likeliest_words() -> None:
    service = Service([answer(text) for text in ("a", "b", None)])
    assert service.replies(CHATS[:3]) == ["a", "b", ""]
    url, body, headers = service.asked[1]
    assert url == "http://judge/v1/chat/completions"
    assert body == {"model": "big", "messages": CHATS[1], "temperature": 0, "max_tokens": 8}
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_several_at_a_time_keep_their_order() -> None:
    def post(_: str, body: bytes, *__: Any) -> Response:
        return answer(json.loads(body)["messages"][0]["content"])

    config = ServedJudgeConfig(url="http://judge/v1", model="m", concurrency=4)
    told: list[int] = []
    found = ServedJudge(config, None, 8, post).replies(CHATS, told.append)
    assert found == [chat[0]["content"] for chat in CHATS]
    assert told == [1, 2, 3, 4, 5]


def test_one_that_has_too_much_to_do_is_asked_again() -> None:
    busy = Response(429, {"Retry-After": "7"}, b"")
    service = Service([OSError("refused"), busy, Response(503, {}, b""), answer("a")])
    assert service.replies() == ["a"]
    assert service.slept_s == [1, 7, 4]


def test_one_that_stays_away_ends_it() -> None:
    service = Service([OSError("connection refused")])
    with pytest.raises(Unavailable, match=r"did not answer in 3 tries \(connection refused\)"):
        service.replies(num_tries=3)
    assert (len(service.asked), len(service.slept_s)) == (3, 2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Response(401, {}, f"no such key: {KEY}".encode()), "status 401: no such key: [key]"),
        (Response(302, {"Location": "http://elsewhere"}, b""), "status 302"),
        (Response(200, {}, b"<html>"), "no answer by OpenAI's interface: <html>"),
        (Response(200, {}, b'{"choices": []}'), "no answer by OpenAI's interface"),
    ],
)
def test_what_is_refused_is_asked_once(given: Response, says: str) -> None:
    service = Service([given])
    with pytest.raises(UserError) as error:
        service.replies()
    assert says in str(error.value)
    assert KEY not in str(error.value)
    assert len(service.asked) == 1


def test_two_models_are_no_one_judge() -> None:
    first, second = answer("a", **{"X-Release": "r1"}), answer("a", **{"x-release": "r2"})
    with pytest.raises(JudgeRefused, match="2 models answered: r1, r2"):
        Service([first, second]).replies(CHATS[:2])
    assert Service([first, first]).replies(CHATS[:2]) == ["a", "a"]


def test_who_was_measured_is_who_judges() -> None:
    """Anchors are asked first, answers minutes later."""
    service = Service([answer("a", **{"x-release": "r1"}), answer("a", **{"x-release": "r2"})])
    config = ServedJudgeConfig(url="http://judge/v1", model="big", concurrency=1)
    judge = ServedJudge(config, None, 8, service.post)
    judge.replies(CHATS[:1])
    with pytest.raises(JudgeRefused, match="2 models answered: r1, r2"):
        judge.replies(CHATS[1:2])


def test_the_key_is_the_environments() -> None:
    config = ServedJudgeConfig(url="http://judge/v1", model="m", key_env="JUDGE_KEY")
    assert key_of(config, {"JUDGE_KEY": KEY}) == KEY
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        key_of(config, {})
    assert key_of(ServedJudgeConfig(url="http://judge/v1", model="m"), {"JUDGE_KEY": KEY}) is None
