"""What the prompt log keeps of texts: all, all but how to reach and identify people, or nothing but
digests. A log that knows a customer's card number is a second place to lose it from.

Patterns find what has a form. Names and addresses have none; who must leave them out takes `text`.
Each looks at a text once from its beginning to its end, whatever is in it: what may repeat without
limit is possessive, and nothing that does is repeated.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any

from rayapp.config.language import Redaction
from rayapp.storage import sha256

MIN_CARD, MAX_CARD = 14, 19
MIN_IBAN, MAX_IBAN = 15, 34
MIN_PHONE, MAX_PHONE = 8, 15
"""Digits, or characters."""
MIN_GROUP, MAX_GROUPS = 3, 6
"""Digits of each group of a card's number, and groups of it."""
MAX_HELD_CHARS = 160
_NO_DIGITS = re.compile(r"\D")
_DIGIT = re.compile(r"\d")
_GROUP = re.compile(r"\d+")
_DATE = re.compile(r"\d{1,2}[./\-]\d{1,2}[./\-](?:\d{2}|\d{4})")


def _is_card(digits: str) -> bool:
    """Luhn's checksum (ISO/IEC 7812-1, annex B), of who issues cards to people."""
    if not MIN_CARD <= len(digits) <= MAX_CARD or digits[0] not in "23456":
        return False
    odd, even = digits[-1::-2], digits[-2::-2]
    doubled = sum(2 * int(d) - 9 * (d > "4") for d in even)
    return (sum(map(int, odd)) + doubled) % 10 == 0


def _hide_card(mark: str, found: re.Match[str]) -> str:
    """Of groups of digits, those that are a card's: what stands before and behind them, as its
    expiry date does, is none of it. From each group on the longest that there is."""
    text, kept, at = found[0], [], 0
    groups = [group.span() for group in _GROUP.finditer(text)]
    number = 0
    while number < len(groups):
        num_groups = _groups_of_card(text, groups, number)
        if num_groups:
            kept += [text[at : groups[number][0]], mark]
            at = groups[number + num_groups - 1][1]
        number += num_groups or 1
    return "".join([*kept, text[at:]])


def _groups_of_card(text: str, groups: Sequence[tuple[int, int]], first: int) -> int:
    """How many of the groups from this one on are one card's number; 0 where none are."""
    digits, longest = "", 0
    for number, (begin, end) in enumerate(groups[first : first + MAX_GROUPS], start=1):
        digits += text[begin:end]
        if end - begin < MIN_GROUP or len(digits) > MAX_CARD:
            break
        if _is_card(digits):
            longest = number
    return longest


def _is_iban(compact: str) -> bool:
    """ISO 13616: the number, its head moved to its end and letters as numbers, is 1 modulo 97."""
    if not MIN_IBAN <= len(compact) <= MAX_IBAN:
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _hide_iban(mark: str, found: re.Match[str]) -> str:
    """Words that follow it may look like its last groups."""
    text = found[0]
    while text:
        if _is_iban(text.replace(" ", "")):
            return mark + found[0][len(text) :]
        text = text.rpartition(" ")[0]
    return found[0]


def _hide_ipv6(mark: str, found: re.Match[str]) -> str:
    try:
        ipaddress.IPv6Address(found[0])
    except ValueError:
        return found[0]
    has_digit = any(c.isdigit() for c in found[0])  # else it may be a name in a program
    return mark if has_digit else found[0]


def _hide_phone(mark: str, found: re.Match[str]) -> str:
    digits = _NO_DIGITS.sub("", found[0])
    if not MIN_PHONE <= len(digits) <= MAX_PHONE or _DATE.fullmatch(found[0]):
        return found[0]
    return mark


def _hide(mark: str, found: re.Match[str]) -> str:
    return mark


def _hide_named(mark: str, found: re.Match[str]) -> str:
    """A number that has none of a telephone number's forms, where it says that it is one."""
    before = found.string[max(0, found.start() - MAX_NAME_CHARS) : found.start()]
    return found[0] if _PHONE_NAME.search(before) is None else mark


