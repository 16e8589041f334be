"""Quotients and roots whose values and derivatives stay finite where a norm or a spread vanishes."""

from typing import Any

import jax.numpy as jnp


def over(x: Any, norm: Any) -> Any:
    """X / norm, and zero where the norm is; NaN where that is."""
    return jnp.where(norm <= 0, 0.0, x / jnp.where(norm <= 0, 1.0, norm))


def ratio(x: Any, y: Any, noise: Any) -> Any:
    """X / y of non-negative numbers; where y vanishes ∞, or 0 where x is noise too."""
    return jnp.where(y <= 0, jnp.where(x <= noise, 0.0, jnp.inf), x / jnp.where(y <= 0, 1.0, y))


def root(x: Any) -> Any:
    """√x, whose derivative at zero is taken as zero: the metrics that are distances have their kink there."""
    return jnp.where(x <= 0, 0.0, jnp.sqrt(jnp.where(x <= 0, 1.0, x)))


def norm(X: Any, axis: int | None = None) -> Any:
    """Euclidean norm of all entries, or along an axis."""
    return root(jnp.sum(X**2, axis=axis))
