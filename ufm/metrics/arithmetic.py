"""Quotients and roots whose values and derivatives stay finite where a norm or a spread vanishes."""

from typing import Any

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


def norm(X: Any, axis: int | None = None) -> Any:
    """Euclidean norm of all entries, or along an axis."""
    return root(namespace(X).sum(X**2, axis=axis))
