"""Gradient descent with momentum: what a step makes of a quadratic, and whether an optimiser is such a descent."""

import functools as ft
import inspect
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ufm._core.archive import storable
from ufm._core.checks import Real, doubles, flag, real
from ufm._core.identity import ByContent

MOST = 8  # numbers that such an optimiser holds; one of more is another
DEEPEST = 6  # functions within functions, in which an optimiser's numbers are looked for


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


@ft.lru_cache(maxsize=256)
def descent_of(optimizer: ByContent) -> Descent | None:
    """The gradient descent that an optax optimiser is by its content; None of any other.

    The numbers that its functions hold are tried as learning rate and momentum of `optax.sgd`, until that has the same
    content.
    """
    import optax

    held = itertools.islice(map(abs, _numbers(optimizer.value.update)), 10 * MOST)
    numbers = list({(type(each), float(each)): each for each in held}.values())
    if len(numbers) > MOST:
        return None
    momenta = [None, *(each for each in numbers if each < 1)]
    for eta, beta in itertools.product((each for each in numbers if each > 0), momenta):
        for nesterov in (False, True) if beta is not None else (False,):
            if optimizer == ByContent(optax.sgd(eta, momentum=beta, nesterov=nesterov)):
                return Descent(float(eta), float(beta or 0.0), nesterov and bool(beta))
    return None


def _numbers(value: Any, depth: int = 0) -> Iterator[Any]:
    """The finite real numbers that a function's closure holds, or functions in it do."""
    if isinstance(value, float | int | np.floating | np.integer):
        if not isinstance(value, bool) and np.isfinite(value):
            yield value
    elif depth < DEEPEST:
        for each in value if isinstance(value, tuple | list) else _closure(value):
            yield from _numbers(each, depth + 1)


def _closure(value: Any) -> list[Any]:
    """What a function refers to of where it was made; nothing of what is none."""
    return list(inspect.getclosurevars(value).nonlocals.values()) if inspect.isfunction(value) else []
