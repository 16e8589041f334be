"""Metrics of every layer of a network: features H and what each hidden layer makes of them, with what reads it.

A layer is read by all that follows. Row k of its classifier is the gradient of output k with respect to the layer's
features, in the mean over the samples of class k: of linear layers A W_L ⋯ W_{j+1}, of the last layer A. That is what
nc3, equinorm_A and self_duality speak of. What a layer is compared with in nc4, and what accuracy counts, is what the
network decides: the same for all layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import Array, namespace
from ufm.metrics.decisions import Rule, decide
from ufm.metrics.definitions import LONG_NAMES, Metrics, of_columns, of_means
from ufm.metrics.groups import of_group_columns, of_group_means
from ufm.metrics.passes import first_pass


class Network(NamedTuple):
    """What makes each layer's features of those before.

    Attributes:
        W: hidden layers, (w_j, w_{j−1}) each.
        A: (K, w_L) classifier.
        b: (K,) bias.
        passes: whether a derivative passes an entry of a layer's features; None where all do.
    """

    W: tuple[Any, ...]
    A: Any
    b: Any
    passes: Any = None


def of_layers(
    features: Sequence[Float[Array, "_ N"]],
    labels: Int[Array, " N"],
    num_classes: int,
    network: Network,
    counts: Float[Array, " K"] | None = None,
) -> list[Metrics]:
    """Metrics of each layer's features, in columns; in their namespace, traceable.

    With `counts` the columns are the means of the classes in order, to which so many samples of each have collapsed.
    """
    *before, last = features

    def one(X, reader, decisions):
        if counts is not None:
            return of_means(X.T, counts, reader, network.b, decisions)
        return of_columns(X, labels, num_classes, reader, network.b, decisions)

    whole = one(last, network.A, None)
    if not before:
        return [whole]
    decisions = decide(Rule(network.A, network.b), last)
    readers = readers_of(features, labels, num_classes, network)
    found = [one(X, reader, decisions) for X, reader in zip(before, readers, strict=True)]
    return [*found, whole]


def of_group_layers(
    features: Sequence[Float[Array, "_ N"]],
    labels: Int[Array, " N"],
    num_groups: int,
    network: Network,
    told: Float[Array, "K N"] | None,
    counts: Float[Array, " groups"] | None = None,
) -> list[Metrics]:
    """The same of groups that are no classes (see `of_group_columns`); only the last layer's classifier is known."""
    *before, last = features

    def one(X, A, told):
        if counts is not None:
            return of_group_means(X.T, counts, A, network.b, told)
        return of_group_columns(X, labels, num_groups, A, network.b, told)

    whole = one(last, network.A, told)
    return [*(one(X, None, None)._replace(accuracy=whole.accuracy) for X in before), whole]


def readers_of(
    features: Sequence[Float[Array, "_ N"]], labels: Int[Array, " N"], num_classes: int, network: Network
) -> list[Float[Array, "K _"]]:
    """The classifier of each layer but the last, H's first."""
    found: list[Any] = []
    if network.passes is None:
        reader = network.A
        for W in reversed(network.W):
            reader = reader @ W
            found.append(reader)
        return found[::-1]
    gradient = network.A[labels].T
    for W, X in zip(reversed(network.W), reversed(features[1:]), strict=True):
        gradient = W.T @ namespace(X).where(network.passes(X), gradient, 0.0)
        found.append(first_pass(gradient, labels, num_classes).means())
    return found[::-1]


def side_by_side(layers: Sequence[Metrics]) -> Metrics:
    """Metrics of layers as arrays whose last axis runs over them: NaN where one isn't known, None where none is."""

    def joined(values):
        if all(value is None for value in values):
            return None
        return np.stack(np.broadcast_arrays(*(np.nan if value is None else value for value in values)), axis=-1)

    return Metrics(*map(joined, zip(*layers, strict=True)))


def layer_name(metric: str) -> str:
    """What a plot's label says of a metric by layer."""
    return f"{LONG_NAMES[metric]}, by layer"
