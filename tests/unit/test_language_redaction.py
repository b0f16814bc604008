"""What the prompt log keeps of texts: forms that are hidden, what must survive, and how long it
takes to look."""

import re
import re._constants as sre
import re._parser as sre_parser
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayapp.serve.language import redaction
from rayapp.serve.language.redaction import MAX_HELD_CHARS, redacted, settled, without_contacts

SECRET = "Ab1" * 12


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("write to jane.doe+x@mail.example.co.uk now", "write to [email] now"),
        ("a" * 70 + "@example.com", "[email]"),
        ("<bob@example.com>, eve@example.org.", "<[email]>, [email]."),
        ("card 4111 1111 1111 1111", "card [card]"),
        ("card 4111-1111-1111-1111 12/27", "card [card] 12/27"),
        ("card 4111 1111 1111 1111 12 27 123", "card [card] 12 27 123"),
        ("no. 1 378282246310005 is Amex", "no. 1 [card] is Amex"),
        ("5500 0000 0000 0004 4111 1111 1111 1111", "[card] [card]"),
        ("DE89 3704 0044 0532 0130 00", "[iban]"),
        ("DE89370400440532013000, please", "[iban], please"),
        ("to GB29 NWBK 6016 1331 9268 19 THEN WAIT", "to [iban] THEN WAIT"),
        ("from 192.168.0.1.", "from [ip]."),
        ("from 2001:db8::8a2e:370:7334 today", "from [ip] today"),
        (f"rk_0123456789ab_{SECRET}", "[key]"),
        (f"export OPENAI_API_KEY=sk-proj-{SECRET}", "export OPENAI_API_KEY=[key]"),
        (f"ghp_{SECRET} hf_{SECRET} AKIAIOSFODNN7EXAMPLE", "[key] [key] [key]"),
        (f"eyJhbGciOiJI.eyJzdWIiOiIx.{SECRET}", "[key]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END", "[key]-----END"),
        ("+49 151 1234 5678", "[phone]"),
        ("call 0049 30 123456!", "call [phone]!"),
        ("(030) 123456 or 0351/4567-89", "[phone] or [phone]"),
        ("06 12 34 56 78, 06.12.34.56.78", "[phone], [phone]"),
        ("01512345678", "[phone]"),
        ("(555) 123-4567 or 555.123.4567 or 1-555-123-4567", "[phone] or [phone] or [phone]"),
        ('{"phone": 5551234567, "n": 5551234567}', '{"phone": [phone], "n": 5551234567}'),
        ("Tel.: 4567 89", "Tel.: [phone]"),
    ],
)
def test_how_to_reach_and_identify_people_is_hidden(text: str, kept: str) -> None:
    assert without_contacts(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "in 2026, 1234567890 people and 12345678 more, 3.14159265358979 on average",
        "on 2026-11-29 15:45:10, 29.11.2026, 01.02.2026, 11/29/2026 and 02-03-26",
        "2026-11-29T15:45:10.123456Z is 1764431110 or 1764431110123",
        "it costs 1.234.567,89 € or 12,345,678.90 USD or 12 345 678 yen, not 0.12345678",
        "version 10.0.19045.3803, section 1.2.3.4.5, 12:34:56, a 16:9 screen",
        "for i in range(0x0012345678): std::vector<int> a::b; x = y[10:20] # 1e-10",
        "id 123e4567-e89b-12d3-0351-412312341234 of 550e8400-e29b-41d4-a716-446655440000",
        "order 4111111111111112, isbn 978-3-16-148410-0, zip 01067, 90210-1234",
        "user@localhost, @mention, a@b",
        "DE12 NOT AN IBAN, AB12CD34EF56GH",
        "1,234 5,678 9,012 3,456 and 100 200 300 400",
        "learn scikit: sk-learn, task-management-of-many-teams",
    ],
)
def test_what_only_looks_a_little_like_it_survives(text: str) -> None:
    assert without_contacts(text) == text


