"""Theorems about deep ReLU models: two classes collapse, and known solutions bound the minimum of more."""

import dataclasses
import functools
from typing import Any

import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize as descend
from test_deep_theory import as_found, known, those_of

import ufm
from ufm._core.blas import one_thread
from ufm.minima.constructions import constructions
from ufm.model.problem import class_means
from ufm.theory.deep_relu import COLLAPSE, DIES, LIVES, model_of, roots

TWO, MORE = "deep ReLU of two classes", "deep ReLU constructions"


def relus(K=2, hidden=2, **words):
    """A problem with so many ReLU layers, with room for everything, and decays that differ."""
    widths = tuple(K + 1 + j for j in range(hidden))
    decays = {"lambda_A": 4e-3, "lambda_H": 1e-3, "lambda_W": tuple(2e-3 + 1e-3 * j for j in range(hidden))}
    shape = {"num_classes": K, "dim": K + 1, "per_class": 2, "widths": widths}
    relu_layers = {"loss": ufm.SquaredError(), "bias": False, "activation": "relu"}
    return ufm.Problem(**{**shape, **relu_layers, **decays, **words})


def placed(problem, construction, x=None):
    """Parameters of a construction, of its best multiple by default: one weight decay a factor, in all columns."""
    model, factors = model_of(problem), problem.factors()
    root = construction.complexity ** (1 / model.depth)
    x = model.multiples(root).x[0] if x is None else x
    matrices = [np.repeat(construction.H, problem.group_counts, axis=0), *construction.factors[1:]]
    squared = model.scale * root * x ** (2 / model.depth)
    H, *W, A = [
        np.pad(part, [(0, want - have) for want, have in zip(factor.shape, part.shape, strict=True)])
        * np.sqrt(squared / factor.decay / np.sum(part**2))
        for part, factor in zip(matrices, factors, strict=True)
    ]
    return ufm.Params(H, A, np.zeros(problem.num_classes), tuple(W))


def fitting(problem):
    """Constructions that have room in a problem, by name."""
    found = constructions(np.eye(problem.num_classes), (problem.dim, *problem.widths))
    return {each.name: each for each in found}


def slope(problem, params):
    """Objective and gradient of each factor, by hand: what L-BFGS is given."""
    decays = [factor.decay for factor in problem.factors()]
    features, N = [params.H.T], problem.num_samples
    for W in params.W:
        features.append(np.maximum(W @ features[-1], 0.0))
    off = params.A @ features[-1] - np.eye(problem.num_classes)[:, problem.labels]
    matrices = [params.H, *params.W, params.A]
    value = 0.5 * np.sum(off**2) / N + 0.5 * sum(d * np.sum(F**2) for d, F in zip(decays, matrices, strict=True))
    slopes, above = [off @ features[-1].T / N], params.A.T @ off / N
    for W, X, before in zip(params.W[::-1], features[:0:-1], features[-2::-1], strict=True):
        above = above * (X > 0)
        slopes.append(above @ before.T)
        above = W.T @ above
    slopes = [above.T, *slopes[::-1]]
    return value, [s + d * F for s, d, F in zip(slopes, decays, matrices, strict=True)]


def lowest(problem, start, steps=3000):
    """Where L-BFGS ends from there."""
    shapes = [factor.shape for factor in problem.factors()]
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]

    def unpacked(vector):
        H, *W, A = (part.reshape(shape) for part, shape in zip(np.split(vector, cuts), shapes, strict=True))
        return ufm.Params(H, A, np.zeros(problem.num_classes), tuple(W))

    def f(vector):
        value, slopes = slope(problem, unpacked(vector))
        return value, np.concatenate([each.ravel() for each in slopes])

    first = np.concatenate([part.ravel() for part in (start.H, *start.W, start.A)])
    options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 20, "ftol": 0.0, "gtol": 1e-11}
    with one_thread():
        ended: Any = descend(f, first, jac=True, method="L-BFGS-B", options=options)
    return unpacked(ended.x)


def verdicts(name, problem, params):
    """Of a theorem's own checks, by what they are about: "holds", "fails" or "undecided"."""
    checks = known(name).checks(problem, as_found(problem, params, -np.inf))
    return {check.quantity: verdict(check) for check in checks}


def verdict(check):
    if check.distance > check.tolerance + check.doubt:
        return "fails"
    return "holds" if check.certain and check.distance <= check.tolerance else "undecided"


def near_collapse(problem, size=0.05):
    """The collapsed construction, a little off."""
    noise, params = problem.init(0, scale=size), placed(problem, fitting(problem)["collapse"])
    return ufm.Params(params.H + noise.H, params.A + noise.A, params.b, tuple(map(np.add, params.W, noise.W)))


