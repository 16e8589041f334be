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
from typing import NamedTuple

import numpy as np
import tyro

import networks
import ufm
from handwriting import DIGITS, split
from networks import Architecture, Decays, Recipe
from ufm import plot
from ufm.console import show
from ufm.metrics.history import History

SHOWN = ("loss", "nc1", "nc2", "nc3", "nc4", "trace_ratio", "accuracy")


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


class Result(NamedTuple):
    """A trained network.

    Attributes:
        history: cross-entropy and metrics of the training set, by epoch.
        test_accuracy: at the same epochs, against the true labels.
        features: H (N, d), labels (N,), A (K, d) and b (K,) at the end, as `ufm.measure` takes them.
    """

    history: History
    test_accuracy: np.ndarray
    features: dict[str, np.ndarray]


def data(config: Config) -> dict[str, Result]:
    """Train both networks with true and with random labels."""
    digits = split(config.samples, config.seed)
    shuffled = np.random.default_rng([config.seed, 1]).permutation(digits.labels)
    results = {}
    for network, architecture in (("MLP", config.perceptron), ("CNN", config.convolutional)):
        for kind, labels, recipe in (("true", digits.labels, config.true), ("random", shuffled, config.random)):
            print(f"training: {network}, {kind} labels", file=sys.stderr)
            case = digits._replace(labels=labels)
            trained = networks.fit(case, architecture, recipe, config.seed, config.snapshots)
            accuracy = np.asarray([seen.test_accuracy for seen in trained.looks])
            history = networks.history(trained)
            results[f"{network}, {kind} labels"] = Result(history, accuracy, networks.features(trained))
    return results


def draw(results: dict[str, Result]) -> plot.Figure:
    """The four metrics of both networks with both kinds of labels."""
    return plot.collapse({name: result.history for name, result in results.items()}, unit="epoch")


def summary(results: dict[str, Result]) -> None:
    """Print first and last values."""
    rows = []
    for name, result in results.items():
        history = result.history
        for when, index in (("first", 0), ("last", -1)):
            values = [getattr(history, field)[index] for field in SHOWN]
            rows.append([f"{name}, {when}", int(history.step[index]), *values, result.test_accuracy[index]])
    columns = ["loss", "NC1", "NC2", "NC3", "NC4", "trace ratio", "accuracy", "test accuracy"]
    show(["network", "epoch", *columns], rows)


def write(results: dict[str, Result], config: Config) -> None:
    """The figure, beside it the data with the command and versions that made it, and the final features."""
    plot.save(draw(results), config.output)
    arrays = {
        f"{name}/{field}": np.asarray(getattr(result.history, field))
        for name, result in results.items()
        for field in ("step", "loss", *ufm.Metrics._fields)
    }
    arrays |= {f"{name}/test_accuracy": result.test_accuracy for name, result in results.items()}
    plot.save_data(arrays, config.output)
    config.features.parent.mkdir(parents=True, exist_ok=True)
    with config.features.open("wb") as file:
        np.savez_compressed(file, **results["MLP, true labels"].features)  # pyright: ignore[reportArgumentType]


def main(config: Config) -> None:
    """Train, print, draw."""
    results = data(config)
    summary(results)
    write(results, config)
    print(f"wrote {config.output}, {config.output.with_suffix('.npz')} and {config.features}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
