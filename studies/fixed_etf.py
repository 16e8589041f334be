"""A forced ETF against a learned classifier under imbalance: what minority collapse costs, and what prevents it.

Half of the classes are frequent. With a learned classifier the rare ones' means close up and coincide from a ratio that
theory gives; with the classifier fixed at a simplex ETF samples decouple, and every class keeps its own direction.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tyro
import xarray

import ufm
from ufm import plot
from ufm.console import show


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, and how unequal its classes are."""

    num_classes: int = 10
    """K, half of them rare."""
    dim: int = 64
    """d, dimension of the features."""
    samples: int = 1_000_000
    """N, samples in all, nearly."""
    lambda_A: float = 1e-2
    """Weight decay of the learned classifier."""
    lambda_H: float = 1e-7
    """Weight decay of the features."""
    ratios: int = 33
    """How many imbalance ratios, log-spaced from 1 to 1000."""
    output: pathlib.Path = pathlib.Path("figures/fixed_etf.png")
    """Figure to write; the data goes beside it as .npz."""


def data(config: Config) -> xarray.Dataset:
    """Certified minima with both classifiers over imbalance, and what theory says of them."""
    K, rare = config.num_classes, config.num_classes // 2
    ratios = np.geomspace(1, 1000, config.ratios)
    few = np.maximum((config.samples / (rare + (K - rare) * ratios)).round(), 1).astype(int)
    counts = [[int(np.round(n * r))] * (K - rare) + [int(n)] * rare for n, r in zip(few, ratios, strict=True)]
    shape: dict[str, Any] = {"num_classes": K, "dim": config.dim, "bias": False, "lambda_H": config.lambda_H}
    learned = ufm.Problem(per_class=config.samples // K, lambda_A=config.lambda_A, **shape)
    norms = ufm.predict(learned).norms_A  # the learned classifier's where classes are equal
    radius = float(norms[0])  # pyright: ignore[reportOptionalSubscript]
    forced = ufm.Problem(per_class=1, lambda_A=0.0, classifier=ufm.Fixed.etf(K, config.dim, radius=radius), **shape)
    optima = {
        name: [ufm.minimize(dataclasses.replace(problem, per_class=n)) for n in counts]
        for name, problem in (("learned", learned), ("forced", forced))
    }
    # the fixed classifier's decay, so that objectives compare
    offsets = {"learned": 0.0, "forced": 0.5 * config.lambda_A * K * radius**2}
    predicted = [ufm.predict(best.problem).value for best in optima["forced"]]
    N = np.sum(counts, axis=1)
    by = ("classifier", "ratio")
    return xarray.Dataset(
        {
            "value": (by, [[best.value + offsets[name] for best in found] for name, found in optima.items()]),
            "gap": (by, [[best.gap for best in found] for found in optima.values()]),
            "cosine": (by, [[cosine(*best.means[-2:]) for best in found] for found in optima.values()]),
            "simplex_cosine": -1 / (K - 1),
            "predicted": ("ratio", np.array(predicted, float) + offsets["forced"]),
            # minority collapse iff n_B ≤ N² λ_A λ_H
            "merged": ("ratio", np.array([n[-1] for n in counts]) <= N**2 * config.lambda_A * config.lambda_H),
        },
        coords={"classifier": list(optima), "ratio": [n[0] / n[-1] for n in counts]},
    )


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Of two vectors."""
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def draw(table: xarray.Dataset) -> plot.Figure:
    """Cosine and value against the imbalance ratio."""
    made, ((cosines, values),) = plot.figure(1, 2, width=10.0, height=4.0)
    threshold = float(table.ratio[np.argmax(table.merged.values)])
    for colour, mark, name in zip(plot.COLOURS, plot.MARKS, table.classifier.values, strict=False):
        label = {"learned": "learned classifier", "forced": "forced simplex ETF"}[str(name)]
        for axis, quantity in ((cosines, "cosine"), (values, "value")):
            axis.plot(table.ratio, table[quantity].sel(classifier=name), mark + "-", color=colour, ms=4, label=label)
    cosines.axhline(float(table.simplex_cosine), color="black", ls="--", label="theory: −1/(K−1)")
    for axis in (cosines, values):
        axis.axvline(threshold, color="#555555", ls="--", lw=1.2, label="theory: n_rare = N² λ_A λ_H")
    values.plot(table.ratio, table.predicted, "k--", label="theory of the forced ETF")
    cosines.set(xscale="log", xlabel="imbalance ratio", ylabel="cosine of the means of two rare classes")
    cosines.set(title="Rare classes merge, unless the classifier forbids it", ylim=(-0.2, 1.3))
    values.set(xscale="log", xlabel="imbalance ratio", ylabel="certified minimum of the objective")
    values.set(title="… at a larger objective, its decay included", ylim=(0.7 * table["value"].min(), None))
    cosines.legend(loc="upper left")
    values.legend(loc="lower left")
    return made


def summary(table: xarray.Dataset) -> None:
    """Print both minima and cosines at every fourth ratio."""
    rows = [
        [f"{ratio:.1f}", *table["value"].values[:, i].tolist(), *table.cosine.values[:, i].tolist()]
        for i, ratio in enumerate(table.ratio.values.tolist())
        if i % 4 == 0
    ]
    header = ["ratio", "value, learned", "value, forced", "rare cosine, learned", "rare cosine, forced"]
    show(header, rows, caption=f"largest relative gap {float((table.gap / table['value']).max()):.1e}")


def main(config: Config) -> None:
    """Minimise, print, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
