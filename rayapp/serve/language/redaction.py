"""What the prompt log keeps of texts: all, all but how to reach and identify people, or nothing but
digests. A log that knows a customer's card number is a second place to lose it from.

Patterns find what has a form. Names and addresses have none; who must leave them out takes `text`.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from rayapp.config.language import Redaction
from rayapp.storage import sha256

_DIGITS = re.compile(r"\D")
MIN_CARD, MAX_CARD = 13, 19


def _is_card(text: str) -> bool:
    """Luhn's checksum (ISO/IEC 7812-1, annex B)."""
    digits = [int(d) for d in _DIGITS.sub("", text)]
    if not MIN_CARD <= len(digits) <= MAX_CARD:
        return False
    doubled = [d if at % 2 == 0 else 2 * d - 9 * (d > 4) for at, d in enumerate(digits[::-1])]
    return sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    """ISO 13616: the number, its head moved to its end and letters as numbers, is 1 modulo 97."""
    compact = text.replace(" ", "")
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


_Check = Callable[[str], bool]
_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_ALL: tuple[tuple[str, str, _Check | None], ...] = (
    ("key", r"\b(?:rk_|sk-|ghp_|AKIA|xox[abp]-)[A-Za-z0-9_\-]{12,}", None),
    ("email", r"[\w.+\-]{1,64}@[\w\-]{1,63}(?:\.[\w\-]{1,63})+", None),
    ("iban", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _is_iban),
    ("card", r"\b\d(?:[ \-]?\d){12,18}\b", _is_card),
    ("ip", rf"\b(?:{_BYTE}\.){{3}}{_BYTE}\b", None),
    ("phone", r"(?<![\w.])(?:\+|00)?\d(?:[ ()/.\-]{0,2}\d){7,14}(?!\w)", None),
)
"""Kinds in the order in which they are looked for, and what more than the form must be right."""
_PATTERNS = tuple((f"[{kind}]", re.compile(pattern), check) for kind, pattern, check in _ALL)


def without_contacts(text: str) -> str:
    for mark, pattern, check in _PATTERNS:
        text = pattern.sub(partial(_marked, mark, check), text)
    return text


def _marked(mark: str, check: _Check | None, found: re.Match[str]) -> str:
    return mark if check is None or check(found[0]) else found[0]


def redacted(value: Any, level: Redaction) -> Any:
    """A JSON value as the log may keep it: its texts only are changed."""
    if level == "nothing":
        return value
    if isinstance(value, str):
        if level == "contacts":
            return without_contacts(value)
        return {"sha256": sha256(value.encode("utf-8", "surrogatepass")), "chars": len(value)}
    if isinstance(value, list):
        return [redacted(one, level) for one in value]
    if isinstance(value, dict):
        return {name: redacted(one, level) for name, one in value.items()}
    return value
