"""Duplicates across blocks, decided by content alone.

Of the rows that share a key, the one with the smallest row hash is kept. Rows that agree entirely
have the same hash; one of them is kept, and which one cannot be told. So the verdict is the same
whatever the number of blocks and the order of rows. Needs the hashes of all rows in memory: 32
bytes a row and key.

Shape suffix: N rows of all parts, M rows whose keys occur more than once.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.data.digest import RowHashes, Words

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


def duplicates(
    rows: Sequence[RowHashes], keys: Sequence[RowHashes], competes: Sequence[Flags]
) -> list[Places]:
    """For each part, the places of the rows that must give way to another one with the same key.

    Each argument has one element a part. competes: false for rows that are bad already, which
    neither give way nor make another row give way.
    """
    places = _sharing([own.lanes_N[0] for own in keys], competes)
    lanes = [
        np.concatenate([own.lanes_N[lane][at] for own, at in zip(hashes, places, strict=True)])
        for hashes in (rows, keys)
        for lane in (1, 0)
    ]
    order_M = np.lexsort(lanes)  # the last one counts first: by key, then by row
    key_low_M, key_M = (lane_M[order_M] for lane_M in lanes[2:])
    same_M = (key_M[1:] == key_M[:-1]) & (key_low_M[1:] == key_low_M[:-1])
    gives_way_M = np.zeros(len(order_M), dtype=bool)
    gives_way_M[order_M[1:][same_M]] = True
    stops = np.cumsum([len(at) for at in places])[:-1]
    return [at[own_M] for at, own_M in zip(places, np.split(gives_way_M, stops), strict=True)]


def _sharing(keys: Sequence[Words], competes: Sequence[Flags]) -> list[Places]:
    """For each part, the places of competing rows whose key occurs more than once in its first
    lane; usually there is none."""
    key_N = np.concatenate(keys)
    sorted_N = np.sort(key_N)
    repeated = np.unique(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    if not len(repeated):
        return [np.array([], np.int64) for _ in keys]
    # Arrow's is_in builds a hash table; NumPy's would sort all keys again
    shared_N = pc.is_in(pa.array(key_N), value_set=pa.array(repeated)).to_numpy(False)
    ends = np.cumsum([0, *map(len, keys)])
    return [
        np.flatnonzero(shared_N[start:stop] & own)
        for (start, stop), own in zip(itertools.pairwise(ends), competes, strict=True)
    ]
