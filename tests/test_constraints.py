import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import ufm
from ufm.model.constraints import Constraint


@given(st.sampled_from((0, 1)), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_sphere_projects_radially_and_its_gradients_are_tangential(axis, radius, seed):
    random = np.random.default_rng(seed)
    sphere = ufm.Sphere(radius)
    with jax.enable_x64(True):
        X = sphere.project(jnp.asarray(random.normal(size=(4, 6))), axis)
        assert_allclose(np.linalg.norm(X, axis=axis), radius, rtol=1e-15)
        assert_allclose(sphere.project(X, axis), X, rtol=1e-15)
        G = jnp.asarray(random.normal(size=(4, 6)))
        T = sphere.tangent(X, G, axis)
        # the tangent space at x is x⊥; the projection is idempotent
        assert_allclose(np.sum(np.asarray(X * T), axis=axis), 0.0, atol=1e-13 * radius)
        assert_allclose(sphere.tangent(X, T, axis), T, atol=1e-14)


def test_a_zero_row_goes_somewhere_on_the_sphere():
    X = ufm.Sphere(2.0).project(jnp.zeros((2, 3)), axis=1)
    assert_allclose(X, [[2.0, 0.0, 0.0]] * 2)


CONVEX = (ufm.Ball(1.3), ufm.MeanBall(0.7), ufm.Nonnegative())


@pytest.mark.parametrize("constraint", CONVEX, ids=lambda kind: type(kind).__name__)
@given(st.sampled_from((0, 1)), st.sampled_from((0.1, 1.0, 30.0)), st.booleans(), st.integers(0, 999))
def test_projection_goes_to_the_nearest_point(constraint, axis, size, weighted, seed):
    # p is the projection of x onto a convex set iff ⟨x − p, y − p⟩ ≤ 0 for all its points y
    random = np.random.default_rng(seed)
    shares = (
        random.dirichlet(np.full((6, 4)[axis], 0.3)) + 1e-3 if weighted else np.full((6, 4)[axis], 1 / (6, 4)[axis])
    )
    with jax.enable_x64(True):
        x, y = (jnp.asarray(s * random.normal(size=(4, 6))) for s in (size, random.choice((0.1, 3.0))))
        p, y = (np.asarray(constraint.project(rows, axis, shares)) for rows in (x, y))
        assert_allclose(constraint.project(jnp.asarray(p), axis, shares), p, rtol=1e-14)
    assert violation(constraint, p, axis, shares) <= 4e-16 * constraint_size(constraint)
    assert np.sum((np.asarray(x) - p) * (y - p)) <= 1e-11 * size * (size + 3.0)


def violation(constraint, rows, axis, shares):
    """How far outside rows are."""
    squares = np.sum(rows**2, axis=axis)
    if isinstance(constraint, ufm.Ball):
        return np.max(np.sqrt(squares)) - constraint.radius
    return np.sqrt(shares @ squares) - constraint.radius if isinstance(constraint, ufm.MeanBall) else -np.min(rows)


def constraint_size(constraint):
    return constraint.radius or 1.0


@pytest.mark.parametrize("constraint", CONVEX, ids=lambda kind: type(kind).__name__)
@given(st.sampled_from((0.1, 1.0, 30.0)), st.integers(0, 999))
def test_residual_vanishes_where_the_gradient_only_pushes_outside(constraint, size, seed):
    # −g is in the normal cone at p = P(x) for g = p − x; inside, where nothing binds, the residual is the gradient
    random = np.random.default_rng(seed)
    with jax.enable_x64(True):
        x, inside = jnp.asarray(size * random.normal(size=(4, 6))), jnp.asarray(random.uniform(0.1, 0.2, size=(4, 6)))
        p = constraint.project(x, 1)
        assert_allclose(constraint.residual(p, p - x), 0.0, atol=1e-12 * size)
        assert_allclose(constraint.residual(inside, x), x)
        assert np.linalg.norm(constraint.residual(p, x - p)) >= np.linalg.norm(x - p)


@pytest.mark.parametrize("constraint", [*CONVEX, ufm.Sphere(1.3)], ids=lambda kind: type(kind).__name__)
@given(st.integers(0, 999), st.sampled_from((1e-3, 1.0, 1e3)))
def test_the_solver_cannot_leave(constraint, seed, size):
    random, (K, r, L) = np.random.default_rng(seed), (4, 3, 2)
    of_lanes = jax.tree.map(lambda leaf: np.full((1, L), leaf), constraint)
    with jax.enable_x64(True):
        decay = jnp.ones((K, L))
        start = of_lanes.variables(jnp.asarray(random.normal(size=(K, r, L))))
        assert start.shape == (K, r + constraint.slack, L)
        for X in (start, jnp.asarray(size * random.normal(size=start.shape))):
            rows = np.asarray(of_lanes.unfold(X, decay))
            for lane in range(L):
                if isinstance(constraint, ufm.Sphere):
                    assert_allclose(np.linalg.norm(rows[..., lane], axis=1), constraint.radius, rtol=1e-15)
                else:
                    assert violation(constraint, rows[..., lane], 1, np.full(K, 1 / K)) <= 4e-16


def test_a_forced_etf_is_a_simplex_of_the_radius():
    A = ufm.Fixed.etf(4, 7, seed=3, radius=2.5).matrix
    assert_allclose(A @ A.T, 2.5**2 * (4 * np.eye(4) - 1) / 3, atol=1e-13)


@pytest.mark.parametrize(
    "matrix", [np.ones(3), [[1.0, np.nan]], np.ones((2, 2, 2)), "abc", [[1, 2], [3]], np.ones((2, 2)) * 1j]
)
def test_a_matrix_that_is_none_is_refused(matrix):
    with pytest.raises(ValueError, match="matrix ="):
        ufm.Fixed(matrix)


@pytest.mark.parametrize("kind", [ufm.Sphere, ufm.Ball, ufm.MeanBall])
@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan"), "1"])
def test_a_radius_that_is_not_positive_is_named(kind, radius):
    with pytest.raises(ValueError, match="radius ="):
        kind(radius)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nonpositive(Constraint):
    """A user's own: the mirror image of `ufm.Nonnegative`."""

    cone = True

    def project(self, rows, axis, shares=None):
        return jnp.minimum(rows, 0.0)

    def residual(self, rows, gradient):
        return -ufm.Nonnegative().residual(-rows, -gradient)

    def raised(self, gram):
        return jnp.maximum(gram, 0.0)  # products of two columns have the sign they have of the mirrored ones

    def unfold(self, X, decay):
        return -ufm.Nonnegative().unfold(X, decay)

    def variables(self, X):
        return ufm.Nonnegative().variables(X)


class Unregistered(Constraint):
    """A user's own that JAX takes for an array."""


@pytest.mark.parametrize("side", ["features", "classifier"])
def test_a_users_own_constraint_that_is_no_pytree_is_refused(side):
    with pytest.raises(ValueError, match=f"{side} = .*register_dataclass"):
        ufm.Problem(num_classes=3, dim=4, per_class=5, **{side: Unregistered()})


def test_a_users_own_constraint_is_minimised_certified_and_trained_under_as_ours_is():
    # H → −H, A → −A leaves every logit and every norm as it is
    words = {"num_classes": 3, "dim": 4, "per_class": 5, "bias": False, "lambda_A": 1e-2, "lambda_H": 1e-2}
    mirrored, ours = (ufm.minimize(ufm.Problem(**words, features=kind())) for kind in (Nonpositive, ufm.Nonnegative))
    assert mirrored.certified
    assert ours.certified
    assert_allclose(mirrored.value, ours.value, rtol=1e-8)
    run = ufm.train(mirrored.problem, optax.sgd(0.5), steps=50, snapshots=2)
    assert np.max(run.params.H) <= 0.0
    assert np.min(run.params.H) < 0.0


def test_a_fact_of_a_constraint_that_jax_would_trace_is_refused():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Leafy(Nonpositive):
        cone: bool = True

    with pytest.raises(ValueError, match=r"features\.cone is a leaf"):
        ufm.Problem(num_classes=3, dim=4, per_class=5, features=Leafy())
