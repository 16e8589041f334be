"""What was fed as a flat dict of arrays that add up over ranks, and back.

Each array is a sum over samples, which adds up, or what all ranks share, of which the sum over so many parts is that
many times as much: their number, a sum like the others, makes it one again. So whatever adds arrays up, name by name,
merges what was fed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ufm._core.checks import doubles, instance

SAME = 1e-9  # relative, of what parts share, which may have been rounded differently
SUM, SHARED, PARTS, SQUARES = "sum_", "shared_", "parts", "shared_squares"


class State(NamedTuple):
    """What ranks share, and their sums: arrays by name."""

    shared: dict[str, np.ndarray]
    sums: dict[str, np.ndarray]


def packed(shared: Mapping[str, Any], sums: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """One flat dict, of one part."""
    arrays = {f"{SHARED}{name}": value for name, value in shared.items()}
    squares = _squares(shared)
    arrays |= {PARTS: 1.0, SQUARES: squares, **{f"{SUM}{name}": value for name, value in sums.items()}}
    return {name: np.array(value, np.float64) for name, value in arrays.items()}


def unpacked(state: Any) -> State:
    """What `packed` gave, or a sum of what it gave.

    Raises:
        ValueError: for what is no such dict, and for parts that don't share what they have to.
    """
    needed = "the dict of arrays that state() gives, or the sum of several,"
    instance("state", state, Mapping, needed)
    arrays = {name: doubles(f"state[{name!r}]", array) for name, array in state.items()}
    if not {PARTS, SQUARES} <= arrays.keys() or not arrays[PARTS] >= 1:
        raise ValueError(f"state with keys {', '.join(map(str, state))}: {needed} is needed")
    parts = arrays.pop(PARTS)
    squares = arrays.pop(SQUARES) / parts
    shared = {name.removeprefix(SHARED): array / parts for name, array in arrays.items() if name.startswith(SHARED)}
    # of different arrays the mean of squares is more than the square of the mean
    found = _squares(shared)
    if squares.shape != found.shape or np.any(squares - found > SAME * squares):
        raise ValueError(
            "state: its parts differ in what they have to share: number of classes, options, and in a second pass the "
            "sums of the first and the classifier"
        )
    sums = {name.removeprefix(SUM): array for name, array in arrays.items() if name.startswith(SUM)}
    return State(shared, sums)


def _squares(shared: Mapping[str, Any]) -> np.ndarray:
    """Sums of squares, one for each array in the order of names, so that none is lost beside a larger one."""
    return np.array([np.vdot(shared[name], shared[name]) for name in sorted(shared)], np.float64)
