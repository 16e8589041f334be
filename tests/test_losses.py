import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from zoo import LOSSES, problem

import ufm
from ufm.model import losses


def brier(z, y):
    p = jax.nn.softmax(z)
    return jnp.sum((p - jax.nn.one_hot(y, z.shape[0], dtype=z.dtype)) ** 2)


ALL = (*LOSSES, losses.as_loss(brier))


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_agree_with_central_differences(loss, seed):
    random = np.random.default_rng(seed)
    with jax.enable_x64(True):
        Z, y = jnp.asarray(random.normal(size=(5, 7)) * 3), jnp.asarray(random.integers(0, 5, 7))
        value = lambda Z: jnp.sum(losses.per_sample(loss, Z, y))  # noqa: E731
        gradient, step = np.asarray(jax.grad(value)(Z)), 1e-5
        for index in np.ndindex(Z.shape):
            E = jnp.zeros_like(Z).at[index].set(step)
            # the error of a central difference is step² f'''/6, and rounding ε f/step: 1e-10 both
            slope = float((value(Z + E) - value(Z - E)) / (2 * step))
            assert abs(slope - gradient[index]) < 1e-7


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_ten_thousand_are_safe(loss, dtype):
    with jax.enable_x64(dtype == np.float64):
        Z = jnp.asarray(np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, -1e4]]), dtype)
        y = jnp.asarray([0, 0, 2])
        value, gradient = jax.value_and_grad(lambda Z: jnp.sum(losses.per_sample(loss, Z, y)))(Z)
        assert value.dtype == dtype
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


def test_cross_entropies_of_confident_logits_keep_their_digits():
    # z = (t, 0): the loss is log(1 + e^{-t}), and its slope −e^{-t}/(1 + e^{-t}) along the right logit
    with jax.enable_x64(True):
        for t in (0.0, 1.0, 30.0, 300.0):
            z, y = jnp.asarray([t, 0.0]), jnp.asarray(0)
            value, slope = jax.value_and_grad(ufm.CrossEntropy())(z, y)
            assert_allclose(value, np.log1p(np.exp(-t)), rtol=1e-14)
            assert_allclose(slope, np.array([-1.0, 1.0]) * np.exp(-t) / (1 + np.exp(-t)), rtol=1e-14)
            # the others, to the rounding of a logit
            assert_allclose(ufm.Focal(0.0)(z, y), value, atol=4e-15)
            assert_allclose(ufm.LabelSmoothing(0.0)(z, y), value, atol=4e-15)


@given(st.sampled_from((2, 3, 7)), st.floats(0.0, 0.99), st.integers(0, 1000))
def test_label_smoothing_infimum_is_reached_where_softmax_is_the_target(K, alpha, seed):
    loss = ufm.LabelSmoothing(alpha)
    with jax.enable_x64(True):
        target = np.full(K, alpha / K)
        target[0] += 1 - alpha
        bound = float(losses.infimum(loss, K))
        at_target = float(loss(jnp.log(jnp.asarray(np.maximum(target, 1e-300))), jnp.asarray(0)))
        assert_allclose(at_target, bound, atol=1e-12)
        other = jnp.asarray(np.random.default_rng(seed).normal(size=K) * 5)
        assert float(loss(other, jnp.asarray(0))) >= bound - 1e-12


@given(st.sampled_from((ufm.CrossEntropy(), ufm.SquaredError(), ufm.LabelSmoothing(0.3))), st.integers(0, 1000))
def test_conjugate_obeys_fenchel_with_equality_at_the_gradient(loss, seed):
    random = np.random.default_rng(seed)
    with jax.enable_x64(True):
        Z, W = jnp.asarray(random.normal(size=(4, 6)) * 3), jnp.asarray(random.normal(size=(4, 6)) * 3)
        y = jnp.asarray(random.integers(0, 4, 6))
        slope = jax.grad(lambda Z: jnp.sum(losses.per_sample(loss, Z, y)))(Z)
        conjugate = loss.conjugate(slope.T, y)
        # ℓ(z) + ℓ*(∇ℓ(z)) = ⟨∇ℓ(z), z⟩, and ≥ at any other point
        equal = losses.per_sample(loss, Z, y) + conjugate - jnp.sum(slope * Z, axis=0)
        above = losses.per_sample(loss, W, y) + conjugate - jnp.sum(slope * W, axis=0)
        assert_allclose(equal, 0.0, atol=1e-11)
        assert np.all(np.asarray(above) >= -1e-11)


