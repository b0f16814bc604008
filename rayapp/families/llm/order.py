"""The order in which a worker sees its sequences: a function of the seed and of how far it is.

Passes follow one another without end, and a step takes its sequences wherever the last one left
off; so no sequence is left out, and a resumed fit goes on exactly where it stood.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rayapp.errors import DataError
from rayapp.families.llm.packing import Packed

SHUFFLED_SEQUENCES = 8_192
"""Sequences that are mixed at a time; a shard that is larger is mixed in windows of this size."""
Source = Callable[[], Iterator[Packed]]


@dataclass(frozen=True)
class Place:
    """How far a worker is. taken: sequences of this pass that were learned from."""

    num_passes: int = 0
    taken: int = 0


def steps(
    source: Source, batch_size: int, seed: int, start: Place
) -> Iterator[tuple[Packed, Place]]:
    """The sequences of each step from `start` on, and the place after it.

    Raises DataError where a pass yields no sequence.
    """
    held: list[Packed] = []
    num_held = 0
    for piece, place in _endless(source, seed, start):
        before = place.taken - len(piece)
        used = 0
        while num_held + len(piece) - used >= batch_size:
            wanted = batch_size - num_held
            held.append(piece.take(slice(used, used + wanted)))
            used += wanted
            yield Packed.joined(held), Place(place.num_passes, before + used)
            held, num_held = [], 0
        if used < len(piece):
            held.append(piece.take(slice(used, None)))
            num_held += len(piece) - used


def _endless(source: Source, seed: int, start: Place) -> Iterator[tuple[Packed, Place]]:
    """Shuffled windows, and the place after each."""
    num_passes, skip = start.num_passes, start.taken
    while True:
        generator = np.random.default_rng((seed, num_passes))
        taken = 0
        for window in _windows(source()):
            shuffled = window.take(generator.permutation(len(window)))
            taken += len(window)
            new = min(len(window), max(0, taken - skip))
            if new:
                yield shuffled.take(slice(len(window) - new, None)), Place(num_passes, taken)
        if not taken:
            raise DataError("a pass over the training rows yielded none", "check the train split")
        num_passes, skip = num_passes + 1, 0


def _windows(batches: Iterator[Packed]) -> Iterator[Packed]:
    held: list[Packed] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= SHUFFLED_SEQUENCES:
            yield Packed.joined(held)
            held = []
    if any(map(len, held)):
        yield Packed.joined(held)
