"""Neural collapse, watched: NC1–NC4 under cross-entropy, squared error, and features on a sphere.

Three unconstrained features models of the same shape are trained by gradient descent with momentum. Each
falls to the same geometry: no variability within classes, means on a simplex, the classifier aligned with them; and
to the objective's certified minimum, at slopes that theory knows of the first two.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
import optax
import tyro
import xarray

import ufm
from ufm import plot, theory
from ufm.console import show

POWERS = {"nc1": 2.0, "nc2": 1.0, "nc3": 1.0, "excess": 2.0}  # of deviations, which these go like near a minimum


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    num_classes: int = 10
    """K, number of classes."""
    dim: int = 64
    """d, dimension of the features."""
    per_class: int = 100
    """Samples of each class."""
    lambda_A: float = 5e-2
    """Weight decay of the classifier."""
    lambda_H: float = 5e-4
    """Weight decay of the features; the sphere has none."""
    radius: float = 1.0
    """Of the sphere."""
    rate_cross_entropy: float = 2.0
    """Learning rate under cross-entropy, on the sphere too."""
    rate_squared_error: float = 2.0
    """Learning rate under squared error."""
    momentum: float = 0.9
    """Of gradient descent."""
    steps: int = 5_000
    """Optimiser steps."""
    snapshots: int = 200
    """How often the metrics are recorded, log-spaced."""
    seed: int = 0
    """Of the initial parameters."""
    output: pathlib.Path = pathlib.Path("figures/collapse.png")
    """Figure to write; the data goes beside it as .npz."""


def problems(config: Config) -> dict[str, tuple[ufm.Problem, float]]:
    """The three problems, each with its learning rate."""
    shape: dict[str, Any] = {"num_classes": config.num_classes, "dim": config.dim, "per_class": config.per_class}
    free = {**shape, "lambda_A": config.lambda_A, "lambda_H": config.lambda_H}
    sphere = {**free, "lambda_H": 0.0, "features": ufm.Sphere(config.radius)}
    return {
        "cross-entropy": (ufm.Problem(loss=ufm.CrossEntropy(), **free), config.rate_cross_entropy),
        "squared error": (ufm.Problem(loss=ufm.SquaredError(), **free), config.rate_squared_error),
        "sphere": (ufm.Problem(loss=ufm.CrossEntropy(), **sphere), config.rate_cross_entropy),
    }


def data(config: Config) -> xarray.Dataset:
    """Loss and metrics of the three problems over training."""
    runs = []
    posed = problems(config)
    for name, (problem, rate) in posed.items():
        print(f"training: {name}", file=sys.stderr)
        optimizer = optax.sgd(rate, momentum=config.momentum)
        how: Any = {"steps": config.steps, "seed": config.seed, "snapshots": config.snapshots}
        run = ufm.train(problem, optimizer, precision="float64", **how)
        if run.status is not ufm.Status.FINISHED:
            raise SystemExit(f"{name}: {run.ended()}")
        best = ufm.minimize(problem)
        known = {"minimum": best.value, "gap": best.gap, "factor": ("metric", factors(problem, rate, config.momentum))}
        excess = ("snapshot", run.history.loss / best.value - 1.0)
        runs.append(run.to_xarray().assign(**known, excess=excess).assign_coords(metric=list(POWERS)))
    names = xarray.Variable("problem", list(posed))
    joined: Any = xarray.concat(
        runs, names, data_vars="all", coords="minimal", compat="equals", join="exact", combine_attrs="drop_conflicts"
    )  # xarray's types know of trees too
    return joined


def factors(problem: ufm.Problem, rate: float, momentum: float) -> list[float]:
    """What a step multiplies each of `POWERS` by in the end; NaN where theory doesn't know."""
    rates = {"excess" if name == "loss" else name: known for name, known in ufm.predict(problem).rates.items()}
    return [
        theory.factor(rates[name], rate, momentum, power=power) if name in rates else np.nan
        for name, power in POWERS.items()
    ]


def draw(table: xarray.Dataset) -> plot.Figure:
    """The four metrics of every run, and its objective."""
    runs = {str(name): table.sel(problem=name) for name in table.problem.values}
    slopes = {
        name: {str(m): float(f) for m, f in zip(run.metric.values, run.factor.values, strict=True) if f < 1}
        for name, run in runs.items()
    }
    minima = {name: float(run.minimum) for name, run in runs.items()}
    return plot.collapse(runs, ("nc1", "nc2", "nc3", "nc4", "loss", "excess"), factors=slopes, minima=minima)


def summary(table: xarray.Dataset) -> None:
    """Print first and last values."""
    rows = []
    for name in table.problem.values:
        run = table.sel(problem=name)
        start = plot.terminal_phase(run)
        for when, index in (("first", 0), ("last", -1)):
            seen = run.isel(snapshot=index)
            values = [float(seen[field]) for field in ("loss", "excess", "nc1", "nc2", "nc3", "nc4", "accuracy")]
            rows.append([f"{name}, {when}", int(seen.step), *values])
        rows[-1].append("never" if start is None else str(int(run.step[start])))
        rows[-2].append("")
    show(
        ["problem", "step", "loss", "above minimum", "NC1", "NC2", "NC3", "NC4", "accuracy", "zero error from step"],
        rows,
    )


def main(config: Config) -> None:
    """Train, print, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
