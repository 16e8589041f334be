"""Neural collapse, watched: NC1–NC4 under cross-entropy, squared error, and features on a sphere.

Three unconstrained features models of the same shape are trained by gradient descent with momentum. Each
falls to the same geometry: no variability within classes, means on a simplex, the classifier aligned with them.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
import optax
import tyro

import ufm
from ufm import plot
from ufm.console import show


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    num_classes: int = 10
    """K, number of classes."""
    dim: int = 64
    """d, dimension of the features."""
    per_class: int = 100
    """Samples of each class."""
    lambda_A: float = 5e-3
    """Weight decay of the classifier."""
    lambda_H: float = 5e-5
    """Weight decay of the features; the sphere has none."""
    radius: float = 1.0
    """Of the sphere."""
    rate_cross_entropy: float = 10.0
    """Learning rate under cross-entropy, on the sphere too."""
    rate_squared_error: float = 0.5
    """Learning rate under squared error."""
    momentum: float = 0.9
    """Of gradient descent."""
    steps: int = 10_000
    """Optimiser steps."""
    snapshots: int = 200
    """How often the metrics are recorded, log-spaced."""
    seed: int = 0
    """Of the initial parameters."""
    output: pathlib.Path = pathlib.Path("figures/collapse.png")
    """Figure to write; the data goes beside it as .npz."""


def data(config: Config) -> dict[str, ufm.Run]:
    """Train the three problems."""
    shape: dict[str, Any] = {"num_classes": config.num_classes, "dim": config.dim, "per_class": config.per_class}
    shape["lambda_A"] = config.lambda_A
    free = {**shape, "lambda_H": config.lambda_H}
    sphere = {**shape, "lambda_H": 0.0, "features": ufm.Sphere(config.radius)}
    cases = {
        "cross-entropy": (ufm.Problem(loss=ufm.CrossEntropy(), **free), config.rate_cross_entropy),
        "squared error": (ufm.Problem(loss=ufm.SquaredError(), **free), config.rate_squared_error),
        "sphere": (ufm.Problem(loss=ufm.CrossEntropy(), **sphere), config.rate_cross_entropy),
    }
    runs = {}
    for name, (problem, rate) in cases.items():
        print(f"training: {name}", file=sys.stderr)
        optimizer = optax.sgd(rate, momentum=config.momentum)
        runs[name] = ufm.train(problem, optimizer, steps=config.steps, seed=config.seed, snapshots=config.snapshots)
        if not runs[name].status.ok:
            raise SystemExit(f"{name}: {runs[name].ended()}")
    return runs


def draw(runs: dict[str, ufm.Run]) -> plot.Figure:
    """The four metrics of every run."""
    return plot.collapse({name: run.history for name, run in runs.items()})


def summary(runs: dict[str, ufm.Run]) -> None:
    """Print first and last values."""
    rows = []
    for name, run in runs.items():
        history = run.history
        start = plot.terminal_phase(history)
        for when, index in (("first", 0), ("last", -1)):
            values = [getattr(history, field)[index] for field in ("loss", "nc1", "nc2", "nc3", "nc4", "accuracy")]
            rows.append([f"{name}, {when}", int(history.step[index]), *values])
        rows[-1].append("never" if start is None else str(history.step[start]))
        rows[-2].append("")
    show(["problem", "step", "loss", "NC1", "NC2", "NC3", "NC4", "accuracy", "zero error from step"], rows)


def write(runs: dict[str, ufm.Run], config: Config) -> None:
    """The figure, and beside it the data with the command and versions that made it."""
    plot.save(draw(runs), config.output)
    arrays = {
        f"{name}/{field}": np.asarray(getattr(run.history, field))
        for name, run in runs.items()
        for field in ("step", "loss", *ufm.Metrics._fields)
    }
    plot.save_data(arrays, config.output)


def main(config: Config) -> None:
    """Train, print, draw."""
    runs = data(config)
    summary(runs)
    write(runs, config)
    print(f"wrote {config.output} and {config.output.with_suffix('.npz')}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
