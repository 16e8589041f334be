"""Which rows of a table are equal, in time linear in their number but for one sort of as many integers."""

import numpy as np

ODD = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64 (Steele, Lea & Flood 2014), a bijection of 64 bits


def distinct_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rows appear first, and which of these each row is: `table[first][index]` is the table.

    Args:
        table: (M, C) finite float64 without negative zeros: rows are equal where all entries are.

    Returns:
        first: (G,) ascending, the first of each of the G distinct rows.
        index: (M,) from 0 to G − 1.
    """
    first, index = _by(_hashes(table))
    if np.array_equal(table[first][index], table):
        return first, index
    return _by(_ranks(table))  # two different rows have one hash, which hardly ever happens


def _by(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one integer a row."""
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[index]


def _hashes(table: np.ndarray) -> np.ndarray:
    """(M,) 64-bit integers, equal where rows are."""
    bits = np.ascontiguousarray(table, np.float64).view(np.uint64)
    hashes = np.zeros(len(table), np.uint64)
    for column in bits.T:
        hashes = _mixed(hashes ^ column)
    return hashes


def _mixed(bits: np.ndarray) -> np.ndarray:
    for shift, odd in zip((30, 27), ODD, strict=True):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(odd)
    return bits ^ (bits >> np.uint64(31))


def _ranks(table: np.ndarray) -> np.ndarray:
    """(M,) places of rows in their lexicographic order, equal where rows are."""
    order = np.lexsort(table.T)
    ordered = table[order]
    ranks = np.empty(len(table), np.intp)
    ranks[order] = np.cumsum(np.r_[False, np.any(ordered[1:] != ordered[:-1], axis=1)])
    return ranks
