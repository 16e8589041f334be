"""Where features and classifier rows may be: how training keeps them there, how the solver can't leave, what binds.

A constraint speaks of rows: those of the features, or those of the classifier. Training takes a gradient step and
projects. The solver instead minimises over variables without constraint, which `unfold` maps onto the feasible rows:
a ball is the shadow of a sphere with one more dimension, a half-line the square of a line. Certificates need the
multipliers of what binds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ufm import geometry
from ufm._core.archive import storable
from ufm._core.checks import Integer, Real, doubles, instance, integer, real, shown
from ufm._core.pytree import check_flags, pytree, set_field

BINDS = 1e-6  # relative distance to a boundary within which a point counts as on it
NO_DIRECTION = 1e-8  # relative to the largest row; below, a start's row is rounding
START_SLACK = 0.5  # of the norm of what a ball holds, where the solver starts
PROJECTION_STEPS = 20  # of Newton's method for a multiplier, on a function that is almost linear
LEAST_MULTIPLIER = 1e-12  # relative to the largest; any positive ones are valid


class Constraint:
    """What every constraint answers; a pytree whose leaves are its numbers, ours or a user's own.

    A user's own class is registered with JAX, as by `jax.tree_util.register_dataclass`. By default methods are those
    of rows without any constraint, and the facts those that promise least. Bounds are as rigorous as `multiplied` and
    `raised` are valid for every row that `unfold` reaches: a class that allows more than the one it inherits from must
    write its own.

    Attributes:
        decays: whether weight decay on the rows makes sense.
        bounds: whether the rows are bounded without weight decay.
        holds_zero: whether zero rows are allowed.
        rotatable: whether rotating all rows alike leads from what is allowed to what is allowed.
        cone: whether what is allowed of each row, whatever the others are, stays so when scaled by a positive number.
        fixed: whether there is one choice alone, so that nothing is trained.
        radius: of the rows' norms, where the constraint is about one; None where it isn't.
        matrix: the rows themselves, where they are fixed; None where they aren't.
        slack: columns that the solver's variables have beside the rows' own.
    """

    decays: bool = True
    bounds: bool = False
    holds_zero: bool = True
    rotatable: bool = False
    cone: bool = False
    fixed: bool = False
    radius: Any = None
    matrix: Any = None
    slack: int = 0

    def project(self, rows: Float[Array, "m n"], axis: int, shares: Any = None) -> Float[Array, "m n"]:
        """Nearest feasible rows.

        Args:
            rows: one row a vector where `axis` is 1, one column where it is 0.
            axis: the axis that runs over the coordinates of one vector.
            shares: weight of each vector in a mean over all, where a constraint is about the mean; equal by default.
        """
        return rows

    def tangent(self, rows: Float[Array, "m n"], gradient: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """The part of a gradient along which an optimiser may step before it projects."""
        return gradient

    def residual(self, rows: Float[Array, "K d"], gradient: Float[Array, "K d"]) -> Float[Array, "K d"]:
        """What a gradient leaves once the multipliers of what binds are taken off: zero at a critical point."""
        return self.tangent(rows, gradient, axis=1)

    def multiplied(
        self, rows: Float[Array, "K d"], pull: Float[Array, "K d"], decay: Any, counts: Float[Array, " K"]
    ) -> tuple[Float[Array, " K"], Float[Array, ""]]:
        """Decay of each row with its multiplier, and what the multipliers cost a lower bound.

        Stationarity, (n_k λ + μ_k) m_k = pull_k, gives them at an optimum; elsewhere any legal ones are valid.

        Args:
            rows: m_k.
            pull: negative gradient of the risk with respect to them.
            decay: λ.
            counts: n_k.
        """
        return decay * counts, jnp.zeros((), rows.dtype)

    def raised(self, gram: Float[Array, "K K"]) -> Any:
        """A matrix with xᵀ raised x ≥ xᵀ gram x for every column x of feasible rows; None where `gram` is the best."""
        return None

    def unfold(self, X: Float[Array, "K w L"], decay: Float[Array, "K L"]) -> Float[Array, "K r L"]:
        """Feasible rows at the solver's variables, lanes last; `decay` is n_k λ, and leaves have a leading axis."""
        return X / jnp.sqrt(decay)[:, None]

    def variables(self, X: Float[Array, "K r L"]) -> Float[Array, "K w L"]:
        """Variables to start from where those without constraint would be `X`."""
        return X


