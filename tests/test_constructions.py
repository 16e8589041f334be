"""Constructions of deep ReLU models: they give the targets, and their complexity is what the formulas say."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar

from ufm._core.graphs import incidence, largest_complete
from ufm.minima.constructions import constructions, value
from ufm.model.layers import layers
from ufm.model.params import Columns

ROOM = 64


def of(rows, hidden, columns=None):
    """Constructions by name; roomy unless columns are given."""
    found = constructions(np.asarray(rows, float), columns or (ROOM,) * (hidden + 1))
    assert len({each.name for each in found}) == len(found)
    return {each.name: each for each in found}


def outputs(construction):
    """(M, K) of the model with ReLU after every hidden layer."""
    params = Columns(construction.H.T, construction.A, None, construction.W)
    return (construction.A @ layers("relu", params)[-1]).T


def vertices(edges):
    return len(incidence(edges))


RANDOM = np.random.default_rng(0)
TARGETS = {
    **{f"{K} classes": np.eye(K) for K in (2, 3, 4, 6, 7, 10, 12)},
    "real": RANDOM.normal(size=(9, 3)),
    "with a zero row": np.concatenate([RANDOM.normal(size=(7, 2)), np.zeros((1, 2))]),
    "non-negative": RANDOM.uniform(size=(8, 3)),
}


@pytest.mark.parametrize("hidden", [1, 2, 3, 5])
@pytest.mark.parametrize("name", TARGETS)
def test_outputs_are_the_targets_and_shapes_chain(name, hidden):
    T = TARGETS[name]
    found = of(T, hidden)
    full = name in ("2 classes", "3 classes", "4 classes", "6 classes", "10 classes")
    assert set(found) == {"collapse"} | ({"low rank"} if hidden >= 2 else set()) | (
        {"mixed"} if hidden >= 2 and not full else set()
    )
    for each in found.values():
        assert len(each.W) == hidden
        assert [W.shape[1] for W in each.W] == [each.H.shape[1], *(W.shape[0] for W in each.W[:-1])]
        assert each.A.shape == (T.shape[1], each.W[-1].shape[0])
        assert_allclose(outputs(each), T, atol=1e-13)
        assert_allclose(each.complexity, np.prod([np.linalg.norm(factor) ** 2 for factor in each.factors]))


@pytest.mark.parametrize("hidden", [2, 3, 4, 6])
@pytest.mark.parametrize("r", [3, 4, 5, 6])
def test_complexities_of_classes_that_fill_a_graph(r, hidden):
    K, L = r * (r - 1) // 2, hidden + 1  # L weight matrices
    found = of(np.eye(K), hidden)
    assert_allclose(found["collapse"].complexity, float(K) ** (L + 1), rtol=1e-13)
    nuclear = (r - 1) * np.sqrt(r - 2) + np.sqrt(2 * (r - 1))
    assert_allclose(found["low rank"].complexity, nuclear**2 * float(r) ** (L - 3) * (r * K / 4) * K, rtol=1e-12)


def ratio(K, L):
    found = of(np.eye(K), L - 1)
    return found["low rank"].complexity / found["collapse"].complexity


def test_low_rank_beats_collapse_from_four_weight_matrices_and_vertices_on():
    assert_allclose([ratio(6, 4), ratio(10, 4)], [0.829, 0.595], atol=5e-4)
    assert ratio(3, 4) > 1
    assert all(ratio(r * (r - 1) // 2, 3) > 1 for r in (3, 4, 5))
    assert all(ratio(r * (r - 1) // 2, L) < 1 for r in (4, 5, 6, 7) for L in (4, 5, 6))


def test_complete_graphs_hold_as_many_edges_as_are_counted():
    for edges in range(1, 200):
        r = largest_complete(edges)
        assert r * (r - 1) // 2 <= edges < r * (r + 1) // 2


@pytest.mark.parametrize("K", [4, 5, 7, 8, 9])
def test_a_graph_that_is_not_full_has_the_least_nuclear_norm_of_all(K):
    r = vertices(K)
    assert (r - 1) * (r - 2) // 2 < K < r * (r - 1) // 2

    def nuclear(edges):
        U = np.zeros((r, K))
        for edge, pair in enumerate(edges):
            U[list(pair), edge] = 1.0
        return np.linalg.norm(U, "nuc")

    least = min(map(nuclear, itertools.combinations(itertools.combinations(range(r), 2), K)))
    assert_allclose(np.linalg.norm(incidence(K), "nuc"), least, rtol=1e-12)


def test_blocks_add_their_roots_of_complexity():
    for K, full, hidden in ((7, 6, 3), (8, 6, 3), (12, 10, 4)):
        F = hidden + 2
        mixed, block = of(np.eye(K), hidden)["mixed"], of(np.eye(full), hidden)["low rank"]
        assert_allclose(mixed.complexity ** (1 / F), block.complexity ** (1 / F) + K - full, rtol=1e-12)
    # with three hidden layers seven classes gain by six edges and a coordinate only
    found = of(np.eye(7), 3)
    assert found["mixed"].complexity < found["collapse"].complexity < found["low rank"].complexity


def test_no_rescaling_of_paths_lowers_the_complexity_of_targets_of_different_sizes():
    T = RANDOM.normal(size=(5, 3))
    sizes, F = np.linalg.norm(T, axis=1), 4
    best = of(T, F - 2)["collapse"].complexity
    assert_allclose(best, np.sum(sizes ** (2 / F)) ** F, rtol=1e-12)
    for _ in range(20):
        logs = 0.3 * RANDOM.normal(size=(F, 5))
        logs += np.log(sizes) / F - logs.mean(axis=0)  # entries of every path still multiply to its size
        assert np.prod(np.sum(np.exp(2 * logs), axis=1)) >= best * (1 - 1e-12)


def test_what_does_not_fit_is_left_out():
    assert of(np.eye(6), 3, (6, 6, 6, 5)) == {}
    assert set(of(np.eye(6), 3, (4, 4, 4, 6))) == {"low rank"}
    assert set(of(np.eye(6), 3, (6, 6, 3, 6))) == set()
    assert set(of(np.eye(6), 1, (6, 6))) == {"collapse"}
    assert set(of(np.eye(7), 3, (5, 5, 5, 7))) == {"low rank", "mixed"}
    assert set(of(np.eye(4), 2, (3, 4, 4))) == {"low rank"}  # a cycle has rank three
    T = TARGETS["non-negative"]
    narrow = of(T, 2, (3, 3, 3))["collapse"]
    assert narrow.columns == (3, 3, 3)
    assert of(-T, 2, (3, 3, 3)) == {}
    assert of(T, 2)["collapse"].complexity <= narrow.complexity


@pytest.mark.parametrize("factors", [2, 3, 5])
def test_value_is_the_least_of_all_multiples(factors):
    for price in (0.02, 0.1, 0.3):
        scale = price / 7.0 ** (1 / factors)

        def along(x, price=price):
            return 0.5 * (1 - x) ** 2 + factors / 2 * price * x ** (2 / factors)

        grid = np.linspace(0, 1, 2001)
        x = grid[np.argmin(along(grid))]
        near: Any = minimize_scalar(along, bounds=(max(x - 1e-3, 0), min(x + 1e-3, 1)), method="bounded")
        assert_allclose(value(7.0, scale, factors), min(near.fun, 0.5), rtol=1e-7)


def test_value_of_ten_classes():
    # three hidden layers, every decay 2e-3, one sample a class
    collapse, low = (of(np.eye(10), 3)[name].complexity for name in ("collapse", "low rank"))
    assert_allclose(value(collapse, 2e-3, 5), 0.0498, atol=5e-5)
    assert value(low, 2e-3, 5) < value(collapse, 2e-3, 5)
