import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.legendre import legvander
from numpy.testing import assert_allclose

from ufm.minima.gauss import FIRST, GROWTH, LEAST_WEIGHT, WIDEST, edges, gauss, rule


@st.composite
def measures(draw):
    """Points on [0, 4] in any order, and masses from 1, some of them large."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = 4 * random.uniform(size=draw(st.sampled_from((20, 60, 400))))
    return points, 1.0 + random.integers(0, draw(st.sampled_from((1, 30))), size=len(points))


@given(measures(), st.integers(1, 16))
def test_a_gauss_rule_integrates_polynomials_and_interpolates_them(measure, nodes):
    points, masses = measure
    found = gauss(points, masses, nodes)
    mine, theirs = (legvander(2 * x / points.max() - 1, 2 * nodes - 1) for x in (found.nodes, points))
    assert_allclose(found.weights @ mine, masses @ theirs, atol=1e-11 * masses.sum())  # to degree 2J − 1
    assert_allclose(found.interpolation @ mine[:, :nodes], theirs[:, :nodes], atol=1e-10)  # to degree J − 1
    values = theirs[:, :nodes].sum(axis=1, keepdims=True)
    assert_allclose(found.fitted(masses, values), mine[:, :nodes].sum(axis=1, keepdims=True), atol=1e-10)


@given(measures(), st.lists(st.floats(-2, 6), min_size=1, max_size=3))
def test_a_rule_keeps_the_classes_and_splits_none(measure, singular):
    points, masses = measure
    found = rule(points, masses, singular=np.array(singular))
    assert_allclose(found.weights.sum(), masses.sum(), rtol=1e-13)
    exact = np.isin(found.nodes, points)
    assert found.weights[exact].min(initial=1) >= 1
    assert found.weights[~exact].min(initial=np.inf) >= LEAST_WEIGHT
    assert_allclose(found.interpolation.sum(axis=1), 1.0, atol=1e-12)
    assert_allclose(found.interpolation @ found.nodes, points, atol=1e-12)


def test_few_points_are_their_own_nodes():
    points, masses = np.log([7.0, 3.0, 50.0]), np.array([1.0, 5.0, 2.0])
    found = rule(points, masses, singular=np.array([1.0]))
    order = np.argmax(found.interpolation, axis=1)
    assert_allclose(found.interpolation, np.eye(3)[order])
    assert_allclose((found.nodes[order], found.weights[order]), (points, masses))


@pytest.mark.parametrize("different", [1, 3, 40])
def test_points_that_coincide_are_one(different):
    points = np.repeat(np.linspace(1.0, 2.0, different), 60)
    masses = np.linspace(1.0, 3.0, len(points))
    found = gauss(points, masses, 12)
    assert len(found.nodes) == min(different, 12)
    assert_allclose(found.interpolation.sum(axis=1), 1.0, atol=1e-10)
    assert_allclose(rule(points, masses, singular=np.array([0.0])).weights.sum(), masses.sum())


@pytest.mark.parametrize("singular", [[2.0], [-1.0], [9.0], [1.0, 2.5], [0.5, 0.5 + FIRST / 2]])
def test_panels_become_narrow_towards_singular_points(singular):
    bounds = edges(0.0, 7.0, np.array(singular))
    assert (bounds[0], bounds[-1]) == (0, 7)
    widths, middles = np.diff(bounds), (bounds[1:] + bounds[:-1]) / 2
    assert np.all((widths > 0) & (widths <= WIDEST))
    nearest = np.min(np.abs(np.subtract.outer(middles, singular)), axis=1)
    assert np.all(widths <= np.maximum(FIRST, (GROWTH - 1) * nearest))
    assert np.all(np.isin([s for s in singular if 0 < s < 7], bounds))


def test_a_kink_is_interpolated_where_panels_meet_at_it():
    points = np.log(np.geomspace(5, 1280, 1000))
    kink = 3.0

    def function(t):
        return np.maximum(1 - np.exp((kink - t) / 2), 0) * np.exp(-t / 3)  # of the kind of u(n)

    graded = rule(points, np.ones(1000), singular=np.array([kink]))
    assert len(graded.nodes) < 150
    assert_allclose(graded.interpolation @ function(graded.nodes), function(points), atol=1e-11)
    assert_allclose(graded.weights @ function(graded.nodes), np.sum(function(points)), rtol=1e-12)
