"""Losses of rows of targets. A row T has mass τ = Σ_k T_k; y is a label, e_y its one-hot row, p the softmax of z."""

import dataclasses
import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import ufm
from ufm._core.arrays import silent
from ufm.model import losses

BOTH = (ufm.CrossEntropy(), ufm.LabelSmoothing(0.3), ufm.SquaredError())
ENTROPIES = BOTH[:2]
COUNT = 6
by_name = {"ids": lambda loss: type(loss).__name__}


def drawn(loss, K, seed, spread=3.0):
    """Logits (N, K), and rows (N, K) that the loss is of: of any mass, with zeros, near one-hot, and one-hot."""
    random = np.random.default_rng(seed)
    Z = spread * random.normal(size=(COUNT, K))
    if isinstance(loss, ufm.SquaredError):
        return Z, 2.0 * random.normal(size=(COUNT, K))
    T = random.dirichlet(np.full(K, 0.7), size=COUNT) * 10.0 ** random.uniform(-2, 2, size=(COUNT, 1))
    T[0] = np.eye(K)[seed % K]
    T[1] = np.where(np.arange(K) == seed % K, 1.0, 1e-13)
    T[2, (seed + 1) % K] = 0.0
    return Z, T


rows_of = ft.partial(given, st.sampled_from((2, 3, 20)), st.integers(0, 1000))


def in_both_namespaces(function, *arrays):
    """What NumPy computes, once JAX has been found to compute the same while it traces."""
    with jax.enable_x64(True):
        traced = jax.jit(function)(*arrays)
    found = function(*arrays)
    jax.tree.map(ft.partial(assert_allclose, rtol=1e-11, atol=1e-13), traced, found)
    return found


# Against the definitions


@pytest.mark.parametrize("loss", BOTH, **by_name)
@rows_of()
def test_a_row_costs_what_its_definition_says(loss, K, seed):
    Z, T = drawn(loss, K, seed)
    found = in_both_namespaces(loss, Z, T)
    if isinstance(loss, ufm.SquaredError):
        assert_allclose(found, 0.5 * np.sum((Z - T) ** 2, axis=1), rtol=1e-13)
        return
    surprise = np.log(np.exp(Z).sum(axis=1, keepdims=True)) - Z  # −log p
    target = T if isinstance(loss, ufm.CrossEntropy) else 0.7 * T + 0.3 * T.mean(axis=1, keepdims=True)
    # every summand is positive, so that the sum's rounding is relative to it
    assert_allclose(found, np.sum(target * surprise, axis=1), rtol=1e-11)


@rows_of()
def test_label_smoothing_maps_rows(K, seed):
    Z, T = drawn(ufm.CrossEntropy(), K, seed)
    # (1−α) T + α τ/K, τ/K being the mean of the row
    mapped = 0.7 * T + 0.3 * T.mean(axis=1, keepdims=True)
    for name in ("__call__", "slope", "conjugate", "curvature"):
        of_row, of_mapped = (getattr(loss, name) for loss in (ufm.LabelSmoothing(0.3), ufm.CrossEntropy()))
        at = Z if name != "conjugate" else ufm.CrossEntropy().slope(Z, mapped)
        jax.tree.map(ft.partial(assert_allclose, rtol=1e-12, atol=1e-13), of_row(at, T), of_mapped(at, mapped))


# Labels are rows


@pytest.mark.parametrize("loss", BOTH, **by_name)
@rows_of()
def test_one_hot_rows_are_labels(loss, K, seed):
    random = np.random.default_rng(seed)
    Z, y = 3.0 * random.normal(size=(COUNT, K)), random.integers(0, K, COUNT)
    slopes = loss.slope(Z, y)
    for name, at in (("__call__", Z), ("slope", Z), ("conjugate", slopes), ("curvature", Z)):
        of = getattr(loss, name)
        of_label, of_row = of(at, y), of(at, np.eye(K)[y])
        jax.tree.map(ft.partial(assert_allclose, rtol=1e-12, atol=1e-14), of_row, of_label)
    both = [losses.per_sample_both(loss, Z.T, target) for target in (y, np.eye(K)[:, y])]
    jax.tree.map(ft.partial(assert_allclose, rtol=1e-12, atol=1e-14), *both)


