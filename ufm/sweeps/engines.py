"""What a sweep does at its points: the rows of numbers that `minimize` and `train` leave."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ufm._core import lanes
from ufm.minima.optimum import minimize
from ufm.sweeps.minimizing import Minimizing
from ufm.sweeps.points import Engine, Field, Point, stacked
from ufm.sweeps.trainer import Trainer, Training, check_complete


def engine_of(run: Any, swept: Sequence[str], params: bool) -> Engine:
    """What does `run` at the points of a grid.

    Raises:
        ValueError: where `run` is neither `ufm.minimize` nor a `ufm.Training`.
    """
    if isinstance(run, Training):
        check_complete(run, swept)
        return Trainer(run, tuple(swept), params)
    called, words = (run.func, run.keywords) if isinstance(run, ft.partial) and not run.args else (run, {})
    if called is not minimize or not set(words) <= {"tol", "max_steps"}:
        raise ValueError(
            f"run = {run!r}: ufm.minimize, functools.partial of it with tol or max_steps, or ufm.Training is needed"
        )
    return Minimizing(**words, params=params)


def rows_of(
    engine: Engine,
    fields: Sequence[Field],
    points: Sequence[Point],
    advanced: Callable[[int], None] = lambda ended: None,
    places: Sequence[Any] | None = None,
) -> np.ndarray:
    """(points, numbers): the values of a batch, one row a point, computed on some of the solver's places."""
    places = places or lanes.all_places()[:1]
    with jax.default_device(places[0]):
        found = engine.solve(points, advanced, places)
    columns = ((field, [values.get(field.name) for values in found]) for field in fields)  # some points lack layers
    return np.concatenate([stacked(values, field.shape) for field, values in columns], axis=1)
