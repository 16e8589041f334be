import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zoo import ZOO, problem

import ufm
from ufm._core import blocks
from ufm._core.precision import float64
from ufm.minima import streamed_bound
from ufm.minima.lane_objective import objective
from ufm.minima.reduction import reduce


def entropy(p):
    return -np.sum(p * np.log(p))


def cross_entropy_minimum(K, kappa):
    """min f for balanced cross-entropy, d ≥ K − 1: the entropy of (1 − (K−1)κ, κ, …), or log K (Zhu et al. 2021)."""
    wrong = (K - 1) * kappa
    return np.log(K) if K * kappa >= 1 else -(1 - wrong) * np.log1p(-wrong) - wrong * np.log(kappa)


def squared_error_minimum(K, kappa):
    """min f for squared error without bias, d ≥ K: Kκ(1 − Kκ/2), or ½ (Tirer & Bruna 2022)."""
    return 0.5 if K * kappa >= 1 else K * kappa * (1 - K * kappa / 2)


def sphere_minimum(K, R_H, R_A):
    return np.log1p((K - 1) * np.exp(-K * R_H * R_A / (K - 1)))


anything = {
    "seed": st.integers(0, 999),
    "size": st.sampled_from((0.0, 1e-8, 1e-2, 1.0, 30.0, 1e4)),
    "log_A": st.floats(-7, 0),
    "log_H": st.floats(-7, 0),
}


def anywhere(p, seed, size):
    """Any parameters at all: random, of any size, features not collapsed."""
    q, noise = p.init(seed), np.random.default_rng(seed)
    return ufm.Params(size * q.H, noise.choice((0.1, 1.0, 10.0)) * size * q.A, size * noise.normal(size=p.num_classes))


@pytest.mark.parametrize("kind", ["none", "free", "regularised"])
def test_bound_is_below_the_known_minimum_of_cross_entropy(kind):
    @given(**anything)
    def check(seed, size, log_A, log_H):
        bias = {"bias": kind != "none", "lambda_b": 10.0**log_A if kind == "regularised" else 0.0}
        p = problem(per_class=6, lambda_A=10.0**log_A, lambda_H=10.0**log_H, **bias)
        minimum = cross_entropy_minimum(3, np.sqrt(p.lambda_A * p.lambda_H * 6))
        assert ufm.lower_bound(p, anywhere(p, seed, size)) <= minimum
        best = ufm.minimize(p)
        assert best.lower_bound <= minimum
        assert ufm.lower_bound(p, best.params) <= minimum

    check()


@given(**anything)
def test_bound_is_below_the_known_minimum_of_squared_error(seed, size, log_A, log_H):
    loss = {"loss": ufm.SquaredError(), "bias": False}
    p = problem(per_class=6, lambda_A=10.0**log_A, lambda_H=10.0**log_H, **loss)
    minimum = squared_error_minimum(3, np.sqrt(p.lambda_A * p.lambda_H * 6))
    assert ufm.lower_bound(p, anywhere(p, seed, size)) <= minimum
    assert ufm.minimize(p).lower_bound <= minimum


@given(st.integers(0, 999), st.sampled_from((1e-3, 1.0, 30.0)), st.floats(0.1, 4.0), st.floats(0.1, 4.0))
def test_bound_is_below_the_known_minimum_on_spheres(seed, size, R_H, R_A):
    spheres = {"features": ufm.Sphere(R_H), "classifier": ufm.Sphere(R_A), "lambda_A": 0.0, "lambda_H": 0.0}
    p = problem(per_class=6, bias=False, **spheres)
    assert ufm.lower_bound(p, anywhere(p, seed, size)) <= sphere_minimum(3, R_H, R_A)
    assert ufm.lower_bound(p, p.init(seed)) <= sphere_minimum(3, R_H, R_A)


@given(st.integers(0, 999), st.floats(0.0, 4.0), st.floats(-4, -0.5))
def test_focal_bound_is_below_every_value_on_its_line(seed, gamma, log_decay):
    # balanced: f* = min_t φ(t) + κ(K−1)t (Zhou et al. 2022); any t gives a value above it
    K, n, loss = 3, 6, ufm.Focal(gamma)
    p = problem(num_classes=K, per_class=n, loss=loss, lambda_A=10.0**log_decay, lambda_H=1e-2, bias=False)
    slope = np.sqrt(p.lambda_A * p.lambda_H * n) * (K - 1)
    t = np.linspace(0.0, 50.0, 200_001)
    least = np.min(loss.along(t, K) + slope * t)
    bound = ufm.lower_bound(p, p.init(seed))
    assert bound <= least
    assert bound >= least * (1 - 1e-6)


@functools.cache
def in_too_few_dimensions(per_class):
    """A problem that nothing certifies, and the best value of several starts."""
    p = problem(num_classes=5, dim=2, per_class=list(per_class))
    return p, ufm.minimize(p).value


@given(st.integers(0, 999), st.sampled_from((1e-2, 1.0, 30.0)), st.sampled_from(((3,) * 5, (3, 9, 1, 1, 4))))
def test_bound_is_below_the_best_value_known_in_too_few_dimensions(seed, size, per_class):
    p, value = in_too_few_dimensions(per_class)
    assert ufm.lower_bound(p, anywhere(p, seed, size)) <= value


