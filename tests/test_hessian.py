import dataclasses

import jax
import jax.flatten_util
import numpy as np
import pytest
from numpy.testing import assert_allclose
from zoo import problem

import ufm
from ufm._core.precision import float64
from ufm.hessian import _all_products, _closed_product, _coordinates, _hessian, _product
from ufm.model.second_order import has_closed_hessian
from ufm.theory.landscape import escape_curvature, zero_point


@pytest.mark.parametrize("bias", [True, False])
def test_curvature_at_the_zero_point_is_the_closed_form(bias):
    # U there has top singular value √n/N (balanced), so λ_min = mean decay − √(half difference² + n/N²)
    p = problem(lambda_A=3e-2, lambda_H=1e-2, bias=bias)
    sigma = np.sqrt(5) / 15
    expected = 2e-2 - np.hypot(1e-2, sigma)
    found = ufm.curvature(p, zero_point(p))
    assert_allclose(found.smallest, expected, rtol=1e-10)
    assert_allclose(escape_curvature(p, zero_point(p)), expected, rtol=1e-12)
    assert_allclose(np.sum(found.direction.H**2) + np.sum(found.direction.A**2), 1.0, rtol=1e-9)


def test_the_direction_is_an_eigenvector_along_which_the_objective_falls():
    p = problem()
    zero, found = zero_point(p), ufm.curvature(p, zero_point(p))
    for step in (1e-3, 1e-2):
        moved = ufm.Params(*(x + step * d for x, d in zip(zero[:3], found.direction[:3], strict=True)))
        fall = p.objective(moved) - p.objective(zero)
        assert_allclose(fall, 0.5 * found.smallest * step**2, rtol=20 * step)


@pytest.mark.parametrize("rank", [1, 2])
def test_padded_low_rank_solutions_are_saddles_of_the_predicted_curvature(rank):
    p = problem(num_classes=4, dim=6, lambda_A=5e-3, lambda_H=2e-3)
    small = ufm.minimize(dataclasses.replace(p, dim=rank)).params
    extra = ((0, 0), (0, p.dim - rank))
    point = ufm.Params(np.pad(small.H, extra), np.pad(small.A, extra), small.b)
    found = ufm.curvature(p, point).smallest
    assert found < 0
    assert_allclose(found, escape_curvature(p, point), rtol=1e-7)


@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.SquaredError()], ids=["ce", "se"])
def test_no_descent_from_the_global_minimum(loss):
    p = problem(loss=loss)
    assert ufm.curvature(p, ufm.minimize(p).params).smallest > -1e-9


def test_coinciding_samples_and_unused_dimensions_leave_the_eigenvector_in_fewer_coordinates():
    """The whole Hessian of 123 coordinates, which knows of none, against one of 45: 3 classes, 6 + 1 dimensions."""
    p = problem(dim=12, per_class=[4, 1, 2], class_weights=[1.0, 2.0, 0.5], lambda_A=3e-3)
    draw = np.random.default_rng(0)
    means, A, b = draw.normal(size=(3, 12)), draw.normal(size=(3, 12)), draw.normal(size=3)
    point = ufm.Params(means[p.labels], A, b)
    with jax.enable_x64(True):
        flat, unravel = jax.flatten_util.ravel_pytree((point.H, A, b))
        hessian = np.asarray(jax.jit(jax.hessian(lambda x: p.objective(ufm.Params(*unravel(x)))))(flat))
    found = ufm.curvature(p, point)
    assert _coordinates(p, point).start.size == 45
    assert_allclose(found.smallest, np.linalg.eigvalsh(hessian)[0], rtol=1e-10)
    v = np.concatenate([found.direction.H.ravel(), found.direction.A.ravel(), found.direction.b])
    assert_allclose(hessian @ v, found.smallest * v, atol=1e-12)
    assert_allclose(v @ v, 1.0, rtol=1e-12)


@pytest.mark.parametrize("collapsed", [True, False])
@pytest.mark.parametrize("words", [{"class_weights": [1.0, 2.0, 0.5]}, {"loss": ufm.DotRegression(1.5), "bias": False}])
def test_the_hessian_in_closed_form_is_that_of_jax(words, collapsed):
    p = problem(per_class=[4, 1, 2], dim=2, lambda_A=3e-3, **words)
    point = p.init(seed=1)
    means = np.random.default_rng(0).normal(size=(3, 2))
    within = _coordinates(p, point._replace(H=means[p.labels]) if collapsed else point)
    model = within.groups, within.sizes, p.lambda_H
    closed = _all_products(_closed_product(model, within.start), within.groups, within.start.size)
    with float64():
        of_jax = np.asarray(_hessian(model, within.start))
    assert_allclose(closed, of_jax, atol=1e-10 * np.max(np.abs(of_jax)))


@pytest.mark.parametrize("words", [{"loss": ufm.LabelSmoothing(0.1), "lambda_b": 3e-2}, {"loss": ufm.SquaredError()}])
def test_products_with_the_hessian_in_closed_form_are_those_of_jax(words):
    p = problem(per_class=[4, 1, 2], dim=2, lambda_A=3e-3, **words)
    within = _coordinates(p, p.init(seed=1))
    model, move = (within.groups, within.sizes, p.lambda_H), np.random.default_rng(0).normal(size=within.start.size)
    with float64():
        of_jax = np.asarray(_product(model, within.start, move))
    assert_allclose(_closed_product(model, within.start)(move), of_jax, atol=1e-10 * np.max(np.abs(of_jax)))


def test_a_loss_without_a_declared_curvature_has_jaxs():
    p = problem(dim=2)
    assert not has_closed_hessian(dataclasses.replace(p, loss=ufm.Focal(0.0)))
    point = p.init(seed=1)
    of_jax = ufm.curvature(dataclasses.replace(p, loss=ufm.Focal(0.0)), point)  # cross-entropy by another name
    assert_allclose(of_jax.smallest, ufm.curvature(p, point).smallest, rtol=1e-10)


def test_lanczos_agrees_with_the_dense_hessian(monkeypatch):
    p = problem(num_classes=4, dim=6, per_class=8)
    point = p.init(seed=3)
    dense = ufm.curvature(p, point)
    monkeypatch.setattr("ufm.hessian.DENSE_UP_TO", 0)
    lanczos = ufm.curvature(p, point)
    assert_allclose(lanczos.smallest, dense.smallest, rtol=1e-8)
    overlap = sum(np.sum(x * y) for x, y in zip(lanczos.direction[:3], dense.direction[:3], strict=True))
    assert_allclose(abs(overlap), 1.0, rtol=1e-6)
    assert not jax.config.jax_enable_x64
