"""Squared error of linear factors, by singular values: reference values, other solvers, bounds and both minima."""

import decimal
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from ufm._core.thresholding import branches, fold_price, geometric_mean, jump_price, least_size
from ufm.minima.deep_linear import Posed, at, minima

REAL = [(1, 0.2, 0), (-1, 0.4, 0.3), (0.5, -2, 0.1), (0, 1, -0.4), (2, 1, 0.2), (-1.5, 0, 0)]
COUNTS = (1, 2, 1, 3, 1, 2)


class One(NamedTuple):
    """A problem as its arrays."""

    rows: np.ndarray
    counts: np.ndarray
    weight: float
    decays: list[float]
    columns: list[int]
    free_bias: bool


def posed(decays, rows=REAL, counts=COUNTS, columns=None, weight=1.0, free_bias=False):
    """A problem, of columns enough unless it says how many."""
    columns = [6] * (len(decays) - 1) if columns is None else columns
    return One(np.array(rows, float), np.array(counts), weight, list(decays), columns, free_bias)


def together(*problems):
    """Problems of one shape side by side."""
    rows, counts, weights, decays = (np.stack(each) for each in list(zip(*problems, strict=True))[:4])
    return Posed(rows, counts, weights, decays, tuple(problems[0].columns), problems[0].free_bias)


def minimum(problem):
    """What is found of a problem alone."""
    return of_lane(minima(together(problem)), 0)


def of_lane(found, lane):
    """Of problems side by side, one."""
    scalars = {"jump": found.jump[lane], "fold": found.fold[lane]}
    return SimpleNamespace(**jax.tree.map(lambda leaf: leaf[lane], found)._asdict(), **scalars)


def shapes_of(problem):
    """Of the factors, with a row of H for each group."""
    (M, K), inner = problem.rows.shape, problem.columns
    return [(M, inner[0]), *zip([*inner[1:], K], inner, strict=True)]


def objective(problem, x):
    """The objective and its gradient at all entries of group means, layers, classifier and bias in turn."""
    shapes, K = shapes_of(problem), problem.rows.shape[1]
    parts = np.split(x, np.cumsum([a * b for a, b in shapes]))
    H, *layers = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=False))
    b = parts[-1] if problem.free_bias else np.zeros(K)
    n = problem.counts[:, None]
    outputs = [H]
    for layer in layers:
        outputs.append(outputs[-1] @ layer.T)
    residual = outputs[-1] + b - problem.rows
    back = residual * (problem.weight * n / np.sum(n))
    gradient = [np.sum(back, axis=0)] * problem.free_bias
    value = np.vdot(back, residual) + problem.decays[0] * np.vdot(n * H, H)
    for decay, layer, before in zip(problem.decays[:0:-1], layers[::-1], outputs[-2::-1], strict=True):
        value += decay * np.vdot(layer, layer)
        gradient.append((back.T @ before + decay * layer).ravel())
        back = back @ layer
    gradient.append((back + problem.decays[0] * n * H).ravel())
    return 0.5 * value, np.concatenate(gradient[::-1])


def descended(problem, random, starts=4):
    """Values that L-BFGS ends at from random points, least first."""
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 30}
    found = []
    for _ in range(starts):
        drawn = [random.normal(size=a * b) * 1.3 / np.sqrt(b) for a, b in shapes_of(problem)]
        x = np.concatenate([*drawn, np.zeros(problem.rows.shape[1] * problem.free_bias)])
        with np.errstate(all="ignore"):
            ended = scipy.optimize.minimize(
                lambda x: objective(problem, x), x, jac=True, method="L-BFGS-B", options=options
            )
        found.append(ended.fun)
    return np.sort(found)


def entries(problem, found):
    """The factors as `objective` takes them, filled up with zeros."""
    H, W, A, b = found.factors
    parts = [
        np.pad(part, [(0, want - have) for want, have in zip(shape, part.shape, strict=True)]).ravel()
        for part, shape in zip((H, *W, A), shapes_of(problem), strict=True)
    ]
    return np.concatenate([*parts, *[b] * problem.free_bias])


