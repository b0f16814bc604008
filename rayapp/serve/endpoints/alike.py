"""Whether one release may answer in another's place without a caller noticing, and what a release
was measured to be."""

from rayapp.schemas.release import HIGHER_IS_BETTER
from rayapp.schemas.traffic import UNIT_ID
from rayapp.serve.endpoints.base import Ask
from rayapp.serve.follow import Loaded


def why_not_alike(loaded: Loaded, champion: Loaded | None) -> str | None:
    """Why callers would notice that not the champion answered: its answer has another form, or it
    needs a column that the champion does not take. None where they would not."""
    if champion is None:
        return None
    which = f"release {loaded.release_id[:12]}"
    one, other = loaded.schema, champion.schema
    if (one.task, one.classes) != (other.task, other.classes):
        return f"{which}: it does not give the champion's classes"
    known = {column.name for column in other.inputs}
    unknown = [column.name for column in one.inputs if column.name not in known]
    return f"{which} needs {unknown[0]!r}, which the champion does not take" if unknown else None


def has_columns_of(champion: Loaded, ask: Ask) -> bool:
    """Exactly the champion's in every row: a model of fewer columns would pass over a misspelt one,
    and not miss another."""
    names = {column.name for column in champion.schema.inputs}
    records = ask.parsed.records
    each = [ask.parsed.columns.keys()] if records is None else [r.keys() for r in records]
    return all(keys == names or keys - {UNIT_ID} == names for keys in each)


def quality_bound(loaded: Loaded, metric: str) -> float | None:
    """The worse end of the metric's interval over all rows of the release's evaluation; None where
    it has none."""
    found = next((one for one in loaded.estimates if one.metric == metric), None)
    if found is None:
        return None
    return found.low if HIGHER_IS_BETTER[metric] else found.high
