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
from ufm.metrics.definitions import LONG_NAMES, Metrics, of_columns
from ufm.metrics.groups import of_group_columns
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
    features: Sequence[Float[Array, "width N"]], labels: Int[Array, " N"], num_classes: int, network: Network
) -> list[Metrics]:
    """Metrics of each layer's features, in columns; in their namespace, traceable."""
    *before, last = features
    decisions = decide(Rule(network.A, network.b), last)
    found = [
        of_columns(X, labels, num_classes, reader, network.b, decisions)
        for X, reader in zip(before, readers(features, labels, num_classes, network), strict=True)
    ]
    return [*found, of_columns(last, labels, num_classes, network.A, network.b)]


def of_group_layers(
    features: Sequence[Float[Array, "width N"]],
    labels: Int[Array, " N"],
    num_groups: int,
    network: Network,
    told: Float[Array, "K N"] | None,
) -> list[Metrics]:
    """The same of groups that are no classes (see `of_group_columns`); only the last layer's classifier is known."""
    *before, last = features
    whole = of_group_columns(last, labels, num_groups, network.A, network.b, told)
    found = [of_group_columns(X, labels, num_groups, None, None, None) for X in before]
    return [*(each._replace(accuracy=whole.accuracy) for each in found), whole]


def readers(
    features: Sequence[Float[Array, "width N"]], labels: Int[Array, " N"], num_classes: int, network: Network
) -> list[Float[Array, "K width"]]:
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
