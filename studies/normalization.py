"""Norms held by decay, a ball or a sphere: the same collapse, at different speeds, to minima that theory knows.

One model is trained three times from the same start with the same optimiser: with weight decay, with the norms of that
problem's minimum as radii of balls, and of spheres. Then minima are certified over temperatures and splits of the
temperature into two radii, and, which no theorem gives, for classes that are not equally large.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import optax
import tyro
import xarray

import ufm
from ufm import plot
from ufm.console import show

HELD: dict[str, Any] = {"lambda_A": 0.0, "lambda_H": 0.0, "bias": False}  # by constraints alone


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and where minima are sought."""

    num_classes: int = 10
    """K, number of classes."""
    dim: int = 64
    """d, dimension of the features."""
    per_class: int = 100
    """Samples of each class."""
    lambda_A: float = 5e-3
    """Weight decay of the classifier."""
    lambda_H: float = 5e-5
    """Weight decay of the features."""
    rate: float = 5.0
    """Learning rate, the same for all three."""
    momentum: float = 0.9
    """Of gradient descent."""
    steps: int = 5000
    """Optimiser steps."""
    snapshots: int = 150
    """How often the metrics are recorded, log-spaced."""
    seed: int = 0
    """Of the initial parameters."""
    coldest: float = 30.0
    """Largest temperature, the product of the radii."""
    temperatures: int = 25
    """How many, log-spaced from 0.3."""
    ratios: int = 25
    """How many imbalance ratios, log-spaced from 1 to 1000."""
    radius: float = 3.0
    """Of both spheres under imbalance."""
    output: pathlib.Path = pathlib.Path("figures/normalization.png")
    """Figure to write; the data goes beside it as .npz."""


def problems(config: Config) -> dict[str, ufm.Problem]:
    """The decayed problem, and two whose radii are the norms of its minimum."""
    shape: dict[str, Any] = {"num_classes": config.num_classes, "dim": config.dim, "per_class": config.per_class}
    decayed = ufm.Problem(lambda_A=config.lambda_A, lambda_H=config.lambda_H, bias=False, **shape)
    theory = ufm.predict(decayed)
    radii = [float(np.max(norms)) for norms in (theory.norms_H, theory.norms_A)]  # pyright: ignore[reportArgumentType,reportCallIssue]

    def held(kind):
        parts = {"features": kind(radii[0]), "classifier": kind(radii[1])}
        return dataclasses.replace(decayed, lambda_A=0.0, lambda_H=0.0, **parts)

    return {"decay": decayed, "ball": held(ufm.Ball), "sphere": held(ufm.Sphere)}


def data(config: Config) -> xarray.Dataset:
    """Training with the norms held in three ways, and the minima there, over temperatures and over imbalance."""
    return xarray.merge([trained(config), over_temperatures(config), over_imbalance(config)])


def trained(config: Config) -> xarray.Dataset:
    """The three runs, each with the certified minimum of its problem."""
    optimizer, posed, runs = optax.sgd(config.rate, momentum=config.momentum), problems(config), []
    for problem in posed.values():
        run = ufm.train(problem, optimizer, steps=config.steps, seed=config.seed, snapshots=config.snapshots)
        best = ufm.minimize(problem)
        runs.append(run.to_xarray().assign(minimum=best.value, minimum_gap=best.gap))
    names = xarray.Variable("held_by", list(posed))
    joined: Any = xarray.concat(
        runs, names, data_vars="all", coords="minimal", compat="equals", join="exact", combine_attrs="drop_conflicts"
    )  # xarray's types know of trees too
    return joined


def over_temperatures(config: Config) -> xarray.Dataset:
    """Certified minima over temperatures, their splits into two radii, and kinds of constraint."""
    K, dims = config.num_classes, ("kind", "temperature", "split")
    temperatures, splits = np.geomspace(0.3, config.coldest, config.temperatures), np.array([0.1, 1.0, 10.0])
    radii = [(float(np.sqrt(t * s)), float(np.sqrt(t / s))) for t in temperatures for s in splits]
    kinds = {"ball": ufm.Ball, "mean ball": ufm.MeanBall, "sphere": ufm.Sphere}
    swept = []
    for kind in kinds.values():
        problem = ufm.Problem(K, config.dim, per_class=config.per_class, features=kind(1), classifier=kind(1), **HELD)
        swept.append(ufm.sweep(problem, {("features.radius", "classifier.radius"): radii}))
    shape = (len(kinds), len(temperatures), len(splits))
    found = {name: (dims, np.reshape([table[name].values for table in swept], shape)) for name in ("value", "gap")}
    predicted = np.log1p((K - 1) * np.exp(-temperatures * K / (K - 1)))
    return xarray.Dataset(
        {**found, "predicted": ("temperature", predicted)},
        coords={"kind": list(kinds), "temperature": temperatures, "split": splits},
    )


