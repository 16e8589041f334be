"""What a power of a singular value costs it: min over x ≥ 0 of ½(s − x)² + (L/2) C x^{2/L}, for L ≥ 2.

That is the least squared error plus weight decay along one direction of a product of L factors. With x = s(1 − u) and
κ = C s^{2/L−2} a point x > 0 is stationary iff

    u (1 − u)^p = κ,    p = 1 − 2/L,

whose left side rises on [0, 1/(1+p)], concavely, up to the price κ_f of the *fold*, and falls from there on. The
rising part holds the minima; there the value is s² u (L − (L−1)u)/2, and it lies below the ½s² of x = 0 iff
u < 1/(L−1): iff κ < κ_*, the price of the *jump*. For L = 2 both are 1 and x = (s − C)₊. For L ≥ 3 zero is always a
minimum too, strictly, and κ_* < κ_f: between them the other minimum is metastable. What x = 0 loses against it rises
with s, by x.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ufm._core.arrays import silent

MOST_STEPS = 64  # of Newton; only next to the fold, a double root, are more than eight needed
ROUNDED = 4 * float(np.finfo(float).eps)  # relative step that is none


class Branches(NamedTuple):
    """Both minima of each s, elementwise.

    Attributes:
        s: as given.
        x: the one that isn't zero; 0 where there is none.
        residual: s − x.
        value: at x; infinite where there is none.
        at_zero: the value ½s² at zero.
    """

    s: np.ndarray
    x: np.ndarray
    residual: np.ndarray
    value: np.ndarray
    at_zero: np.ndarray

    @property
    def lives(self) -> np.ndarray:
        """Where x is the global minimum; zero where both are."""
        return self.value < self.at_zero

    @property
    def metastable(self) -> np.ndarray:
        """Where x is a minimum, but not the global one."""
        return (self.x > 0) & ~self.lives

    @property
    def least(self) -> np.ndarray:
        """The global minimum's value."""
        return np.minimum(self.value, self.at_zero)


def branches(s: Float[np.ndarray, "*shape"], price: float | np.ndarray, *, factors: int) -> Branches:
    """Both minima at s ≥ 0, for C = `price` > 0, which broadcasts with s, and L = `factors`; at any scale."""
    p, top = 1.0 - 2.0 / factors, _top(factors)
    with silent():
        kappa = np.where(s > 0, price * s ** (2.0 / factors) / s**2, np.inf)
    there = kappa < fold_price(factors)
    u = _rising_root(np.where(there, kappa, 0.0), p, top)
    at_zero = 0.5 * s**2
    value = np.where(there, at_zero * (u * (factors - (factors - 1) * u)), np.inf)
    return Branches(s, np.where(there, s * (1.0 - u), 0.0), np.where(there, s * u, s), value, at_zero)


def _rising_root(kappa, p, top):
    """The u ≤ top with u (1−u)^p = κ: by Newton from κ, which is below it as, by concavity, every step is.

    An entry that has arrived stays, so that it does not depend on which others are found beside it.
    """
    if p == 0:
        return kappa
    u, moving = kappa, kappa > 0
    for _ in range(MOST_STEPS):
        curved = np.maximum(1.0 - (1.0 + p) * u, 1e-16)
        new = np.clip(u + (kappa / (1.0 - u) ** p - u) * (1.0 - u) / curved, kappa, top)
        moving &= np.abs(new - u) > ROUNDED * u
        if not moving.any():
            break
        u = np.where(moving, new, u)
    return u


def _top(factors: int) -> float:
    """The u at the fold, 1/(1+p)."""
    return factors / (2.0 * (factors - 1))


def fold_price(factors: int) -> float:
    """κ_f = C s^{2/L−2} up to which there is a minimum x > 0."""
    return _top(factors) * (1.0 - _top(factors)) ** (1.0 - 2.0 / factors)


def jump_price(factors: int) -> float:
    """κ_* = C s^{2/L−2} below which it is the global one."""
    return (1.0 - 1.0 / (factors - 1)) ** (1.0 - 2.0 / factors) / (factors - 1)


def least_size(price: Any, relative: float, *, factors: int) -> Any:
    """The s at which C s^{2/L−2} is a relative price: of the jump, those larger live, and of the fold, they might."""
    return (price / relative) ** (factors / (2.0 * factors - 2.0))


def geometric_mean(numbers: Float[np.ndarray, "*shape L"]) -> Any:
    """Of positive numbers along the last axis, to rounding, though their product may overflow."""
    mantissas, exponents = np.frexp(np.asarray(numbers, np.float64))
    L = mantissas.shape[-1]
    whole, rest = np.divmod(exponents.sum(axis=-1), L)
    return np.ldexp((mantissas.prod(axis=-1) * np.ldexp(1.0, rest)) ** (1.0 / L), whole)