@storable
@pytree
class Free(Constraint):
    """No constraint: the rows are bounded by weight decay alone."""

    rotatable = cone = True


class _Round(Constraint):
    """What spheres and balls share: a positive radius."""

    radius: Any
    bounds = rotatable = True

    def __post_init__(self):
        set_field(self, "radius", real("radius", self.radius, above=0.0))


@storable
@pytree
class Sphere(_Round):
    """Each row has norm `radius`. The temperature of normalised logits is the product of the two radii.

    Args:
        radius: a positive number, in the unit of the rows.

    Raises:
        ValueError: where the radius is not positive and finite.
    """

    radius: Real = 1.0
    decays = False
    holds_zero = False

    def project(self, rows: Float[Array, "m n"], axis: int, shares: Any = None) -> Float[Array, "m n"]:
        """Nearest feasible rows; a zero row has none nearest, and goes to the first axis."""
        norms = jnp.linalg.norm(rows, axis=axis, keepdims=True)
        first = jnp.arange(rows.shape[axis]) == 0
        first = first[:, None] if axis == 0 else first[None, :]
        directions = jnp.where(norms > 0, rows, first.astype(rows.dtype))
        return directions * (jnp.asarray(self.radius, rows.dtype) / jnp.where(norms > 0, norms, 1.0))

    def tangent(self, rows: Float[Array, "m n"], gradient: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """The part of the gradient along the sphere (Riemannian gradient)."""
        along = jnp.sum(rows * gradient, axis=axis, keepdims=True) / jnp.sum(rows**2, axis=axis, keepdims=True)
        return gradient - along * rows

    def multiplied(self, rows, pull, decay, counts):
        """n_k λ + μ_k > 0, which may be less than n_k λ, and ½ R² Σ μ_k."""
        return _row_multipliers(self.radius, rows, pull, decay * counts, least=0.0)

    def variables(self, X):
        """Rows with a direction, which zero and the rounding of larger rows have none of: each gets one of its own."""
        squares = jnp.sum(X**2, axis=1, keepdims=True)
        has_one = squares > NO_DIRECTION**2 * jnp.max(squares, axis=0, keepdims=True)
        K, r, _ = X.shape
        others = jnp.cos(jnp.arange(1.0, K + 1.0)[:, None] * jnp.arange(1.0, r + 1.0)[None])
        return jnp.where(has_one, X, others[:, :, None].astype(X.dtype))

    def unfold(self, X, decay):
        """Each row of X at the radius."""
        return _at_radius(self.radius, X)


@storable
@pytree
class Ball(_Round):
    """Each row has norm at most `radius`; weight decay may be added.

    Args:
        radius: a positive number, in the unit of the rows.

    Raises:
        ValueError: where the radius is not positive and finite.
    """

    radius: Real = 1.0
    slack = 1

    def project(self, rows: Float[Array, "m n"], axis: int, shares: Any = None) -> Float[Array, "m n"]:
        """Nearest feasible rows: those outside go to the sphere."""
        norms = jnp.linalg.norm(rows, axis=axis, keepdims=True)
        radius = jnp.asarray(self.radius, rows.dtype)
        return jnp.where(norms > radius, rows * (radius / jnp.where(norms > 0, norms, 1.0)), rows)

    def residual(self, rows, gradient):
        """The gradient, without what points into the boundary where a row is on it."""
        squares = jnp.sum(rows**2, axis=1, keepdims=True)
        push = jnp.maximum(-jnp.sum(rows * gradient, axis=1, keepdims=True) / squares, 0.0)
        return gradient + jnp.where(jnp.sqrt(squares) >= (1 - BINDS) * self.radius, push, 0.0) * rows

    def multiplied(self, rows, pull, decay, counts):
        """n_k λ + μ_k with μ_k ≥ 0, and ½ R² Σ μ_k."""
        return _row_multipliers(self.radius, rows, pull, decay * counts, least=decay * counts)

    def unfold(self, X, decay):
        """The shadow of a sphere's points: all but their last coordinate."""
        return _at_radius(self.radius, X)[:, :-1]

    def variables(self, X):
        """Inside the ball, since at its boundary nothing pulls the last coordinate from zero; zeros at its centre."""
        return jnp.concatenate([X, _positive(START_SLACK * jnp.sqrt(jnp.sum(X**2, axis=1, keepdims=True)))], axis=1)


@storable
@pytree
class MeanBall(_Round):
    """The mean of squared norms is at most radius²: over classes, and over samples within each.

    For features (1/K) Σ_k (1/n_k) Σ_i ‖h_ki‖² ≤ radius², for a classifier (1/K) Σ_k ‖a_k‖² ≤ radius² (the layer-peeled
    model, Fang et al. 2021). A mean over all samples is another constraint where classes are not equally large.

    Args:
        radius: a positive number, in the unit of the rows.

    Raises:
        ValueError: where the radius is not positive and finite.
    """

    radius: Real = 1.0
    slack = 1

    def project(self, rows: Float[Array, "m n"], axis: int, shares: Any = None) -> Float[Array, "m n"]:
        """Nearest feasible rows, h_i/(1 + t w_i) with shares w_i and one multiplier t ≥ 0.

        Σ w_i ‖h_i‖²/(1 + t w_i)² = radius² is solved by Newton's method on the left side to the power −1/2, which is
        linear in t for equal shares and nearly so for others (Moré & Sorensen 1983).
        """
        squares = jnp.sum(rows**2, axis=axis)
        shares = jnp.full_like(squares, 1.0 / squares.shape[0]) if shares is None else jnp.asarray(shares, rows.dtype)
        radius = jnp.asarray(self.radius, rows.dtype)
        # in units of the largest share, so that float32 holds the multiplier
        relative = shares / jnp.max(shares)

        def mean_square(t):
            return jnp.sum(shares * squares / (1 + t * relative) ** 2)

        def step(_, t):
            value, slope = jax.value_and_grad(mean_square)(t)
            safe = jnp.where(slope < 0, slope, -1.0)
            return jnp.where(value > radius**2, t + 2 * value / safe * (1 - jnp.sqrt(value) / radius), t)

        t = jax.lax.fori_loop(0, PROJECTION_STEPS, step, jnp.zeros((), rows.dtype))
        shrunk = rows / jnp.expand_dims(1 + t * relative, axis)
        excess = jnp.sqrt(mean_square(t)) / radius
        return jnp.where(mean_square(jnp.zeros((), rows.dtype)) > radius**2, shrunk / excess, rows)

    def residual(self, rows, gradient):
        """The gradient, without what points into the boundary where the rows are on it."""
        mean, push = jnp.mean(jnp.sum(rows**2, axis=1)), jnp.maximum(-jnp.sum(rows * gradient), 0.0)
        binds = jnp.sqrt(mean) >= (1 - BINDS) * self.radius
        return gradient + jnp.where(binds, push / (rows.shape[0] * mean), 0.0) * rows

    def multiplied(self, rows, pull, decay, counts):
        """n_k λ + μ with one μ ≥ 0, and ½ K R² μ."""
        squares = jnp.sum(rows**2, axis=1)
        multiplier = (jnp.sum(rows * pull) - decay * jnp.sum(counts * squares)) / jnp.sum(squares)
        least = LEAST_MULTIPLIER * jnp.abs(jnp.sum(rows * pull)) / jnp.sum(squares) + jnp.finfo(rows.dtype).tiny
        multiplier = jnp.where(multiplier > least, multiplier, least)
        return decay * counts + multiplier, 0.5 * rows.shape[0] * self.radius**2 * multiplier

    def unfold(self, X, decay):
        """The shadow of a sphere's point: all but the last column."""
        size = jnp.sqrt(jnp.sum(X**2, axis=(0, 1))[None])
        return X[:, :-1] * (self.radius * np.sqrt(X.shape[0]) / size)[:, None]

    def variables(self, X):
        """Inside the ball, since at its boundary nothing pulls the last column from zero; zeros at its centre."""
        slack = START_SLACK * jnp.sqrt(jnp.mean(jnp.sum(X**2, axis=1, keepdims=True), axis=0, keepdims=True))
        slack = _positive(slack)
        return jnp.concatenate([X, jnp.broadcast_to(slack, (X.shape[0], 1, X.shape[2]))], axis=1)


@storable
@pytree
class Nonnegative(Constraint):
    """Every entry is at least zero: features after a ReLU."""

    cone = True

    def project(self, rows: Float[Array, "m n"], axis: int, shares: Any = None) -> Float[Array, "m n"]:
        """Nearest feasible rows."""
        return jnp.maximum(rows, 0.0)

    def residual(self, rows, gradient):
        """The gradient, without what points into the boundary where an entry is zero."""
        binds = rows <= BINDS * jnp.max(jnp.abs(rows))
        return jnp.where(binds, jnp.minimum(gradient, 0.0), gradient)

    def raised(self, gram):
        """Negative entries raised to zero: non-negative columns only gain."""
        return jnp.maximum(gram, 0.0)

    def unfold(self, X, decay):
        """Squares, scaled as free rows are."""
        return X**2 / jnp.sqrt(decay)[:, None]

    def variables(self, X):
        """Away from zero, where the square is flat."""
        spread = jnp.sqrt(jnp.mean(X**2, axis=(0, 1), keepdims=True))
        return jnp.sqrt(jnp.abs(X) + 0.1 * spread)


@storable
@pytree
class Fixed(Constraint):
    """The classifier is a given matrix and isn't trained.

    Args:
        matrix: (K, d) finite numbers.

    Raises:
        ValueError: where it is no finite matrix.
    """

    matrix: ArrayLike
    decays = False
    bounds = True
    holds_zero = False
    fixed = True

    def __post_init__(self):
        matrix = doubles("matrix", self.matrix, (None, None), "finite numbers of shape (K, d)")
        set_field(self, "matrix", matrix.copy())  # what the caller's array becomes is none of the constraint's business

    @classmethod
    def etf(cls, num_classes: Integer, dim: Integer, *, seed: Integer = 0, radius: Real = 1.0) -> "Fixed":
        """A simplex ETF whose rows have norm `radius`: the forced classifier (Yang et al. 2022).

        Args:
            num_classes: K ≥ 2.
            dim: d ≥ K − 1.
            seed: of its rotation.
            radius: a positive number, in the unit of the rows.

        Raises:
            ValueError: where d is too small or the radius not positive.
        """
        seed = integer("seed", seed, least=0)
        return cls(real("radius", radius, above=0.0) * geometry.simplex_etf(num_classes, dim, seed=seed))

    def project(self, rows: Float[Array, "m n"], axis: int, shares: Any = None) -> Float[Array, "m n"]:
        """The matrix."""
        matrix = jnp.asarray(self.matrix, rows.dtype)
        return matrix if axis == 1 else matrix.T

    def tangent(self, rows: Float[Array, "m n"], gradient: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """Nowhere to go."""
        return jnp.zeros_like(gradient)

    def unfold(self, X, decay):
        """The matrix."""
        matrix = jnp.asarray(self.matrix)[0]
        return jnp.broadcast_to(matrix, (*matrix.shape[:2], X.shape[2]))

    def variables(self, X):
        """No variables."""
        return X[:, :0]


FACTS = ("decays", "bounds", "holds_zero", "rotatable", "cone", "fixed")
KINDS = (Free, Sphere, Ball, MeanBall, Nonnegative, Fixed)


def as_constraint(name: str, constraint: Any) -> Any:
    """`constraint` where it is one.

    Raises:
        ValueError: where it is not, with the legal ones; or where it is no pytree, so that JAX can't see through it.
    """
    legal = ", ".join(f"ufm.{kind.__name__}" for kind in KINDS)
    instance(name, constraint, Constraint, f"an instance of one of {legal}, or of a Constraint of your own,")
    if jax.tree_util.all_leaves([constraint]):
        needed = "its class registered with JAX, as by jax.tree_util.register_dataclass,"
        raise ValueError(f"{name} = {shown(constraint)}: {needed} is needed")
    check_flags(name, constraint, {fact: getattr(constraint, fact) for fact in FACTS})
    return constraint


def _positive(sizes):
    """The same with ones for zeros."""
    return jnp.where(sizes > 0, sizes, 1.0)


def _at_radius(radius, X):
    """Each row of X (K, w, L) at the radius."""
    return X * (radius / jnp.sqrt(jnp.sum(X**2, axis=1)))[:, None]


def _row_multipliers(radius, rows, pull, decays, least):
    """Decays of rows with the multipliers that stationarity gives, at least `least` and positive; and their cost."""
    multiplied = jnp.sum(rows * pull, axis=1) / radius**2
    floor = LEAST_MULTIPLIER * jnp.max(jnp.abs(multiplied)) + jnp.finfo(multiplied.dtype).tiny
    multiplied = jnp.maximum(jnp.maximum(multiplied, least), floor)
    return multiplied, 0.5 * radius**2 * jnp.sum(multiplied - decays)
