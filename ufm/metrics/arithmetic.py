"""Quotients and roots whose values and derivatives stay finite where a norm or a spread vanishes."""

from typing import Any

import jax
import numpy as np

from ufm._core.arrays import namespace


def over(x: Any, norm: Any) -> Any:
    """X / norm, and zero where the norm is; NaN where that is."""
    xp = namespace(x, norm)
    return xp.where(norm <= 0, 0.0, x / xp.where(norm <= 0, 1.0, norm))


def ratio(x: Any, y: Any, noise: Any) -> Any:
    """X / y of non-negative numbers; where y vanishes ∞, or 0 where x is noise too."""
    xp = namespace(x, y, noise)
    quotient = x / xp.where(y <= 0, 1.0, y)
    return xp.where((y <= 0) & (x <= noise), 0.0, xp.where(y <= 0, xp.inf, quotient))


def root(x: Any) -> Any:
    """√x, whose derivative at zero is taken as zero: the metrics that are distances have their kink there."""
    xp = namespace(x)
    return xp.where(x <= 0, 0.0, xp.sqrt(xp.where(x <= 0, 1.0, x)))


def power_of_two(X: Any) -> Any:
    """A power of two that brings the largest entry near to 1, so that squares stay in range; 1 where there is none."""
    xp = namespace(X)
    largest = xp.max(xp.abs(X))
    largest = largest if xp is np else jax.lax.stop_gradient(largest)
    usual = (largest > 0) & (largest < xp.inf)
    exponent = xp.frexp(xp.where(usual, largest, 1.0))[1]
    most = np.finfo(largest.dtype).maxexp - 4  # so that its inverse is no subnormal number
    return xp.ldexp(xp.ones_like(largest), xp.clip(1 - exponent, -most, most))


def norm(X: Any, axis: int | None = None) -> Any:
    """Euclidean norm of all entries, or along an axis."""
    return root(namespace(X).sum(X**2, axis=axis))
