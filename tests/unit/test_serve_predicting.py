"""What is recorded beside an answer."""

import pytest

from rayapp.serve.predicting import trace_id

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", TRACE),
        (f"00-{TRACE}-{SPAN}-00", TRACE),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", TRACE),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_the_callers_trace_is_found(header: str, expected: str | None) -> None:
    assert trace_id({b"traceparent": header.encode()}) == expected


def test_without_a_header_there_is_no_trace() -> None:
    assert trace_id({}) is None
