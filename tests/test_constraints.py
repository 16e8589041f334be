import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import ufm


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


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan"), "1"])
def test_a_radius_that_is_not_positive_is_named(radius):
    with pytest.raises(ValueError, match="radius ="):
        ufm.Sphere(radius)