CONSTRAINED = ("sphere", "balls", "mean balls", "non-negative", "forced ETF")


@pytest.mark.parametrize("name", CONSTRAINED)
def test_bound_is_below_a_feasible_value_whatever_the_constraint(name):
    best = ufm.minimize(ZOO[name])
    assert best.certified

    @given(st.integers(0, 999), st.sampled_from((0.0, 1e-8, 1e-2, 1.0, 30.0, 1e4)))
    def check(seed, size):
        assert ufm.lower_bound(ZOO[name], anywhere(ZOO[name], seed, size)) <= best.value

    check()
    # with a certified optimum's own parameters it is the best there is
    assert ufm.lower_bound(ZOO[name], best.params) >= best.value - 1e-8 * best.value


class SquaredOfAUser:
    """`SquaredError` of a user who gives no conjugate."""

    convex, infimum = True, 0.0

    def __call__(self, logits, label):
        hot = (np.arange(logits.shape[0]) == label).astype(logits.dtype)
        return 0.5 * ((logits - hot) ** 2).sum()


SQUARED_OF_A_USER = SquaredOfAUser()  # one, since programs are kept by it


@given(**anything)
def test_bound_of_a_loss_without_conjugate_is_below_the_known_minimum(seed, size, log_A, log_H):
    # strong decay lets the dual point be scaled up; there convexity bounds a conjugate from below, not from above
    loss = {"loss": SQUARED_OF_A_USER, "bias": False}
    p = problem(per_class=6, lambda_A=10.0**log_A, lambda_H=10.0**log_H, **loss)
    assert ufm.lower_bound(p, anywhere(p, seed, size)) <= squared_error_minimum(3, np.sqrt(p.lambda_A * p.lambda_H * 6))


@pytest.mark.parametrize("radius", [2.0, 4.0, 5.0, 7.0])
def test_bound_of_smoothing_that_vanishes_is_below_the_minimum_of_cross_entropy(radius):
    # α = 0 is cross-entropy, but its conjugate adds up numbers of order one, whose rounding doesn't vanish with it
    spheres = {"features": ufm.Sphere(radius), "classifier": ufm.Sphere(radius), "lambda_A": 0.0, "lambda_H": 0.0}
    p = problem(num_classes=3, dim=4, per_class=2, loss=ufm.LabelSmoothing(0.0), bias=False, **spheres)
    simplex = np.repeat(radius * ufm.geometry.simplex_etf(3, 4), 2, axis=0)
    aligned = ufm.Params(simplex, simplex[::2], np.zeros(3))
    assert ufm.lower_bound(p, aligned) <= sphere_minimum(3, radius, radius) * (1 + 1e-13)


def test_bound_needs_a_convex_loss_with_a_known_infimum():
    q = problem().init()
    assert ufm.lower_bound(problem(loss=lambda z, y: (z[y] - 1.0) ** 2), q) == -np.inf
    assert ufm.lower_bound(problem(loss=ufm.Focal(2.0), per_class=[5, 4, 6]), q) == -np.inf


def test_trivial_bound_is_never_lost():
    p = problem(loss=ufm.LabelSmoothing(0.2))
    far = ufm.Params(*(1e6 * leaf for leaf in p.init()[:3]))
    infimum = float(entropy(np.array([0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3])))
    assert infimum * (1 - 1e-13) <= ufm.lower_bound(p, far) <= ufm.minimize(p).value
    assert ufm.lower_bound(problem(), problem().init()) >= 0.0


def test_threads_may_ask_at_once():
    # batched decompositions in two threads once waited on each other for ever
    p = problem(per_class=[5, 4, 6])
    points = [p.init(seed) for seed in range(4)]
    alone = [ufm.lower_bound(p, q) for q in points]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda q: [ufm.lower_bound(p, q) for _ in range(5)], points))
    assert found == [[bound] * 5 for bound in alone]


class OfAUser:
    """A loss of a user that says what one of ours does, and declares some facts of it."""

    def __init__(self, loss, *facts):
        self.loss, self.infimum = loss, 0.0
        self.convex = not isinstance(loss, ufm.Focal)
        for name in facts:
            setattr(self, name, getattr(loss, name))

    def __call__(self, logits, label):
        return self.loss(logits, label)


SPHERES = {"lambda_A": 0.0, "lambda_H": 0.0, "features": ufm.Sphere(5.0), "classifier": ufm.Sphere(4.0), "bias": False}


def test_a_loss_of_a_user_keeps_its_digits_where_it_says_so():
    simplex = np.repeat(ufm.geometry.simplex_etf(3, 4), 5, axis=0)
    at = ufm.Params(5.0 * simplex, 4.0 * simplex[::5], np.zeros(3))
    told = problem(loss=OfAUser(ufm.CrossEntropy(), "conjugate", "keeps_digits"), **SPHERES)
    minimum = sphere_minimum(3, 5.0, 4.0)
    assert (1 - 1e-10) * minimum <= ufm.lower_bound(told, at) <= minimum
    # where it doesn't, numbers of order one may have been rounded
    assert ufm.lower_bound(problem(loss=OfAUser(ufm.CrossEntropy(), "conjugate"), **SPHERES), at) == 0.0