_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_BETWEEN = r"[ ()/.\-]{0,3}"
_NO_NUMBER = r"(?<![\w\-/])(?<!\d[.,])"
_Hide = Callable[[str, re.Match[str]], str]
_ALL: tuple[tuple[str, str, _Hide], ...] = (
    (
        "key",
        r"\b(?:rk_|sk-|sk_|gh[pousr]_|github_pat_|glpat-|hf_|AKIA|ASIA|AIza|xox[abprs]-)"
        r"[A-Za-z0-9_\-]{12,}+",
        _hide,
    ),
    ("key", r"\beyJ[\w\-]{8,}+\.[\w\-]{8,}+\.[\w\-]{8,}+", _hide),
    ("key", r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s]*+", _hide),
    ("email", r"(?<![\w.+\-])[\w.+\-]++@[\w\-]++(?:\.[\w\-]++){1,10}", _hide),
    ("iban", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _hide_iban),
    ("card", r"(?<![\w.+])\d(?:[ \-]?\d){13,}+(?!\w)", _hide_card),
    ("ip", rf"(?<![\w.])(?:{_BYTE}\.){{3}}{_BYTE}(?!\.?\w)", _hide),
    ("ip", r"(?<![\w:.])[0-9A-Fa-f:]{3,39}+(?![\w:])", _hide_ipv6),
    # with a country, as +49 30 123456 and 0049 30 123456
    ("phone", rf"(?:(?<![\w+])\+|{_NO_NUMBER}00)[1-9](?:{_BETWEEN}\d){{6,14}}(?!\w)", _hide_phone),
    # with an area, as 030 123456, (0351) 12345-67, 06 12 34 56 78 and 01512345678
    (
        "phone",
        rf"{_NO_NUMBER}\(?0[1-9]\d{{0,4}}(?:{_BETWEEN}\d\d){{2,5}}\d?(?!\w|-\w)",
        _hide_phone,
    ),
    # as (555) 123-4567, 555.123.4567 and 1-555-123-4567
    (
        "phone",
        rf"{_NO_NUMBER}(?:1[ .\-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .\-])\d{{3}}[ .\-]\d{{4}}"
        r"(?!\w|[.,\-]\d)",
        _hide_phone,
    ),
    # whatever it looks like, where it says what it is
    ("phone", rf"(?<![\w.])\d(?:{_BETWEEN}\d){{5,14}}(?!\w)", _hide_named),
)
"""Kinds in the order in which they are looked for, and what of a finding is hidden."""
_PATTERNS = tuple((f"[{kind}]", re.compile(pattern), hide) for kind, pattern, hide in _ALL)
_PHONE_NAME = re.compile(
    r"\b(?:tele)?(?:phone|fon|fax|mobile|cell|handy|whatsapp|tel|call)"
    r"(?:[ _]?(?:number|nummer|no|nr))?\W{1,12}\Z",
    re.IGNORECASE,
)
MAX_NAME_CHARS = 40
_OPEN_END = re.compile(r"(?<!\S)(?:(?:[A-Z]{1,4}|\S*\d\S*|[^\w\s]+) ){0,40}\S*\Z")
_STRUCTURE = {"role", "type"}
_WORD = re.compile(r"[a-z_]{1,32}")


def without_contacts(text: str) -> str:
    has_digit = _DIGIT.search(text) is not None
    for mark, pattern, hide in _PATTERNS:
        if _may_be_in(mark, text, has_digit):
            text = pattern.sub(_hiding(mark, hide), text)
    return text


def _may_be_in(mark: str, text: str, has_digit: bool) -> bool:
    """Most texts need not be looked through for most kinds."""
    if mark == "[email]":
        return "@" in text
    return has_digit or mark == "[key]"


def _hiding(mark: str, hide: _Hide) -> Callable[[re.Match[str]], str]:
    return lambda found: hide(mark, found)


def settled(text: str) -> int:
    """The length of its beginning in which nothing that may follow the text changes what is found:
    all but the last word and those before it that may be groups of one number with it, though never
    all but more than MAX_HELD_CHARS."""
    tail = text[-MAX_HELD_CHARS:]
    found = _OPEN_END.search(tail)
    return len(text) if found is None else len(text) - len(tail) + found.start()


def redacted(value: Any, level: Redaction) -> Any:
    """A JSON value as the log may keep it: its texts only are changed, but for those that say what
    kind of thing the others are."""
    if level == "nothing":
        return value
    if isinstance(value, str):
        if level == "contacts":
            return without_contacts(value)
        return {"sha256": sha256(value.encode("utf-8", "surrogatepass")), "chars": len(value)}
    if isinstance(value, list):
        return [redacted(one, level) for one in value]
    if isinstance(value, dict):
        return {
            name: one if _is_kind(name, one) else redacted(one, level)
            for name, one in value.items()
        }
    return value


def _is_kind(name: str, value: Any) -> bool:
    return name in _STRUCTURE and isinstance(value, str) and _WORD.fullmatch(value) is not None