@pytest.mark.parametrize(
    ("decays", "free_bias", "value"),
    [
        ((0.001, 0.01, 0.02), False, 0.044812613580),
        ((0.001, 0.01, 0.02), True, 0.043987575483),
        ((0.002, 0.02, 0.03), False, 0.080860460077),
        ((0.002, 0.02, 0.03), True, 0.079355041397),
        ((0.0005, 0.002, 0.003, 0.002), False, 0.013854927955),
        ((0.0005, 0.002, 0.003, 0.002), True, 0.013669975187),
        ((0.005, 0.02), True, 0.067579654215),
        ((0.045, 0.18), True, 0.501085556854),
    ],
)
def test_the_minimum_is_that_of_an_independent_solver(decays, free_bias, value):
    found = minimum(posed(decays, free_bias=free_bias))
    assert_allclose(found.value, value, rtol=0, atol=1e-12)
    if decays == (0.001, 0.01, 0.02) and free_bias:
        assert_allclose(found.branches.x, [1.06970066, 0.84622650, 0.22211956], atol=1e-8)


@pytest.mark.parametrize(("shape", "free_bias"), [((6, 3), True), ((3, 5), False)])
@pytest.mark.parametrize("factors", [3, 4, 5, 6])
def test_no_start_of_a_descent_ends_lower_and_the_best_ends_there(factors, free_bias, shape):
    random = np.random.default_rng([factors, free_bias, *shape])
    decays = 10.0 ** random.uniform(-2.9, -1.8, factors)
    decays[0] /= 10
    problem = posed(
        decays,
        rows=random.normal(size=shape),
        counts=random.integers(1, 5, shape[0]),
        columns=random.integers(2, 7, factors - 1).tolist(),
        weight=random.uniform(0.5, 2.0),
        free_bias=free_bias,
    )
    found = minimum(problem)
    assert_allclose(descended(problem, random)[0], found.value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("factors", [3, 5])
def test_where_some_directions_are_dead_no_descent_ends_lower(factors):
    random = np.random.default_rng(factors)
    rows = random.normal(size=(6, 4)) * [3.0, 1.0, 0.8, 0.1]
    problem = posed([0.05 / 6, *[0.4] * (factors - 1)], rows=rows, counts=[1] * 6)
    found = minimum(problem)
    assert 0 < np.count_nonzero(found.lives) < 4
    assert_allclose(descended(problem, random, starts=12)[0], found.value, rtol=0, atol=1e-10)


@st.composite
def problems(draw):
    """Of up to 12 factors, decays over twenty decades, targets of any rank and scale, narrow layers, any bias."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    L, (M, K) = draw(st.integers(2, 12)), draw(st.sampled_from(((1, 1), (5, 1), (1, 4), (6, 3), (3, 6))))
    rows = random.normal(size=(M, K)) * 10.0 ** random.uniform(-3, 3)
    if draw(st.booleans()):
        rows = rows[:, :1] * np.ones(K)  # of rank one: other singular values are zero
    counts = random.integers(1, 9, M)
    relative = 10.0 ** random.uniform(-6, 0.5)
    decays = 10.0 ** random.uniform(-10, 10, L)
    decays[0] /= np.sum(counts)
    size = np.linalg.norm(rows) + 1e-3
    decays *= relative * size ** (2 - 2 / L) / geometric_mean(np.array([decays[0] * np.sum(counts), *decays[1:]]))
    columns = random.integers(1, 8, L - 1).tolist()
    return posed(decays, rows, counts, columns, random.uniform(0.2, 3.0), draw(st.booleans()))


@given(problems())
@settings(max_examples=200)
def test_a_bound_is_below_the_value_and_close_and_the_factors_are_there(problem):
    found = minimum(problem)
    assert found.lower_bound <= found.value
    assert found.value - found.lower_bound <= 1e-10 * found.value + 1e-20 * np.sum(problem.rows**2)
    value, gradient = objective(problem, entries(problem, found))
    assert_allclose(value, found.value, rtol=1e-11, atol=1e-26 * np.sum(problem.rows**2))
    H, W, A, _ = found.factors
    # a gradient is the size of each factor's decay, and vanishes to rounding of it
    shapes = shapes_of(problem)
    sizes = [decay * np.linalg.norm(part) for decay, part in zip(problem.decays[1:], (*W, A), strict=True)]
    sizes = [problem.decays[0] * np.linalg.norm(problem.counts[:, None] * H), *sizes]
    parts = np.split(gradient, np.cumsum([a * b for a, b in shapes]))
    rounding = 1e-13 * np.linalg.norm(problem.rows) * problem.weight
    for j, (part, size) in enumerate(zip(parts, sizes, strict=False)):
        others = [np.linalg.norm(factor, 2) for k, factor in enumerate((H, *W, A)) if k != j]
        assert np.linalg.norm(part) <= 1e-10 * size + rounding * np.prod(others)


@given(problems(), st.integers(0, 2**32 - 1))
def test_value_and_slope_are_those_of_all_samples(problem, seed):
    random = np.random.default_rng(seed)
    (M, K), (d, *inner) = problem.rows.shape, problem.columns
    to_H, b = random.normal(size=(K, d)), random.normal(size=K) * problem.free_bias
    *W, A = (random.normal(size=shape) for shape in shapes_of(problem)[1:])
    factors = to_H[None], tuple(layer[None] for layer in W), A[None], b[None]
    (H,), (value,), (slope,) = at(together(problem), *factors)
    assert_allclose(H, (problem.rows - b) @ to_H)
    x = np.concatenate([*(part.ravel() for part in (H, *W, A)), *[b] * problem.free_bias])
    expected, gradient = objective(problem, x)
    assert_allclose(value, expected, rtol=1e-12)
    of_groups, others = np.split(gradient, [M * d])  # each the sum of its samples' equal ones
    squares = np.sum(of_groups.reshape(M, d) ** 2 / problem.counts[:, None]) + np.sum(others**2)
    assert_allclose(slope, np.sqrt(squares), rtol=1e-10)
    assert (len(W), A.shape) == (len(problem.decays) - 2, (K, [d, *inner][-1]))


@given(problems())
@settings(max_examples=100)
def test_layers_are_balanced_with_equal_singular_values_up_to_their_decays(problem):
    found = minimum(problem)
    H, W, A, _ = found.factors
    weighted = [np.sqrt(problem.counts)[:, None] * H, *W, A]
    scaled = [np.sqrt(decay) * layer for decay, layer in zip(problem.decays, weighted, strict=True)]
    grams = [scaled[0].T @ scaled[0], *[layer @ layer.T for layer in scaled[1:-1]]]
    for before, after in zip(grams, scaled[1:], strict=True):
        assert_allclose(after.T @ after, before, rtol=0, atol=1e-10 * (np.max(before) + 1e-300))
    rank = np.count_nonzero(found.lives)
    assert all(layer.shape[0] >= rank for layer in (*W, A))
    values = [np.linalg.svd(layer, compute_uv=False)[:rank] for layer in scaled]
    for mine in values[1:]:
        assert_allclose(mine, values[0], rtol=1e-7)


@pytest.mark.parametrize("factors", range(2, 13))
def test_the_price_of_a_direction_has_all_its_digits(factors):
    # s − x = C x^{2/L − 1} in fifty digits, at prices up to the jump and any scale
    random, D = np.random.default_rng(factors), decimal.Decimal
    with decimal.localcontext(prec=50):
        for share in (1e-20, 1e-9, 1e-3, 0.5, 0.9, 0.999):
            s = 10.0 ** random.uniform(-20, 20)
            price = share * jump_price(factors) * s ** (2 - 2 / factors)
            found = branches(np.array([s]), price, factors=factors)
            assert found.lives.all()
            left, power = D(found.residual[0]), D(2) / D(factors) - 1
            for _ in range(60):
                x = D(s) - left
                left -= (left - D(price) * x**power) / (1 + D(price) * power * x ** (power - 1))
            value = left**2 / 2 + D(factors) / 2 * D(price) * (D(s) - left) ** (power + 1)
            assert_allclose(found.residual[0], float(left), rtol=1e-14)
            assert_allclose(found.value[0], float(value), rtol=1e-14)
            assert_allclose(found.x[0], float(D(s) - left), rtol=1e-12)


@pytest.mark.parametrize("factors", [3, 4, 6, 12])
def test_a_direction_jumps_where_both_minima_are_equal(factors):
    price = 0.37
    jump, fold = (least_size(price, at(factors), factors=factors) for at in (jump_price, fold_price))
    assert fold < jump
    at = branches(jump * np.array([1.0, 1 - 1e-9, 1 + 1e-9]), price, factors=factors)
    assert_allclose(at.value, at.at_zero, rtol=1e-8)
    assert_allclose(at.value[0], at.at_zero[0], rtol=1e-14)
    assert at.lives[1:].tolist() == [False, True]
    assert at.metastable[1:].tolist() == [True, False]
    assert_allclose(at.x[0], jump * (factors - 2) / (factors - 1), rtol=1e-13)
    around = branches(fold * np.array([1 - 1e-6, 1 + 1e-6, 1.01]), price, factors=factors)
    assert (around.x > 0).tolist() == [False, True, True]
    assert np.all(np.isinf(around.value) == (around.x == 0))
    # a minimum: the function rises to both of its sides; and zero is one too
    for s, x in zip(around.s[1:], around.x[1:], strict=True):
        near = x * (1 + np.array([-1e-5, 0.0, 1e-5]))
        values = 0.5 * (s - near) ** 2 + factors / 2 * price * near ** (2 / factors)
        assert values[1] == min(values)
    for s in (jump, 2 * jump):
        tiny = 1e-9 * s
        assert 0.5 * (s - tiny) ** 2 + factors / 2 * price * tiny ** (2 / factors) > 0.5 * s**2


def test_two_factors_threshold_softly():
    s = np.array([3.0, 1.0, 0.5, 0.2, 0.0])
    found = branches(s, 0.5, factors=2)
    assert_allclose(found.x, np.maximum(s - 0.5, 0.0), rtol=1e-15)
    assert_allclose(found.least, np.where(s > 0.5, 0.5 * s - 0.125, 0.5 * s**2), rtol=1e-15)
    assert not found.metastable.any()


@pytest.mark.parametrize("factors", [2, 3, 7])
def test_a_minimum_on_a_grid_is_not_below(factors):
    for s in (0.3, 1.0, 1.7):
        for price in (1e-3, 0.1, 0.2, 0.4):
            x = np.linspace(0, 2, 20001)
            grid = np.min(0.5 * (s - x) ** 2 + factors / 2 * price * x ** (2 / factors))
            assert_allclose(branches(np.array([s]), price, factors=factors).least[0], grid, rtol=1e-6)


def test_narrow_layers_keep_the_largest_directions():
    whole = minimum(posed((0.001, 0.01, 0.02), free_bias=True))
    assert whole.lives.all()
    for columns, r in (([2, 6], 2), ([6, 1], 1)):
        found = minimum(posed((0.001, 0.01, 0.02), columns=columns, free_bias=True))
        assert found.lives.tolist() == [True] * r + [False] * (3 - r)
        expected = np.where(found.lives, whole.branches.least, whole.branches.at_zero)
        assert_allclose(found.value, np.sum(expected), rtol=1e-13)
    # of any choice of r the largest, since what a direction gains rises with s
    s = np.sort(np.random.default_rng(0).exponential(size=50))
    for factors in (2, 3, 5):
        gains = (lambda both: both.at_zero - both.least)(branches(s, 0.3, factors=factors))
        assert np.all(np.diff(gains) >= 0)


def test_equal_directions_and_none():
    orthogonal = minimum(posed((1e-3, 1e-2, 1e-2), rows=np.eye(4), counts=[3] * 4, columns=[4, 4]))
    price = (12 * 1e-7) ** (1 / 3)
    one = branches(np.array([0.5]), price, factors=3)
    assert_allclose(orthogonal.value, 4 * one.least[0], rtol=1e-13)
    H, (W,), A, _ = orthogonal.factors
    assert_allclose(A @ A.T, np.sum(A[0] ** 2) * np.eye(4), atol=1e-13)
    assert_allclose(H @ W.T @ A.T, 2 * one.x[0] * np.eye(4), atol=1e-13)
    nothing = minimum(posed((1e-3, 1e-2, 1e-2), rows=np.zeros((3, 2)), counts=[1] * 3))
    assert (nothing.value, nothing.lower_bound, nothing.grad_norm) == (0, 0, 0)
    assert not nothing.lives.any()
    constant = minimum(posed((1e-3, 1e-2, 1e-2), rows=np.ones((3, 2)), counts=[1, 2, 3], free_bias=True))
    assert constant.value < 1e-30
    assert_allclose(constant.factors.b, 1.0)


@pytest.mark.parametrize("factors", [2, 3, 5])
@pytest.mark.parametrize("free_bias", [False, True])
def test_problems_side_by_side_are_those_alone(factors, free_bias):
    random = np.random.default_rng(factors)
    many = [
        posed(
            10.0 ** random.uniform(-4, -1, factors),
            random.normal(size=(5, 3)) * 10.0 ** random.uniform(-2, 2),
            random.integers(1, 9, 5),
            [4, 2, 6, 3][: factors - 1],
            random.uniform(0.5, 2.0),
            free_bias,
        )
        for _ in range(20)
    ]
    found = minima(together(*many))
    for lane, problem in enumerate(many):
        here, alone = of_lane(found, lane), minimum(problem)
        assert_allclose(here.value, alone.value, rtol=1e-14)
        assert_allclose(here.lower_bound, alone.lower_bound, rtol=1e-13)
        assert here.lives.tolist() == alone.lives.tolist()
        assert_allclose(here.branches.x, alone.branches.x, rtol=1e-13)
        for one, other in zip(jax.tree.leaves(here.factors), jax.tree.leaves(alone.factors), strict=True):
            assert_allclose(one, other, atol=1e-12)


def test_near_the_jump_both_minima_are_told():
    rows, L = np.diag([1.0, 2.0]), 4
    jump = jump_price(L) * (1 / np.sqrt(2)) ** (2 - 2 / L)  # of the smaller one, s = 1/√2
    for relative, lives in ((0.999, [True, True]), (1.001, [True, False])):
        price = relative * jump
        found = minimum(posed([price / 2, *[price] * 3], rows=rows, counts=[1, 1]))
        assert found.lives.tolist() == lives
        assert found.branches.metastable.tolist() == [False, not lives[1]]
        assert_allclose(found.branches.value[1], found.branches.at_zero[1], rtol=3e-3)
        assert (found.fold < 1 / np.sqrt(2)) & ((found.jump < 1 / np.sqrt(2)) == lives[1])
        assert found.value - found.lower_bound <= 1e-12 * found.value


def along(problem, x):
    """Balanced factors of singular values x along the axes, of targets diag(s)/√π, as `objective` takes them."""
    L, N = len(problem.decays), np.sum(problem.counts)
    scale = geometric_mean(np.array([N * problem.decays[0], *problem.decays[1:]]))
    parts = [np.diag(np.sqrt(scale / decay) * x ** (1 / L)) for decay in problem.decays]
    return np.concatenate([part.ravel() for part in parts])


@pytest.mark.parametrize("factors", [3, 4, 5])
def test_local_minima_are_the_largest_directions_alone_and_no_other_choice(factors):
    s, price = np.array([1.0, 0.8, 0.62]), 0.95 * fold_price(factors) * 0.62 ** (2 - 2 / factors)
    problem = posed([price / 3] + [price] * (factors - 1), np.sqrt(3) * np.diag(s), [1] * 3, [3] * (factors - 1))
    found = minimum(problem)
    assert found.branches.metastable.any()
    assert found.local_values.shape == (4,)
    for chosen in ([], [0], [0, 1], [0, 1, 2], [1], [2], [0, 2], [1, 2]):
        x = np.where(np.isin(range(3), chosen), found.branches.x, 0.0)
        at_it = along(problem, x)
        value, gradient = objective(problem, at_it)
        assert np.max(np.abs(gradient)) < 1e-12
        steps = 1e-5 * np.eye(len(at_it))
        hessian = [objective(problem, at_it + e)[1] - objective(problem, at_it - e)[1] for e in steps]
        least = np.min(np.linalg.eigvalsh(np.array(hessian) / 2e-5))
        if chosen == list(range(len(chosen))):
            assert least > -1e-8
            assert_allclose(value, found.local_values[len(chosen)], rtol=1e-12)
        else:
            assert least < -1e-3
    assert_allclose(found.value, min(found.local_values), rtol=1e-12)
    assert_allclose(found.local_values[0], np.sum(s**2) / 2, rtol=1e-12)


def test_decays_whose_product_overflows_have_a_mean():
    assert geometric_mean(np.array([1e100] * 12)) == pytest.approx(1e100, rel=1e-15)
    assert geometric_mean(np.array([1e-100] * 6 + [1e100] * 6)) == pytest.approx(1.0, rel=1e-14)
    assert geometric_mean(np.array([[4.0, 9.0], [1.0, 16.0]])).tolist() == [6.0, 4.0]


def test_many_samples_cost_passes_over_blocks():
    random = np.random.default_rng(0)
    rows = random.normal(size=(100_000, 4)) @ random.normal(size=(4, 4)) + 3.0
    found = minimum(posed((1e-7, 1e-2, 1e-2, 1e-3), rows=rows, counts=np.ones(len(rows), int), free_bias=True))
    s = np.sqrt(np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1])
    price = (len(rows) * 1e-7 * 1e-7) ** 0.25
    assert_allclose(found.value, np.sum(branches(s, price, factors=4).least), rtol=1e-10)
    assert found.lower_bound <= found.value <= found.lower_bound * (1 + 1e-10)
    assert found.factors.H.shape == (100_000, 4)
