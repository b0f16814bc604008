"""Raw rows → packed sequences, as two steps of Ray Data, and what the rows looked like.

    raw columns ─ Tokenise ─▶ tokens, num_prompt_tokens ─ Pack ─▶ tokens, positions, is_answer

Both run where the tokenizer is: in the environment of language models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from rayapp.errors import DataError
from rayapp.families.base import Base, Problem
from rayapp.families.bundle import bundle_inputs
from rayapp.families.llm.packing import pack
from rayapp.families.llm.prompt import Example, Tokenizer, example
from rayapp.families.llm.weights import base_folder
from rayapp.schemas.data import ColumnProfile, Profile, Snapshot
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import EncodedFeature, Feature, LanguageSchema
from rayapp.schemas.prompt import Prompt
from rayapp.transforms import feature_table

Rows = Any  # ray.data.Dataset, which only the data rooms import
NUM_BINS = 16
ROWS_PER_BLOCK = 10_000
"""A process imports transformers first, which takes as long as tokenising so many rows: fewer are
not worth a block of their own."""


@dataclass(frozen=True)
class Tokenise:
    """A block of raw rows → a row of tokens each, by the tokenizer of the base model."""

    base: WeightsRef
    prompt: Prompt
    features: tuple[Feature, ...]
    label: str

    def __call__(self, table: pa.Table) -> pa.Table:
        return tokenise(tokenizer_of(self.base), self.prompt, self.features, self.label, table)


def tokenise(
    tokenizer: Tokenizer,
    prompt: Prompt,
    features: Sequence[Feature],
    label: str,
    table: pa.Table,
) -> pa.Table:
    values = feature_table(features, table).to_pylist()
    answers = table.column(label).to_pylist()
    made = [
        example(tokenizer, prompt.messages(row), answer)
        for row, answer in zip(values, answers, strict=True)
    ]
    return pa.table(
        {
            "tokens": pa.array([one.tokens for one in made], pa.list_(pa.int32())),
            "num_prompt_tokens": pa.array([one.num_prompt_tokens for one in made], pa.int32()),
        }
    )


@dataclass(frozen=True)
class Pack:
    """A block of tokenised rows → sequences. Rows that are too long are left out: `looked_at` has
    counted them."""

    sequence_tokens: int
    pad_token: int = 0

    def __call__(self, table: pa.Table) -> dict[str, Any]:
        examples = [
            Example(row["tokens"], row["num_prompt_tokens"])
            for row in table.to_pylist()
            if len(row["tokens"]) <= self.sequence_tokens
        ]
        return pack(examples, self.sequence_tokens, self.pad_token).columns()


@lru_cache(maxsize=2)
def tokenizer_of(base: WeightsRef) -> Tokenizer:
    from transformers import AutoTokenizer  # in the environment of language models only

    found: Tokenizer = AutoTokenizer.from_pretrained(base_folder(base))
    return found


@dataclass(frozen=True)
class TextSplits:
    """train and tune are materialised datasets of packed sequences."""

    language: LanguageSchema
    base: WeightsRef
    profile: Profile
    num_too_long: int
    train: Rows
    tune: Rows
    features: tuple[EncodedFeature, ...] = ()
    """None are encoded."""

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return self.profile.num_rows

    @property
    def num_sequences(self) -> int:
        return int(self.train.count())

    def problem(self, snapshot: Snapshot, seed: int) -> Problem:
        return Problem(snapshot.task, 0, (), seed, self.num_rows, self.base)


def tokenise_splits(
    snapshot: Snapshot,
    features: Sequence[Feature],
    settings: Mapping[str, Any],
    base: Base,
    train: Rows,
    tune: Rows,
) -> TextSplits:
    """Tokenise and pack both splits once. settings: the family's.

    Raises DataError where a split has no row that fits into a sequence.
    """
    limit = int(settings["sequence_tokens"])
    inputs = [column.name for column in bundle_inputs(features, snapshot.view.columns)]
    step = Tokenise(base.weights, base.prompt, tuple(features), snapshot.label)
    there = {"runtime_env": dict(base.runtime_env)} if base.runtime_env else {}
    packed, profiles, too_long = [], [], 0
    for name, rows in (("train", train), ("tune", tune)):
        rows.context.execution_options.preserve_order = True  # decides what is packed together
        rows.context.enable_progress_bars = False  # the stage shows its own
        rows.context.print_on_execution_start = False
        tokenised = (
            rows.select_columns([*inputs, snapshot.label])
            .map_batches(
                step,
                batch_format="pyarrow",
                batch_size=None,
                **there,
            )
            .materialize()
        )
        profile, num_long = _looked_at(tokenised, limit, name)
        profiles.append(profile)
        too_long += num_long
        packing = Pack(limit)
        packed.append(
            tokenised.map_batches(packing, batch_format="pyarrow", batch_size=None).materialize()
        )
    language = LanguageSchema(
        base_name=base.weights.name,
        base_digest=base.weights.digest,
        method=settings["method"],
        system=base.prompt.system,
        prompt=base.prompt.user,
        prompt_name=base.prompt.name,
        features=tuple(features),
        fields=base.fields,
    )
    return TextSplits(language, base.weights, profiles[0], too_long, packed[0], packed[1])


def _looked_at(tokenised: Rows, limit: int, split: str) -> tuple[Profile, int]:
    """The lengths of rows that fit, and how many do not."""
    lengths = tokenised.map_batches(lengths_of, batch_format="pyarrow", batch_size=None)
    found = [(row["prompt"], row["answer"]) for row in lengths.iter_rows()]
    prompt_N, answer_N = np.array(found, np.int64).reshape(-1, 2).T
    fits_N = prompt_N + answer_N <= limit
    if not fits_N.any():
        longest = int((prompt_N + answer_N).max(initial=0))
        raise DataError(
            f"the {split} split has no row that fits into {limit} tokens; the longest of "
            f"{len(found)} has {longest}",
            "raise llm.sequence_tokens, or check the snapshot's splits",
        )
    columns = (
        _profile("prompt_tokens", prompt_N[fits_N]),
        _profile("answer_tokens", answer_N[fits_N]),
    )
    num_fit = int(fits_N.sum())
    return Profile(num_rows=num_fit, columns=columns), len(found) - num_fit


def lengths_of(table: pa.Table) -> pa.Table:
    tokens = table.column("tokens").combine_chunks().value_lengths()
    prompt = table.column("num_prompt_tokens").combine_chunks()
    answer = [a - b for a, b in zip(tokens.to_pylist(), prompt.to_pylist(), strict=True)]
    return pa.table({"prompt": prompt, "answer": pa.array(answer, pa.int32())})


def _profile(name: str, values_N: Any) -> ColumnProfile:
    counts, edges = np.histogram(values_N, bins=NUM_BINS)
    return ColumnProfile(
        name=name,
        type="number",
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        num_missing=0,
    )
