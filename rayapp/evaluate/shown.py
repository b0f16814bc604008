"""A few rows of an evaluation in words for its report: what was asked, what is right, and what the
candidate said. A share of right answers says nothing of what is wrong with the others."""

from collections.abc import Callable

import pyarrow as pa

from rayapp.evaluate.graders import score_answer
from rayapp.families.llm.answer import TUNED
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.release import ShownRow
from rayapp.storage import sha256
from rayapp.transforms import feature_table

MOST_OF_EACH = 5
MAX_CHARS = 400
"""Of each text."""


def shown_rows(
    answered: pa.Table, label: str, language: LanguageSchema, redact: Callable[[str], str]
) -> tuple[ShownRow, ...]:
    """Rows that the candidate answers right by exact_match, and then such as it does not. The
    digest of what is asked decides which: nobody picks the good ones, and two candidates show the
    same rows as far as they answer alike. answered: as text.answer_rows gives it; of several
    samples the first is shown."""
    asked = [_asked(row) for row in feature_table(language.features, answered).to_pylist()]
    wanted = answered.column(label).to_pylist()
    given = [said["texts"][0] for said in answered.column(TUNED).to_pylist()]
    rows = sorted(zip(asked, wanted, given, strict=True), key=lambda r: sha256(r[0].encode()))
    found: dict[bool, list[ShownRow]] = {True: [], False: []}
    for row in rows:
        is_right = score_answer(row[1], row[2], language.fields)[0] == 1
        if len(found[is_right]) < MOST_OF_EACH:
            texts = [_cut(redact(text)) for text in row]
            found[is_right].append(
                ShownRow(asked=texts[0], wanted=texts[1], given=texts[2], is_right=is_right)
            )
    return (*found[True], *found[False])


def _asked(features: dict[str, object]) -> str:
    if len(features) == 1:
        return str(*features.values())
    return "\n".join(f"{name}: {value}" for name, value in features.items())


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]} …"
