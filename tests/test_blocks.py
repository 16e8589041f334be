"""What is streamed over blocks is what is formed whole: sums in another order, equal up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from zoo import ZOO, problem

import ufm
from ufm._core import blocks, programs
from ufm.minima import streamed_bound
from ufm.minima.streamed_bound import norm_bound, shortfall
from ufm.model.params import columns
from ufm.model.problem import risk


@pytest.fixture
def streamed(monkeypatch):
    """A function's results whole, and in blocks of which the last is uneven."""

    def twice(run, at_once=8, kept=False):
        whole = run()
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "LOGITS_AT_ONCE", at_once)
            if kept:  # a program is kept by its shapes, of which the size of blocks is none
                programs.forget_all()
            in_blocks = run()
        if kept:
            programs.forget_all()
        return whole, in_blocks

    return twice


def assert_same(whole, in_blocks, rtol=1e-12):
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=rtol, atol=rtol), whole, in_blocks)


def test_blocks_cover_every_row_once_and_hold_no_more_than_is_allowed(monkeypatch):
    monkeypatch.setattr(blocks, "LOGITS_AT_ONCE", 12)
    for count in (1, 3, 4, 7, 8):

        def step(seen, first, new):
            assert new.shape[0] <= 12 // 3
            return seen.at[first + jnp.arange(new.shape[0])].add(new.astype(jnp.int32))

        assert np.all(blocks.scan_blocks(step, jnp.zeros(count, jnp.int32), count, 3) == 1)

        def in_numpy(seen, first, new):
            return blocks.put(seen, blocks.cut(seen, first, new) + new, first)

        found = blocks.scan_blocks(in_numpy, np.zeros(count, np.int32), count, 3)
        assert isinstance(found, np.ndarray)
        assert np.all(found == 1)
    assert blocks.fits(4, 3)
    assert not blocks.fits(5, 3)


KINDS = {
    **{name: ZOO[name] for name in ("squared error", "label smoothing", "focal", "imbalanced")},
    "a user's loss": problem(loss=lambda z, y: jnp.sum(z**4) - z[y], lambda_b=0.3),
    "one class more": problem(num_classes=7, dim=2, per_class=[1, 4, 2, 3, 1, 1, 2], bias=False),
}


@pytest.mark.parametrize("name", KINDS)
def test_objective_and_its_derivatives(name, streamed):
    p = KINDS[name]
    q = p.init(3)._replace(b=np.random.default_rng(0).normal(size=p.num_classes))
    with jax.enable_x64(True):
        at = columns(jax.tree.map(jnp.asarray, q))

        def derivatives():
            def both(p, q):
                gradient = jax.value_and_grad(risk, argnums=(0, 1))(p, q)
                second = jax.jvp(jax.grad(lambda q: risk(p, q)), (q,), (q,))[1]
                forward = jax.jvp(lambda q: risk(p, q), (q,), (q,))
                some = jax.grad(lambda A: risk(p, q._replace(A=A)))(q.A)
                return gradient, second, forward, some

            return jax.jit(both)(p, at)

        whole, in_blocks = streamed(derivatives)
    assert_same(whole, in_blocks)
    (value, gradient), _, _, some = in_blocks
    assert_allclose(some, gradient[1].A, rtol=1e-12, atol=1e-15)
    assert_allclose(value, p.objective(q), rtol=1e-13)


def test_gradient_holds_no_array_of_all_logits(monkeypatch):
    # any array of N·K numbers anywhere in the program, inside its loops too, would be a failure
    monkeypatch.setattr(blocks, "LOGITS_AT_ONCE", 64)
    p = problem(num_classes=11, dim=2, per_class=3)
    with jax.enable_x64(True):
        jaxpr = jax.make_jaxpr(jax.value_and_grad(risk, argnums=1))(p, columns(jax.tree.map(jnp.asarray, p.init(0))))
    sizes = [int(word) for word in "".join(c if c.isdigit() else " " for c in str(jaxpr)).split()]
    assert 5 * 11 <= 64 < 33 * 11
    assert f"11,{64 // 11}]" in str(jaxpr)
    assert "11,33]" not in str(jaxpr)
    assert "33,11]" not in str(jaxpr)
    assert sizes


@pytest.mark.parametrize("name", ["imbalanced", "one class more"])
def test_metrics(name, streamed):
    p = KINDS[name]
    q = p.init(5)

    def both():
        return ufm.measure(q.H, p.labels, q.A, q.b), inside(p, q)

    def inside(p, q):
        with jax.enable_x64(True):
            traced = jax.jit(lambda H, A, b: ufm.metrics.evaluate(H, p.labels, A, b))
            return jax.tree.map(np.asarray, traced(q.H, q.A, q.b))

    assert_same(*streamed(both, kept=True))


