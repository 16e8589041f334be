"""Grids of problems, solved or trained in batches of one shape: labelled, stored, resumed, on any executor."""

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from concurrent import futures
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ufm._core import lanes
from ufm._core.checks import choice, entries, flag, integer, numeric, shown
from ufm._core.identity import ByContent, Unidentified, described
from ufm._core.interrupts import interruptible, noting
from ufm._core.progress import COMPILING
from ufm._core.progress import progress as progress_bar
from ufm._core.provenance import as_json, command, flags, listed, versions
from ufm.minima.optimum import Optimum, minimize
from ufm.model.problem import Problem, with_values
from ufm.sweeps.engines import engine_of, rows_of
from ufm.sweeps.points import Engine, Field, Point
from ufm.sweeps.store import Memory, Store
from ufm.sweeps.trainer import Training as Training
from ufm.sweeps.workers import Workers

if TYPE_CHECKING:
    import xarray

PARTS = ("loss", "targets", "features", "classifier")  # fields of a problem with fields of their own
COUNTS = ("num_classes", "dim", "per_class", "widths", "seed")  # what is swept over in whole numbers
SENT_AHEAD = 1024  # batches that wait in an executor
TOLD_EVERY = 0.25  # seconds, of points that have ended in unfinished batches
PENDING = -1  # in whole numbers of points that are not done


class Executor(Protocol):
    """What computes the batches of a sweep: `concurrent.futures.Executor`, or anything with its `submit`."""

    def submit(self, fn: Any, /, *args: Any) -> Any:
        """A future of `fn(*args)`."""
        ...


def sweep(
    problem: Problem,
    over: Mapping[Any, Iterable[Any]],
    *,
    run: Callable[..., Optimum] | Training = minimize,
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
    params: bool = False,
    versions: str = "same",
) -> "xarray.Dataset":
    """Minimise or train at every point of a grid.

    Points of one shape and kind are solved side by side, in batches that depend on the grid alone, so that results are
    the same bits on every executor of one kind of machine. A batch that a worker loses is done again in this process.

    Args:
        problem: what the points have in common.
        over: values by name. Names are fields of `problem` (`lambda_A`, `per_class`, `loss`), fields of its parts
            (`loss.alpha`, `features.radius`), `seed`, and for training the optimiser's options (`learning_rate`). A
            tuple of names takes tuples of values that vary together: `{("per_class", "lambda_A"): [(7, a), ([5, 3, 2],
            b)]}` is one dimension, "per_class,lambda_A", with a coordinate for each name.
        run: `ufm.minimize`, `functools.partial` of it with `tol` or `max_steps`, or `ufm.Training(...)`.
        store: a folder for a zarr store. The same call goes on from what is there. `xarray.open_zarr` reads it from
            the first batch on that ends after a second, and is up to date every 30 seconds and at the end. Batches
            carry checksums: what is missing or damaged is said and done again. What is finished is read even where it
            cannot be written.
        executor: anything with the `submit` of `concurrent.futures.Executor`, with a worker for each core, since a
            batch keeps one busy, or for each device where it sees no other; None computes in this process, on all of
            its cores or devices.
        progress: whether to draw a bar; None draws where standard error is a terminal.
        params: whether to keep H (sample, axis), A (class, axis) and b (class) too, and of hidden layers W0 (unit0,
            axis), W1 (unit1, unit0), … and A (class, read); filled up with NaN where shapes differ.
        versions: "any" goes on in a store whose batches other versions of ufm, JAX or NumPy made, or another kind of
            device; the attribute `versions` then lists all. "same" refuses.

    Returns:
        xarray.Dataset over the swept names. For `minimize`: value, lower_bound, gap, grad_norm, steps, starts,
        agreed, status, certified, degenerate, and the fields of `ufm.Metrics`. For training: loss and the metrics over
        `snapshot`, whose coordinate `step` counts steps, and status; NaN after a divergence. Where a point has hidden
        layers, metrics of each are beside them: `layer_nc1` and so on over `layer`, NaN where it has fewer. Whole
        numbers and status are −1 where a point is not done; what the numbers of status mean stands in its
        `flag_meanings`.

    Raises:
        ValueError: for a name that does not exist, with those that do; for a value that a problem refuses; where the
            store holds another sweep, with what differs; for an executor that takes no work.
        OSError: where the store is in use by another process or cannot be written; finished batches are kept.

    Warns:
        UserWarning: where a worker failed, or part of the store was missing or damaged.
    """
    _check(problem, executor, progress)
    plan = _plan(problem, over, run, flag("params", params))
    partition = plan.partition()
    choice("versions", versions, ("same", "any"))
    left = "nothing is kept without a store" if store is None else f"the same call goes on from what is in {store}"
    with noting(left), Memory(plan, partition) if store is None else Store(store, plan, partition, versions) as kept:
        _compute(plan, partition, kept, executor, progress)
    return plan.dataset(kept.values, kept.makers)