def test_levels_keep_the_structure() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "I am bob@example.com"}]},
        {"role": "assistant", "content": None, "n": 1, "is": True},
    ]
    assert redacted(messages, "nothing") is messages
    (asked, said) = redacted(messages, "contacts")
    assert asked == {"role": "user", "content": [{"type": "text", "text": "I am [email]"}]}
    assert said == messages[1]
    (asked, said) = redacted(messages, "text")
    (part,) = asked["content"]
    assert (asked["role"], part["type"], said) == ("user", "text", messages[1])
    assert part["text"]["chars"] == 20
    assert len(part["text"]["sha256"]) == 64
    hidden = redacted({"role": "it is Bob"}, "text")
    assert hidden["role"]["chars"] == 9  # a role is one word; no text can pass for one


def patterns() -> Iterator[Any]:
    for _, pattern, _ in redaction._PATTERNS:
        yield pattern
    yield redaction._OPEN_END


def repeats(parsed: Any, is_inside: bool = False) -> Iterator[tuple[bool, bool, int]]:
    """Of each repetition in a pattern: whether it is without end, whether it is within another
    one, and how many ways there are to end it, which is one where it is possessive."""
    for kind, argument in parsed:
        if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            least, most, inner = argument
            is_endless = most is sre.MAXREPEAT
            ways = 1 if kind is sre.POSSESSIVE_REPEAT or is_endless else most - least + 1
            if kind is not sre.POSSESSIVE_REPEAT and is_endless:
                ways = MAX_HELD_CHARS * 10
            yield is_endless, is_inside, ways
            yield from repeats(inner, True)
        elif kind is sre.BRANCH:
            for branch in argument[1]:
                yield from repeats(branch, is_inside)
        elif kind is sre.SUBPATTERN:
            yield from repeats(argument[3], is_inside)


def test_no_pattern_looks_at_a_text_more_than_once() -> None:
    """What is without end is possessive: there is one way through it. What is not, has an end. Only
    the search for an open end has others, and it is given MAX_HELD_CHARS."""
    for pattern in patterns():
        if pattern is redaction._OPEN_END:
            continue
        for is_endless, _, ways in repeats(sre_parser.parse(pattern.pattern)):
            assert not is_endless or ways == 1, pattern.pattern


@pytest.mark.parametrize(
    "unit",
    ["4111 ", "1", "DE89 3704 ", "a.b-", "+49 ", "0351 ", "1.", "ab:", "555-", "A@a.", "eyJ."],
)
def test_findings_are_looked_at_in_proportion_to_the_text(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = [0]

    def counted(hide: Callable[[str, re.Match[str]], str]) -> Any:
        def count(mark: str, found: re.Match[str]) -> str:
            looked_at[0] += len(found[0])
            return hide(mark, found)

        return count

    made = [(mark, pattern, counted(hide)) for mark, pattern, hide in redaction._PATTERNS]
    monkeypatch.setattr(redaction, "_PATTERNS", made)
    amounts = []
    for times in (100, 1_000, 10_000):
        looked_at[0] = 0
        without_contacts(unit * times)
        amounts.append(looked_at[0] / times)
    assert max(amounts) <= len(redaction._PATTERNS) * len(unit)


PIECES = st.sampled_from(
    [
        *("jane@example.com", "+49 151 1234 5678", "4111 1111 1111 1111", "GB29 NWBK 6016 1331"),
        *(" 9268 19", "hello", " ", "\n", ", ", "0351 ", "12/27", "THE ", "é", "word ", "30 "),
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.data())
def test_a_text_in_parts_hides_what_the_whole_does(text: str, data: Any) -> None:
    """As it is recorded: of each part, what is settled, and the rest with the next."""
    sizes = data.draw(st.lists(st.integers(1, 20), max_size=len(text)))
    cuts = [at for at in accumulate(sizes) if at < len(text)]
    kept, rest, begin = "", "", 0
    for cut in [*cuts, len(text)]:
        rest += text[begin:cut]
        begin = cut
        end = settled(rest) if cut < len(text) else len(rest)
        assert len(rest) - end <= MAX_HELD_CHARS
        kept += without_contacts(rest[:end])
        rest = rest[end:]
    if len(text) <= MAX_HELD_CHARS:
        assert kept == without_contacts(text)
