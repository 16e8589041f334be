"""Minima of problems on sizes: reference values, closed forms, thresholds, certificates, invariances."""

import dataclasses

import numpy as np
import pytest
import zoo
from hypothesis import given
from test_symmetry import BIASES, LOSSES, blocks, problems, whole

import ufm
from ufm._core.status import Status
from ufm.minima.block_bound import value_and_bound
from ufm.minima.blocks import BlockPoint, objective, risk, with_bias
from ufm.minima.proximal_newton import solve
from ufm.minima.sectors import lifted
from ufm.minima.symmetry import blocks_of, sectors_of

CE, SMOOTH, SE = LOSSES
FEW, MANY = np.sqrt(1e-4 * 1e-8), np.sqrt(1e-4 * 1e-6)
TWO, THREE = ((1024, 15360), (1000, 10)), ((384, 4000, 12000), (1000, 100, 10))

# of an independent solver, L-BFGS on factors polished by Newton steps; K = 16,384, and 10 at the end
REFERENCE = (
    (TWO, CE, FEW, "none", 1.009959697170),
    (TWO, CE, FEW, "free", 0.964173345968),
    (TWO, CE, MANY, "none", 4.981968415590),
    (TWO, CE, MANY, "free", 4.346334959658),
    (THREE, CE, FEW, "none", 1.143019239659),
    (THREE, CE, FEW, "free", 1.116427207980),
    (THREE, CE, FEW, "regularised", 1.142815719637),
    (THREE, SMOOTH, FEW, "free", 2.298106357137),
    (THREE, SE, FEW, "none", 0.082684910137),
    (THREE, CE, MANY, "none", 6.741965792478),
    (THREE, CE, MANY, "free", 6.290031841959),
    (((3, 1, 2, 4), (7, 100, 20, 1)), CE, np.sqrt(1e-7), "free", 0.056984661706),
    (((3, 1, 2, 4), (7, 100, 20, 1)), CE, np.sqrt(1e-7), "none", 0.068414727932),
)


@pytest.mark.parametrize(("sizes", "loss", "price", "bias", "value"), REFERENCE)
def test_reference_values(sizes, loss, price, bias, value):
    found = solve(blocks(*sizes, loss=loss, price=price, bias=bias, lambda_b=1e-3))
    assert abs(found.value - value) <= 1e-12 + 1e-12 * value
    assert 0 <= found.gap <= 1e-11 * value
    assert found.status is Status.CONVERGED


@pytest.mark.parametrize(("loss", "value"), [(CE, 1.202340966629), (SE, 0.087642579986)])
def test_reference_values_with_class_weights(loss, value):
    found = solve(blocks(*THREE, loss=loss, price=FEW, weights=(1.0, 2.0, 4.0)))
    assert abs(found.value - value) <= 2e-12


@pytest.mark.parametrize(
    ("price", "bias", "value"),
    [(1e-6, "none", 0.0439771560872), (2e-4, "free", 3.75427790948)],
)
def test_three_hundred_different_sizes(price, bias, value):
    found = solve(blocks(np.ones(300), np.geomspace(1280, 5, 300), price=price, bias=bias))
    assert abs(found.value - value) <= 1e-11 * value
    assert 0 <= found.gap <= 1e-10 * value


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("price", [1e-9, 1e-5, 1e-2])
def test_balanced_cross_entropy_in_closed_form(price, bias):
    """The probability of each wrong class is κ = c √n; the value is that distribution's entropy (Zhu et al. 2021)."""
    K, n = 10, 7
    found = solve(blocks((K,), (n,), price=price, bias=bias))
    wrong = price * np.sqrt(n)
    right = -(K - 1) * wrong
    entropy = -(K - 1) * wrong * np.log(wrong) - (1 + right) * np.log1p(right)
    np.testing.assert_allclose(found.value, entropy, rtol=1e-13)
    np.testing.assert_allclose(found.point.u, np.log1p(right) - np.log(wrong), rtol=1e-14)
    assert not found.point.C.any()
    assert found.gap <= 1e-12 * found.value