def _check(problem: Any, executor: Any, progress: Any) -> None:
    """Refuse what no sweep can use, before anything is made."""
    with_values(problem)
    if progress is not None:
        flag("progress", progress)
    if executor is not None and (isinstance(executor, type) or not callable(getattr(executor, "submit", None))):
        needed = "an object with the submit of concurrent.futures.Executor"
        raise ValueError(f"executor = {shown(executor)}: {needed}, or None, is needed")


class _Axis(NamedTuple):
    """A dimension: names that vary together, and the tuple of their values at each position."""

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    @property
    def dim(self) -> str:
        return ",".join(self.names)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A grid, and what is done at its points."""

    problem: Problem
    axes: tuple[_Axis, ...]
    engine: Engine
    points: list[Point]
    fields: list[Field]

    @property
    def names(self) -> list[str]:
        return [name for axis in self.axes for name in axis.names]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def width(self) -> int:
        return sum(field.size for field in self.fields)

    def partition(self) -> np.ndarray:
        """(batches, points of the largest) indices of points: of one key together, in the grid's order."""
        keys = [self.engine.key(point) for point in self.points]
        batches = lanes.batches(keys, lambda first: self.engine.batch_size(self.points[first]))
        longest = max(map(len, batches))
        return np.array([[*batch, *[PENDING] * (longest - len(batch))] for batch in batches])

    def identity(self, packages: dict[str, str]) -> dict[str, Any]:
        """JSON of all that results depend on but versions.

        Args:
            packages: where versions of the libraries go that the problem or the run refer to.

        Raises:
            ValueError: where something can't be told from another of its kind.
        """
        tree = _identified("problem", self.problem, packages)
        over = {
            axis.dim: [[_identified(f"over: {axis.dim}", value, packages) for value in row] for row in axis.values]
            for axis in self.axes
        }
        run = _identified("run", self.engine, packages)
        return {"problem": tree.get("fields", tree), "over": over, "run": run}

    def maker(self) -> dict[str, Any]:
        """JSON of what computes here."""
        return {"versions": versions(), "command": command()}

    def dataset(self, values: np.ndarray, makers: Sequence[Mapping[str, Any]]) -> "xarray.Dataset":
        """An xarray.Dataset of (points, width) values, and who made them."""
        import xarray

        dims = tuple(axis.dim for axis in self.axes)
        variables, first = {}, 0
        for field in self.fields:
            block = values[:, first : first + field.size].reshape(*self.sizes, *field.shape)
            variables[field.name] = ((*dims, *field.dims), _typed(block, field.kind), self._notes(field))
            first += field.size
        return xarray.Dataset(variables, {**self._coords(), **self.engine.coords()}, self._attributes(makers))

    def _coords(self) -> dict[str, Any]:
        columns = ((axis, zip(*axis.values, strict=True)) for axis in self.axes)
        return {
            name: (axis.dim, _coordinate(column))
            for axis, each in columns
            for name, column in zip(axis.names, each, strict=True)
        }

    def _notes(self, field: Field) -> dict[str, Any]:
        words = ("pending", *(status.word for status in self.engine.states))
        meanings = flags(words, first=PENDING) if field.kind == "status" else {}
        return {"long_name": field.long_name, **meanings}

    def _attributes(self, makers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        used = (listed(maker["versions"]) for maker in makers)
        return {
            "problem": json.dumps(_json(self.problem)),
            "run": json.dumps(_json(self.engine)),
            "versions": "; ".join(dict.fromkeys(used)),
            "precision": self.engine.precision,
            "command": "; ".join(dict.fromkeys(maker["command"] for maker in makers)),
        }


def _plan(problem: Problem, over: Any, run: Any, params: bool) -> _Plan:
    if not isinstance(over, Mapping) or not over:
        raise ValueError(f"over = {shown(over)}: a dict is needed, of names and lists of their values")
    axes = tuple(_axis(names, values) for names, values in over.items())
    names = [name for axis in axes for name in axis.names]
    engine = engine_of(run, names, params)
    _check_names(problem, axes, engine)
    points = list(_points(problem, axes))
    return _Plan(problem, axes, engine, points, engine.fields(points, names))


def _axis(names: Any, values: Any) -> _Axis:
    zipped = (names,) if isinstance(names, str) else names
    if not isinstance(zipped, tuple) or not zipped or not all(isinstance(name, str) and name for name in zipped):
        raise ValueError(f"over: {shown(names)}: a name, or a tuple of names, is needed")
    found = entries(values, ordered=False)
    if found is None:
        raise ValueError(f"over: {names!r} = {shown(values)}: a list of values is needed")
    if not found:
        raise ValueError(f"over: {names!r} has no values")
    rows = [[value] if isinstance(names, str) else entries(value, ordered=False) for value in found]
    for row, value in zip(rows, found, strict=True):
        if row is None or len(row) != len(zipped):
            raise ValueError(f"over: {names!r}: {shown(value)} among the values; tuples of as many values are needed")
    plain = (tuple(map(_plain, zipped, row)) for row in rows if row is not None)
    return _Axis(zipped, tuple(plain))


def _plain(name: str, value: Any) -> Any:
    """Numbers as Python's, counts among them as integers; arrays and views as tuples."""
    if hasattr(value, "detach"):
        value = numeric("over", value)
    if hasattr(value, "__array__"):
        value = np.asarray(value).tolist()
    if type(value) in (list, tuple) or isinstance(value, ValuesView):
        return tuple(each if isinstance(each, list) else _plain(name, each) for each in value)
    return int(value) if name in COUNTS and isinstance(value, float) and value.is_integer() else value


def _check_names(problem: Problem, axes: Sequence[_Axis], engine: Engine) -> None:
    names = [name for axis in axes for name in axis.names]
    legal = [*_legal(problem, axes), "seed", *engine.option_names]
    for name in names:
        if name not in legal:
            raise ValueError(f"over: no {name!r} to sweep over; there are {', '.join(legal)}")
        if names.count(name) > 1:
            raise ValueError(f"over: {name!r} stands in it twice")


def _legal(problem: Problem, axes: Sequence[_Axis]) -> list[str]:
    """Fields of the problem and of its parts, whether these are swept over or not."""
    swept = {name: [row[at] for row in axis.values] for axis in axes for at, name in enumerate(axis.names)}
    nested = []
    for part in PARTS:
        for each in [getattr(problem, part), *swept.get(part, [])]:
            nested += [f"{part}.{name}" for name in _fields(each) if f"{part}.{name}" not in nested]
    return [field.name for field in dataclasses.fields(problem) if field.init] + nested  # pyright: ignore[reportArgumentType]


def _fields(part: Any) -> list[str]:
    """Names of what a loss or a constraint is made of."""
    made = dataclasses.is_dataclass(part) and not isinstance(part, type)
    return [field.name for field in dataclasses.fields(part) if field.init] if made else []


def _points(problem: Problem, axes: Sequence[_Axis]) -> Iterator[Point]:
    """Points in the order of the grid, the last dimension fastest."""
    fields = {field.name for field in dataclasses.fields(problem)}  # pyright: ignore[reportArgumentType]
    for position in np.ndindex(*(len(axis.values) for axis in axes)):
        chosen: dict[str, Any] = {}
        for axis, index in zip(axes, position, strict=True):
            chosen.update(zip(axis.names, axis.values[index], strict=True))
        seed = integer("seed", chosen.pop("seed", 0), least=0)
        options = {name: value for name, value in chosen.items() if name not in fields and "." not in name}
        yield Point(_at(problem, {k: v for k, v in chosen.items() if k not in options}), seed, options)


def _at(problem: Problem, chosen: Mapping[str, Any]) -> Problem:
    """The problem with other values, of whole fields and then of fields of its parts."""
    words = {name: value for name, value in chosen.items() if "." not in name}
    for name, value in chosen.items():
        part, _, inner = name.partition(".")
        if inner:
            words[part] = _with(part, words.get(part, getattr(problem, part)), inner, value)
    return dataclasses.replace(problem, **words) if words else problem  # pyright: ignore[reportArgumentType]


def _with(part: str, whole: Any, inner: str, value: Any) -> Any:
    """A part with another value of one of its fields."""
    if inner not in _fields(whole):
        there = ", ".join(f"{part}.{name}" for name in _fields(whole)) or "nothing"
        raise ValueError(
            f"over: {part}.{inner}: {part} = {shown(whole)} does not have it; it has {there} to sweep over"
        )
    return dataclasses.replace(whole, **{inner: value})


def _typed(block: np.ndarray, kind: str) -> np.ndarray:
    if kind == "bool":
        return np.nan_to_num(block).astype(bool)
    if kind == "float64":
        return block.copy()
    return np.where(np.isnan(block), PENDING, block).astype("int8" if kind == "status" else "int64")


def _coordinate(column: Sequence[Any]) -> np.ndarray:
    """Values as numbers where they are, otherwise as text, which is numbered where it doesn't tell values apart."""
    numbers = all(isinstance(value, bool | int | float) for value in column)
    if numbers and not (found := np.asarray(column)).dtype.hasobject:  # which integers of more than 64 bits are
        return found
    entries = [(_label(value), ByContent(value)) for value in column]
    alike: dict[str, list[ByContent]] = {}
    for label, value in entries:
        different = alike.setdefault(label, [])
        different += [value] if value not in different else []
    numbered = {label: len(different) > 1 for label, different in alike.items()}
    return np.asarray(
        [f"{label} {alike[label].index(value)}" if numbered[label] else label for label, value in entries]
    )


def _label(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(getattr(value, "__name__", value))


def _json(value: Any, *other: Any) -> Any:
    """`value` as JSON; an engine by its fields."""
    if isinstance(value, Engine):
        return {name: as_json(each, *other) for name, each in vars(value).items()}
    return as_json(value, *other)


def _identified(name: str, value: Any, packages: dict[str, str]) -> Any:
    """The same, in which functions and a user's own objects are told by their content."""
    try:
        return _json(value, lambda other: described(other, packages))
    except Unidentified as error:
        raise ValueError(
            f"{name}: {error}, so that a store couldn't tell another one from it; a function, or a frozen dataclass, "
            "of numbers, text, arrays and functions is needed, or no store"
        ) from error


def _compute(plan: _Plan, partition: np.ndarray, kept: Any, executor: Any, progress: bool | None) -> None:
    """Every batch that is not there yet."""
    waiting = [int(batch) for batch in np.flatnonzero(~kept.done)]
    sizes = (partition >= 0).sum(axis=1)
    with progress_bar(len(plan.points), "points", progress) as show, contextlib.ExitStack() as stack:
        workers = stack.enter_context(Workers(len(waiting))) if executor is None else executor

        def news():
            ended, done = getattr(workers, "ended", 0), int(sizes[kept.done].sum())
            begun = not waiting or ended or kept.done[waiting].any()
            show(done + ended, _news(plan, kept.values) if begun else COMPILING)

        news()
        work = ((batch, [plan.points[i] for i in partition[batch][: sizes[batch]]]) for batch in waiting)
        for batch, rows in stack.enter_context(contextlib.closing(_through(workers, plan, work, news))):
            kept.put(batch, rows)
            news()


def _through(executor, plan, work, news):
    """Batches done by an executor, as they come; in this process where a worker of another fails."""
    sent: dict[Any, Any] = {}
    try:
        while True:
            for batch, points in islice(work, SENT_AHEAD - len(sent)):
                sent[_submit(executor, plan, points)] = batch, points
            if not sent:
                return
            done = futures.wait(sent, TOLD_EVERY, futures.FIRST_COMPLETED).done
            if not done:
                news()
            for future in sorted(done, key=_failed):  # what has not failed is kept first
                batch, points = sent.pop(future)
                if not _failed(future) or isinstance(executor, Workers):
                    yield batch, future.result()
                    continue
                reason = "cancelled" if future.cancelled() else repr(future.exception())
                warnings.warn(f"a worker failed ({reason}): its batch is done in this process", stacklevel=5)
                yield batch, interruptible(rows_of)(plan.engine, plan.fields, points, places=lanes.all_places())
    finally:
        for future in sent:
            future.cancel()


def _failed(future) -> bool:
    return future.cancelled() or future.exception() is not None


def _submit(executor, plan, points) -> Any:
    """A future of a batch; one that has failed where the executor's workers are lost."""
    try:
        return executor.submit(rows_of, plan.engine, plan.fields, points)
    except futures.BrokenExecutor as error:
        future = futures.Future()
        future.set_exception(error)
        return future
    except RuntimeError as error:
        if isinstance(executor, Workers):
            raise
        raise ValueError(f"executor = {shown(executor)}: takes no work: {error}; one that does is needed") from error


def _news(plan: _Plan, values: np.ndarray) -> str:
    """How many points ended as the engine counts."""
    counted = plan.engine.counted
    names = [field.name for field in plan.fields]
    column = sum(field.size for field in plan.fields[: names.index(counted.name)])
    return f"{int(np.sum(values[:, column] == counted.value))} {counted.word}"
