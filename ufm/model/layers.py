"""Hidden layers between features and classifier, and what follows each: activations by name, in any namespace."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from ufm._core.arrays import Array, custom_jvp, namespace
from ufm.model.params import Columns


class Activation(NamedTuple):
    """What follows a hidden layer, entry by entry.

    Attributes:
        of: an array.
        passes: whether a derivative passes, 0 or 1 by entry, told from what `of` gave; None where all do.
    """

    of: Callable[[Any], Any]
    passes: Callable[[Any], Any] | None


@custom_jvp
def relu(X):
    """max(X, 0), whose derivative at 0 is 0."""
    return namespace(X).maximum(X, 0.0)


@relu.defjvp
def _relu_jvp(primals, tangents):
    (X,), (dX,) = primals, tangents
    return relu(X), jnp.where(X > 0, dX, 0.0)


ACTIVATIONS = {"linear": Activation(lambda X: X, None), "relu": Activation(relu, lambda X: X > 0)}


def layers(activation: str, params: Columns) -> list[Float[Array, "_ N"]]:
    """H and what each hidden layer makes of the one before, activation(W X): one sample a column."""
    found, act = [params.H], ACTIVATIONS[activation].of
    for W in params.W:
        found.append(act(W @ found[-1]))
    return found