def test_training(streamed):
    p, seeds = problem(num_classes=9, dim=4, per_class=2), [0, 3]
    sgd = optax.sgd(0.5, momentum=0.9)

    def run():
        found = ufm.train(p, sgd, steps=30, seed=seeds, snapshots=5, precision="float64", progress=True)
        return found.params, found.history.loss, found.history.metrics

    assert_same(*streamed(run, at_once=40, kept=True), rtol=1e-10)


def test_curvature(streamed):
    p = problem(num_classes=5, dim=2, per_class=2, loss=ufm.Focal(2.0))  # whose curvature is JAX's
    assert_same(*streamed(lambda: ufm.curvature(p, p.init(1)).smallest, kept=True))


BOUNDED = {
    **{name: ZOO[name] for name in ("label smoothing", "imbalanced", "spheres", "forced ETF")},
    "shifted": problem(loss=ufm.SquaredError()),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_certificate(name, streamed):
    # the best bias is found by another method, and only its surplus' square is lost
    p = BOUNDED[name]
    b = np.random.default_rng(0).normal(size=p.num_classes) * p.bias
    points = [q._replace(H=s * q.H) for q in [p.init(3)._replace(b=b)] for s in (0.1, 1.0, 10.0)]
    whole, in_blocks = streamed(lambda: [ufm.lower_bound(p, q) for q in points])
    assert_allclose(in_blocks, whole, rtol=1e-12 if p.bias_kind == "none" else 1e-8, atol=1e-15)


def test_rounded_dual_is_a_bound_where_the_bias_is_far_from_best(monkeypatch):
    # the minimum is the entropy of (1 − (K−1)κ, κ, …) with κ = √(λ_Aλ_H n) (Zhu et al. 2021)
    p = problem(num_classes=4, dim=5, per_class=6)
    kappa = np.sqrt(p.lambda_A * p.lambda_H * 6)
    probabilities = np.array([1 - 3 * kappa, kappa, kappa, kappa])
    minimum = -probabilities @ np.log(probabilities)
    best = ufm.minimize(p).params
    monkeypatch.setattr(streamed_bound, "BIAS_STEPS", 0)
    monkeypatch.setattr(blocks, "LOGITS_AT_ONCE", 8)
    for size, least in ((0.0, 1 - 1e-9), (1e-3, 0.99), (1.0, 0.0)):
        b = best.b + size * np.random.default_rng(1).normal(size=4)
        bound = ufm.lower_bound(p, best._replace(b=b))
        assert least * minimum <= bound <= minimum


def spectra(size):
    random = np.random.default_rng(7)
    yield "random", np.sort(random.uniform(size=size))
    yield "clustered", np.concatenate([np.linspace(0.99, 1.0, size // 2), np.zeros(size - size // 2)])
    yield "flat", np.ones(size)
    yield "alone", np.concatenate([0.98 * np.ones(size - 1), [1.0]])
    yield "zero", np.zeros(size)


def test_norm_is_bounded_whatever_the_spectrum(monkeypatch):
    # a diagonal matrix is as good as any: the Gaussian start is as likely in every basis
    monkeypatch.setattr(streamed_bound, "WIDTH", 4)
    monkeypatch.setattr(streamed_bound, "PASSES", 20)
    size = 500
    for _, values in spectra(size):
        for seed in range(20):
            bound = norm_bound(lambda V, d=values: d[:, None] * V, size, seed)
            largest = np.sqrt(values.max())
            assert largest <= bound <= largest / np.sqrt(1 - shortfall(size)) * (1 + 1e-12)


def test_shortfall_is_exceeded_as_often_as_it_says(monkeypatch):
    # one pass over a matrix of rank one: θ is λ times the share of a Beta variable, and the proof loses nothing
    monkeypatch.setattr(streamed_bound, "WIDTH", 4)
    monkeypatch.setattr(streamed_bound, "PASSES", 1)
    monkeypatch.setattr(streamed_bound, "FAILURE", 0.3)
    size, draws = 300, 400
    values = np.zeros(size)
    values[5] = 1.0
    missed = sum(norm_bound(lambda V: values[:, None] * V, size, seed) < 1.0 for seed in range(draws))
    assert abs(missed - 0.3 * draws) < 4 * np.sqrt(0.3 * 0.7 * draws)


def test_where_the_space_is_everything_the_norm_is_exact():
    B = np.random.default_rng(0).normal(size=(30, 30))
    assert_allclose(norm_bound(lambda V: B.T @ (B @ V), 30), np.linalg.norm(B, 2), rtol=1e-13)
