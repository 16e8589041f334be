"""`ufm.minimize` at the points of a grid."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ufm._core.status import Status
from ufm.metrics.definitions import Metrics
from ufm.minima.optimum import Optimum, batch_size, minimize_all
from ufm.minima.ways import batch_key
from ufm.sweeps.points import Counted, Field, Point, layer_fields, layer_values, param_fields, param_values


@dataclasses.dataclass(frozen=True)
class Minimizing:
    """`ufm.minimize` of batches of one shape."""

    tol: Any = 1e-8
    max_steps: Any = 3000
    params: bool = False
    option_names = ()
    precision = "float64"
    states = (Status.CONVERGED, Status.MAX_STEPS, Status.DIVERGED)
    counted = Counted("certified", 1.0, "certified")

    def key(self, point: Point) -> Any:
        """What the points of a batch share."""
        return batch_key(point.problem)

    def batch_size(self, point: Point) -> int:
        """Points of a batch."""
        return batch_size(point.problem)

    def fields(self, points: Sequence[Point], taken: Sequence[str]) -> list[Field]:
        """Data variables."""
        floats = [Field(name) for name in ("value", "lower_bound", "gap", "grad_norm")]
        counts = [Field(name, "int64") for name in ("steps", "starts", "agreed")]
        flags = [Field(name, "bool") for name in ("certified", "degenerate")]
        metrics = [Field(name) for name in Metrics._fields]
        extra = param_fields(points) if self.params else []
        return [*floats, *counts, Field("status", "status"), *flags, *metrics, *layer_fields(points), *extra]

    def coords(self) -> dict[str, Any]:
        """Coordinates beside the grid's."""
        return {}

    def solve(self, points: Sequence[Point], advanced: Callable[[int], None], places: Any) -> list[dict[str, Any]]:
        """Values of the data variables at each point."""
        problems, seeds = [point.problem for point in points], [point.seed for point in points]
        found = minimize_all(problems, seeds, self.tol, self.max_steps, advanced, places)
        return [self._values(best) for best in found]

    def _values(self, best: Optimum) -> dict[str, Any]:
        names = ("value", "lower_bound", "gap", "grad_norm", "steps", "starts", "agreed", "certified", "degenerate")
        values = {name: getattr(best, name) for name in names}
        status = self.states.index(best.status)
        extra = param_values(best.params) if self.params else {}
        return {**values, "status": status, **best.metrics._asdict(), **layer_values(best.layers), **extra}