def test_one_hot_rows_keep_every_digit_that_labels_keep():
    loss, random = ufm.CrossEntropy(), np.random.default_rng(0)
    for lead in (0.0, 5.0, 40.0, 300.0, -40.0):
        y = random.integers(0, 4, COUNT)
        T = np.eye(4)[y]
        Z = random.normal(size=(COUNT, 4)) + lead * T
        slope = loss.slope(Z, y)
        assert_array_equal(loss(Z, T), loss(Z, y))
        assert_array_equal(loss.slope(Z, T), slope)
        assert_allclose(loss.conjugate(slope, T), loss.conjugate(slope, y), rtol=4e-16, atol=0)


def test_rows_that_are_nearly_one_hot_keep_their_digits():
    # z = (t, 0), T = (1, ε): ℓ = log(1 + e^{−t}) + ε (t + log(1 + e^{−t})), slope_0 = ε − (1 + ε)/(1 + e^t)
    for t, eps in ((30.0, 1e-14), (300.0, 1e-140), (40.0, 1e-20)):
        z, T = np.array([t, 0.0]), np.array([1.0, eps])
        tail = np.log1p(np.exp(-t))
        assert_allclose(ufm.CrossEntropy()(z, T), tail + eps * (t + tail), rtol=1e-14)
        slope = ufm.CrossEntropy().slope(z, T)
        assert_allclose(slope, (eps - (1 + eps) / (1 + np.exp(t))) * np.array([1, -1]), rtol=1e-13)
        # the conjugate at −q: T − s for s = ε (−1, 1)/2 is q = (1 + ε/2, ε/2), whose mass is T's
        s, tau = 0.5 * eps * np.array([1.0, -1.0]), 1.0 + eps
        # q_0 log(q_0/τ) = −ε/2 up to ε², for q_0/τ = 1 − ε/2 up to ε²
        expected = -0.5 * eps + 0.5 * eps * np.log(0.5 * eps / tau)
        assert_allclose(ufm.CrossEntropy().conjugate(s, T), expected, rtol=1e-13)


# Derivatives


@pytest.mark.parametrize("loss", BOTH, **by_name)
@pytest.mark.parametrize("K", [3, 20])
def test_slopes_and_curvatures_of_rows_are_those_that_jax_derives(loss, K):
    Z, T = drawn(loss, K, seed=5)
    slope, (diagonal, vector) = loss.slope(Z, T), loss.curvature(Z, T)
    with jax.enable_x64(True):
        assert_allclose(slope, jax.jit(jax.vmap(jax.grad(loss)))(Z, T), rtol=1e-11, atol=1e-12)
        hessian = jax.jit(jax.vmap(jax.hessian(loss)))(Z, T)
    found = np.eye(K) * diagonal[:, None] - vector[:, :, None] * vector[:, None]
    assert_allclose(found, hessian, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("loss", ENTROPIES, **by_name)
def test_curvatures_are_right_where_logits_and_entries_are_tied(loss):
    # p = 1/K at z = 0: ∇² = τ (I/K − J/K²)
    T = np.array([[0.5, 0.5, 0.0], [0.2, 0.2, 0.2], [2.0, 2.0, 2.0]])
    with jax.enable_x64(True):
        hessian = jax.jit(jax.vmap(jax.hessian(loss)))(np.zeros((3, 3)), T)
    assert_allclose(hessian, T.sum(axis=1)[:, None, None] * (np.eye(3) / 3 - 1 / 9), atol=1e-14)


@pytest.mark.parametrize("loss", BOTH, **by_name)
def test_gradients_reach_the_rows(loss):
    Z, T = drawn(loss, 3, seed=2)
    inside = T + 0.1  # a central difference needs room
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(jax.grad(lambda T: jnp.sum(loss(Z, T))))(inside))
        at_zero = np.asarray(jax.jit(jax.grad(lambda T: jnp.sum(loss(Z, T))))(T))
    step = 1e-5
    for k in range(3):
        E = step * np.eye(3)[k]
        # its error is step² f'''/6, and rounding ε f/step: 1e-8 of losses up to a thousand
        assert_allclose(found[:, k], (loss(Z, inside + E) - loss(Z, inside - E)) / (2 * step), rtol=1e-6, atol=1e-6)
    if isinstance(loss, ufm.CrossEntropy):  # linear in T: −log p at zero entries too
        assert_allclose(at_zero, np.log(np.exp(Z).sum(axis=1, keepdims=True)) - Z, rtol=1e-12)