OURS = [ufm.CrossEntropy(), ufm.LabelSmoothing(0.3), ufm.Focal(1.5), ufm.SquaredError(), ufm.DotRegression(2.0)]


@pytest.mark.parametrize("loss", OURS, ids=lambda loss: type(loss).__name__)
def test_logits_are_rows_wherever_a_loss_is_called(loss):
    # as many samples as classes, where the two axes could be taken for one another
    random = np.random.default_rng(0)
    Z, y = random.normal(size=(4, 4)), np.array([2, 0, 0, 3])
    each = [loss(z, label) for z, label in zip(Z, y, strict=True)]
    assert loss(Z, y).dtype == np.float64
    assert_allclose(loss(Z, y), each, rtol=1e-14)
    assert_allclose(loss(Z.reshape(2, 2, 4), y.reshape(2, 2)), np.reshape(each, (2, 2)), rtol=1e-14)
    with jax.enable_x64(True):
        assert_allclose(jax.jit(loss)(Z, y), each, rtol=1e-14)
        assert_allclose(jax.vmap(loss)(Z, y), each, rtol=1e-14)
        assert_allclose(jax.vmap(jax.grad(loss))(Z, y), jax.grad(lambda Z: jnp.sum(loss(Z, y)))(Z), rtol=1e-12)


@pytest.mark.parametrize("loss", [loss for loss in OURS if hasattr(loss, "conjugate")], ids=lambda x: type(x).__name__)
def test_the_declared_curvature_is_the_second_derivative(loss):
    random = np.random.default_rng(1)
    with jax.enable_x64(True):
        Z, y = jnp.asarray(random.normal(size=(3, 4))), jnp.asarray([2, 0, 3])
        diagonal, vector = loss.curvature(Z, y)
        found = jax.vmap(jnp.diag)(diagonal) - vector[:, :, None] * vector[:, None]
        assert_allclose(found, jax.jit(jax.vmap(jax.hessian(loss)))(Z, y), atol=1e-13)


@pytest.mark.parametrize("label", [np.zeros(3), np.zeros(4, int), 0], ids=["halves", "too many", "one"])
def test_labels_that_are_not_one_whole_number_a_row_are_refused(label):
    with pytest.raises(ValueError, match="label of shape"):
        ufm.CrossEntropy()(np.zeros((3, 4)), label)


@pytest.mark.parametrize("wrong", [-1, 4, 2**32])
def test_labels_that_are_no_class_are_refused_where_they_are_known(wrong):
    label, Z = np.array([0, wrong, 1]), np.eye(3, 4)
    loss = ufm.CrossEntropy()
    for call in (loss, loss.slope, loss.conjugate, loss.curvature, jax.jit(lambda Z, _: loss(Z, label))):
        with pytest.raises(ValueError, match=f"label = {wrong}: a class from 0 to 3"):
            call(Z, label)
    assert jax.jit(loss)(Z, np.array([0, 3, 1])).shape == (3,)


def test_what_a_user_writes_over_a_loss_of_ours_is_used():
    with jax.enable_x64(True):
        Z, y = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6))), jnp.arange(6) % 4
        assert_allclose(losses.per_sample(Halved(), Z, y), 0.5 * losses.per_sample(ufm.CrossEntropy(), Z, y))


class Halved(ufm.CrossEntropy):
    def __call__(self, logits, label):
        return 0.5 * super().__call__(logits, label)


class Fast(ufm.Focal):
    convex = True

    def of_columns(self, logits, label):
        return 2.0 * super().of_columns(logits, label)


class Told(ufm.LabelSmoothing):
    """The formula of ours, and what follows from it."""


class Own(losses.Loss):
    def of_columns(self, logits, label):
        return jnp.sum(jnp.sin(logits), axis=0) - 3.0


