"""`ufm.train` at the points of a grid."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ufm._core.archive import storable
from ufm._core.checks import MOST_STEPS, Integer, choice, integer, shown
from ufm._core.identity import ByContent
from ufm._core.precision import DTYPES
from ufm._core.status import Status
from ufm.metrics.definitions import LONG_NAMES, Metrics
from ufm.sweeps.points import Counted, Field, Point, layer_fields, layer_values, param_fields, param_values
from ufm.training import ENDINGS, Run, schedule, trained

if TYPE_CHECKING:
    import optax

WORK_IN_BATCH = 1e11  # multiplications of a batch of training runs, some seconds; a killed sweep loses them
MOST_RUNS = 64  # in a batch
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@storable
@dataclasses.dataclass(frozen=True)
class Training:
    """Training in a sweep: what `ufm.train` is to be called with at every point.

    Args:
        optimizer: a function that makes an optax optimiser from options, such as `optax.sgd`; importable by name
            where other processes are to call it.
        options: its keyword arguments. Those swept over by name take the grid's values instead.
        steps: number of optimiser steps.
        snapshots: how many, log-spaced, or a list of steps.
        precision: "float32" or "float64".

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """

    optimizer: "Callable[..., optax.GradientTransformation]"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _: dataclasses.KW_ONLY
    steps: Integer = 2000
    snapshots: Integer | Sequence[int] | np.ndarray | jax.Array = 100
    precision: str = "float32"

    def __post_init__(self):
        options = _parameters(self.optimizer)
        if not isinstance(self.options, Mapping):
            raise ValueError(f"options = {shown(self.options)}: a table of the optimizer's options by name is needed")
        object.__setattr__(self, "options", dict(self.options))
        for name, value in self.options.items():
            if name not in options:
                raise ValueError(f"options: no {name!r} among those of the optimizer, {', '.join(options)}")
            if isinstance(value, str) and not isinstance(options[name].default, str | None):
                raise ValueError(f"options: {name} = {shown(value)}: text is none of its values")
        choice("precision", self.precision, tuple(DTYPES))
        schedule(integer("steps", self.steps, least=1, most=MOST_STEPS), self.snapshots)

    @property
    def option_names(self) -> tuple[str, ...]:
        """Names of the optimiser's options, which can be swept over."""
        return tuple(_parameters(self.optimizer))


def check_complete(training: Training, swept: Sequence[str]) -> None:
    """Refuse to begin where an option without a default is neither given nor swept over."""
    for name, parameter in _parameters(training.optimizer).items():
        needed = parameter.default is parameter.empty and parameter.kind not in VARIADIC
        if needed and name not in training.options and name not in swept:
            raise ValueError(f"options: {name!r} is missing, which the optimizer has no default for")


def _parameters(optimizer: Any) -> Mapping[str, inspect.Parameter]:
    """Options of a function that makes optimisers."""
    if not callable(optimizer):
        raise ValueError(f"optimizer = {shown(optimizer)}: a function of options, such as optax.sgd, is needed")
    try:
        return inspect.signature(optimizer).parameters
    except (ValueError, TypeError):
        raise ValueError(f"optimizer = {shown(optimizer)}: a function whose options have names is needed") from None


