"""Where features and classifier rows may be: how training keeps them there, how the solver can't leave, what binds.

A constraint speaks of rows: those of the features, or those of the classifier. Training takes a gradient step and
projects. The solver instead minimises over variables without constraint, which `unfold` maps onto the feasible rows:
a ball is the shadow of a sphere with one more dimension, a half-line the square of a line. Certificates need the
multipliers of what binds.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ufm import geometry
from ufm._core.archive import storable
from ufm._core.arrays import Array, namespace, repeated
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
        return decay * counts, namespace(rows).zeros((), rows.dtype)

    def raised(self, gram: Float[Array, "K K"]) -> Any:
        """A matrix with xᵀ raised x ≥ xᵀ gram x for every column x of feasible rows; None where `gram` is the best."""
        return None

    def unfold(self, X: Float[Array, "K w L"], decay: Float[Array, "K L"]) -> Float[Array, "K r L"]:
        """Feasible rows at the solver's variables, lanes last; `decay` is n_k λ, and leaves have a leading axis."""
        return X / namespace(X, decay).sqrt(decay)[:, None]

    def fold(
        self, X: Float[Array, "K w L"], decay: Float[Array, "K L"], slopes: Float[Array, "K r L"]
    ) -> Float[Array, "K w L"]:
        """Slopes along the variables from those along the rows: the adjoint of `unfold`'s derivative.

        Without it, as where a user's own class replaces `unfold` alone, JAX derives it.
        """
        return slopes / namespace(X, decay).sqrt(decay)[:, None]

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
        xp = namespace(rows)
        norms = xp.linalg.norm(rows, axis=axis, keepdims=True)
        first = xp.arange(rows.shape[axis]) == 0
        first = first[:, None] if axis == 0 else first[None, :]
        directions = xp.where(norms > 0, rows, first.astype(rows.dtype))
        return directions * (xp.asarray(self.radius, rows.dtype) / xp.where(norms > 0, norms, 1.0))

    def tangent(self, rows: Float[Array, "m n"], gradient: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """The part of the gradient along the sphere (Riemannian gradient)."""
        along = (rows * gradient).sum(axis=axis, keepdims=True) / (rows**2).sum(axis=axis, keepdims=True)
        return gradient - along * rows

    def multiplied(self, rows, pull, decay, counts):
        """n_k λ + μ_k > 0, which may be less than n_k λ, and ½ R² Σ μ_k."""
        return _row_multipliers(self.radius, rows, pull, decay * counts, least=0.0)

    def variables(self, X):
        """Rows with a direction, which zero and the rounding of larger rows have none of: each gets one of its own."""
        xp, squares = namespace(X), (X**2).sum(axis=1, keepdims=True)
        has_one = squares > NO_DIRECTION**2 * squares.max(axis=0, keepdims=True)
        K, r, _ = X.shape
        others = xp.cos(xp.arange(1.0, K + 1.0)[:, None] * xp.arange(1.0, r + 1.0)[None])
        return xp.where(has_one, X, others[:, :, None].astype(X.dtype))

    def unfold(self, X, decay):
        """Each row of X at the radius."""
        return _at_radius(self.radius, X)

    def fold(self, X, decay, slopes):
        """Slopes along the sphere."""
        return _along_radius(self.radius, X, slopes)


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
        xp = namespace(rows)
        norms = xp.linalg.norm(rows, axis=axis, keepdims=True)
        radius = xp.asarray(self.radius, rows.dtype)
        return xp.where(norms > radius, rows * (radius / xp.where(norms > 0, norms, 1.0)), rows)

    def residual(self, rows, gradient):
        """The gradient, without what points into the boundary where a row is on it."""
        xp, squares = namespace(rows), (rows**2).sum(axis=1, keepdims=True)
        push = xp.maximum(-(rows * gradient).sum(axis=1, keepdims=True) / squares, 0.0)
        return gradient + xp.where(xp.sqrt(squares) >= (1 - BINDS) * self.radius, push, 0.0) * rows

    def multiplied(self, rows, pull, decay, counts):
        """n_k λ + μ_k with μ_k ≥ 0, and ½ R² Σ μ_k."""
        return _row_multipliers(self.radius, rows, pull, decay * counts, least=decay * counts)

    def unfold(self, X, decay):
        """The shadow of a sphere's points: all but their last coordinate."""
        return _at_radius(self.radius, X)[:, :-1]

    def fold(self, X, decay, slopes):
        """Slopes along the sphere, of which the last coordinate casts no shadow."""
        return _along_radius(self.radius, X, _without_shadow(slopes))

    def variables(self, X):
        """Inside the ball, since at its boundary nothing pulls the last coordinate from zero; zeros at its centre."""
        xp = namespace(X)
        return xp.concatenate([X, _positive(START_SLACK * xp.sqrt((X**2).sum(axis=1, keepdims=True)))], axis=1)


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
        xp, squares = namespace(rows), (rows**2).sum(axis=axis)
        shares = xp.full_like(squares, 1.0 / squares.shape[0]) if shares is None else xp.asarray(shares, rows.dtype)
        radius = xp.asarray(self.radius, rows.dtype)
        # in units of the largest share, so that float32 holds the multiplier
        relative = shares / shares.max()

        def mean_square(t):
            return (shares * squares / (1 + t * relative) ** 2).sum()

        def step(t):
            value, slope = mean_square(t), -2 * (shares * squares * relative / (1 + t * relative) ** 3).sum()
            safe = xp.where(slope < 0, slope, -1.0)
            return xp.where(value > radius**2, t + 2 * value / safe * (1 - xp.sqrt(value) / radius), t)

        none = xp.zeros((), rows.dtype)
        t = repeated(PROJECTION_STEPS, step, none)
        shrunk = rows / xp.expand_dims(1 + t * relative, axis)
        excess = xp.sqrt(mean_square(t)) / radius
        return xp.where(mean_square(none) > radius**2, shrunk / excess, rows)

    def residual(self, rows, gradient):
        """The gradient, without what points into the boundary where the rows are on it."""
        xp, mean = namespace(rows), (rows**2).sum(axis=1).mean()
        push = xp.maximum(-(rows * gradient).sum(), 0.0)
        binds = xp.sqrt(mean) >= (1 - BINDS) * self.radius
        return gradient + xp.where(binds, push / (rows.shape[0] * mean), 0.0) * rows

    def multiplied(self, rows, pull, decay, counts):
        """n_k λ + μ with one μ ≥ 0, and ½ K R² μ."""
        xp, squares, along = namespace(rows, pull), (rows**2).sum(axis=1), (rows * pull).sum()
        multiplier = (along - decay * (counts * squares).sum()) / squares.sum()
        least = LEAST_MULTIPLIER * xp.abs(along) / squares.sum() + np.finfo(rows.dtype).tiny
        multiplier = xp.where(multiplier > least, multiplier, least)
        return decay * counts + multiplier, 0.5 * rows.shape[0] * self.radius**2 * multiplier

    def unfold(self, X, decay):
        """The shadow of a sphere's point: all but the last column."""
        return X[:, :-1] * self._scale(X)

    def fold(self, X, decay, slopes):
        """Slopes along the sphere, of which the last column casts no shadow."""
        slopes, squares = _without_shadow(slopes), (X**2).sum(axis=(0, 1), keepdims=True)
        return self._scale(X) * (slopes - X * ((X * slopes).sum(axis=(0, 1), keepdims=True) / squares))

    def _scale(self, X):
        """(1, 1, L) of the variables, that puts their mean row at the radius."""
        size = namespace(X).sqrt((X**2).sum(axis=(0, 1)))[None]
        return (self.radius * np.sqrt(X.shape[0]) / size)[:, None]

    def variables(self, X):
        """Inside the ball, since at its boundary nothing pulls the last column from zero; zeros at its centre."""
        xp = namespace(X)
        slack = START_SLACK * xp.sqrt((X**2).sum(axis=1, keepdims=True).mean(axis=0, keepdims=True))
        return xp.concatenate([X, xp.broadcast_to(_positive(slack), (X.shape[0], 1, X.shape[2]))], axis=1)


@storable
@pytree
class Nonnegative(Constraint):
    """Every entry is at least zero: features after a ReLU."""

    cone = True

    def project(self, rows: Float[Array, "m n"], axis: int, shares: Any = None) -> Float[Array, "m n"]:
        """Nearest feasible rows."""
        return namespace(rows).maximum(rows, 0.0)

    def residual(self, rows, gradient):
        """The gradient, without what points into the boundary where an entry is zero."""
        xp = namespace(rows, gradient)
        binds = rows <= BINDS * xp.abs(rows).max()
        return xp.where(binds, xp.minimum(gradient, 0.0), gradient)

    def raised(self, gram):
        """Negative entries raised to zero: non-negative columns only gain."""
        return namespace(gram).maximum(gram, 0.0)

    def unfold(self, X, decay):
        """Squares, scaled as free rows are."""
        return X**2 / namespace(X, decay).sqrt(decay)[:, None]

    def fold(self, X, decay, slopes):
        """Slopes along the square roots."""
        return 2.0 * X * slopes / namespace(X, decay).sqrt(decay)[:, None]

    def variables(self, X):
        """Away from zero, where the square is flat."""
        xp = namespace(X)
        return xp.sqrt(xp.abs(X) + 0.1 * xp.sqrt((X**2).mean(axis=(0, 1), keepdims=True)))


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
        matrix = namespace(rows, self.matrix).asarray(self.matrix, rows.dtype)
        return matrix if axis == 1 else matrix.T

    def tangent(self, rows: Float[Array, "m n"], gradient: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
        """Nowhere to go."""
        return namespace(gradient).zeros_like(gradient)

    def unfold(self, X, decay):
        """The matrix."""
        stacked: Any = self.matrix
        xp, matrix = namespace(X, stacked), stacked[0]
        return xp.broadcast_to(matrix, (*matrix.shape[:2], X.shape[2]))

    def fold(self, X, decay, slopes):
        """No variables."""
        return X

    def variables(self, X):
        """No variables."""
        return X[:, :0]


def folds(constraint: Any) -> bool:
    """Whether NumPy computes what it unfolds, and `fold` is the adjoint of it, as of ours; a user's is JAX's."""
    return type(constraint) in KINDS


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
    return namespace(sizes).where(sizes > 0, sizes, 1.0)


def _at_radius(radius, X):
    """Each row of X (K, w, L) at the radius."""
    return X * (radius / namespace(X).sqrt((X**2).sum(axis=1)))[:, None]


def _along_radius(radius, X, slopes):
    """The adjoint of its derivative: slopes (K, w, L) along the rows of X, in the unit of X."""
    squares = (X**2).sum(axis=1, keepdims=True)
    scale = radius / namespace(X).sqrt(squares[:, 0])
    return (slopes - X * ((X * slopes).sum(axis=1, keepdims=True) / squares)) * scale[:, None]


def _without_shadow(slopes):
    """Slopes (K, r, L) with another column of zeros."""
    xp = namespace(slopes)
    return xp.concatenate([slopes, xp.zeros_like(slopes[:, :1])], axis=1)


def _row_multipliers(radius, rows, pull, decays, least):
    """Decays of rows with the multipliers that stationarity gives, at least `least` and positive; and their cost."""
    xp = namespace(rows, pull)
    multiplied = (rows * pull).sum(axis=1) / radius**2
    floor = LEAST_MULTIPLIER * xp.abs(multiplied).max() + np.finfo(multiplied.dtype).tiny
    multiplied = xp.maximum(xp.maximum(multiplied, least), floor)
    return multiplied, 0.5 * radius**2 * (multiplied - decays).sum()
