"""Neural collapse in a trained network: a small one on handwritten digits, with true and with random labels.

A multilayer perceptron with batch normalisation is trained far past zero error on scikit-learn's digits, and
NC1–NC4 are measured on the training features that enter its last layer. The same network collapses on labels
shuffled among the samples, where there is nothing to generalise. Weight decay shrinks weights whose scale
normalisation makes irrelevant, until steps are too long for them: hence the bursts in which error comes back for
a few epochs. Needs scikit-learn: `pip install ufm[studies]`.
"""

import dataclasses
import functools as ft
import itertools
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from sklearn.datasets import load_digits

import ufm
from ufm import plot
from ufm._progress import progress
from ufm._tables import show
from ufm.training import History, schedule

NUM_CLASSES = 10
DIGITS = 1797
SHOWN = ("loss", "nc1", "nc2", "nc3", "nc4", "trace_ratio", "accuracy")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    samples: int = 1024
    """Training samples, of the 1,797 digits; the others are for testing."""
    widths: tuple[int, ...] = (256, 256, 64)
    """Of the hidden layers; the last is d, dimension of the features."""
    batch: int = 128
    """Samples of a batch; what is left over at the end of an epoch is left out."""
    rate: float = 0.1
    """Learning rate at first; it follows a cosine to zero."""
    momentum: float = 0.9
    """Of stochastic gradient descent."""
    decay_true: float = 5e-3
    """Weight decay of all parameters, with true labels."""
    decay_random: float = 2e-3
    """Weight decay of all parameters, with random labels."""
    epochs_true: int = 300
    """Passes over the samples, with true labels."""
    epochs_random: int = 400
    """Passes over the samples, with random labels."""
    average: float = 0.9
    """Share of the running statistics of batch normalisation that a batch leaves in place."""
    snapshots: int = 60
    """How often the metrics are recorded, log-spaced."""
    seed: int = 0
    """Of the split, the random labels, the initial parameters and the batches."""
    output: pathlib.Path = pathlib.Path("figures/digits.png")
    """Figure to write; the data goes beside it as .npz."""
    features: pathlib.Path = pathlib.Path("figures/digits_features.npz")
    """File for the final features with true labels, for `ufm measure`."""

    def __post_init__(self):
        if not 0 < self.batch <= self.samples < DIGITS:
            raise ValueError(
                f"batch = {self.batch} and samples = {self.samples}: a batch of at most `samples`, and less than "
                f"{DIGITS:,} samples are needed"
            )
        if self.features == self.output.with_suffix(".npz"):
            raise ValueError(f"features = {self.features}: where the data of the figure goes; another file is needed")


class Digits(NamedTuple):
    """Standardised pixels (n, 64) and labels (n,), to train on and to test on."""

    X: np.ndarray
    labels: np.ndarray
    X_test: np.ndarray
    labels_test: np.ndarray


class Layer(NamedTuple):
    """A hidden layer: weights, and the scale and shift of its normalised outputs."""

    W: Any
    scale: Any
    shift: Any


class Network(NamedTuple):
    """Hidden layers, and the classifier A (K, d) and its bias b (K,) on top."""

    layers: tuple[Layer, ...]
    A: Any
    b: Any


class State(NamedTuple):
    """What training carries along; `running` holds the mean and variance of each hidden layer's outputs."""

    network: Network
    running: tuple
    optimizer_state: Any


class Recipe(NamedTuple):
    """Numbers of a training run: as in `Config`, and `steps` in all."""

    rate: Any
    momentum: Any
    decay: Any
    average: Any
    steps: Any
    seed: Any


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
    """Train with true and with random labels."""
    digits = split(config.samples, config.seed)
    shuffled = np.random.default_rng([config.seed, 1]).permutation(digits.labels)
    cases = {
        "true labels": (digits, config.decay_true, config.epochs_true),
        "random labels": (digits._replace(labels=shuffled), config.decay_random, config.epochs_random),
    }
    results = {}
    for name, (case, decay, epochs) in cases.items():
        print(f"training: {name}", file=sys.stderr)
        results[name] = fit(case, config, decay, epochs)
    return results


def split(samples: int, seed: int) -> Digits:
    """The digits in random order, `samples` of them to train on, which the pixels are standardised by."""
    X, labels = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng([seed, 0]).permutation(len(X))
    X, labels = X[order], labels[order].astype(np.int32)
    scale = X[:samples].std(axis=0)
    X = np.where(scale > 0, (X - X[:samples].mean(axis=0)) / np.where(scale > 0, scale, 1.0), 0.0).astype(np.float32)
    return Digits(X[:samples], labels[:samples], X[samples:], labels[samples:])


