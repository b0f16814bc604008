"""Duplicates across blocks, decided by content alone.

Of the rows that share a key, the one with the smallest row hash is kept. Rows that agree entirely
have the same hash; one of them is kept, and which one cannot be told. So the verdict is the same
whatever the number of blocks and the order of rows. Needs the hashes of all rows in memory: 32
bytes a row and key.

Shape suffix: N rows of all blocks.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rayapp.data.digest import RowHashes

Flags = npt.NDArray[np.bool_]


def duplicates(rows: RowHashes, keys: RowHashes) -> Flags:
    """True for every row that must give way to another one with the same key."""
    key_N, key_low_N = keys.lanes_N
    gives_way_N = np.zeros(len(key_N), dtype=bool)
    sharing_N = _sharing(key_N)
    if not len(sharing_N):
        return gives_way_N
    row_N, row_low_N = (lane_N[sharing_N] for lane_N in rows.lanes_N)
    order_N = np.lexsort((row_low_N, row_N, key_low_N[sharing_N], key_N[sharing_N]))
    sorted_N = sharing_N[order_N]
    same_N = (key_N[sorted_N][1:] == key_N[sorted_N][:-1]) & (
        key_low_N[sorted_N][1:] == key_low_N[sorted_N][:-1]
    )
    gives_way_N[sorted_N[1:][same_N]] = True
    return gives_way_N


def _sharing(key_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Places whose key occurs more than once in the first lane; usually there is none."""
    sorted_N = np.sort(key_N)
    repeated_N = np.unique(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    if not len(repeated_N):
        return np.array([], dtype=np.int64)
    return np.flatnonzero(np.isin(key_N, repeated_N))


def joined(parts: Sequence[RowHashes]) -> RowHashes:
    first, second = (np.concatenate([p.lanes_N[lane] for p in parts]) for lane in range(2))
    return RowHashes((first, second))
