"""Examples of many lengths → sequences of one length, several examples in each.

Examples of one sequence do not see each other: positions start at 0 with each of them, and
`segments` gives the blocks that attention is kept within. What is left over at a sequence's end is
padding, a segment of its own in which nothing is learned.

Shape suffixes: N sequences, L tokens in each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayapp.families.llm.prompt import Example

Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
MAX_OPEN = 64
"""Sequences that are looked through for a gap; the fullest is closed when there are more."""


@dataclass(frozen=True)
class Packed:
    """positions_NL: each token's place in its example. is_answer_NL: tokens to be predicted."""

    tokens_NL: Ints
    positions_NL: Ints
    is_answer_NL: Bools

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> "Packed":
        return cls(
            np.asarray(columns["tokens"], np.int32),
            np.asarray(columns["positions"], np.int32),
            np.asarray(columns["is_answer"], np.bool_),
        )

    def columns(self) -> dict[str, Any]:
        """As a block of a dataset."""
        return {
            "tokens": self.tokens_NL,
            "positions": self.positions_NL,
            "is_answer": self.is_answer_NL,
        }

    def take(self, rows: Any) -> "Packed":
        return Packed(self.tokens_NL[rows], self.positions_NL[rows], self.is_answer_NL[rows])

    @classmethod
    def joined(cls, parts: Sequence["Packed"]) -> "Packed":
        return cls(
            np.concatenate([part.tokens_NL for part in parts]),
            np.concatenate([part.positions_NL for part in parts]),
            np.concatenate([part.is_answer_NL for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.tokens_NL)


def segments(positions_NL: Ints) -> Ints:
    """The number of each token's example within its sequence, from 1."""
    return np.cumsum(positions_NL == 0, axis=1, dtype=np.int32)


def pack(examples: Sequence[Example], sequence_tokens: int, pad_token: int) -> Packed:
    """Each example goes into the first open sequence that has room. An example longer than a
    sequence is the caller's to leave out: ValueError."""
    done: list[list[Example]] = []
    is_open: list[tuple[int, list[Example]]] = []  # tokens that are free, and what is in it
    for one in examples:
        length = len(one.tokens)
        if length > sequence_tokens:
            raise ValueError(f"an example of {length} tokens for sequences of {sequence_tokens}")
        at = next((i for i, (free, _) in enumerate(is_open) if free >= length), None)
        if at is None:
            if len(is_open) == MAX_OPEN:
                fullest = min(range(MAX_OPEN), key=lambda i: is_open[i][0])
                done.append(is_open.pop(fullest)[1])
            is_open.append((sequence_tokens - length, [one]))
        else:
            free, inside = is_open[at]
            is_open[at] = (free - length, [*inside, one])
    return _laid_out([*done, *[inside for _, inside in is_open]], sequence_tokens, pad_token)


def _laid_out(
    sequences: Sequence[Sequence[Example]], sequence_tokens: int, pad_token: int
) -> Packed:
    shape = (len(sequences), sequence_tokens)
    tokens_NL = np.full(shape, pad_token, np.int32)
    positions_NL = np.zeros(shape, np.int32)
    is_answer_NL = np.zeros(shape, np.bool_)
    for n, inside in enumerate(sequences):
        start = 0
        for one in inside:
            stop = start + len(one.tokens)
            tokens_NL[n, start:stop] = one.tokens
            positions_NL[n, start:stop] = np.arange(stop - start)
            is_answer_NL[n, start + one.num_prompt_tokens : stop] = True
            start = stop
        positions_NL[n, start:] = np.arange(sequence_tokens - start)
    return Packed(tokens_NL, positions_NL, is_answer_NL)
