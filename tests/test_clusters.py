import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from ufm.minima.clusters import median_cuts, radial


def scattered(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 2)) * [3.0, 1.0]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_clusters_share_the_points_evenly(count, number, seed):
    number = min(number, count)
    clusters = median_cuts(scattered(count, seed), number)
    assert len(clusters) == number
    np.testing.assert_array_equal(np.sort(np.concatenate(clusters)), np.arange(count))
    sizes = [len(members) for members in clusters]
    assert min(sizes) >= 1
    assert max(sizes) <= 2 * -(-count // number)


def test_a_halving_is_across_the_widest_axis():
    points = scattered(40, 0)
    low, high = median_cuts(points, 2)
    assert points[low, 0].max() <= points[high, 0].min()


@given(st.integers(3, 30), st.integers(0, 2**32 - 1))
def test_functions_go_through_their_values_and_leave_linear_ones_as_they_are(count, seed):
    centres, points = scattered(count, seed), scattered(50, seed + 1)
    assert_allclose(radial(centres, centres), np.eye(count), atol=1e-7)
    assert_allclose(radial(points, centres) @ centres, points, atol=1e-7)
    assert_allclose(radial(points, centres).sum(axis=1), 1.0, atol=1e-7)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_constants_stay_where_centres_are_on_a_line(count):
    centres = np.linspace(1.0, 2.0, count)[:, None] * [1.0, 0.5]
    assert_allclose(radial(scattered(20, 0), centres).sum(axis=1), 1.0, atol=1e-10)


def test_smooth_functions_are_told_by_few_values():
    points = np.random.default_rng(0).uniform(size=(500, 2))
    clusters = median_cuts(points, 64)
    centres = np.stack([points[c].mean(axis=0) for c in clusters])

    def function(p):
        return np.sin(3 * p[:, 0]) * np.exp(p[:, 1])

    error = radial(points, centres) @ function(centres) - function(points)
    assert np.sqrt(np.mean(error**2)) <= 0.02