def test_balanced_squared_error_in_closed_form():
    """Without a bias all K singular values √n of diag(n)^{1/2} shrink by N c: f = c K (√n − K n c/2)."""
    K, n, price = 10, 7, 1e-4
    found = solve(blocks((K,), (n,), loss=SE, price=price, bias="none"))
    np.testing.assert_allclose(found.value, price * K * (np.sqrt(n) - K * n * price / 2), rtol=1e-13)
    np.testing.assert_allclose(found.point.u, 1 - K * n * price / np.sqrt(n), rtol=1e-14)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_classes_of_a_size_coincide_from_their_threshold_on(loss, bias):
    """u_g = 0 iff w_g √n_g (1 − α) ≤ N c, whatever all else; else the slopes of a row differ by N c/(w_g √n_g).

    Of cross-entropies that is p_kk − p_kj = 1 − α − N c/(w_g √n_g).
    """
    sharp = 0.9 if loss == SMOOTH else 1.0
    m, n, w = np.array([3, 1, 2, 4]), np.array([7.0, 100.0, 16.0, 1.0]), np.array([1.0, 1.0, 0.5, 2.0])
    N = m @ n
    # w √n: 2.6, 10 of a single class, and twice 2, which die together
    for least, alive in ((1.99, (1, 0, 1, 1)), (2.0, (1, 0, 0, 0)), (2.01, (1, 0, 0, 0)), (2.7, (0, 0, 0, 0))):
        price, living = least * sharp / N, np.asarray(alive, bool)
        problem = blocks(m, n, loss=loss, price=price, bias=bias, weights=w)
        found = solve(problem)
        assert found.gap <= 1e-11 * found.value
        np.testing.assert_array_equal(found.point.u != 0, living)
        at = risk(problem, with_bias(problem, found.point), found.point.u).at
        ahead = (at.wrong.diagonal() - at.right) * w * np.sqrt(n) / N
        np.testing.assert_allclose(ahead[living], price, rtol=1e-9)
        assert np.all(ahead[~living & (m > 1)] <= price * (1 + 1e-12))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_from_total_collapse_on_the_zero_point_is_the_answer(loss, bias):
    """Its slopes are feasible then: C and u are exactly zero, the bias is the best, and the gap is rounding's."""
    problem = blocks((3, 1, 2), (7, 100, 20), loss=loss, price=1.0, bias=bias)
    found = solve(problem)
    assert not found.point.C.any()
    assert not found.point.u.any()
    assert found.gap <= 1e-11 * found.value
    if bias == "free" and loss == CE:
        np.testing.assert_allclose(found.value, -problem.shares @ np.log(problem.omega), rtol=1e-14)
    there = solve(dataclasses.replace(problem, price=10.0))
    np.testing.assert_allclose(there.value, found.value, rtol=1e-15)


@given(problems(whole_numbers=False))
def test_every_minimum_is_certified(problem):
    found = solve(problem)
    assert found.status is Status.CONVERGED
    assert 0 <= found.gap <= 1e-10 * found.value
    assert found.gap == found.value - found.lower_bound
    value, bound = value_and_bound(problem, found.point)
    np.testing.assert_allclose((value, bound), (found.value, found.lower_bound), rtol=1e-12)
    assert objective(problem, found.point) == value


@given(problems())
def test_a_size_may_be_split_into_sizes_of_one_class(problem):
    """K sizes of one class each are the same problem, whose logits' minimiser is unique, so that Grams agree."""
    m = problem.multiplicities.astype(int)
    single = dataclasses.replace(
        problem,
        counts=np.repeat(problem.counts, m),
        weights=np.repeat(problem.weights, m),
        multiplicities=np.ones(m.sum()),
    )
    together, apart = solve(problem, tol=1e-14), solve(single, tol=1e-14)
    assert abs(together.value - apart.value) <= 1e-12 * together.value
    (Z, *_), (W, *_) = whole(problem, together.point), whole(single, apart.point)
    root = np.sqrt(np.repeat(problem.counts, m))[:, None]
    assert np.linalg.norm(root * (Z - W)) <= 1e-8 * (1.0 + np.linalg.norm(root * Z))