@functools.cache
def ends(hidden):
    """Two classes, and where random starts and one next to collapse end."""
    problem = relus(2, hidden)
    starts = [near_collapse(problem), *(problem.init(seed, scale=0.7 + 0.1 * seed) for seed in range(8))]
    found = [lowest(problem, start) for start in starts]
    return problem, found, np.array([problem.objective(params) for params in found])


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_nothing_is_below_the_predicted_value_of_two_classes_and_some_reach_it(hidden):
    problem, _, values = ends(hidden)
    said = those_of(problem)[TWO]
    assert said.degenerate is False
    assert np.all(values >= said.value * (1 - 1e-12))
    assert_allclose(np.min(values), said.value, rtol=1e-10)


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_two_classes_that_reach_the_value_are_collapsed_in_every_layer(hidden):
    problem, found, values = ends(hidden)
    said = those_of(problem)[TWO]
    for params, value in zip(found, values, strict=True):
        told = verdicts(TWO, problem, params)
        assert len(told) == 2 * hidden + 4
        reached = value <= said.value * (1 + 1e-8)
        assert set(told.values()) <= ({"holds", "undecided"} if reached else {"undecided"})
    best = found[np.argmin(values)]
    assert set(verdicts(TWO, problem, best).values()) == {"holds"}
    assert_allclose(np.linalg.norm(best.A), said.norm_A, rtol=1e-5)
    assert_allclose(np.linalg.norm(best.H), said.norm_H, rtol=1e-5)
    assert_allclose(np.linalg.norm(best.A, axis=1), said.norms_A, rtol=1e-5)
    assert_allclose(np.linalg.norm(class_means(problem, best.H), axis=1), said.norms_H, rtol=1e-5)
    assert_allclose(best.A @ best.A.T, said.norm_A**2 / 2 * said.gram_A, atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_features_of_two_classes_may_have_any_cosine_that_is_not_positive(t):
    problem = relus(2)
    params = placed(problem, fitting(problem)["collapse"])
    root = np.linalg.cholesky(np.array([[1, -t], [-t, 1 + 1e-15]]))
    values, vectors = np.linalg.eigh(root @ root.T)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T  # W_1 H̄ᵀ is its square
    H, first = np.zeros_like(params.H), np.zeros_like(params.W[0])
    H[:, :2], first[:2, :2] = params.H[0, 0] * np.repeat(root, 2, axis=0), params.W[0][0, 0] * root
    turned = params._replace(H=H, W=(first, *params.W[1:]))
    means = class_means(problem, H)
    assert_allclose(means[0] @ means[1] / (means[0] @ means[0]), -t, atol=1e-12)
    assert_allclose(problem.objective(turned), those_of(problem)[TWO].value, rtol=1e-12)
    assert set(verdicts(TWO, problem, turned).values()) == {"holds"}


def test_what_is_said_of_two_classes_fails_where_another_point_has_the_value():
    problem = relus(2)
    params = placed(problem, fitting(problem)["collapse"])
    found = as_found(problem, params, -np.inf)
    H = params.H + np.array([[1e-2], [-1e-2], [0.0], [0.0]])
    elsewhere = dataclasses.replace(found, lift=lambda: params._replace(H=H))  # and its value is not as claimed
    failing = {check.quantity for check in known(TWO).checks(problem, elsewhere) if verdict(check) == "fails"}
    assert "share within groups of features after 0 layers" in failing
    assert "λ WᵀW of the first hidden layer less λ HᵀH" in failing


@pytest.mark.parametrize("hidden", [2, 3, 5])
@pytest.mark.parametrize("K", [2, 3, 4, 6, 7, 9, 10])
def test_objective_at_each_construction_is_the_predicted_value(K, hidden):
    problem = relus(K, hidden, class_weights=[1.5] * K)
    found, expected = fitting(problem), roots(model_of(problem))
    assert set(found) == set(expected)
    for name, each in found.items():
        assert_allclose(each.complexity ** (1 / (hidden + 2)), expected[name], rtol=1e-12)
        x = model_of(problem).multiples(expected[name]).x[0]
        if x > 0:
            value = problem.objective(placed(problem, each))
            assert_allclose(min(value, 0.75), model_of(problem).value(expected[name]), rtol=1e-12)
    best = min(model_of(problem).value(root) for root in expected.values())
    said = those_of(problem)
    if K > 2:
        assert set(said) == {MORE}
        assert_allclose(said[MORE].bounds[1], best, rtol=1e-14)
        assert said[MORE].bounds[0] < best
    else:
        assert set(said) == {TWO}
        assert_allclose(said[TWO].value, best, rtol=1e-14)


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ((6, 6, 6, 6), {"collapse", "low rank"}),
        ((4, 4, 4, 6), {"low rank"}),
        ((4, 3, 4, 6), set()),
        ((6, 6, 6, 5), set()),
        ((6, 6), {"collapse"}),
    ],
)
def test_constructions_are_those_that_fit(columns, names):
    d, *widths = columns
    problem = relus(6, dim=d, widths=widths, lambda_W=2e-3)
    assert set(roots(model_of(problem))) == names == set(fitting(problem))
    said = those_of(problem)[MORE]
    if not names:
        assert said.bounds[1] == 0.5
        assert set(said.thresholds) == {DIES}
        assert said.degenerate is None


