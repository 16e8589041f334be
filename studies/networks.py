"""The small networks that studies train, mostly on handwritten digits: perceptron or convolutional, under any decay.

Hidden layers are normalised by batch and cut at zero; on top are features H and a linear classifier (A, b), as in the
unconstrained features model, and the objective minimised is that model's with the hidden weights θ beside it, where the
loss ℓ is cross-entropy and the weights w are 1 unless others are asked for:

    (1/N) Σ_i w_{y_i} ℓ(A h_i + b, y_i) + λ_θ/2 ‖θ‖² + λ_A/2 ‖A‖² + λ_b/2 ‖b‖² + λ_H/2 ‖H‖².
"""

import dataclasses
import functools as ft
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

import ufm
from handwriting import SIDE, Digits
from ufm.console import progress
from ufm.training import schedule


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Layers between the pixels and the logits."""

    widths: tuple[int, ...] = (256, 256, 64)
    """Of the fully connected hidden layers; the last is d, dimension of the features."""
    channels: tuple[int, ...] = ()
    """Of the 3 by 3 convolutions before them, each of which halves height and width; none make a perceptron."""
    num_classes: int = 10
    """K, number of classes."""
    linear: bool = False
    """Whether the features are an affine function of the layer below, neither normalised nor cut at zero."""
    inputs: int = SIDE**2
    """Numbers that a perceptron's samples are made of; convolutions take the digits' pixels."""


@dataclasses.dataclass(frozen=True)
class Decays:
    """Weight decay λ of each kind of parameter, per parameter whatever the number of samples."""

    hidden: float = 0.0
    """Of weights, scales and shifts of the hidden layers."""
    A: float = 0.0
    """Of the classifier."""
    b: float = 0.0
    """Of its bias."""
    H: float = 0.0
    """Of the features."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: stochastic gradient descent with momentum, at a rate that follows a cosine to zero."""

    epochs: int
    """Passes over the samples."""
    decays: Decays
    """Weight decay."""
    batch: int = 128
    """Samples of a batch; what is left over at the end of an epoch is left out."""
    rate: float = 0.1
    """Learning rate at first."""
    momentum: float = 0.9
    """Of the gradient, with the decay in it."""
    average: float = 0.9
    """Share of the running statistics of batch normalisation that a batch leaves in place."""


class Layer(NamedTuple):
    """A hidden layer: weights (above, below), or (3, 3, below, above) of a convolution; scale and shift of its outputs.

    `scale` is None where outputs are neither normalised nor cut at zero.
    """

    W: Any
    scale: Any
    shift: Any


class Network(NamedTuple):
    """Hidden layers, and the classifier A (K, d) and its bias b (K,) on top."""

    layers: tuple[Layer, ...]
    A: Any
    b: Any


class Cost(NamedTuple):
    """What logits (n, K) cost: a loss of ufm's, and weights (K,) of classes."""

    loss: Any
    weights: Any

    def __call__(self, Z, labels):
        """Mean over samples."""
        return jnp.mean(self.weights[labels] * self.loss(Z, labels))


class State(NamedTuple):
    """What training carries along; `running` holds the mean and variance of each hidden layer's outputs."""

    network: Network
    running: tuple
    optimizer_state: Any


class Numbers(NamedTuple):
    """A recipe as traced numbers, with its number of steps; `learnt` is 0 where A and b stay as they are, else 1.

    `cost` is of logits and labels; None is cross-entropy.
    """

    rate: Any
    momentum: Any
    average: Any
    decays: tuple
    learnt: Any
    steps: Any
    seed: Any
    cost: Cost | None = None


class Look(NamedTuple):
    """A network at an epoch, seen under the running statistics.

    Attributes:
        epoch: passes over the samples so far.
        H: (N, d) features of the training samples, in their order.
        A: (K, d) classifier.
        b: (K,) bias.
        loss: cross-entropy of the training samples, in nats.
        test_accuracy: share of the test samples that are right.
    """

    epoch: int
    H: np.ndarray
    A: np.ndarray
    b: np.ndarray
    loss: float
    test_accuracy: float


class Trained(NamedTuple):
    """A network's training: where it ended, what was seen on the way, and the labels (N,) it was trained on."""

    state: State
    looks: tuple[Look, ...]
    labels: np.ndarray


