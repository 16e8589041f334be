"""Where features and classifier rows may be, and how an optimiser's steps are kept there."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm._checks import Real, real
from ufm._pytree import pytree, set_field
from ufm.archive import storable


@storable
@pytree
class Free:
    """No constraint: the rows are bounded by weight decay alone."""

    decays = True

    def project(self, rows: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """The rows as they are."""
        return rows

    def tangent(self, rows: Float[Array, "m n"], gradient: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """The gradient as it is."""
        return gradient

    def multiplied(self, rows, pull, decay, counts) -> tuple[Any, Any]:
        """Decay of each row, and what the multipliers cost: none."""
        return decay * counts, jnp.zeros((), rows.dtype)


@storable
@pytree
class Sphere:
    """Each row has norm `radius`. The temperature of normalised logits is the product of the two radii.

    Args:
        radius: a positive number, in the unit of the rows.

    Raises:
        ValueError: where the radius is not positive and finite.
    """

    radius: Real = 1.0
    decays = False

    def __post_init__(self):
        set_field(self, "radius", real("radius", self.radius, above=0.0))

    def project(self, rows: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """The nearest point of the sphere; a zero row has none nearest, and goes to the first axis.

        Args:
            rows: one row a feature vector where `axis` is 1, one column where it is 0.
            axis: the axis that runs over the coordinates of one vector.
        """
        norms = jnp.linalg.norm(rows, axis=axis, keepdims=True)
        first = jnp.arange(rows.shape[axis]) == 0
        first = first[:, None] if axis == 0 else first[None, :]
        directions = jnp.where(norms > 0, rows, first.astype(rows.dtype))
        return directions * (jnp.asarray(self.radius, rows.dtype) / jnp.where(norms > 0, norms, 1.0))

    def tangent(self, rows: Float[Array, "m n"], gradient: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """The part of the gradient along the sphere (Riemannian gradient)."""
        along = jnp.sum(rows * gradient, axis=axis, keepdims=True) / jnp.sum(rows**2, axis=axis, keepdims=True)
        return gradient - along * rows

    def multiplied(
        self, rows: Float[Array, "K d"], pull: Float[Array, "K d"], decay: Any, counts: Float[Array, " K"]
    ) -> tuple[Float[Array, " K"], Float[Array, ""]]:
        """Decay of each row with its multiplier, n_k (λ + μ_k) > 0, and the multipliers' cost ½ R² Σ n_k μ_k.

        Stationarity on the sphere, n_k (λ + μ_k) m_k = pull_k, gives them at an optimum; any positive ones are valid.

        Args:
            rows: m_k.
            pull: negative gradient of the risk with respect to them.
            decay: λ.
            counts: n_k.
        """
        decayed = jnp.sum(rows * pull, axis=1) / self.radius**2
        decayed = jnp.maximum(decayed, 1e-12 * jnp.max(jnp.abs(decayed)) + jnp.finfo(rows.dtype).tiny)
        return decayed, 0.5 * self.radius**2 * jnp.sum(decayed - decay * counts)


KINDS = (Free, Sphere)


def as_constraint(name: str, constraint: Any) -> Any:
    """`constraint` where it is one.

    Raises:
        ValueError: where it is not, with the legal ones.
    """
    if not isinstance(constraint, KINDS):
        legal = ", ".join(f"ufm.{kind.__name__}" for kind in KINDS)
        raise ValueError(f"{name} = {constraint!r}: an instance of one of {legal} is needed")
    return constraint