@dataclasses.dataclass(frozen=True)
class Trainer:
    """`ufm.train` at one point after the other; points that differ in traced numbers share a program."""

    training: Training
    swept: tuple[str, ...]
    params: bool = False
    states = ENDINGS
    counted = Counted("status", states.index(Status.DIVERGED), "diverged")

    @property
    def option_names(self) -> tuple[str, ...]:
        """Options that can be swept over."""
        return self.training.option_names

    @property
    def precision(self) -> str:
        """Of the computation."""
        return self.training.precision

    def key(self, point: Point) -> Any:
        """What the points of a batch share."""
        traced, fixed = self._options(point)
        return jax.tree.structure(point.problem), *traced, *((name, ByContent(value)) for name, value in fixed.items())

    def batch_size(self, point: Point) -> int:
        """Points of a batch."""
        work = 6.0 * point.problem.products * int(self.training.steps)
        return int(np.clip(WORK_IN_BATCH / work, 1, MOST_RUNS))

    def fields(self, points: Sequence[Point], taken: Sequence[str]) -> list[Field]:
        """Data variables; the objective is called `objective` where the kind of loss is swept over."""
        shape = (len(self._steps),)
        self_named = "objective" if "loss" in taken else "loss"
        history = [Field(name, dims=("snapshot",), shape=shape) for name in (self_named, *Metrics._fields)]
        layers = layer_fields(points, ("snapshot",), shape)
        return [*history, *layers, Field("status", "status"), *(param_fields(points) if self.params else [])]

    def coords(self) -> dict[str, Any]:
        """Coordinates beside the grid's."""
        return {"step": ("snapshot", np.asarray(self._steps), {"long_name": LONG_NAMES["step"]})}

    def solve(self, points: Sequence[Point], advanced: Callable[[int], None], places: Any) -> list[dict[str, Any]]:
        """Values of the data variables at each point."""
        values, how = [], self.training
        alike = ByContent(self._optimizer(points[0]))  # in content: points of a batch differ in traced numbers alone
        for point in points:
            advanced(len(values))
            optimizer = alike.holding(self._optimizer(point))
            run = trained(
                point.problem, optimizer, how.steps, point.seed, how.snapshots, precision=how.precision, progress=False
            )
            values.append(self._values(run))
        return values

    @property
    def _steps(self) -> list[int]:
        return schedule(int(self.training.steps), self.training.snapshots)

    def _options(self, point: Point) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options that are traced numbers, and those that are not."""
        options = {**self.training.options, **point.options}
        traced = {n: v for n, v in sorted(options.items()) if n in self.swept and isinstance(v, float)}
        return traced, {name: value for name, value in sorted(options.items()) if name not in traced}

    def _optimizer(self, point: Point) -> "optax.GradientTransformation":
        import optax

        traced, fixed = self._options(point)
        halves = (_Half(name, self.training.optimizer, traced, fixed) for name in ("init", "update"))
        return optax.GradientTransformationExtraArgs(*halves)

    def _values(self, run: Run) -> dict[str, Any]:
        status = self.states.index(run.status)
        loss = {"loss": run.history.loss, "objective": run.history.loss}
        extra = param_values(run.params) if self.params else {}
        metrics = {**run.history.metrics._asdict(), **layer_values(run.history.layers)}
        return {**loss, **metrics, "status": status, **extra}


@dataclasses.dataclass(frozen=True)
class _Half:
    """`init` or `update` of an optimiser whose traced numbers are in its state.

    Points of a batch are to share one program, though each has numbers of its own (a learning rate, say). Two things
    together allow it. First, `optax.inject_hyperparams` puts the numbers into the state that `init` makes, and `update`
    reads them there: the program takes them as arguments, and none stands in its text. Second, the program is kept by
    the content of the optimiser (`ByContent`), which is what `__getstate__` gives: the text of the halves and the names
    of the numbers, but not the numbers, so that halves that differ in these alone are equal, and the program that was
    compiled for one of them is the other's too. Fixed options are part of the text, and of the content.
    """

    name: str
    optimizer: Any
    traced: dict[str, Any]
    fixed: dict[str, Any]

    def __getstate__(self):
        """Its content, without the numbers themselves, so that one program serves many of them."""
        return self.name, self.optimizer, tuple(self.traced), self.fixed

    def __call__(self, *arguments, **extra):
        import optax

        names = inspect.signature(self.optimizer).parameters
        static = tuple(name for name in names if name not in self.traced)
        made = optax.inject_hyperparams(self.optimizer, static_args=static)(**self.fixed, **self.traced)
        return getattr(made, self.name)(*arguments, **extra)
