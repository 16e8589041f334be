import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from ufm._core.precision import float64
from ufm.metrics.definitions import Metrics, of_means
from ufm.minima.sector_metrics import metrics_of
from ufm.minima.sectors import Sectors, lifted, standard_basis

dense_metrics = jax.jit(of_means)
SIZES = ((0, 1, 0, 2, 1, 0, 1), (1, 0, 0, 0, 1, 0, 0), (0, 1, 2, 3, 4, 5, 6))  # seven classes each


@st.composite
def points(draw):
    """Sectors of seven classes in 6 axes, some of whose sizes are dead or whose classifier is, and counts."""
    size_of = np.array(draw(st.sampled_from(SIZES)))
    G = size_of.max() + 1
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = 6 - sum(np.bincount(size_of) - 1)  # so that all lift to one shape
    alone = np.bincount(size_of) == 1
    x, y = np.where(alone, 0.0, random.uniform(0.1, 2.0, size=(2, G)))
    M, A = random.normal(size=(2, G, rank))
    b = random.normal(size=G)
    match draw(st.sampled_from(("alive", "one size dead", "dual", "collapsed", "equal means"))):
        case "one size dead":
            x[0] = y[0] = 0.0
        case "dual":
            A = M = M - np.sqrt(np.bincount(size_of))[:, None] * (np.sqrt(np.bincount(size_of)) @ M / 7)
            b, y = 0.0 * b, x
        case "collapsed":
            M, A, x, y = (0.0 * part for part in (M, A, x, y))
        case "equal means":
            M, x = np.sqrt(np.bincount(size_of))[:, None] * M[:1], 0.0 * x
    return Sectors(size_of, M, A, x, y, b), 1.0 + random.integers(0, 50, size=G)[size_of]


def padded(matrix, columns):
    return np.pad(matrix, ((0, 0), (0, columns - matrix.shape[1])))


@given(points())
def test_metrics_by_sectors_are_those_of_the_lifted_point(drawn):
    sectors, counts = drawn
    means, A, b = lifted(sectors)
    with float64():
        dense = dense_metrics(*map(jnp.asarray, (padded(means, 6), counts, padded(A, 6), b)))
        dense = [np.asarray(value) for value in dense]
    for name, mine, theirs in zip(Metrics._fields, metrics_of(sectors, counts), dense, strict=True):
        assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10, err_msg=name)


@given(points())
def test_the_lifted_point_has_the_products_of_its_sectors(drawn):
    sectors, _ = drawn
    means, A, b = lifted(sectors)
    g, m = sectors.size_of, sectors.multiplicities
    same = (g[:, None] == g) * (np.eye(len(g)) - 1 / m[g])
    trivial = (sectors.trivial_H @ sectors.trivial_A.T / np.sqrt(np.outer(m, m)))[g][:, g]
    assert_allclose(means @ A.T, trivial + same * (sectors.standard_H * sectors.standard_A)[g], atol=1e-12)
    assert_allclose(b, sectors.b[g])
    alive = (sectors.standard_H != 0) | (sectors.standard_A != 0)
    assert means.shape == A.shape == (len(g), sectors.trivial_H.shape[1] + sum(np.where(alive, m - 1, 0)))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_standard_basis_is_orthonormal_and_adds_up_to_zero(count):
    Q = standard_basis(count)
    assert_allclose(Q @ Q.T, np.eye(count) - 1 / count, atol=1e-14)
    assert_allclose(Q.T @ Q, np.eye(count - 1), atol=1e-14)


def simplex(*m):
    """Sectors of a simplex of Σm classes, and one sample of each class."""
    m = np.array(m)
    M = np.eye(len(m)) - np.sqrt(np.outer(m, m)) / m.sum()
    ones, zeros = np.ones(len(m)), np.zeros(len(m))
    return Sectors(np.repeat(np.arange(len(m)), m), M, M, ones, ones, zeros), np.ones(m.sum())


def test_metrics_of_sixteen_thousand_classes_take_no_matrix_of_all_classes():
    m = np.array([1024, 15360])
    K = m.sum()
    sectors, counts = simplex(*m)
    counts = np.where(sectors.size_of == 0, 1000.0, 10.0)
    tracemalloc.start()
    found = metrics_of(sectors, counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 8 * K  # bytes, a few vectors of K numbers
    assert found.accuracy == 1.0
    for name, value in found._asdict().items():
        assert_allclose(value, 1.0 if name == "accuracy" else 0.0, atol=1e-11, err_msg=name)
    # the rare classes' means dead and their classifier with them: each of them takes the first class, and is wrong
    dead = sectors._replace(
        trivial_H=np.zeros((2, 1)),
        trivial_A=np.zeros((2, 1)),
        standard_H=np.array([3.0, 0]),
        standard_A=np.array([2.0, 0]),
    )
    found = metrics_of(dead, counts)
    assert_allclose(found.accuracy, 1000 * 1024 / counts.sum(), rtol=1e-13)
    assert_allclose(found.equinorm, np.sqrt(15), rtol=1e-12)  # norms x, and 0 for fifteen times as many
    assert_allclose(found.self_duality, 0.0, atol=1e-13)
    # means of norm 1 have the Gram J' = (I − J/m) m/(m−1) of 1,024 classes; ⟨J'/‖J'‖, (I − J/K)/√(K−1)⟩ = √(1023/(K−1))
    assert_allclose(found.nc2, np.sqrt(2 - 2 * np.sqrt(1023 / (K - 1))), rtol=1e-12)
