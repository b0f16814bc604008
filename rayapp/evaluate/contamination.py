"""Whether held-out questions occur in the rows that a model was trained on.

An item is contaminated where a training row has the same text, or where too many of its runs of
words occur in training rows (13 words, as Brown et al. 2020, "Language Models are Few-Shot
Learners", arXiv:2005.14165, app. C, took them). The text is that of the features: what a prompt
says around them is the same in every row. Runs are looked for by Ray Data, a block at a time;
blocks find sets, so the answer does not depend on how the rows are cut.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayapp.config.golden import ContaminationConfig, GoldenConfig
from rayapp.errors import ContaminationRefused, DataError
from rayapp.schemas.model import Feature
from rayapp.schemas.release import Contamination
from rayapp.transforms import feature_table

Rows = Any  # ray.data.Dataset
_WORD = re.compile(r"\w+")
_MAX_NAMED = 5


@dataclass(frozen=True)
class Trace:
    """What a text is recognised by. words: all of them, in lower case with one blank between."""

    words: str
    runs: frozenset[str]


def trace_of(text: str, run_words: int | None) -> Trace:
    """run_words: how many make a run; None looks for none.

    >>> sorted(trace_of("The cat, the hat.", 3).runs)
    ['cat the hat', 'the cat the']
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    last = -1 if run_words is None else len(words) - run_words
    runs = (" ".join(words[i : i + (run_words or 0)]) for i in range(last + 1))
    return Trace(" ".join(words), frozenset(runs))


def texts_of(features: Sequence[Feature], table: pa.Table) -> list[str]:
    """What each row says, feature by feature."""
    rows = feature_table(features, table).to_pylist()
    return ["\n".join("" if v is None else str(v) for v in row.values()) for row in rows]


@dataclass(frozen=True)
class Look:
    """A step of Ray Data: a block of training rows → which of the wanted texts and runs are in
    it."""

    features: tuple[Feature, ...]
    run_words: int | None
    texts: frozenset[str]
    runs: frozenset[str]

    def __call__(self, table: pa.Table) -> pa.Table:
        traces = [trace_of(text, self.run_words) for text in texts_of(self.features, table)]
        texts = {trace.words for trace in traces} & self.texts
        runs = {run for trace in traces for run in trace.runs & self.runs}
        return pa.table(
            {
                "rows": pa.array([len(table)], pa.int64()),
                "texts": pa.array([sorted(texts)], pa.list_(pa.string())),
                "runs": pa.array([sorted(runs)], pa.list_(pa.string())),
            }
        )


def find_contamination(
    items: pa.Table,
    features: Sequence[Feature],
    training: Iterable[Rows],
    config: ContaminationConfig,
) -> tuple[Contamination, list[bool]]:
    """What was found, and for each item whether it is clean. training: the datasets that the model
    has learned or been chosen by."""
    run_words = None if config.max_overlap is None else config.ngram_words
    traces = [trace_of(text, run_words) for text in texts_of(features, items)]
    look = Look(
        tuple(features),
        run_words,
        frozenset(trace.words for trace in traces),
        frozenset(run for trace in traces for run in trace.runs),
    )
    num_rows, texts, runs = 0, set[str](), set[str]()
    for rows in training:
        found = rows.map_batches(look, batch_format="pyarrow", batch_size=None)
        for row in found.iter_rows():
            num_rows += row["rows"]
            texts |= set(row["texts"])
            runs |= set(row["runs"])
    reasons = [_reason(trace, texts, runs, config) for trace in traces]
    return (
        Contamination(
            num_training_rows=num_rows,
            ngram_words=run_words,
            max_overlap=config.max_overlap,
            max_share=config.max_share,
            items=tuple(f"item {n}: {r}" for n, r in enumerate(reasons, 1) if r is not None),
        ),
        [reason is None for reason in reasons],
    )


def _reason(
    trace: Trace, texts: set[str], runs: set[str], config: ContaminationConfig
) -> str | None:
    """Why an item is contaminated; None where it is not."""
    if trace.words in texts:
        return "a training row has the same text"
    if config.max_overlap is None or not trace.runs:
        return None
    overlap = len(trace.runs & runs) / len(trace.runs)
    if overlap <= config.max_overlap:
        return None
    return f"{overlap:.0%} of its runs of {config.ngram_words} words are in training rows"


def refuse_contaminated(golden: GoldenConfig, found: Contamination, num_items: int) -> None:
    """Raises ContaminationRefused where more items are contaminated than may be, DataError where
    too few are left."""
    name, num_found = f"golden set {golden.name} {golden.version}", len(found.items)
    refuse_share(name, found, num_items)
    if num_items - num_found < golden.min_items:
        raise DataError(
            f"{name}: {num_items - num_found} items are not contaminated, min_items is "
            f"{golden.min_items}",
            "add items that no training row has",
        )


def refuse_share(what: str, found: Contamination, num_items: int) -> None:
    """what: the items are called in messages. Raises ContaminationRefused."""
    num_found = len(found.items)
    if num_found / num_items <= found.max_share:
        return
    rest = num_found - _MAX_NAMED
    named = "; ".join(found.items[:_MAX_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
    raise ContaminationRefused(
        f"{what}: {num_found} of {num_items} items occur in the {found.num_training_rows:,} "
        f"training rows, at most {found.max_share:.0%} may: {named}",
        "take them out of the training data or of the set, or raise contamination.max_share",
    )
