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
from ufm._core.tables import show


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


def train(config: Config) -> dict[str, ufm.Run]:
    """The three runs."""
    optimizer = optax.sgd(config.rate, momentum=config.momentum)
    return {
        name: ufm.train(problem, optimizer, config.steps, config.seed, config.snapshots)
        for name, problem in problems(config).items()
    }


def data(config: Config) -> xarray.Dataset:
    """Certified minima over temperatures, splits and kinds; and over imbalance on spheres."""
    K = config.num_classes
    held: dict[str, Any] = {"lambda_A": 0.0, "lambda_H": 0.0, "bias": False}
    temperatures, splits = np.geomspace(0.3, config.coldest, config.temperatures), np.array([0.1, 1.0, 10.0])
    values = np.full((3, len(temperatures), len(splits)), np.nan)
    gaps = np.full_like(values, np.nan)
    for index, kind in enumerate((ufm.Ball, ufm.MeanBall, ufm.Sphere)):
        problem = ufm.Problem(
            K, config.dim, per_class=config.per_class, features=kind(1.0), classifier=kind(1.0), **held
        )
        radii = [(float(np.sqrt(t * s)), float(np.sqrt(t / s))) for t in temperatures for s in splits]
        table = ufm.sweep(problem, {("features.radius", "classifier.radius"): radii})
        values[index], gaps[index] = (table[name].values.reshape(values.shape[1:]) for name in ("value", "gap"))
    ratios = np.unique(np.geomspace(1, 1000, config.ratios).round()).astype(int)
    spheres = {"features": ufm.Sphere(config.radius), "classifier": ufm.Sphere(config.radius)}
    even = ufm.Problem(K, config.dim, per_class=1, **spheres, **held)
    uneven = [
        ufm.minimize(dataclasses.replace(even, per_class=[int(r)] * (K - K // 2) + [1] * (K // 2))) for r in ratios
    ]
    cosines = [best.A @ best.A.T / config.radius**2 for best in uneven]
    first, last = slice(0, K - K // 2), slice(K - K // 2, K)
    groups = {"frequent": (first, first), "rare": (last, last), "between": (first, last)}
    off = ~np.eye(K, dtype=bool)
    means = [[c[rows, columns][off[rows, columns]].mean() for rows, columns in groups.values()] for c in cosines]
    bound = temperatures * K / (K - 1)
    return xarray.Dataset(
        {
            "value": (("kind", "temperature", "split"), values),
            "gap": (("kind", "temperature", "split"), gaps),
            "predicted": ("temperature", np.log1p((K - 1) * np.exp(-bound))),
            "uneven_value": ("ratio", [best.value for best in uneven]),
            "uneven_gap": ("ratio", [best.gap for best in uneven]),
            "cosine": (("ratio", "group"), np.array(means)),
        },
        coords={
            "kind": ["ball", "mean ball", "sphere"],
            "temperature": temperatures,
            "split": splits,
            "ratio": ratios,
            "group": list(groups),
        },
    )


def draw(runs: dict[str, ufm.Run], table: xarray.Dataset) -> plot.Figure:
    """Collapse against steps above; minima against temperature and imbalance below."""
    made, axes = plot.figure(2, 3, 14.0, 7.5)
    for axis, name in zip(axes[0], ("nc1", "nc2", "nc3"), strict=True):
        for colour, (label, run) in zip(plot.COLOURS, runs.items(), strict=False):
            plot.trace(axis, run.history, name, colour, label)
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
    K = runs["decay"].problem.num_classes
    geometry.axhline(-1 / (K - 1), color="black", ls="--", label="theory, equal counts: −1/(K−1)")
    geometry.set(xscale="log", xlabel="imbalance ratio", ylabel="cosine of classifier rows")
    geometry.set(title="Spheres under imbalance: rare classes close up", ylim=(-0.3, 1.1))
    geometry.legend(loc="upper left")
    gaps.plot(table.ratio, table.uneven_value, "o-", color=plot.COLOURS[0], ms=3, label="minimum")
    gaps.plot(table.ratio, np.maximum(table.uneven_gap, 1e-16), "s", color=plot.COLOURS[1], ms=3, label="its gap")
    gaps.set(xscale="log", yscale="log", xlabel="imbalance ratio", title="… and every minimum is certified")
    gaps.set(ylim=(1e-16, 1e2))
    gaps.legend(loc="upper right")
    return made


def main(config: Config) -> None:
    """Train, minimise, print, draw."""
    runs, table = train(config), data(config)
    posed = problems(config)
    minima = {name: ufm.minimize(problem) for name, problem in posed.items()}
    names = ("loss", "nc1", "nc2", "nc3")
    rows = [
        [name, *(getattr(run.history, n)[-1] for n in names), minima[name].value, minima[name].gap]
        for name, run in runs.items()
    ]
    show(["norms held by", *(f"{n}, last step" for n in names), "certified minimum", "gap"], rows)
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
    plot.save(draw(runs, table), config.output)
    plot.save_data({str(name): table[name].values for name in table.variables}, config.output)
    print(f"wrote {config.output} and {config.output.with_suffix('.npz')}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
