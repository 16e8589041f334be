"""Gradient descent with momentum: what a step makes of a quadratic, and whether an optimiser is such a descent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.archive import storable
from ufm._core.checks import Real, doubles, flag, real

SMALL = 1e-6  # of the gradients that an optimiser is asked about: where training ends, nothing is clipped
ALIKE = 1e-4  # relative: what rounding in float32 leaves of answers that are one
ANSWERS = 4  # steps for which an optimiser is listened to
LARGER = 1e3  # times as large, the gradients that have the same answers in their unit: what adapts to them has others


@storable
class Descent(NamedTuple):
    """Gradient descent, with a heavy ball or Nesterov's momentum.

    Attributes:
        learning_rate: η, in units of parameter over gradient.
        momentum: β in [0, 1), dimensionless; 0 is gradient descent.
        nesterov: whether the gradient is taken ahead.
    """

    learning_rate: Any
    momentum: Any = 0.0
    nesterov: Any = False


def factor(
    rate: Real | np.ndarray | list[float],
    learning_rate: Real,
    momentum: Real = 0.0,
    *,
    nesterov: bool = False,
    power: Real = 1.0,
) -> Any:
    """What a step of gradient descent multiplies a quantity by that falls like exp(−rate·t) along the gradient flow.

    Near a minimum, deviations along an eigenvector of the Hessian with eigenvalue r fall like exp(−r t) in the flow. A
    step multiplies them, once momentum has settled, by the largest modulus of the roots z of

        z² − (1 + β − ηr) z + β   (heavy ball; β = 0: 1 − ηr),   z² − (1 + β)(1 − ηr) z + β(1 − ηr)   (Nesterov).

    A quantity that is a power of deviations, as NC1 and the objective's excess are squares, has as its rate so many
    times r, and is multiplied by that power of the modulus.

    Args:
        rate: in the unit of the objective over the squared unit of the parameters, as in `predict(problem).rates`; a
            number or an array.
        learning_rate: η > 0.
        momentum: β in [0, 1).
        nesterov: whether momentum is Nesterov's.
        power: of the deviations, which the quantity goes like: 2 of NC1, of the ratio of traces and of the objective's
            excess, 1 of NC2 and NC3.

    Returns:
        The factor, dimensionless, of the shape of `rate`; above 1 where the steps are too long.

    Raises:
        ValueError: where a number isn't what is said here.
    """
    descent = Descent(
        real("learning_rate", learning_rate, above=0.0),
        real("momentum", momentum, least=0.0, below=1.0),
        flag("nesterov", nesterov),
    )
    times = real("power", power, above=0.0)
    total, product = _polynomial(doubles("rate", rate) / times, descent)
    root = np.sqrt(total**2 - 4.0 * product + 0j)
    largest = np.maximum(np.abs(total + root), np.abs(total - root)) / 2.0
    return (largest**times)[()]


def oscillates(eigenvalue: float, descent: Descent) -> bool:
    """Whether deviations along an eigenvector turn as they fall, by complex roots."""
    total, product = _polynomial(eigenvalue, descent)
    return bool(total**2 < 4.0 * product)


def _polynomial(eigenvalues: Any, descent: Descent) -> tuple[Any, Any]:
    """Sum and product of the roots that deviations follow."""
    eta, beta, nesterov = descent
    kept = 1.0 - eta * eigenvalues
    return ((1.0 + beta) * kept, beta * kept) if nesterov else (beta + kept, beta)


Update = Callable[[Any, Any, Any], tuple[Any, Any]]


class Unanswered(Exception):
    """An optimiser was asked at parameters that it isn't made for."""


def descent_of(update: Update, states: list[Any], params: Any) -> Descent | None:
    """The gradient descent that an optimiser is, of small gradients; None of another.

    Such a one answers a gradient linearly, alike in all parameters, wherever they are, early and late, and a gradient
    of zero with no step but what momentum has left. Its answers to one gradient that zeros follow are −η, −ηβ, −ηβ², …
    of the heavy ball, −η(1+β), −ηβ², −ηβ³, … of Nesterov's.

    Args:
        update: a function of gradients, a state and parameters to updates and a state.
        states: at the beginning and at the end, without anything in memory.
        params: to whose shapes the states belong.
    """
    answers = [_answers(update, state, params, size) for state in states for size in (0.0, 1.0, LARGER)]
    if any(answer is None for answer in answers):
        return None
    still, once, larger = (np.array(answers[first::3]) for first in range(3))
    if np.any(still != 0.0) or not _alike(LARGER * once, larger) or not _alike(once, once[:1]):
        return None
    return _named(once[0])


def _answers(update: Update, state: Any, params: Any, size: float) -> np.ndarray | None:
    """(ANSWERS,) updates to a gradient of a size that zeros follow, in its unit; None where leaves differ in them."""
    found = []
    for given in (size * SMALL, *[0.0] * (ANSWERS - 1)):
        gradient = jax.tree.map(lambda leaf, given=given: jnp.full_like(leaf, given), params)
        at = jax.tree.map(lambda leaf: (1.0 + size) * leaf, params)
        updates, state = update(gradient, state, at)
        leaves = np.array([float(np.ravel(leaf)[0]) for leaf in jax.tree.leaves(updates)]) / SMALL
        if not np.all(np.isfinite(leaves)) or not _alike(leaves, leaves[:1]):
            return None
        found.append(leaves[0])
    return np.array(found)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.all(np.abs(one - other) <= ALIKE * np.max(np.abs(other), initial=0.0)))


def _named(answers: np.ndarray) -> Descent | None:
    """The descent that answers so."""
    first, second, third, fourth = (float(answer) for answer in answers)
    if not first < 0.0:
        return None
    beta = third / second if second else 0.0
    if not 0.0 <= beta < 1.0:
        return None
    for found in (Descent(-first, beta, False), Descent(-first / (1.0 + beta), beta, True)):
        eta, later = found.learning_rate, beta * beta if found.nesterov else beta
        expected = -eta * np.array([later, later * beta, later * beta**2])
        if np.all(np.abs(np.array([second, third, fourth]) - expected) <= ALIKE * -first):
            return found
    return None
