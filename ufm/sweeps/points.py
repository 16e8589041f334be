"""Points of a grid, and what is kept of each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ufm.model.params import Params
from ufm.model.problem import Problem


class Point(NamedTuple):
    """One point of a grid: a problem, a seed, and options of the optimiser."""

    problem: Problem
    seed: Any
    options: dict[str, Any]


class Field(NamedTuple):
    """A data variable: its dimensions and shape beside those of the grid, and what it holds."""

    name: str
    kind: str = "float64"
    dims: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Numbers of one point."""
        return int(np.prod(self.shape, dtype=int))


def stacked(values: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """(points, size) of a field's values, filled up with NaN to `shape`."""
    if not shape:
        return np.array([[np.nan if value is None else float(value)] for value in values])
    filled = np.full((len(values), *shape), np.nan)
    for row, value in zip(filled, values, strict=True):
        array = np.asarray(np.nan if value is None else value, np.float64)
        row[tuple(slice(0, size) for size in array.shape)] = array
    return filled.reshape(len(values), -1)


def param_fields(points: Sequence[Point]) -> list[Field]:
    """Parameters, filled up with NaN where shapes differ."""
    sizes = [(p.problem.num_samples, p.problem.num_classes, p.problem.dim) for p in points]
    N, K, d = (max(size) for size in zip(*sizes, strict=True))
    shapes = {"H": (("sample", "axis"), (N, d)), "A": (("class", "axis"), (K, d)), "b": (("class",), (K,))}
    return [Field(name, "float64", dims, shape) for name, (dims, shape) in shapes.items()]


def param_values(params: Params) -> dict[str, Any]:
    """The values of `param_fields`."""
    return {name: getattr(params, name) for name in ("H", "A", "b")}