@given(problems())
def test_steps_and_starts_change_nothing_but_the_way(problem):
    """From another problem's solution, and from a point drawn at random, to the same minimum."""
    best = solve(problem)
    random = np.random.default_rng(0)
    G = problem.num_sizes
    anywhere = BlockPoint(problem.scale * random.normal(size=(G, G)), np.where(problem.several, 1.0, 0.0), np.zeros(G))
    nearby = solve(dataclasses.replace(problem, price=0.7 * problem.price)).point
    for start in (best.point, nearby, anywhere):
        found = solve(problem, start)
        assert abs(found.value - best.value) <= 1e-9 * best.value


def test_a_solution_needs_no_step_from_itself():
    problem = blocks((3, 1, 2, 4), (7, 100, 20, 1), price=np.sqrt(1e-7))
    assert solve(problem, solve(problem).point, tol=1e-9).steps == 0


def test_too_few_steps_are_said_and_bounded():
    problem = blocks(np.ones(12), np.geomspace(1000, 1, 12), price=1e-4)
    early, best = solve(problem, max_steps=1), solve(problem)
    assert early.status is Status.MAX_STEPS
    assert early.steps == 1
    assert early.lower_bound <= best.value <= early.value


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("bias", BIASES)
def test_lifted_minima_are_certified_by_the_bound_on_all_classes(loss, bias):
    """`ufm.lower_bound` knows nothing of sizes."""
    words = {"bias": bias != "none", "lambda_b": 1e-2 if bias == "regularised" else 0.0}
    problem = zoo.problem(num_classes=5, dim=12, per_class=[3, 7, 3, 7, 7], loss=loss, **words)
    sizes, size_of = blocks_of(problem)
    found = solve(sizes)
    sectors, rank = sectors_of(problem, sizes, size_of, found.point)
    assert rank <= 5
    classes = lifted(sectors)
    pad = ((0, 0), (0, 12 - classes.A.shape[1]))
    params = ufm.Params(
        np.repeat(np.pad(classes.means, pad), problem.class_counts, 0), np.pad(classes.A, pad), classes.b
    )
    np.testing.assert_allclose(problem.objective(params), found.value, rtol=1e-12)
    assert found.value - ufm.lower_bound(problem, params) <= 1e-9 * found.value


def test_the_largest_and_the_smallest_problems():
    """c from 1e-8 on, counts and weights apart; two classes; one size of a million classes."""
    random = np.random.default_rng(0)
    for price in (1e-8, 1e-6):
        for loss in LOSSES:
            problem = blocks(
                random.integers(1, 5, 12), 10.0 ** random.uniform(0, 3, 12), loss=loss, price=price,
                weights=10.0 ** random.uniform(-0.5, 0.5, 12),
            )  # fmt: skip
            assert 0 <= solve(problem).gap <= 1e-9 * solve(problem).value
    for sizes in (((2,), (5,)), ((1, 1), (5, 50)), ((10**6,), (3,))):
        found = solve(blocks(*sizes, price=1e-9))
        assert 0 <= found.gap <= 1e-11 * found.value


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_many_minima_are_certified(seed):
    """But for one in 500, whose last direction comes alive below what the value's rounding shows: it stays open."""
    random, open_ = np.random.default_rng(seed), []
    for _ in range(500):
        G = random.integers(1, 9)
        problem = blocks(
            np.floor(10.0 ** random.uniform(0, 4, G)) + 1.0,
            np.floor(10.0 ** random.uniform(0, 3, G)),
            loss=LOSSES[random.integers(3)],
            bias=BIASES[random.integers(3)],
            lambda_b=10.0 ** random.uniform(-8, 1),
            weights=10.0 ** random.uniform(-0.5, 0.5, G),
        )
        most = np.max(problem.weights * np.sqrt(problem.counts)) / problem.num_samples
        found = solve(dataclasses.replace(problem, price=most * 10.0 ** random.uniform(-6, 0.1)))
        assert 0 <= found.gap <= 1e-6 * found.value
        if not (found.gap <= 1e-9 * found.value and found.status is Status.CONVERGED):
            open_.append(problem)
    assert len(open_) <= 1