def test_a_loss_of_a_user_is_minimised_by_its_logarithm_where_it_falls_exponentially():
    with float64():
        own, told, silent = (
            reduce([problem(loss=loss, **SPHERES)])
            for loss in (
                ufm.CrossEntropy(),
                OfAUser(ufm.CrossEntropy(), "falls_exponentially"),
                OfAUser(ufm.CrossEntropy()),
            )
        )
        x = jnp.asarray(np.random.default_rng(0).normal(size=(own.factor_size, 1)))
        values = [float(jax.jit(objective)(x, reduced)[0]) for reduced in (own, told, silent)]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-12)
    np.testing.assert_allclose(np.log(values[2]) - 2.0 - np.log(np.log(3)), values[0], rtol=1e-12)


def test_a_loss_of_a_user_has_the_bound_of_the_line_it_declares():
    words, q = {"num_classes": 4, "dim": 5, "lambda_A": 1e-3}, problem(num_classes=4, dim=5).init()
    for bias in (True, False):
        own, told = (
            ufm.lower_bound(problem(loss=loss, bias=bias, **words), q)
            for loss in (ufm.Focal(1.5), OfAUser(ufm.Focal(1.5), "along", "steepest"))
        )
        assert told == own > 0
    assert ufm.lower_bound(problem(loss=OfAUser(ufm.Focal(1.5)), **words), q) == -np.inf


@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.LabelSmoothing(0.2)])
def test_a_loss_of_a_user_is_repaired_within_the_simplex_it_declares(loss, monkeypatch):
    # the bias is far from best, and a shift of the slopes would leave the simplex
    facts = ["conjugate", "conjugate_on_simplex", *(["soft_target"] if hasattr(loss, "soft_target") else [])]
    q = problem(num_classes=4, per_class=[9, 1, 2, 1]).init(1)
    at = q._replace(H=8.0 * q.H, b=np.array([3.0, 0.0, -2.0, 1.0]))
    monkeypatch.setattr(streamed_bound, "BIAS_STEPS", 0)
    monkeypatch.setattr(blocks, "LOGITS_AT_ONCE", 8)
    own, told, silent = (
        ufm.lower_bound(problem(num_classes=4, per_class=[9, 1, 2, 1], loss=kind), at)
        for kind in (loss, OfAUser(loss, *facts), OfAUser(loss, *facts[:1]))
    )
    np.testing.assert_allclose(told, own, rtol=1e-10)
    assert silent < own


@pytest.mark.parametrize("name", ["imbalanced", "balls", "forced ETF", "focal"])
def test_the_traceable_bound_is_the_bound(name):
    p = ZOO[name]
    q = p.init(2)._replace(b=np.random.default_rng(0).normal(size=p.num_classes))
    wanted = ufm.lower_bound(p, q)
    with float64():
        double = ufm.dual_bound(p, q)
        traced = jax.jit(lambda H, A, b: ufm.dual_bound(p, ufm.Params(H, A, b)))(*map(jnp.asarray, q[:3]))
        assert double.dtype == traced.dtype == jnp.float64
        np.testing.assert_allclose([float(double), float(traced)], wanted, rtol=1e-12)
    single = jax.jit(lambda H, A, b: ufm.dual_bound(p, ufm.Params(H, A, b)))(*(np.float32(x) for x in q[:3]))
    assert single.dtype == jnp.float32
    # an allowance of 64 of float32's rounding, of numbers of order one, below
    assert wanted - 1e-3 <= float(single) <= wanted + 1e-6


def test_the_traceable_bound_has_derivatives_and_batches():
    p = ZOO["imbalanced"]
    points = [p.init(seed) for seed in range(3)]
    with float64():
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
        bounds, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda q: ufm.dual_bound(p, q))))(stacked)
        of_problem = jax.jit(ufm.dual_bound)(p, points[0])
        step = jax.tree.map(lambda x: 1e-6 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), points[0])
        ends = [ufm.dual_bound(p, jax.tree.map(lambda x, dx, s=s: x + s * dx, points[0], step)) for s in (1, -1)]
        along = sum(jnp.sum(g[0] * dx) for g, dx in zip(slopes[:3], step[:3], strict=True))
        np.testing.assert_allclose(bounds, [ufm.lower_bound(p, q) for q in points], rtol=1e-12)
        np.testing.assert_allclose(of_problem, bounds[0], rtol=1e-12)
        np.testing.assert_allclose(along, (ends[0] - ends[1]) / 2, rtol=1e-4)


def test_a_bound_that_is_searched_needs_a_known_problem():
    p = ZOO["focal"]
    with pytest.raises(ValueError, match="problem: its numbers are traced"):
        jax.jit(ufm.dual_bound)(p, p.init())
    assert jax.jit(ufm.dual_bound)(problem(loss=lambda z, y: (z[y] - 1.0) ** 2), p.init()) == -np.inf