def test_gradients_of_a_distillation_reach_the_teacher():
    # ℓ(z, softmax(t)) with its own teacher: ∂/∂t = J (−log p) for the softmax's Jacobian J = diag q − q qᵀ
    z, t = np.random.default_rng(0).normal(size=(2, 4))
    with jax.enable_x64(True):
        found = jax.grad(lambda t: ufm.CrossEntropy()(z, jax.nn.softmax(t)))(t)
    q = np.exp(t) / np.exp(t).sum()
    surprise = np.log(np.exp(z).sum()) - z
    assert_allclose(found, q * surprise - q * (q @ surprise), rtol=1e-12)


# Duality


@pytest.mark.parametrize("loss", BOTH, **by_name)
@rows_of()
def test_conjugates_of_rows_obey_fenchel_with_equality_at_the_gradient(loss, K, seed):
    Z, T = drawn(loss, K, seed)
    elsewhere = drawn(loss, K, seed + 1)[0]
    slope = loss.slope(Z, T)
    conjugate = in_both_namespaces(loss.conjugate, slope, T)
    scale = 1.0 + np.abs(T).sum(axis=1) * (1.0 + np.abs(Z).max(axis=1))
    # ℓ(z) + ℓ*(∇ℓ(z)) = ⟨∇ℓ(z), z⟩, and ≥ at any other point
    assert_allclose((loss(Z, T) + conjugate - np.sum(slope * Z, axis=1)) / scale, 0.0, atol=1e-12)
    above = loss(elsewhere, T) + conjugate - np.sum(slope * elsewhere, axis=1)
    assert np.all(above >= -1e-12 * scale * (1.0 + np.abs(elsewhere).max(axis=1)))


@rows_of()
def test_the_conjugate_is_finite_exactly_where_slope_and_row_are_a_mass_as_the_row(K, seed):
    loss, T = ufm.CrossEntropy(), drawn(ufm.CrossEntropy(), K, seed)[1][3:]
    tau = T.sum(axis=1, keepdims=True)
    # at a corner q = τ e_k, where Σ q log(q/τ) = 0
    corner = tau * np.eye(K)[seed % K]
    assert_allclose(loss.conjugate(corner - T, T) / tau[:, 0], 0.0, atol=1e-13)
    # at the middle, where it is −τ log K, and least
    assert_allclose(loss.conjugate(tau / K - T, T), -tau[:, 0] * np.log(K), rtol=1e-12)
    # beyond a corner, where another class has less than nothing
    beyond = corner + 0.01 * tau * (np.eye(K)[seed % K] - np.eye(K)[(seed + 1) % K])
    assert np.all(np.isposinf(loss.conjugate(beyond - T, T)))


@pytest.mark.parametrize("loss", BOTH, **by_name)
@rows_of()
def test_the_infimum_of_a_row_is_a_bound_that_is_reached(loss, K, seed):
    Z, T = drawn(loss, K, seed)
    bound = losses.infima(loss, T.T)
    assert np.all(loss(Z, T) >= bound - 1e-12 * np.abs(bound))
    with silent():  # a logit of −∞ where the row is zero
        logits = T if isinstance(loss, ufm.SquaredError) else np.log(losses.simplex_targets(loss, T.T, T.T).T)
    assert_allclose(loss(logits, T), bound, rtol=1e-12, atol=1e-13)
    if isinstance(loss, ufm.CrossEntropy):  # Σ_k entr(T_k) − entr(τ)
        entr = lambda x: -np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0)  # noqa: E731
        assert_allclose(bound, entr(T).sum(axis=1) - entr(T.sum(axis=1)), rtol=1e-10, atol=1e-12)


def test_the_infimum_of_one_hot_rows_is_that_of_labels():
    for loss in BOTH:
        assert_allclose(losses.infima(loss, np.eye(4)), losses.infimum(loss, 4), rtol=1e-14)


# What a mass, and a constant, do


@pytest.mark.parametrize("loss", ENTROPIES, **by_name)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_a_mass_is_a_weight(loss, a, seed):
    Z, T = drawn(loss, 3, seed)
    close = ft.partial(assert_allclose, rtol=1e-12, atol=1e-12)
    slope = loss.slope(Z, T)
    close(loss(Z, a * T), a * loss(Z, T))
    close(loss.slope(Z, a * T) / a, slope)
    # (aℓ)*(s) = a ℓ*(s/a)
    close(loss.conjugate(a * slope, a * T) / a, loss.conjugate(slope, T), rtol=1e-10, atol=1e-10)
    d, q = loss.curvature(Z, T)
    close(loss.curvature(Z, a * T)[0], a * d)
    close(loss.curvature(Z, a * T)[1], np.sqrt(a) * q)


