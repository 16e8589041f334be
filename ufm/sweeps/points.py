"""Points of a grid, and what is kept of each."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ufm._core.status import Status
from ufm.metrics.definitions import LONG_NAMES, Metrics
from ufm.metrics.layers import layer_name
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
LAYER = "layer_"  # before the name of a metric of each layer


class Field(NamedTuple):
    """A data variable: its dimensions and shape beside those of the grid, and what it holds."""

    name: str
    kind: str = "float64"
    dims: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def long_name(self) -> str:
        """What a plot's label says of it."""
        if self.name.startswith(LAYER):
            return layer_name(self.name.removeprefix(LAYER))
        hidden = re.fullmatch(r"W(\d+)", self.name)
        return f"hidden layer {hidden[1]}" if hidden else {**LONG_NAMES, **OWN_NAMES}[self.name]

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


def layer_fields(points: Sequence[Point], dims: tuple[str, ...] = (), shape: tuple[int, ...] = ()) -> list[Field]:
    """Metrics of each layer where a point has hidden ones, filled up with NaN where there are fewer."""
    hidden = max(len(point.problem.widths) for point in points)
    whole = (*shape, hidden + 1)
    return [Field(f"{LAYER}{name}", dims=(*dims, "layer"), shape=whole) for name in Metrics._fields] if hidden else []


def layer_values(layers: Metrics | None) -> dict[str, Any]:
    """The values of `layer_fields`, of a point that may have no hidden layers."""
    return {f"{LAYER}{name}": None if layers is None else getattr(layers, name) for name in Metrics._fields}


def param_fields(points: Sequence[Point]) -> list[Field]:
    """Parameters, filled up with NaN where shapes differ, or where a point has fewer hidden layers."""
    hidden = max(len(point.problem.widths) for point in points)
    sizes: dict[str, int] = {}
    for name, size in (entry for point in points for entry in _sizes(point.problem, hidden)):
        sizes[name] = max(size, sizes.get(name, 0))
    units = ["axis", *(f"unit{j}" for j in range(hidden))]
    dims = {"H": ("sample", "axis"), "A": ("class", "read" if hidden else "axis"), "b": ("class",)}
    dims |= {f"W{j}": (units[j + 1], units[j]) for j in range(hidden)}
    return [Field(name, "float64", of, tuple(sizes[each] for each in of)) for name, of in dims.items()]


def _sizes(problem: Problem, hidden: int) -> Iterator[tuple[str, int]]:
    """Sizes of the dimensions of a problem's parameters, of a sweep whose deepest point has so many hidden layers."""
    yield from (("sample", problem.num_samples), ("axis", problem.dim), ("class", problem.num_classes))
    yield from ((f"unit{j}", width) for j, width in enumerate(problem.widths))
    if hidden:
        yield "read", (problem.dim, *problem.widths)[-1]


def param_values(params: Params) -> dict[str, Any]:
    """The values of `param_fields`."""
    hidden = {f"W{j}": W for j, W in enumerate(params.W)}
    return {"H": params.H, "A": params.A, "b": params.b, **hidden}