def ten(hidden=3, **words):
    """Ten classes of one sample, every decay 2e-3."""
    decays = {"lambda_A": 2e-3, "lambda_H": 2e-3, "lambda_W": 2e-3}
    return relus(10, hidden, per_class=1, dim=10, widths=(10,) * hidden, **{**decays, **words})


def test_what_is_found_for_ten_classes_is_below_collapse_and_above_the_lower_bound():
    problem = ten()
    said, model = those_of(problem)[MORE], model_of(problem)
    collapse = model.value(10.0)
    assert_allclose(collapse, 0.0498, atol=5e-5)
    assert said.bounds[1] < collapse
    value = problem.objective(lowest(problem, placed(problem, fitting(problem)["low rank"])))
    assert said.bounds[0] < value < said.bounds[1]
    assert_allclose(value, 0.0440, atol=2e-4)


def test_low_rank_beats_collapse_with_three_hidden_layers_and_not_with_two():
    for K in (6, 10, 15):
        deep, shallow = roots(model_of(relus(K, 3))), roots(model_of(relus(K, 2)))
        assert deep["low rank"] < deep["collapse"]
        assert shallow["low rank"] > shallow["collapse"]
    seven = roots(model_of(relus(7, 3)))
    assert seven["mixed"] < seven["collapse"] < seven["low rank"]


@pytest.mark.parametrize("K", [3, 6])
def test_bounds_hold_wherever_descent_ends(K):
    problem = relus(K, 3)
    said = those_of(problem)[MORE]
    for seed in range(3):
        value = problem.objective(lowest(problem, problem.init(seed), steps=400))
        assert value >= said.bounds[0]


def test_thresholds_of_two_classes_are_of_the_jump():
    limit = those_of(relus(2, 2))[TWO].thresholds[COLLAPSE]
    assert_allclose(limit, 1 / 2 / 3 * np.sqrt(2 / 3), rtol=1e-14)  # (1/K)(1/(F−1))((F−2)/(F−1))^{1−2/F}, F = 4
    # Súkeník et al. 2023, L = F − 1 weight matrices: nΠλ < (L−1)^{L−1} / (2^{L+1} L^{2L})
    assert_allclose(limit**4, 2**2 / (2**4 * 3**6), rtol=1e-13)
    for c, dead in ((0.999 * limit, False), (1.001 * limit, True)):
        problem = relus(2, lambda_H=c / 2, lambda_A=c, lambda_W=c)
        said = those_of(problem)[TWO]
        assert said.degenerate is dead
        assert (said.value == 0.5) == dead
        assert (said.gram_A is None) == dead
    assert those_of(relus(2, lambda_H=limit / 2, lambda_A=limit, lambda_W=limit))[TWO].degenerate is None


def test_thresholds_of_more_classes_say_where_the_zero_point_is_the_minimum():
    limits = those_of(ten())[MORE].thresholds
    assert limits[LIVES] < limits[DIES]
    for c, degenerate in ((0.999 * limits[LIVES], False), (1.001 * limits[LIVES], None), (1.001 * limits[DIES], True)):
        problem = ten(lambda_A=c, lambda_H=c, lambda_W=c)
        said = those_of(problem)[MORE]
        assert said.degenerate is degenerate
        assert (said.bounds[1] < 0.5) == (degenerate is False)
        assert said.value == (0.5 if degenerate else None)


@pytest.mark.parametrize("lives", [True, False])
def test_training_of_two_classes_is_verified(lives):
    problem = relus(2)
    start = near_collapse(problem) if lives else problem.init(0, scale=0.05)
    run = ufm.train(problem, optax.sgd(0.8, momentum=0.9), steps=5000, snapshots=2, precision="float64", params=start)
    report, said = ufm.verify(run), those_of(problem)[TWO]
    assert not report.fails, str(report)
    assert_allclose(report.value, said.value if lives else 0.5, rtol=1e-8)
    held = [claim for claim in report.claims if claim.verdict == "holds"]
    assert len(held) == (8 if lives else 0)


def test_training_of_more_classes_is_below_the_upper_bound():
    problem = relus(6, 3)
    said, best = those_of(problem)[MORE], placed(problem, fitting(problem)["low rank"])
    run = ufm.train(problem, optax.sgd(0.1), steps=200, snapshots=2, precision="float64", params=best)
    report = ufm.verify(run)
    assert not report.fails, str(report)
    assert {claim.quantity for claim in report.claims if claim.verdict == "holds"} == {"minimum is at most"}
    assert said.bounds[0] < report.value < said.bounds[1]


@pytest.mark.parametrize(
    "words",
    [
        {"activation": "linear"},
        {"loss": ufm.CrossEntropy()},
        {"bias": True},
        {"per_class": [2, 3]},
        {"class_weights": [1.0, 2.0]},
        {"lambda_W": (1e-2, 0.0)},
        {"features": ufm.Nonnegative()},
        {"widths": (3, 1)},
    ],
)
def test_nothing_is_said_outside_the_assumptions(words):
    assert not {TWO, MORE} & set(those_of(relus(2, **words)))
