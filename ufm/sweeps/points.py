"""Points of a grid, and what is kept of each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ufm._core.status import Status
from ufm.metrics.definitions import LONG_NAMES
from ufm.model.params import Params
from ufm.model.problem import Problem


class Point(NamedTuple):
    """One point of a grid: a problem, a seed, and options of the optimiser."""

    problem: Problem
    seed: Any
    options: dict[str, Any]


# of the variables that only sweeps have, beside those of histories
OWN_NAMES = {
    "value": "objective at the minimum",
    "lower_bound": "lower bound on the minimum",
    "gap": "value − lower bound",
    "grad_norm": "norm of the gradient along the constraints",
    "steps": "function evaluations or Newton steps",
    "starts": "starting points tried",
    "agreed": "starts that ended at the best value",
    "status": "how it ended",
    "certified": "certified",
    "degenerate": "whether the optimum is the zero point",
    "objective": "objective",
    "H": "features",
    "A": "classifier",
    "b": "bias",
}


class Field(NamedTuple):
    """A data variable: its dimensions and shape beside those of the grid, and what it holds."""

    name: str
    kind: str = "float64"
    dims: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def long_name(self) -> str:
        """What a plot's label says of it."""
        return {**LONG_NAMES, **OWN_NAMES}[self.name]

    @property
    def size(self) -> int:
        """Numbers of one point."""
        return int(np.prod(self.shape, dtype=int))


class Counted(NamedTuple):
    """What a bar counts: the points where a field has a value, and the word for them."""

    name: str
    value: float
    word: str


@runtime_checkable
class Engine(Protocol):
    """What a sweep does at its points: a frozen dataclass whose fields are all that its results depend on.

    Executors pickle it, and a store compares its fields, so these are values that can be told apart by content.
    """

    @property
    def option_names(self) -> tuple[str, ...]:
        """Names that can be swept over beside those of a problem."""
        ...

    @property
    def precision(self) -> str:
        """Of the computation: "float32" or "float64"."""
        ...

    @property
    def states(self) -> tuple[Status, ...]:
        """Ways to end, in the order of the numbers that stand for them in the field `status`."""
        ...

    @property
    def counted(self) -> Counted:
        """What a bar says beside the number of points."""
        ...

    def key(self, point: Point) -> Any:
        """What the points of a batch share; it can be hashed."""
        ...

    def batch_size(self, point: Point) -> int:
        """Points of a batch: a function of shapes alone, so that batches and bits are the same everywhere."""
        ...

    def fields(self, points: Sequence[Point], taken: Sequence[str]) -> list[Field]:
        """Data variables of a grid, none of which may be called as a dimension that is `taken`."""
        ...

    def coords(self) -> dict[str, Any]:
        """Coordinates beside the grid's, as xarray takes them."""
        ...

    def solve(
        self, points: Sequence[Point], advanced: Callable[[int], None], places: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Values by field at each point of a batch, computed on `places`; `advanced` is told how many have ended."""
        ...


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
    tables = [_parameters(point.problem) for point in points]
    sizes = {name: [table[name][1] for table in tables] for name in tables[0]}
    return [
        Field(name, "float64", dims, tuple(max(lengths) for lengths in zip(*sizes[name], strict=True)))
        for name, (dims, _) in tables[0].items()
    ]


def _parameters(problem: Problem) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Dimensions and shape of each factor, and of the bias."""
    dims = {True: ("sample", "axis"), False: ("class", "axis")}
    factors = {factor.name: (dims[factor.samples], factor.shape) for factor in problem.factors()}
    return {**factors, "b": (("class",), (problem.num_classes,))}


def param_values(params: Params) -> dict[str, Any]:
    """The values of `param_fields`."""
    return {name: value for name, value in params._asdict().items() if name != "W"}
