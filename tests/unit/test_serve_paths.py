"""Which path does what, and what is remembered of the paths that callers make up."""

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
