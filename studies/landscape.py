"""A benign landscape: from every seed to the global minimum, and a way down from every other critical point.

Left: gradient descent from many seeds ends at the certified minimum. Right: at critical points that are not global
(the zero point, solutions in too few dimensions, merged groups of classes) the Hessian's smallest eigenvalue is
negative, and equals what theory predicts.
"""

import dataclasses
import pathlib

import numpy as np
import optax
import tyro
import xarray

import ufm
from ufm import plot
from ufm.console import show
from ufm.theory import landscape


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    num_classes: int = 6
    """K, number of classes."""
    dim: int = 8
    """d, dimension of the features."""
    per_class: int = 5
    """Samples of each class."""
    lambda_A: float = 5e-3
    """Weight decay of the classifier."""
    lambda_H: float = 2e-3
    """Weight decay of the features."""
    seeds: int = 16
    """How many random starts."""
    scale: float = 0.05
    """Size of the starting points: near the zero point, which is a saddle."""
    rate: float = 0.5
    """Learning rate."""
    steps: int = 5_000
    """Optimiser steps."""
    output: pathlib.Path = pathlib.Path("figures/landscape.png")
    """Figure to write; the data goes beside it as .npz."""


def problem_of(config: Config) -> ufm.Problem:
    """The model whose landscape is looked at."""
    return ufm.Problem(
        num_classes=config.num_classes,
        dim=config.dim,
        per_class=config.per_class,
        lambda_A=config.lambda_A,
        lambda_H=config.lambda_H,
    )


def critical_points(problem: ufm.Problem) -> dict[str, ufm.Params]:
    """Critical points that are not global: at zero, of low rank, and with merged groups of classes."""
    points = {"zero point": landscape.zero_point(problem)}
    for rank in range(1, problem.num_classes - 1):
        small = dataclasses.replace(problem, dim=rank)
        points[f"rank {rank}"] = widened(ufm.minimize(small).params, problem.dim)
    for groups in range(2, problem.num_classes):
        if problem.num_classes % groups == 0:
            points[f"{groups} groups"] = grouped(problem, groups)
    return points


def widened(params: ufm.Params, dim: int) -> ufm.Params:
    """The same point with unused dimensions."""
    extra = ((0, 0), (0, dim - params.H.shape[1]))
    return ufm.Params(np.pad(params.H, extra), np.pad(params.A, extra), params.b)


def grouped(problem: ufm.Problem, groups: int) -> ufm.Params:
    """A minimum among parameters that treat the m classes of a group as one.

    m equal rows of A cost m times the decay of one, and turn softmax over classes into softmax over groups.
    """
    size = problem.num_classes // groups
    samples = size * int(problem.class_counts[0])
    merged = dataclasses.replace(problem, num_classes=groups, per_class=samples, lambda_A=size * problem.lambda_A)
    params = ufm.minimize(merged).params
    return ufm.Params(params.H, np.repeat(params.A, size, axis=0), np.repeat(params.b, size))


def data(config: Config) -> xarray.Dataset:
    """Training from every seed, and the curvature at every constructed critical point."""
    problem = problem_of(config)
    best, points = ufm.minimize(problem), critical_points(problem)
    run = ufm.train(
        problem,
        optax.sgd(config.rate, momentum=0.9),
        steps=config.steps,
        seed=range(config.seeds),
        snapshots=150,
        params=starts(problem, config),
        precision="float64",
    )
    saddles = {
        "value": [problem.objective(point) for point in points.values()],
        "measured": [ufm.curvature(problem, point).smallest for point in points.values()],
        "predicted": [landscape.escape_curvature(problem, point) for point in points.values()],
    }
    return (
        run.to_xarray()
        .assign({name: ("point", values) for name, values in saddles.items()})
        .assign(minimum=best.value, lower_bound=best.lower_bound)
        .assign_coords(point=list(points))
    )


def starts(problem: ufm.Problem, config: Config) -> ufm.Params:
    """Random parameters of every seed, near the zero point."""
    drawn = [problem.init(seed, scale=config.scale) for seed in range(config.seeds)]
    return ufm.Params(
        H=np.stack([q.H for q in drawn]), A=np.stack([q.A for q in drawn]), b=np.stack([q.b for q in drawn])
    )


def draw(table: xarray.Dataset) -> plot.Figure:
    """What is left above the minimum against steps, and measured against predicted curvature."""
    made, ((left, right),) = plot.figure(1, 2, width=9.5, height=4.2)
    minimum = float(table.minimum)
    rounding = np.finfo(float).eps * minimum
    excess = np.maximum(table.loss.values[:, 1:] - minimum, rounding)
    left.plot(table.step.values[1:], excess.T, color=plot.COLOURS[0], lw=0.8, alpha=0.6)
    left.plot([], [], color=plot.COLOURS[0], label=f"{table.sizes['seed']} seeds")
    gap = max(minimum - float(table.lower_bound), rounding)
    left.axhline(gap, color="black", ls="--", label="gap of the certificate")
    for value in np.unique(np.round(table["value"].values, 9)):
        left.axhline(value - minimum, color=plot.COLOURS[1], ls=":", lw=0.9)
    left.plot([], [], color=plot.COLOURS[1], ls=":", label="saddles of the right panel")
    left.set(
        xscale="log", yscale="log", xlabel="step", ylabel="objective above its certified minimum", ylim=(1e-21, None)
    )
    left.set_title("From every seed to the global minimum")
    left.legend(loc="lower left", frameon=False)
    depth = -table.predicted.values
    line = np.array([depth.min() * 0.8, depth.max() * 1.25])
    right.plot(line, line, color="black", ls="--", lw=1.2, label="theory (Zhu et al. 2021)")
    for index, name in enumerate(table.point.values):
        point, size = table.sel(point=name), 6 + 2.0 * (index % 7)
        style = {"color": plot.COLOURS[index % len(plot.COLOURS)], "mfc": "none", "mew": 1.5, "ms": size}
        right.plot(-point.predicted, -point.measured, plot.MARKS[index % len(plot.MARKS)], label=str(name), **style)
    right.set(xscale="log", yscale="log", xlabel="predicted −λ_min", ylabel="measured −λ_min")
    right.set_title("A way down from every other critical point")
    right.legend(loc="upper left", fontsize=8, frameon=False)
    return made


def summary(table: xarray.Dataset) -> None:
    """Print every critical point, and how near the seeds came to the minimum."""
    rows = [
        [str(name), *(float(table[field].sel(point=name)) for field in ("value", "predicted", "measured"))]
        for name in table.point.values
    ]
    show(["critical point", "value", "predicted curvature", "measured"], rows)
    minimum = float(table.minimum)
    excess = (table.loss.values[:, -1] - minimum) / minimum
    print(f"{len(excess)} seeds end within {excess.max():.1e} (relative) of the certified minimum {minimum:.10f}")


def main(config: Config) -> None:
    """Train, print, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