@pytest.mark.parametrize("wrapped", [losses.as_loss, lambda loss: loss])
def test_another_formula_inherits_nothing_that_is_declared_of_ours(wrapped):
    for loss in (wrapped(Halved()), wrapped(Own())):
        assert losses.facts_of(loss) == losses.Facts()
        assert not any(losses.declares(loss, name) for name in losses.OPTIONAL)
    own = wrapped(Fast())
    assert losses.facts_of(own) == losses.Facts(convex=True)
    assert not losses.declares(own, "along")
    told = wrapped(Told())
    assert losses.facts_of(told)._replace(infimum=0) == losses.facts_of(ufm.LabelSmoothing())._replace(infimum=0)
    assert losses.infimum(told, 3) == losses.infimum(ufm.LabelSmoothing(), 3)
    assert all(losses.declares(told, name) for name in ("conjugate", "curvature", "soft_target"))


def test_half_a_cross_entropy_is_not_bounded_by_that_of_a_whole():
    p = ufm.Problem(num_classes=3, dim=3, per_class=2, loss=Halved(), lambda_A=1e-2, lambda_H=1e-3, bias=False)
    assert ufm.lower_bound(p, p.init()) == -np.inf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Square:
    """A user's own, with a number and a fact among its leaves."""

    infimum: float = 0.0
    convex: bool = True

    def __call__(self, logits, label):
        return jnp.sum((logits - jax.nn.one_hot(label, logits.shape[0])) ** 2)


def test_a_fact_that_jax_would_trace_is_refused():
    with pytest.raises(ValueError, match=r"loss\.convex is a leaf"):
        losses.check_loss(Square(), 3)


def test_conjugate_is_infinite_off_the_simplex():
    with jax.enable_x64(True):
        assert np.isinf(ufm.CrossEntropy().conjugate(jnp.asarray([0.5, -0.5]), jnp.asarray(0)))


@pytest.mark.parametrize("wrong", [3.0, "cross-entropy", None, ufm.CrossEntropy])
def test_a_loss_that_is_not_callable_is_refused(wrong):
    with pytest.raises(ValueError, match="loss ="):
        losses.as_loss(wrong)


@pytest.mark.parametrize("make", [lambda: ufm.LabelSmoothing(1.0), lambda: ufm.LabelSmoothing(-0.1)])
def test_alpha_out_of_range_is_named(make):
    with pytest.raises(ValueError, match="alpha"):
        make()


@pytest.mark.parametrize("gamma", [-1.0, float("inf"), "2", True])
def test_gamma_out_of_range_is_named(gamma):
    with pytest.raises(ValueError, match="gamma"):
        ufm.Focal(gamma)


def entropies(z, y):
    return -jax.nn.log_softmax(z)


def in_numpy(z, y):
    return np.log(np.sum(np.exp(z))) - z[y]


def branching(z, y):
    return z[0] if z[0] > 0 else z[1]


def declared(**facts):
    def loss(z, y):
        return jnp.sum(z**2)

    loss.__dict__.update(facts)
    return loss


@dataclasses.dataclass
class Unhashable:
    """Equal by value, so that it has no hash."""

    scale: float = 1.0

    def __call__(self, z, y):
        return self.scale * z[y]


NOT_LOSSES = {
    "a vector": (entropies, r"of 4 samples it gives .*\(4, 3\)"),
    "in numpy": (in_numpy, "written with jax.numpy; it raised Tracer"),
    "branching on numbers": (branching, "it raised Tracer"),
    "whole numbers": (lambda z, y: y, "gives .*int32"),
    "a pair": (lambda z, y: (z[0], z[1]), "gives"),
    "another number of arguments": (lambda z: z[0], "TypeError"),
    "not differentiable": (lambda z, y: jax.lax.while_loop(lambda x: x < 9, lambda x: x * 2, z[0]), "differentia"),
    "unhashable": (Unhashable(), "hashable"),
    "convex in words": (declared(convex="no"), r"loss\.convex = 'no'"),
    "an infimum that is none": (declared(infimum=np.nan), r"loss\.infimum = nan"),
    "an infinite infimum": (declared(infimum=lambda K: np.inf), r"loss\.infimum = inf"),
    "attained in words": (declared(attained="no"), r"loss\.attained = 'no'"),
    "attained, but what": (declared(attained=True), r"loss\.attained = True: the infimum .*loss\.infimum"),
    "a conjugate of vectors": (declared(conjugate=lambda s, y: s), "its conjugate gives"),
    "a curvature of matrices": (declared(curvature=lambda z, y: (jnp.diag(z), z)), "its curvature gives"),
}