def fit(
    digits: Digits,
    architecture: Architecture,
    recipe: Recipe,
    seed: int = 0,
    snapshots: int = 60,
    classifier: np.ndarray | None = None,
    cost: Cost | None = None,
) -> Trained:
    """Train a network from a random start, and look at it on the way.

    Args:
        digits: to train and to test on.
        architecture: of the network.
        recipe: of its training.
        seed: of the initial parameters and the batches.
        snapshots: how many looks, log-spaced over the epochs.
        classifier: (K, d) that stays as it is, without a bias; None learns one, and a bias.
        cost: of logits, that is minimised in place of cross-entropy.

    Raises:
        ValueError: where a batch is larger than the samples.
        SystemExit: where the loss stops being finite.
    """
    if not 0 < recipe.batch <= len(digits.labels):
        raise ValueError(f"batch = {recipe.batch}: from 1 to {len(digits.labels)}, the number of samples, is needed")
    steps = recipe.epochs * (len(digits.labels) // recipe.batch)
    decays = dataclasses.astuple(recipe.decays)
    learnt = float(classifier is None)
    numbers = Numbers(recipe.rate, recipe.momentum, recipe.average, decays, learnt, steps, seed, cost)
    state, looks = start(architecture, numbers, classifier), []
    epochs = schedule(recipe.epochs, snapshots)
    with progress(recipe.epochs, "epochs") as update:
        for done, epoch in itertools.pairwise([0, *epochs]):
            state = advance(numbers, recipe.batch, state, digits.X, digits.labels, done, epoch)
            looks.append(look(state, digits, epoch))
            update(epoch, f"loss {looks[-1].loss:.1e}  test accuracy {looks[-1].test_accuracy:.3f}")
    return Trained(state, tuple(looks), digits.labels)


def start(architecture: Architecture, numbers: Numbers, classifier: np.ndarray | None) -> State:
    """Weights of variance 2 over the number of their inputs, linear ones of half that; nothing seen yet."""
    rng = np.random.default_rng([numbers.seed, 2])
    K, widths = architecture.num_classes, architecture.widths

    def normal(shape, inputs, gain):
        return jnp.asarray(rng.normal(0.0, np.sqrt(gain / inputs), shape), jnp.float32)

    def normalised(W, above):
        return Layer(W, jnp.ones(above, jnp.float32), jnp.zeros(above, jnp.float32))

    layers, below, side = [], 1, SIDE
    for above in architecture.channels:
        layers.append(normalised(normal((3, 3, below, above), 9 * below, 2.0), above))
        below, side = above, (side + 1) // 2
    below = below * side**2 if architecture.channels else architecture.inputs
    for j, above in enumerate(widths):
        linear = architecture.linear and j == len(widths) - 1
        layers.append(normalised(normal((above, below), below, 1.0 if linear else 2.0), above))
        if linear:
            layers[-1] = layers[-1]._replace(scale=None)
        below = above
    A = normal((K, below), below, 1.0) if classifier is None else jnp.asarray(classifier, jnp.float32)
    network = Network(tuple(layers), A, jnp.zeros(K, jnp.float32))
    running = tuple(None if layer.scale is None else (layer.shift, layer.scale) for layer in layers)
    return State(network, running, optimizer(numbers).init(network))


def optimizer(numbers: Numbers) -> optax.GradientTransformation:
    """Momentum, at a rate that follows a cosine to 0."""

    def rate(count):
        return 0.5 * numbers.rate * (1.0 + jnp.cos(jnp.pi * count.astype(jnp.float32) / numbers.steps))

    return optax.sgd(rate, momentum=numbers.momentum)


@ft.partial(jax.jit, static_argnums=1)
def advance(numbers: Numbers, batch: int, state: State, X, labels, done, epoch) -> State:
    """The state at `epoch`, from the one at `done`; traced numbers, so that one compilation serves all."""
    key = jax.random.key(numbers.seed)
    count = len(labels) // batch

    def one_batch(state, rows):
        return step(numbers, state, X[rows], labels[rows], len(X)), None

    def one_epoch(index, state):
        order = jax.random.permutation(jax.random.fold_in(key, index), len(labels))
        return jax.lax.scan(one_batch, state, order[: count * batch].reshape(count, batch))[0]

    return jax.lax.fori_loop(done, epoch, one_epoch, state)


def step(numbers: Numbers, state: State, X, labels, samples: int) -> State:
    """One step on a batch, of so many samples in all."""
    gradient, seen = jax.grad(objective, has_aux=True)(state.network, numbers.decays, X, labels, samples, numbers.cost)
    gradient = gradient._replace(A=numbers.learnt * gradient.A, b=numbers.learnt * gradient.b)
    updates, optimizer_state = optimizer(numbers).update(gradient, state.optimizer_state, state.network)
    network: Any = optax.apply_updates(state.network, updates)  # pyright: ignore[reportArgumentType]
    kept = numbers.average
    running = jax.tree.map(lambda old, new: kept * old + (1.0 - kept) * new, state.running, seen)
    return State(network, running, optimizer_state)


def objective(network: Network, decays: tuple, X, labels, samples: int, cost: Cost | None = None):
    """The objective as a batch of B estimates it, under the batch's own statistics; and these.

    The features of a batch are B of N, so ‖H‖² is estimated, without bias, by N/B times the batch's own.
    """
    H, seen = hidden(network, X)
    of_hidden, of_A, of_b, of_H = decays
    squares = of_hidden * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(network.layers))
    squares += of_A * jnp.sum(network.A**2) + of_b * jnp.sum(network.b**2) + of_H * samples / len(X) * jnp.sum(H**2)
    return (cost or cross_entropy)(logits(network, H), labels) + 0.5 * squares, seen