def over_imbalance(config: Config) -> xarray.Dataset:
    """Certified minima on spheres where half of the classes are frequent, and cosines of their classifiers' rows."""
    K, frequent = config.num_classes, config.num_classes - config.num_classes // 2
    ratios = np.unique(np.geomspace(1, 1000, config.ratios).round()).astype(int)
    spheres = {"features": ufm.Sphere(config.radius), "classifier": ufm.Sphere(config.radius)}
    even = ufm.Problem(K, config.dim, per_class=1, **spheres, **HELD)
    uneven = [
        ufm.minimize(dataclasses.replace(even, per_class=[int(r)] * frequent + [1] * (K - frequent))) for r in ratios
    ]
    first, last, off = slice(0, frequent), slice(frequent, K), ~np.eye(K, dtype=bool)
    groups = {"frequent": (first, first), "rare": (last, last), "between": (first, last)}
    cosines = [best.A @ best.A.T / config.radius**2 for best in uneven]
    means = [[each[group][off[group]].mean() for group in groups.values()] for each in cosines]
    return xarray.Dataset(
        {
            "uneven_value": ("ratio", [best.value for best in uneven]),
            "uneven_gap": ("ratio", [best.gap for best in uneven]),
            "cosine": (("ratio", "group"), np.array(means)),
            "simplex_cosine": -1 / (K - 1),
        },
        coords={"ratio": ratios, "group": list(groups)},
    )


def draw(table: xarray.Dataset) -> plot.Figure:
    """Collapse against steps above; minima against temperature and imbalance below."""
    made, axes = plot.figure(2, 3, width=14.0, height=7.5)
    for axis, name in zip(axes[0], ("nc1", "nc2", "nc3"), strict=True):
        for colour, label in zip(plot.COLOURS, table.held_by.values, strict=False):
            plot.trace(axis, table.sel(held_by=label), metric=name, colour=colour, label=str(label))
        axis.set(xscale="log", yscale="log", xlabel="step", title=plot.LABELS[name])
    axes[0, 0].legend(title="norms held by")
    minima, geometry, gaps = axes[1]
    for colour, mark, kind in zip(plot.COLOURS, plot.MARKS, table.kind.values, strict=False):
        for size, split in zip((8, 5, 2), table.split.values, strict=True):
            label = kind if size == 8 else None
            values = table["value"].sel(kind=kind, split=split)
            minima.plot(table.temperature, values, mark, color=colour, ms=size, mfc="none", label=label)
    minima.plot(table.temperature, table.predicted, "k--", label="theory: log(1 + (K−1) exp(−Kτ/(K−1)))")
    minima.set(xscale="log", yscale="log", xlabel="temperature τ, product of the radii", ylabel="certified minimum")
    minima.set(title="Only the product of the radii matters", ylim=(1e-23, 1e1))
    minima.legend(loc="lower left")
    for colour, group in zip(plot.COLOURS, table.group.values, strict=False):
        label = "frequent and rare" if group == "between" else f"two {group} classes"
        geometry.plot(table.ratio, table.cosine.sel(group=group), "o-", color=colour, ms=3, label=label)
    geometry.axhline(float(table.simplex_cosine), color="black", ls="--", label="theory, equal counts: −1/(K−1)")
    geometry.set(xscale="log", xlabel="imbalance ratio", ylabel="cosine of classifier rows")
    geometry.set(title="Spheres under imbalance: rare classes close up", ylim=(-0.3, 1.1))
    geometry.legend(loc="upper left")
    gaps.plot(table.ratio, table.uneven_value, "o-", color=plot.COLOURS[0], ms=3, label="minimum")
    gaps.plot(table.ratio, np.maximum(table.uneven_gap, 1e-16), "s", color=plot.COLOURS[1], ms=3, label="its gap")
    gaps.set(xscale="log", yscale="log", xlabel="imbalance ratio", title="… and every minimum is certified")
    gaps.set(ylim=(1e-16, 1e2))
    gaps.legend(loc="upper right")
    return made


def summary(table: xarray.Dataset) -> None:
    """Print where the three runs ended, and how far the minima are from theory."""
    names = ("loss", "nc1", "nc2", "nc3")
    ends = table.isel(snapshot=-1)
    rows = [
        [str(label), *(float(ends[name].sel(held_by=label)) for name in (*names, "minimum", "minimum_gap"))]
        for label in table.held_by.values
    ]
    show(["norms held by", *(f"{name}, last step" for name in names), "certified minimum", "gap"], rows)
    predicted = np.abs(table["value"] / table.predicted - 1).max()
    show(
        ["quantity", "measured"],
        [
            ["minima over temperature", table["value"].size],
            ["largest relative distance to theory", float(predicted)],
            ["largest gap", float(table.gap.max())],
            ["minima over imbalance", table.ratio.size],
            ["largest relative gap", float((table.uneven_gap / table.uneven_value).max())],
        ],
    )


def main(config: Config) -> None:
    """Train, minimise, print, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