@pytest.mark.parametrize("loss", ENTROPIES, **by_name)
def test_what_is_added_to_all_logits_changes_nothing_whatever_the_mass(loss):
    Z, T = drawn(loss, 3, seed=1)
    assert_allclose(loss(Z + 7.0, T), loss(Z, T), rtol=1e-12)
    assert_allclose(loss.slope(Z, T).sum(axis=1) / T.sum(axis=1), 0.0, atol=1e-14)


def test_one_output_is_regressed():
    loss, z, T = ufm.SquaredError(), np.array([[1.0], [-2.0]]), np.array([[0.5], [1.0]])
    assert_allclose(loss(z, T), [0.125, 4.5])
    assert_allclose(loss.slope(z, T), z - T)
    # ½ s² + s T
    assert_allclose(loss.conjugate(z, T), [1.0, 0.0])


def test_large_logits_are_safe_and_a_logit_may_be_absent_where_the_row_is():
    loss = ufm.CrossEntropy()
    for dtype in (np.float32, np.float64):
        Z = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype)
        value, slope = loss(Z, T := np.array([[0.5, 0.5, 0.0], [0.2, 0.0, 0.8]])), loss.slope(Z, T)
        assert value.dtype == slope.dtype == dtype  # the logits' own
        assert_allclose(value, [1e4, 0.2 * 2e4 + np.log(2.0)], rtol=1e-6)
        assert np.all(np.isfinite(slope))
    z, T = np.array([0.0, -np.inf, 0.0]), np.array([0.5, 0.0, 0.5])
    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(loss)(jnp.asarray(z), jnp.asarray(T))
    assert_allclose((value, loss(z, T)), np.log(2.0))
    assert_allclose(slope, 0.0, atol=1e-15)


# What is refused


REFUSED = {
    "real numbers for labels": np.zeros(3),
    "whole numbers for rows": np.ones((3, 4), int),
    "rows of another length": np.ones((3, 3)),
    "one row for several": np.ones(4),
    "truths": np.ones((3, 4), bool),
}


@pytest.mark.parametrize("target", REFUSED.values(), ids=REFUSED)
def test_targets_that_are_neither_labels_nor_rows_are_refused(target):
    with pytest.raises(ValueError, match="label "):
        ufm.CrossEntropy()(np.zeros((3, 4)), target)


def test_a_refusal_says_both_legal_forms():
    for call in (ufm.SquaredError().slope, jax.jit(ufm.CrossEntropy())):
        with pytest.raises(ValueError, match=r"label of shape \(3,\).*whole number.*\(3,\), or a row.*\(3, 4\)"):
            call(np.zeros((3, 4)), np.zeros(3))


