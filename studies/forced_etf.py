"""A classifier that need not be learnt: fixed to a simplex ETF, against one that is trained (Yang et al. 2022).

A perceptron is trained on handwritten digits, with ever fewer samples of half of the classes, once with a learned
classifier and once with the classifier fixed to a simplex equiangular tight frame. With balance both end at the same
geometry and accuracy. Without, the learned classifier squeezes the small classes together, as far as the unconstrained
features model predicts; the fixed one keeps the simplex, and more of the small classes' accuracy. Needs scikit-learn:
`pip install -e '.[studies]'`.
"""

import dataclasses
import itertools
import pathlib
import sys

import numpy as np
import tyro
import xarray

import networks
import ufm
from handwriting import NUM_CLASSES, Digits, split_by_class
from networks import Architecture, Decays, Recipe, Trained
from ufm import plot
from ufm.console import show

SMALL = np.arange(NUM_CLASSES) >= NUM_CLASSES // 2  # the digits of which few samples are given
CLASSIFIERS = ("learned", "fixed simplex ETF")
PANELS = {
    "nc2": plot.LABELS["nc2"],
    "cosine": "mean cosine between small classes' rows of A",
    "small_accuracy": "test accuracy, small classes",
    "large_accuracy": "test accuracy, large classes",
}
SHOWN = ("nc1", "nc2", "nc3", "nc4", "cosine", "accuracy", "large_accuracy", "small_accuracy")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    large: int = 100
    """Training samples of each of the digits 0 to 4."""
    small: tuple[int, ...] = (100, 30, 10, 3)
    """Training samples of each of the digits 5 to 9, one network each."""
    network: Architecture = Architecture(linear=True)
    """The network; its features may point anywhere."""
    lambda_A: float = 5e-3
    """Weight decay of the classifier; where it is fixed it has none."""
    lambda_H: float = 1e-5
    """Weight decay of the features."""
    epochs: int = 400
    """Passes over the samples."""
    batches: int = 8
    """Steps of an epoch."""
    rate: float = 0.2
    """Learning rate at first; it follows a cosine to zero."""
    seeds: int = 3
    """How many splits and starts."""
    output: pathlib.Path = pathlib.Path("figures/forced_etf.png")
    """Figure to write; the data goes beside it as .npz."""


def data(config: Config) -> xarray.Dataset:
    """Both classifiers at every number of samples of the small classes, and what the model predicts of a learned one.

    The fixed classifier's rows have the root mean square norm of the rows that the model's minimum has.
    """
    runs, predicted = [], []
    for small in config.small:
        counts = tuple(small if is_small else config.large for is_small in SMALL)
        K, d = NUM_CLASSES, config.network.widths[-1]
        best = ufm.minimize(ufm.Problem(K, d, per_class=counts, lambda_A=config.lambda_A, lambda_H=config.lambda_H))
        predicted.append((best.metrics.nc2, mean_cosine(best.A)))
        fixed = np.linalg.norm(best.A) / np.sqrt(K) * ufm.geometry.simplex_etf(K, d)
        runs.append([[trained(config, counts, A, seed) for seed in range(config.seeds)] for A in (None, fixed)])
    axes = ("small", "classifier", "seed")
    table = {name: (axes, [[[run[name] for run in seeds] for seeds in row] for row in runs]) for name in SHOWN}
    nc2, cosine = np.asarray(predicted).T
    return xarray.Dataset(
        {**table, "predicted_nc2": ("small", nc2), "predicted_cosine": ("small", cosine)},
        coords={"small": list(config.small), "classifier": list(CLASSIFIERS), "seed": range(config.seeds)},
    )


def trained(config: Config, counts: tuple[int, ...], classifier: np.ndarray | None, seed: int) -> dict[str, float]:
    """The end of one network."""
    print(f"training: {'fixed' if classifier is not None else 'learned'}, {counts}, seed {seed}", file=sys.stderr)
    digits = split_by_class(counts, seed)
    recipe = Recipe(
        config.epochs,
        Decays(A=config.lambda_A, H=config.lambda_H),
        batch=len(digits.labels) // config.batches,
        rate=config.rate,
    )
    return measured(networks.fit(digits, config.network, recipe, seed, 2, classifier), digits)


def measured(run: Trained, digits: Digits) -> dict[str, float]:
    """Metrics of the training features, and accuracy on test samples of large and of small classes."""
    metrics = ufm.measure(**networks.features(run))
    right = np.argmax(networks.apply(run.state, digits.X_test)[1], axis=1) == digits.labels_test
    by_class = np.asarray([right[digits.labels_test == k].mean() for k in range(NUM_CLASSES)])
    return {name: getattr(metrics, name) for name in ("nc1", "nc2", "nc3", "nc4", "accuracy")} | {
        "cosine": mean_cosine(run.looks[-1].A),
        "large_accuracy": by_class[~SMALL].mean(),
        "small_accuracy": by_class[SMALL].mean(),
    }


def mean_cosine(A: np.ndarray) -> float:
    """Between the classifier's rows of the small classes: −1/(K−1) on a simplex, 1 where they have merged."""
    units = A[SMALL] / np.linalg.norm(A[SMALL], axis=1, keepdims=True)
    return float(np.mean([a @ b for a, b in itertools.combinations(units, 2)]))


def draw(table: xarray.Dataset) -> plot.Figure:
    """Geometry and accuracy against the small classes' samples: mean of the seeds, and every one."""
    made, axes = plot.figure(2, 2, height=6.4)
    small = table.small.values
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for index, classifier in enumerate(table.classifier.values):
            values, style = table[name].sel(classifier=classifier), {"color": plot.COLOURS[index]}
            axis.plot(small, values.mean("seed"), plot.MARKS[index] + "-", ms=5, label=f"{classifier}", **style)
            axis.plot(small, values, ".", ms=4, alpha=0.5, **style)
        axis.set(xscale="log", xlabel="samples of each small class", title=title, xticks=small, xticklabels=small)
        axis.minorticks_off()
    for axis, name in zip(axes.flat, ("predicted_nc2", "predicted_cosine"), strict=False):
        axis.plot(small, table[name], "k--", lw=1.4, label="theory: minimum of the UFM, classifier learned")
    axes[0, 0].set(ylim=(0, None))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return made


def summary(table: xarray.Dataset) -> None:
    """Print where both classifiers end, means of the seeds, and what the model predicts."""
    mean = table.mean("seed")
    rows = []
    for small in table.small.values:
        for classifier in table.classifier.values:
            end = mean.sel(small=small, classifier=classifier)
            rows.append([f"{small} samples, {classifier}", *(float(end[name]) for name in SHOWN)])
        theory = table.sel(small=small)
        cells = ["", float(theory["predicted_nc2"]), "", "", float(theory["predicted_cosine"]), "", "", ""]
        rows.append([f"{small} samples, UFM", *cells])
    titles = ["NC1", "NC2", "NC3", "NC4", "cosine", "accuracy", "test, large", "test, small"]
    show(["small classes, classifier", *titles], rows)


def main(config: Config) -> None:
    """Train, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
