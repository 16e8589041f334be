import numpy as np
import pytest
from numpy.testing import assert_allclose

import ufm
from ufm.minima import proximal_newton, quadrature
from ufm.minima.block_bound import value_and_bound
from ufm.minima.blocks import BlockPoint, Blocks
from ufm.minima.gauss import Rule
from ufm.minima.quadrature import extended, fewer_sizes, on_nodes, pays, rule_of, thresholds


def blocks_of(counts, price, bias_kind="free", **words):
    """A problem of distinct sizes, as many as counts, of one class each unless words say so."""
    m = words.pop("multiplicities", np.ones(len(counts)))
    return Blocks(
        **{
            "counts": np.asarray(counts, np.float64),
            "weights": np.ones(len(counts)),
            "multiplicities": np.asarray(m, np.float64),
            "num_samples": float(np.dot(counts, m)),
            "num_classes": int(np.sum(m)),
            "loss": ufm.CrossEntropy(),
            "price": float(price),
            "lambda_b": 1e-3 if bias_kind == "regularised" else 0.0,
            "bias_kind": bias_kind,
            **words,
        }
    )


def relative_gap(blocks, point):
    value, bound = value_and_bound(blocks, point)
    return (value - bound) / value


# counts are geomspace(1280, 5, K), not rounded; values without and with a free bias
VALUES_300 = [
    (1e-6, "0.0439771560872", "0.0428282173912"),
    (5e-5, "1.45239921744", "1.39537584945"),
    (2e-4, "4.07842993748", "3.75427790948"),
]
VALUES_1000 = [
    (1e-6, "0.146672520000", "0.143119763070"),
    (1e-5, "1.17583729344", "1.14053106797"),
    (1e-4, "6.30898376404", "5.74026658272"),
]


@pytest.mark.parametrize("bias_kind", ["none", "free"])
@pytest.mark.parametrize(("price", "without", "free"), VALUES_300)
def test_values_of_three_hundred_sizes(price, without, free, bias_kind):
    check_value(300, price, free if bias_kind == "free" else without, bias_kind)


@pytest.mark.slow
@pytest.mark.parametrize("bias_kind", ["none", "free"])
@pytest.mark.parametrize(("price", "without", "free"), VALUES_1000)
def test_values_of_a_thousand_sizes(price, without, free, bias_kind):
    check_value(1000, price, free if bias_kind == "free" else without, bias_kind)


def check_value(K, price, value, bias_kind):
    found = quadrature.solve(blocks_of(np.geomspace(1280, 5, K), price, bias_kind))
    assert_allclose(found.value, float(value), rtol=0, atol=10.0 ** -len(value.split(".")[1]))  # all known digits
    assert 0 <= found.gap <= 1e-9 * found.value


CLOSE = np.geomspace(100, 20, 60)
FORMS = {
    "cross-entropy": {},
    "without a bias": {"bias_kind": "none"},
    "regularised": {"bias_kind": "regularised"},
    "smoothing": {"loss": ufm.LabelSmoothing(0.1)},
    "squared error": {"loss": ufm.SquaredError()},
    "squared error without a bias": {"loss": ufm.SquaredError(), "bias_kind": "none"},
    "weights": {"weights": (CLOSE / 45) ** -0.3},
    "steep weights": {"weights": (CLOSE / 45) ** -0.8},
    "several classes": {"multiplicities": np.where(np.arange(60) < 45, 1.0, 7.0)},
}


@pytest.mark.parametrize("price", [1e-5, 4e-4])
@pytest.mark.parametrize("form", FORMS)
def test_few_nodes_tell_the_solution_on_all_sizes(form, price):
    blocks = blocks_of(CLOSE, price, **FORMS[form])
    rule = rule_of(blocks)
    assert pays(blocks, rule)
    fewer = on_nodes(blocks, rule)
    start = extended(blocks, fewer, proximal_newton.solve(fewer.blocks).point)
    value, bound = value_and_bound(blocks, start)
    assert 0 <= value - bound <= 1e-9 * value
    direct = proximal_newton.solve(blocks)
    assert_allclose(value, direct.value, rtol=1e-12)
    assert_allclose(start.C, direct.point.C, atol=1e-6 * np.abs(start.C).max())
    assert_allclose(quadrature.solve(blocks).value, direct.value, rtol=1e-12)


