"""The phase diagram of weight decay: everything depends on c = √(λ_A λ_H), and from c = 1/(K√n) on nothing is learnt.

Certified minima over a grid of (λ_A, λ_H), against theory: the minimum, the simplex, the ratio of the two norms, and
the line beyond which the zero point is the minimum.
"""

import dataclasses
import pathlib

import numpy as np
import tyro
import xarray
from matplotlib.colors import LogNorm

import ufm
from ufm import plot
from ufm.console import show

FLOOR = 1e-16  # where zeros are drawn on a log axis


@dataclasses.dataclass(frozen=True)
class Config:
    """The grid, and the model on it."""

    num_classes: int = 10
    """K, number of classes."""
    dim: int = 16
    """d, dimension of the features."""
    per_class: int = 10
    """n, samples of each class."""
    smallest: float = 1e-4
    """Weight decay at the grid's lower end."""
    largest: float = 1.0
    """Weight decay at its upper end."""
    points: int = 45
    """Values of each weight decay, log-spaced."""
    store: pathlib.Path | None = None
    """Keep the sweep here, and go on from what is there."""
    output: pathlib.Path = pathlib.Path("figures/weight_decay.png")
    """Figure to write; the data goes beside it as .npz."""


def data(config: Config) -> xarray.Dataset:
    """The sweep, with what theory says of each point and the norms of both factors."""
    problem = ufm.Problem(config.num_classes, config.dim, per_class=config.per_class)
    decays = np.geomspace(config.smallest, config.largest, config.points)
    table = ufm.sweep(problem, {"lambda_A": decays, "lambda_H": decays}, store=config.store, params=True)
    predicted = [
        [ufm.predict(dataclasses.replace(problem, lambda_A=a, lambda_H=h)).value for h in decays.tolist()]
        for a in decays.tolist()
    ]
    norms = {name: (table[name] ** 2).sum(("axis", rows)) ** 0.5 for name, rows in (("H", "sample"), ("A", "class"))}
    return table.drop_vars(["H", "A", "b"]).assign(
        predicted=(("lambda_A", "lambda_H"), np.asarray(predicted, float)),
        ratio=norms["A"] / norms["H"].where(norms["H"] > 0),
        c=np.sqrt(table.lambda_A * table.lambda_H),
        threshold=1.0 / (config.num_classes * np.sqrt(config.per_class)),
    )


def draw(table: xarray.Dataset) -> plot.Figure:
    """The phase diagram; and value, NC2 and norm ratio of every point against the one number they depend on."""
    made, ((phases, values), (simplex, ratios)) = plot.figure(2, 2, width=10.0, height=8.0)
    threshold = float(table.threshold)
    draw_phases(made, phases, table, threshold)
    c, order = table.c.values.ravel(), np.argsort(table.c.values.ravel())
    dots = {"color": plot.COLOURS[0], "ms": 3, "ls": "", "alpha": 0.5, "label": f"{c.size:,} certified minima"}
    values.plot(c, table["value"].values.ravel(), "o", **dots)
    values.plot(c[order], table.predicted.values.ravel()[order], "k--", label="theory: simplex ETF, or zero")
    values.set(
        ylabel="minimum of the objective", title="One curve for all decays", ylim=(-0.1, 1.35 * table["value"].max())
    )
    simplex.plot(c, np.maximum(table.nc2.values.ravel(), FLOOR), "o", **dots)
    simplex.set(
        yscale="log", ylabel="NC2: distance of means to a simplex", title="A simplex, up to rounding, or nothing"
    )
    for axis, top in ((values, 0.78), (simplex, 1.0)):
        axis.axvline(threshold, ymax=top, color="black", ls="--", lw=1.0)
        axis.set(xscale="log", xlabel="c = √(λ_A λ_H)")
    simplex.text(threshold * 0.8, 1e-8, "theory: c = 1/(K√n)", rotation=90, ha="right", va="center")
    values.legend(loc="upper left", frameon=False)
    simplex.legend(loc="upper left", frameon=False)
    quotient = (table.lambda_H / table.lambda_A).transpose("lambda_A", "lambda_H").values.ravel()
    ratios.plot(quotient, table.ratio.values.ravel(), "o", **{**dots, "label": "certified minima that are not zero"})
    line = np.array([quotient.min(), quotient.max()])
    ratios.plot(line, np.sqrt(line), "k--", label="theory: √(λ_H / λ_A)")
    ratios.set(xscale="log", yscale="log", xlabel="λ_H / λ_A", ylabel="‖A‖ / ‖H‖", title="Decay balances the norms")
    ratios.legend(loc="upper left", frameon=False)
    return made


def draw_phases(made: plot.Figure, axis, table: xarray.Dataset, threshold: float) -> None:
    """The minimum over both decays, with the line where it becomes the zero point."""
    x, y = table.lambda_A.values, table.lambda_H.values
    norm = LogNorm(float(table["value"].min()), float(table["value"].max()))
    mesh = axis.pcolormesh(x, y, table["value"].values.T, norm=norm, cmap="cividis", shading="nearest", rasterized=True)
    made.colorbar(mesh, ax=axis, label="minimum of the objective")
    zero = np.nonzero(table.degenerate.values)
    axis.plot(x[zero[0]], y[zero[1]], ".", color="white", ms=1.5)
    axis.plot(x, threshold**2 / x, "--", color="black", lw=1.6, label="theory: c = 1/(K√n)")
    axis.plot([], [], ".", color="white", mec="#888888", label="zero point is the minimum")
    axis.set(xscale="log", yscale="log", xlabel="λ_A", ylabel="λ_H", title="Weight decay's two phases")
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axis.legend(loc="lower left", frameon=True, facecolor="#DDDDDD")


def summary(table: xarray.Dataset) -> None:
    """Print how far the minima are from what theory says."""
    theory = np.abs(table["value"] - table.predicted) / table.predicted
    expected = np.sqrt(table.lambda_H / table.lambda_A)
    beyond, below = table.c > table.threshold * (1 + 1e-9), table.c < table.threshold * (1 - 1e-9)
    rows = [
        ["points", table.status.size],
        ["certified", int(table.certified.sum())],
        ["largest relative gap", float((table.gap / table["value"]).max())],
        ["largest relative distance to the predicted minimum", float(theory.max())],
        ["largest NC2 below c = 1/(K√n)", float(table.nc2.where(below).max())],
        ["largest relative error of ‖A‖ / ‖H‖", float(np.abs(table.ratio / expected - 1).max())],
        [
            "points on the wrong side of c = 1/(K√n)",
            int(((table.degenerate & below) | (~table.degenerate & beyond)).sum()),
        ],
    ]
    show(["quantity", "measured"], rows)


def main(config: Config) -> None:
    """Sweep, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