@pytest.mark.parametrize("loss", [ufm.Focal(2.0), ufm.DotRegression(1.0)], **by_name)
def test_losses_of_labels_alone_say_so(loss):
    with pytest.raises(ValueError, match=r"label of shape.*takes labels alone"):
        loss(np.zeros((3, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"^loss = .*takes labels alone, and the targets are rows"):
        losses.check_loss(loss, 4, rows=True)
    losses.check_loss(loss, 4)


NO_MASSES = {
    "negative": [0.5, 0.6, -0.1],
    "zero": [0.0, 0.0, 0.0],
    "NaN": [0.5, np.nan, 0.5],
    "infinite": [np.inf, 0, 0],
}


@pytest.mark.parametrize("row", NO_MASSES.values(), ids=NO_MASSES)
def test_rows_without_a_least_cross_entropy_are_refused_where_they_are_known(row):
    Z, T = np.zeros((2, 3)), np.array([[0.2, 0.3, 0.5], row])
    for loss in ENTROPIES:
        for call in (loss, loss.slope, loss.conjugate, loss.curvature, jax.jit(lambda Z, _, loss=loss: loss(Z, T))):
            with pytest.raises(ValueError, match=r"label with a row \["):
                call(Z, T)
    if np.all(np.isfinite(row)):
        assert np.all(np.isfinite(ufm.SquaredError()(Z, T)))
    else:
        with pytest.raises(ValueError, match="label with a row"):
            ufm.SquaredError()(Z, T)


# A user's own


class Sigmoids:
    """Binary cross-entropies of several labels at once, of rows alone; without a conjugate."""

    takes, convex, infimum = "row", True, 0.0

    def __call__(self, z, row):
        return jnp.sum(jax.nn.softplus(z) - row * z)


class Either:
    """Squared error of labels and rows, with everything that may be declared."""

    takes, convex, infimum = "both", True, 0.0

    def __call__(self, z, target):
        return 0.5 * jnp.sum(self.slope(z, target) ** 2)

    def slope(self, z, target):
        return z - (target if jnp.ndim(target) else jax.nn.one_hot(target, len(z), dtype=z.dtype))

    def conjugate(self, s, target):
        return 0.5 * jnp.sum(s**2) - s @ self.slope(jnp.zeros_like(s), target)

    def curvature(self, z, target):
        return jnp.ones_like(z), jnp.zeros_like(z)


class Plain(ufm.SquaredError):
    """A formula of its own, which says that it is of rows."""

    takes = "both"

    def __call__(self, logits, label):
        return 2.0 * super().__call__(logits, label)


def test_a_users_loss_takes_rows_where_it_says_so():
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        Z, T = jnp.asarray(random.normal(size=(2, 3, 5)))
        ours, own = ufm.SquaredError(), losses.as_loss(Either())
        for targets in (T, jnp.arange(5) % 3):
            for of in (losses.per_sample, losses.per_sample_slope, losses.per_sample_both, losses.per_sample_conjugate):
                jax.tree.map(ft.partial(assert_allclose, rtol=1e-12), of(own, Z, targets), of(ours, Z, targets))
            assert_allclose(losses.per_sample_curvature(own, Z, targets)[0], 1.0)
            weights = jnp.arange(1.0, 6.0)
            assert_allclose(losses.curvature_of_shifts(own, Z, targets, weights), 15.0 * np.eye(3), atol=1e-12)
            assert_allclose(losses.per_sample(Plain(), Z, targets), 2 * losses.per_sample(ours, Z, targets))
        assert_allclose(losses.infima(own, T), 0.0, atol=1e-15)
        assert_allclose(losses.infima(losses.as_loss(Sigmoids()), T), 0.0)
        # ∇ = σ(z) − T
        slopes = losses.per_sample_slope(losses.as_loss(Sigmoids()), Z, T)
        assert_allclose(slopes, jax.nn.sigmoid(Z) - T, rtol=1e-12)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("make", [Sigmoids, Either, Plain, ufm.CrossEntropy, ufm.LabelSmoothing, ufm.SquaredError])
def test_losses_that_take_rows_pass_as_such(make, K):
    losses.check_loss(losses.as_loss(make()), K, rows=True)


def of_rows(loss, **facts):
    loss.__dict__.update({"takes": "row", **facts})
    return losses.as_loss(loss)


UNFIT = {
    "rows for a label's": (losses.as_loss(lambda z, y: z[y]), True, "takes labels alone, and the targets are rows"),
    "labels for a row's": (losses.as_loss(Sigmoids()), False, "takes rows alone, and the targets are labels"),
    "a kind that is none": (
        of_rows(lambda z, t: z @ t, takes="rows"),
        True,
        r"\.takes = 'rows': one of 'label', 'row'",
    ),
    "a vector": (of_rows(lambda z, t: z * t), True, r"of 4 samples it gives .*\(4, 3\)"),
    "an index": (of_rows(lambda z, t: z[t]), True, "JAX must be able to trace"),
    "a conjugate of vectors": (of_rows(lambda z, t: z @ t, conjugate=lambda s, t: s), True, "its conjugate gives"),
}


@pytest.mark.parametrize(("loss", "rows", "why"), UNFIT.values(), ids=UNFIT)
def test_losses_that_do_not_fit_the_targets_are_refused(loss, rows, why):
    with pytest.raises(ValueError, match=f"^loss.*{why}"):
        losses.check_loss(loss, 3, rows=rows)


def test_a_problem_of_classes_refuses_a_loss_of_rows():
    with pytest.raises(ValueError, match="takes rows alone"):
        ufm.Problem(num_classes=3, dim=3, per_class=2, loss=Sigmoids())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Leaf(Sigmoids):
    """What it takes is among its leaves."""

    takes: str = "row"


def test_what_a_loss_takes_is_part_of_its_structure():
    with pytest.raises(ValueError, match=r"loss\.takes is a leaf"):
        losses.check_loss(Leaf(), 3, rows=True)


@rows_of()
def test_simplex_targets_of_rows_have_their_masses(K, seed):
    T = drawn(ufm.CrossEntropy(), K, seed)[1].T
    for loss in ENTROPIES:
        found = in_both_namespaces(lambda T, loss=loss: losses.simplex_targets(loss, T, T), T)
        assert_allclose(found.sum(axis=0), T.sum(axis=0), rtol=1e-13)
