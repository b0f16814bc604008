"""Whether one release may answer in another's place without a caller noticing, and what a release
was measured to be."""

from collections.abc import KeysView

from rayapp.schemas.record import short
from rayapp.schemas.release import HIGHER_IS_BETTER
from rayapp.schemas.traffic import UNIT_ID
from rayapp.serve.aside import aside
from rayapp.serve.endpoints.base import Ask
from rayapp.serve.follow import Loaded


def why_not_alike(loaded: Loaded, champion: Loaded | None) -> str | None:
    """Why callers would notice that not the champion answered: its answer has another form, or it
    needs a column that the champion does not take. None where they would not."""
    if champion is None:
        return None
    which = f"release {short(loaded.release_id)}"
    one, other = loaded.schema, champion.schema
    if (one.task, one.classes) != (other.task, other.classes):
        return f"{which}: it does not give the champion's classes"
    known = {column.name for column in other.inputs}
    unknown = [column.name for column in one.inputs if column.name not in known]
    return f"{which} needs {unknown[0]!r}, which the champion does not take" if unknown else None


def columns_of(loaded: Loaded | None) -> frozenset[str] | None:
    """What a release takes; None where there is none."""
    if loaded is None:
        return None
    return frozenset(column.name for column in loaded.schema.inputs)


async def has_columns(ask: Ask, names: frozenset[str] | None) -> bool:
    """Exactly these in every row, a business key aside: a model of fewer columns would pass over a
    misspelt one, and not miss another. Of no names nothing can be said."""
    if names is None:
        return True
    records = ask.parsed.records
    if records is None:
        return _are(ask.parsed.columns.keys(), names)
    return await aside(lambda: all(_are(record.keys(), names) for record in records), ask.is_long)


def _are(keys: KeysView[str], names: frozenset[str]) -> bool:
    return keys == names or keys - {UNIT_ID} == names


def quality_bound(loaded: Loaded, metric: str) -> float | None:
    """The worse end of the metric's interval over all rows of the release's evaluation; None where
    it has none."""
    found = next((one for one in loaded.estimates if one.metric == metric), None)
    if found is None:
        return None
    return found.low if HIGHER_IS_BETTER[metric] else found.high