@pytest.mark.parametrize(("loss", "why"), NOT_LOSSES.values(), ids=NOT_LOSSES)
def test_what_is_no_number_of_each_sample_that_jax_can_differentiate_is_refused(loss, why):
    with pytest.raises(ValueError, match=f"(?s)^(?=loss).*{why}"):
        problem(loss=loss)


class PlainEntropy:
    """Cross-entropy of one sample as a plain object, with its facts."""

    convex, infimum = True, 0.0

    def __call__(self, z, y):
        return jax.nn.logsumexp(z) - z[y]

    def conjugate(self, slope, label):
        return jnp.sum(jax.scipy.special.xlogy(q := slope.at[label].add(1.0), q))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaledEntropy(PlainEntropy):
    """The same as a pytree of the user's own, with a traced number."""

    scale: float = 1.0

    def __call__(self, z, y):
        return self.scale * super().__call__(z, y)

    def conjugate(self, slope, label):
        return self.scale * super().conjugate(slope / self.scale, label)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Undeclared:
    """A pytree without any fact."""

    scale: float = 1.0

    def __call__(self, z, y):
        return self.scale * jnp.sum(z**2)


@pytest.mark.parametrize("loss", [PlainEntropy(), ScaledEntropy()], ids=["plain", "pytree"])
def test_an_object_with_the_facts_certifies_as_ours_does(loss):
    # the bias is free, for which nothing but the conjugate gives a bound above the infimum
    q = problem().init(seed=0)
    bound = ufm.lower_bound(problem(loss=loss), q)
    assert bound > 0.1
    assert_allclose(bound, ufm.lower_bound(problem(), q), rtol=1e-12)


class CurvedEntropy(PlainEntropy):
    """With a curvature, which the softmax along its only axis is right for; of one sample."""

    def curvature(self, z, y):
        p = jax.nn.softmax(z)
        return p, p


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CurvedTree(CurvedEntropy):
    """The same as a pytree of the user's own."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bent:
    """A pytree whose own number is called as a fact is."""

    curvature: float = 1.0

    def __call__(self, z, y):
        return 0.5 * self.curvature * jnp.sum((z - jax.nn.one_hot(y, len(z))) ** 2)


@pytest.mark.parametrize("loss", [CurvedEntropy(), CurvedTree(), Bent()], ids=["plain", "pytree", "a number"])
def test_the_curvature_of_a_users_loss_is_that_of_each_sample(loss, monkeypatch):
    loss = losses.as_loss(loss)
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        Z, labels, weights = jnp.asarray(random.normal(size=(3, 5))), jnp.arange(5) % 3, jnp.asarray(random.random(5))
        wanted = jax.jit(jax.hessian(lambda b: weights @ losses.per_sample(loss, Z + b[:, None], labels)))(jnp.zeros(3))
        if not isinstance(loss, Bent):  # what it declares is used
            monkeypatch.setattr(losses, "_along_class", None)
        assert_allclose(losses.curvature_of_shifts(loss, Z, labels, weights), wanted, atol=1e-14)
        assert_allclose(losses.curvatures_of_shifts(loss, Z, labels, weights), np.diag(wanted), atol=1e-14)


def test_facts_that_nobody_declared_are_not_there():
    assert not hasattr(losses.as_loss(brier), "conjugate")
    assert not losses.as_loss(brier).convex
    assert ufm.lower_bound(problem(loss=Undeclared()), problem().init()) == -np.inf
    assert not ufm.predict(problem(loss=Undeclared())).metrics
