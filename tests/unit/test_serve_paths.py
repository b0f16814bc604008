"""Which path does what, and what is remembered of the paths that callers make up."""

import pytest

from rayapp.errors import RequestError
from rayapp.serve.paths import MAX_CHARS, MAX_PATHS, Paths


def paths() -> Paths:
    return Paths({"/": {}}, of_model={"/infer": {}}, of_endpoint={"/invocations": {}})


def test_a_long_path_is_understood_and_not_remembered() -> None:
    made = paths()
    for name in ("a", "b" * 65_536):
        for _ in range(2):
            routed = made.routed(f"/v2/models/{name}/infer")
            assert (routed.name, routed.template) == (name, "/v2/models/{name}/infer")
    assert list(made._known) == ["/v2/models/a/infer"]


def test_what_is_remembered_is_bounded() -> None:
    made = paths()
    prefix, suffix = "/endpoints/", "/invocations"
    for number in range(MAX_PATHS + 10):
        made.routed(f"{prefix}{number:0>{MAX_CHARS - len(prefix + suffix)}}{suffix}")
    assert len(made._known) == 10
    assert max(map(len, made._known)) == MAX_CHARS


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/completions", "/embeddings", "/models", "/models/small"]
)
def test_a_client_of_language_models_is_told_where_they_are(path: str) -> None:
    with pytest.raises(RequestError) as refused:
        paths().routed(path)
    assert refused.value.status == 404
    assert "language models are under /v1" in refused.value.next_step


def test_nobody_else_is_told_of_language_models() -> None:
    with pytest.raises(RequestError) as refused:
        paths().routed("/v2/chat")
    assert refused.value.next_step == "GET / lists the paths"