def hidden(network: Network, X, running: tuple | None = None):
    """Features (n, d) and the mean and variance of each layer; it is normalised by `running` where given."""
    seen = []
    for j, layer in enumerate(network.layers):
        X = outputs(layer.W, X)
        if layer.scale is None:
            X = X + layer.shift[None, :]
            seen.append(None)
            continue
        rows = X.reshape(-1, X.shape[-1])
        mean, variance = (jnp.mean(rows, axis=0), jnp.var(rows, axis=0)) if running is None else running[j]
        seen.append((mean, variance))
        rows = (rows - mean[None, :]) * (layer.scale * jax.lax.rsqrt(variance + 1e-5))[None, :] + layer.shift[None, :]
        X = jax.nn.relu(rows).reshape(X.shape)
    return X, tuple(seen)


def outputs(W, X):
    """Products with all inputs, or with the 3 by 3 patch around every second pixel, as one product of matrices."""
    if W.ndim == 2:
        return X.reshape(len(X), -1) @ W.T
    X = X.reshape(len(X), SIDE, SIDE, 1) if X.ndim == 2 else X
    side = X.shape[1]
    padded = jnp.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [(i, j) for i in range(3) for j in range(3)]
    patches = jnp.concatenate([padded[:, i : i + side : 2, j : j + side : 2] for i, j in corners], axis=-1)
    return patches @ W.reshape(-1, W.shape[-1])


def logits(network: Network, H):
    """(n, K) of features (n, d)."""
    return H @ network.A.T + network.b[None, :]


def cross_entropy(Z, labels):
    """Mean over samples."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(Z, labels))


def look(state: State, digits: Digits, epoch: int) -> Look:
    """The network as it is now."""
    H, loss, test_accuracy = evaluate(state, *digits)
    if not np.isfinite(loss):
        raise SystemExit("the loss stopped being finite; try a smaller rate, or another seed")
    A, b = np.asarray(state.network.A), np.asarray(state.network.b)
    return Look(epoch, np.asarray(H), A, b, float(loss), float(test_accuracy))


@jax.jit
def evaluate(state: State, X, labels, X_test, labels_test):
    """Training features and their cross-entropy, and the test accuracy, under the running statistics."""
    (H, Z), (_, Z_test) = apply(state, X), apply(state, X_test)
    return H, cross_entropy(Z, labels), jnp.mean(jnp.argmax(Z_test, axis=1) == labels_test)


@jax.jit
def apply(state: State, X):
    """Features (n, d) and logits (n, K) of samples (n, 64), under the running statistics."""
    H, _ = hidden(state.network, X, state.running)
    return H, logits(state.network, H)


def history(trained: Trained) -> xarray.Dataset:
    """Cross-entropy and metrics of the training samples and the test accuracy, over `step`, which counts epochs."""
    metrics = [ufm.measure(seen.H, trained.labels, seen.A, seen.b) for seen in trained.looks]
    values = dict(zip(ufm.Metrics._fields, map(np.asarray, zip(*metrics, strict=True)), strict=True))
    values |= {name: np.asarray([getattr(seen, name) for seen in trained.looks]) for name in ("loss", "test_accuracy")}
    table = xarray.Dataset({name: ("step", value) for name, value in values.items()})
    return table.assign_coords(step=[seen.epoch for seen in trained.looks])


def features(trained: Trained) -> dict[str, Any]:
    """H (N, d), labels (N,), A (K, d) and b (K,) at the end, as `ufm.measure` takes them."""
    last = trained.looks[-1]
    return {"H": last.H, "labels": trained.labels, "A": last.A, "b": last.b}
