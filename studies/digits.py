"""Neural collapse in trained networks: small ones on handwritten digits, with true and with random labels.

A multilayer perceptron and a convolutional network, with batch normalisation, are trained far past zero error on
scikit-learn's digits, and NC1–NC4 are measured on the training features that enter their last layer. The same networks
collapse on labels shuffled among the samples, where there is nothing to generalise. Weight decay shrinks weights whose
scale normalisation makes irrelevant, until steps are too long for them: hence the bursts in which error comes back for
a few epochs. Needs scikit-learn: `pip install -e '.[studies]'`.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
import tyro
import xarray

import networks
from handwriting import DIGITS, split
from networks import Architecture, Decays, Recipe, Trained
from ufm import plot
from ufm.console import show

SHOWN = ("loss", "nc1", "nc2", "nc3", "nc4", "trace_ratio", "accuracy")
FEATURES = {"H": ("sample", "feature"), "labels": ("sample",), "A": ("class", "feature"), "b": ("class",)}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    samples: int = 1024
    """Training samples, of the 1,797 digits; the others are for testing."""
    perceptron: Architecture = Architecture()
    """The fully connected network."""
    convolutional: Architecture = Architecture(widths=(128, 64), channels=(16, 32))
    """The convolutional network."""
    true: Recipe = Recipe(epochs=300, decays=Decays(hidden=5e-3, A=5e-3, b=5e-3))
    """Training with true labels: one weight decay for all parameters, none for features."""
    random: Recipe = Recipe(epochs=400, decays=Decays(hidden=2e-3, A=2e-3, b=2e-3))
    """Training with random labels."""
    snapshots: int = 60
    """How often the metrics are recorded, log-spaced."""
    seed: int = 0
    """Of the split, the random labels, the initial parameters and the batches."""
    output: pathlib.Path = pathlib.Path("figures/digits.png")
    """Figure to write; the data goes beside it as .npz."""
    features: pathlib.Path = pathlib.Path("figures/digits_features.npz")
    """File for the perceptron's final features with true labels, for `ufm measure`."""

    def __post_init__(self):
        largest = max(self.true.batch, self.random.batch)
        if not 0 < min(self.true.batch, self.random.batch) <= largest <= self.samples < DIGITS:
            raise ValueError(
                f"batch = {largest} and samples = {self.samples}: a batch of at most `samples`, and less than "
                f"{DIGITS:,} samples are needed"
            )
        if self.features == self.output.with_suffix(".npz"):
            raise ValueError(f"features = {self.features}: where the data of the figure goes; another file is needed")


def data(config: Config) -> xarray.Dataset:
    """Both networks over epochs with true and with random labels, and the features of each at the end.

    Networks are looked at in different epochs, and may be of different widths: what is not there is NaN.
    """
    digits = split(config.samples, config.seed)
    shuffled = np.random.default_rng([config.seed, 1]).permutation(digits.labels)
    tables = {}
    for network, architecture in (("MLP", config.perceptron), ("CNN", config.convolutional)):
        for kind, labels, recipe in (("true", digits.labels, config.true), ("random", shuffled, config.random)):
            print(f"training: {network}, {kind} labels", file=sys.stderr)
            case = digits._replace(labels=labels)
            trained = networks.fit(case, architecture, recipe, config.seed, config.snapshots)
            tables[f"{network}, {kind} labels"] = networks.history(trained).merge(at_the_end(trained))
    names = xarray.Variable("network", list(tables))
    joined: Any = xarray.concat(
        list(tables.values()), names, data_vars="all", coords="minimal", compat="equals", join="outer"
    )  # xarray's types know of trees too
    return joined


def at_the_end(trained: Trained) -> xarray.Dataset:
    """H (N, d), labels (N,), A (K, d) and b (K,)."""
    arrays = {name: (FEATURES[name], array) for name, array in networks.features(trained).items()}
    return xarray.Dataset(arrays, {"feature": range(trained.looks[-1].H.shape[1])})


def features(table: xarray.Dataset, network: str) -> dict[str, np.ndarray]:
    """What a network ends with, as `ufm.measure` takes it."""
    last = table[list(FEATURES)].sel(network=network).dropna("feature")
    return {name: last[name].values for name in FEATURES}


def draw(table: xarray.Dataset) -> plot.Figure:
    """The four metrics of both networks with both kinds of labels."""
    return plot.collapse({str(name): table.sel(network=name) for name in table.network.values}, unit="epoch")


def summary(table: xarray.Dataset) -> None:
    """Print first and last values."""
    rows = []
    for name in table.network.values:
        seen = table.sel(network=name).dropna("step", subset=["loss"])
        for when, index in (("first", 0), ("last", -1)):
            look = seen.isel(step=index)
            values = [float(look[field]) for field in (*SHOWN, "test_accuracy")]
            rows.append([f"{name}, {when}", int(look.step), *values])
    titles = ["loss", "NC1", "NC2", "NC3", "NC4", "trace ratio", "accuracy", "test accuracy"]
    show(["network", "epoch", *titles], rows)


def write_features(table: xarray.Dataset, path: pathlib.Path) -> None:
    """The perceptron's with true labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **features(table, "MLP, true labels"))  # pyright: ignore[reportArgumentType]
    print(f"wrote {path}")


def main(config: Config) -> None:
    """Train, print, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table.drop_dims(["sample", "class", "feature"]))
    write_features(table, config.features)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