def fit(digits: Digits, config: Config, decay: float, epochs: int) -> Result:
    """Train a network from a random start, and measure it on the way."""
    steps = epochs * (len(digits.labels) // config.batch)
    recipe = Recipe(config.rate, config.momentum, decay, config.average, steps, config.seed)
    state, features, records = start(config, recipe), {}, []
    looks = schedule(epochs, config.snapshots)
    with progress(epochs, "epochs") as update:
        for done, epoch in itertools.pairwise([0, *looks]):
            state = advance(recipe, config.batch, state, digits.X, digits.labels, done, epoch)
            features, record = look(state, digits)
            records.append(record)
            update(epoch, f"nc1 {record[1].nc1:.1e}  accuracy {record[1].accuracy:.3f}")
    return Result(*collected(looks, records), features)


def start(config: Config, recipe: Recipe) -> State:
    """Weights of variance 2 over the width below them, the classifier's of half that; nothing seen yet."""
    rng = np.random.default_rng([config.seed, 2])
    sizes = (64, *config.widths)

    def normal(rows, columns, gain):
        return jnp.asarray(rng.normal(0.0, np.sqrt(gain / columns), (rows, columns)), jnp.float32)

    layers = tuple(
        Layer(normal(above, below, 2.0), jnp.ones(above, jnp.float32), jnp.zeros(above, jnp.float32))
        for below, above in itertools.pairwise(sizes)
    )
    network = Network(layers, normal(NUM_CLASSES, sizes[-1], 1.0), jnp.zeros(NUM_CLASSES, jnp.float32))
    return State(network, tuple((layer.shift, layer.scale) for layer in layers), optimizer(recipe).init(network))


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Momentum over the gradient and the weight decay of every parameter, at a rate that follows a cosine to 0."""

    def rate(count):
        return 0.5 * recipe.rate * (1.0 + jnp.cos(jnp.pi * count.astype(jnp.float32) / recipe.steps))

    return optax.chain(optax.add_decayed_weights(recipe.decay), optax.sgd(rate, momentum=recipe.momentum))


@ft.partial(jax.jit, static_argnums=1)
def advance(recipe: Recipe, batch: int, state: State, X, labels, done, epoch) -> State:
    """The state at `epoch`, from the one at `done`; traced numbers, so that one compilation serves all."""
    key = jax.random.key(recipe.seed)
    count = len(labels) // batch

    def one_batch(state, rows):
        return step(recipe, state, X[rows], labels[rows]), None

    def one_epoch(index, state):
        order = jax.random.permutation(jax.random.fold_in(key, index), len(labels))
        return jax.lax.scan(one_batch, state, order[: count * batch].reshape(count, batch))[0]

    return jax.lax.fori_loop(done, epoch, one_epoch, state)


def step(recipe: Recipe, state: State, X, labels) -> State:
    """One step on a batch."""
    gradient, seen = jax.grad(batch_loss, has_aux=True)(state.network, X, labels)
    updates, optimizer_state = optimizer(recipe).update(gradient, state.optimizer_state, state.network)
    network: Any = optax.apply_updates(state.network, updates)  # pyright: ignore[reportArgumentType]
    kept = recipe.average
    running = jax.tree.map(lambda old, new: kept * old + (1.0 - kept) * new, state.running, seen)
    return State(network, running, optimizer_state)


def batch_loss(network: Network, X, labels):
    """Cross-entropy under the batch's own statistics, and these."""
    H, seen = hidden(network, X)
    return cross_entropy(logits(network, H), labels), seen


def hidden(network: Network, X, running: tuple | None = None):
    """Features (n, d) and the mean and variance of each layer; it is normalised by `running` where given."""
    seen = []
    for j, layer in enumerate(network.layers):
        X = X @ layer.W.T
        mean, variance = (jnp.mean(X, axis=0), jnp.var(X, axis=0)) if running is None else running[j]
        seen.append((mean, variance))
        X = (X - mean[None, :]) * (layer.scale * jax.lax.rsqrt(variance + 1e-5))[None, :] + layer.shift[None, :]
        X = jax.nn.relu(X)
    return X, tuple(seen)


def logits(network: Network, H):
    """(n, K) of features (n, d)."""
    return H @ network.A.T + network.b[None, :]


def cross_entropy(Z, labels):
    """Mean over samples."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(Z, labels))


def look(state: State, digits: Digits):
    """Features as `ufm.measure` takes them; and the loss, the metrics and the test accuracy."""
    H, loss, test_accuracy = evaluate(state, *digits)
    if not np.isfinite(loss):
        raise SystemExit("the loss stopped being finite; try a smaller rate, or another seed")
    features = {"H": H, "labels": digits.labels, "A": state.network.A, "b": state.network.b}
    features = {name: np.asarray(value) for name, value in features.items()}
    return features, (float(loss), ufm.measure(**features), float(test_accuracy))


@jax.jit
def evaluate(state: State, X, labels, X_test, labels_test):
    """Training features and their cross-entropy, and the test accuracy, under the running statistics."""
    network, running = state.network, state.running
    H, _ = hidden(network, X, running)
    right = jnp.argmax(logits(network, hidden(network, X_test, running)[0]), axis=1) == labels_test
    return H, cross_entropy(logits(network, H), labels), jnp.mean(right)


def collected(looks: list[int], records: list[tuple]) -> tuple[History, np.ndarray]:
    """Records as arrays over epochs."""
    losses, metrics, test_accuracies = zip(*records, strict=True)
    stacked = ufm.Metrics(*map(np.asarray, zip(*metrics, strict=True)))
    return History(np.asarray(looks), np.asarray(losses), stacked), np.asarray(test_accuracies)


def draw(results: dict[str, Result]) -> plot.Figure:
    """The four metrics with both kinds of labels."""
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
        np.savez_compressed(file, **results["true labels"].features)  # pyright: ignore[reportArgumentType]


def main(config: Config) -> None:
    """Train, print, draw."""
    results = data(config)
    summary(results)
    write(results, config)
    print(f"wrote {config.output}, {config.output.with_suffix('.npz')} and {config.features}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