@pytest.mark.parametrize("bias_kind", ["none", "free"])
def test_a_start_that_is_not_enough_is_polished(bias_kind):
    blocks = blocks_of(CLOSE, 4e-4, bias_kind)
    found = quadrature.solve(blocks, tol=1e-12, enough=0.0)
    assert found.gap <= 3e-12 * found.value
    assert_allclose(found.value, proximal_newton.solve(blocks).value, rtol=1e-12)


def test_a_rule_of_all_sizes_changes_nothing():
    random = np.random.default_rng(0)
    blocks = blocks_of(np.geomspace(900, 3, 7), 1e-4, multiplicities=[1, 1, 4, 1, 2, 9, 3])
    u = np.where(blocks.several, random.uniform(size=7), 0.0)
    point = quadrature.centred(blocks, BlockPoint(random.normal(size=(7, 7)), u, random.normal(size=7)))
    identity = Rule(np.log(blocks.counts), blocks.multiplicities, np.eye(7))
    again = extended(blocks, on_nodes(blocks, identity), point)
    for mine, theirs in zip(again, point, strict=True):
        assert_allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("exponent", [0.0, -0.3, -0.8])
@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.LabelSmoothing(0.2), ufm.SquaredError()])
def test_sizes_die_beyond_the_threshold(loss, exponent):
    counts = np.geomspace(1280, 5, 9)
    weights = counts**exponent
    middle = weights[4] * np.sqrt(counts[4]) * 1.05  # w√n at which sizes of two classes die, times 1 − α
    K, N = 18, 2 * counts.sum()
    alpha = loss.alpha if isinstance(loss, ufm.LabelSmoothing) else 0.0
    blocks = blocks_of(
        counts, (1 - alpha) * middle / N, "none", loss=loss, weights=weights, multiplicities=np.full(9, 2.0)
    )
    assert blocks.num_classes == K
    (threshold,) = thresholds(blocks)
    alive = proximal_newton.solve(blocks).point.u > 0
    crossing = np.log(counts) > threshold
    np.testing.assert_array_equal(alive, crossing if exponent > -0.5 else ~crossing)


def test_weights_that_are_no_function_of_counts_ask_for_all_sizes():
    random = np.random.default_rng(0).permutation(np.geomspace(0.2, 5, 60))
    for weights, smooth in ((random, False), (CLOSE**-0.5, True)):
        blocks = blocks_of(CLOSE, 1e-5, weights=weights)
        assert pays(blocks, rule_of(blocks)) == smooth
        assert (fewer_sizes(blocks) is None) != smooth


@pytest.mark.parametrize("price", [1e-5, 2e-4])
def test_clusters_are_a_start_where_weights_are_no_function_of_counts(price):
    random = np.random.default_rng(0)
    counts = np.exp(random.uniform(np.log(5), np.log(1280), size=130))
    blocks = blocks_of(counts, price, weights=np.exp(random.uniform(-1, 1, size=130)))
    fewer = fewer_sizes(blocks)
    assert fewer.blocks.num_sizes < 50
    assert_allclose(fewer.blocks.multiplicities.sum(), 130)
    start = extended(blocks, fewer, proximal_newton.solve(fewer.blocks).point)
    found, direct = quadrature.solve(blocks), proximal_newton.solve(blocks)
    assert_allclose(found.value, direct.value, rtol=1e-11)
    value, bound = value_and_bound(blocks, start)
    assert bound <= direct.value <= value <= direct.value * (1 + 1e-3)
    assert value - bound <= 0.03 * value


@pytest.mark.slow
@pytest.mark.parametrize("first", [1e4, 1e5])
def test_sixteen_thousand_classes_with_zipf_counts(first):
    counts, m = np.unique(np.maximum(1.0, np.round(first / np.arange(1, 16385))), return_counts=True)
    blocks = blocks_of(counts, 1e-6, multiplicities=m)
    found = quadrature.solve(blocks)
    assert 0 <= found.gap <= 1e-8 * found.value
    assert relative_gap(blocks, found.point) <= 1e-8
