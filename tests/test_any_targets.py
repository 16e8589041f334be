"""Problems whose groups of samples have any targets: certified, trained, measured and stored as those of classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import ufm
from ufm.metrics.decisions import hits
from ufm.minima import proximal_newton
from ufm.minima.rows import rows_of
from ufm.model.problem import as_classes, relaxed_rank

SOFT = [(0.7, 0.3, 0, 0), (0.1, 0.2, 0.3, 0.4), (0, 0, 1, 0), (0, 0.5, 0, 0.5), (0.25, 0.25, 0.25, 0.25)]
MIXED = [
    *((0.5, 0.5, 0, 0, 0), (0.2, 0.8, 0, 0, 0), (0, 0, 0.1, 0.9, 0), (0, 1, 0, 0, 0)),
    *((0, 0, 0.3, 0.3, 0.4), (0.2, 0.2, 0.2, 0.2, 0.2), (0, 0, 0, 0, 1), (0.6, 0, 0, 0.4, 0)),
]
REAL = [(1, 0.2, 0), (-1, 0.4, 0.3), (0.5, -2, 0.1), (0, 1, -0.4), (2, 1, 0.2), (-1.5, 0, 0)]
BIASES = {"none": {"bias": False}, "free": {}, "regularised": {"lambda_b": 0.03}}


def posed(rows=SOFT, counts=(3, 1, 4, 2, 2), weights=None, **words):
    """A small problem with targets."""
    made = ufm.Targets(np.array(rows, float), list(counts), weights=weights)
    return ufm.Problem(**{"targets": made, "dim": 6, "lambda_A": 3e-3, "lambda_H": 4e-4, **words})


def grams(best):
    """Grams of classifier and group means, and the products of both."""
    return best.A @ best.A.T, best.means @ best.means.T, best.means @ best.A.T


@pytest.mark.parametrize(
    ("bias", "value"), [({"bias": False}, 0.636118400062), ({}, 0.635046875320), ({"lambda_b": 0.05}, 0.636016761102)]
)
def test_soft_targets_have_the_minimum_of_an_independent_solver(bias, value):
    best = ufm.minimize(posed(**bias))
    assert best.certified
    assert_allclose(best.value, value, atol=1e-12)


def test_a_free_bias_spares_real_targets_no_output():
    # centred targets of many groups still have K directions, where those of as many groups as outputs have K − 1
    fewer = posed(REAL, (1, 2, 1, 3, 1, 2), loss=ufm.SquaredError(), lambda_A=0.02, lambda_H=0.005, dim=2)
    assert relaxed_rank(fewer) == 3
    assert ufm.verify(fewer).holds
    labels = ufm.Problem(num_classes=4, per_class=2, dim=4, loss=ufm.SquaredError())
    assert relaxed_rank(labels) == relaxed_rank(ufm.Problem(num_classes=4, per_class=2, dim=4, bias=False)) == 3


@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.SquaredError()])
@pytest.mark.parametrize("bias", BIASES)
def test_mixed_supports_have_the_minimum_of_an_independent_solver(loss, bias):
    values = {
        ("CrossEntropy", "none"): 1.076963056429,
        ("CrossEntropy", "free"): 1.013573668013,
        ("CrossEntropy", "regularised"): 1.036417868390,
        ("SquaredError", "none"): 0.171630297898,
        ("SquaredError", "free"): 0.116907676319,
        ("SquaredError", "regularised"): 0.121006403084,
    }
    words = {"lambda_A": 0.03, "lambda_H": 0.03, "loss": loss, "dim": 8, **BIASES[bias]}
    best = ufm.minimize(posed(MIXED, (3, 1, 2, 5, 1, 1, 2, 2), **words))
    assert best.certified
    assert_allclose(best.value, values[type(loss).__name__, bias], atol=1e-12)


@pytest.mark.parametrize(
    ("decays", "value", "alive"),
    [((0.02, 0.005), 0.067579654215, 3), ((0.08, 0.02), 0.252318616861, 3), ((0.18, 0.045), 0.501085556854, 2)],
)
def test_regression_thresholds_the_spectrum_of_its_targets(decays, value, alive):
    (lambda_A, lambda_H), counts = decays, (1, 2, 1, 3, 1, 2)
    problem = posed(REAL, counts, loss=ufm.SquaredError(), lambda_A=lambda_A, lambda_H=lambda_H)
    best, price = ufm.minimize(problem), np.sqrt(10 * lambda_A * lambda_H)
    assert best.certified
    assert_allclose(best.value, value, atol=1e-12)
    assert_allclose(problem.objective(best.params), best.value, rtol=1e-13)
    Y = np.repeat(np.array(REAL), counts, axis=0)
    s, V = (lambda found: (np.sqrt(found[0]), found[1]))(np.linalg.eigh(np.cov(Y.T, bias=True)))
    assert np.linalg.matrix_rank(best.A, tol=1e-6) == alive == np.sum(s > price)
    predicted = np.sqrt(10 * lambda_H / lambda_A) * (V * np.maximum(s - price, 0.0)) @ V.T
    assert_allclose(best.A @ best.A.T, predicted, atol=1e-12)
    in_lanes = ufm.minimize(
        dataclasses.replace(problem, targets=ufm.Targets(np.array(REAL), counts, weights=[2.0] * 6))
    )
    assert_allclose(
        in_lanes.value,
        2
        * ufm.minimize(
            posed(REAL, counts, loss=ufm.SquaredError(), lambda_A=lambda_A / 2, lambda_H=lambda_H / 2)
        ).value,
        rtol=1e-12,
    )
    collapse = ufm.measure_regression(best.params.H, Y, best.params.A, gamma=price**2)
    assert max(collapse[:3]) < 1e-20 or alive < 3


@pytest.mark.parametrize("bias", [{"bias": False}, {"lambda_b": 1e-3}, {}])
def test_one_hot_rows_keep_the_digits_of_labels(bias):
    words = {"dim": 4, "lambda_A": 1e-11, "lambda_H": 1e-11, **bias}
    labels = ufm.minimize(ufm.Problem(num_classes=4, per_class=2, class_weights=[3] * 4, **words))
    heavy = ufm.Targets(3 * np.eye(4)[::-1], 2)  # in another order, and with a mass for a weight
    best = ufm.minimize(ufm.Problem(targets=heavy, **words))
    twice = ufm.Problem(targets=ufm.Targets(np.tile(np.eye(4), (2, 1)), 1, weights=[1] * 4 + [3] * 4), **words)
    assert labels.certified
    assert best.certified
    assert ufm.minimize(twice).certified
    assert_allclose(best.value, labels.value, rtol=1e-12)
    assert_allclose(ufm.lower_bound(best.problem, best.params), labels.value, rtol=1e-8)


def test_an_output_that_no_row_wants_has_a_bias_with_decay():
    problem = posed([(0.5, 0.5, 0), (0.2, 0.8, 0)], (2, 1), lambda_b=0.01)
    ended = proximal_newton.solve(rows_of(problem))
    assert ended.status.ok
    assert ended.gap <= 1e-10 * ended.value
    nearly = ufm.minimize(posed([(0.5, 0.5, 1e-12), (0.2, 0.8, 1e-12)], (2, 1), lambda_b=0.01))
    assert_allclose(ended.value, nearly.value, rtol=1e-10)


@pytest.mark.parametrize("dim", [1, 2])
def test_fewer_dimensions_keep_the_largest_directions(dim):
    # among Z of rank at most d the best keeps the largest singular values (von Neumann): no start finds anything less
    counts = (1, 2, 1, 3, 1, 2)
    words = {"loss": ufm.SquaredError(), "lambda_A": 0.02, "lambda_H": 0.005, "dim": dim}
    best = ufm.minimize(posed(REAL, counts, **words))
    nearly = ufm.minimize(posed(REAL, counts, weights=[1, 1, 1, 1, 1, 1 + 1e-9], **words))  # another way, by a solver
    assert_allclose(nearly.value, best.value, rtol=1e-8)
    assert best.certified


@st.composite
def drawn_targets(draw):
    """Soft rows of any masses with zeros among them, counts and weights; no output is unwanted."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    M, K = draw(st.sampled_from(((3, 4), (6, 3))))
    rows = random.dirichlet(np.full(K, 0.7), M) * np.where(random.random((M, K)) < 0.3, 0.0, 1.0)
    rows[np.arange(max(M, K)) % M, np.arange(max(M, K)) % K] += 0.1
    weights = random.uniform(0.5, 2.0, M) if draw(st.booleans()) else None
    return rows, random.integers(1, 6, M), weights


@given(drawn_targets(), st.sampled_from(list(BIASES)), st.sampled_from((1e-4, 1e-2)))
@settings(max_examples=15)
def test_any_targets_are_certified_and_their_symmetries_kept(targets, bias, price):
    targets = ufm.Targets(*targets[:2], weights=targets[2])
    words = {"dim": 6, "lambda_A": price, "lambda_H": price, **BIASES[bias]}
    best = ufm.minimize(ufm.Problem(targets=targets, **words))
    assert best.certified
    assert_allclose(best.problem.objective(best.params), best.value, rtol=1e-12)
    random = np.random.default_rng(0)
    order, columns = random.permutation(targets.num_groups), random.permutation(targets.num_outputs)
    counts, weights = np.array(targets.counts), np.asarray(targets.weights)
    turned = ufm.Targets(targets.rows[order][:, columns], counts[order], weights=weights[order])
    other = ufm.minimize(ufm.Problem(targets=turned, **words))
    assert_allclose(other.value, best.value, rtol=1e-12)
    # the minimiser is unique up to rotation
    for one, two, of in zip(
        grams(best), grams(other), ((columns, columns), (order, order), (order, columns)), strict=True
    ):
        assert_allclose(two, one[np.ix_(*of)], rtol=1e-7, atol=1e-7 * max(np.abs(one).max(), 1e-6))
    # a group split into equal ones is the same problem, and is given back as it was posed
    split = ufm.Targets(
        np.concatenate([targets.rows, targets.rows[:1]]),
        [counts[0] + 1, *counts[1:], 2],
        weights=[*weights, weights[0]],
    )
    whole = ufm.Targets(targets.rows, [counts[0] + 3, *counts[1:]], weights=weights)
    one, two = (ufm.minimize(ufm.Problem(targets=each, **words)) for each in (whole, split))
    assert_allclose(two.value, one.value, rtol=1e-13)
    at, whole_at = (found[np.ix_(where, where)] for found, where in ((grams(two)[1], [0, -1]), (grams(one)[1], [0, 0])))
    assert_allclose(at, whole_at, rtol=1e-10)
    assert two.params.H.shape == (whole.num_samples, 6)
    assert_allclose(ufm.lower_bound(two.problem, two.params), one.lower_bound, rtol=1e-7)


@given(drawn_targets(), st.integers(0, 2**32 - 1), st.sampled_from(list(BIASES)))
@settings(max_examples=25)
def test_bounds_are_below_the_minimum_wherever_they_are_taken(targets, seed, bias):
    targets = ufm.Targets(*targets[:2], weights=targets[2])
    problem = ufm.Problem(targets=targets, dim=6, lambda_A=1e-3, lambda_H=1e-3, **BIASES[bias])
    best, random = ufm.minimize(problem), np.random.default_rng(seed)
    at = problem.init(seed, scale=10.0 ** random.integers(-2, 2))
    assert ufm.lower_bound(problem, at._replace(b=random.normal(size=at.b.shape))) <= best.value * (1 + 1e-12)


def test_classes_posed_as_targets_are_classes():
    for loss in (ufm.CrossEntropy(), ufm.SquaredError(), ufm.LabelSmoothing(0.1)):
        words = {"dim": 4, "loss": loss}
        targets = ufm.Targets(np.eye(3), [7, 3, 2], weights=[1.0, 2.0, 0.5])
        problem, classes = (
            ufm.Problem(targets=targets, **words),
            ufm.Problem(num_classes=3, per_class=[7, 3, 2], class_weights=[1.0, 2.0, 0.5], **words),
        )
        one, other = ufm.minimize(problem), ufm.minimize(classes)
        assert one.problem is problem
        assert_allclose((one.value, one.lower_bound), (other.value, other.lower_bound), rtol=1e-12)
        assert one.metrics == other.metrics
        said, known = ufm.verify(one), ufm.verify(other)
        assert [str(claim) for claim in said.claims] == [str(claim) for claim in known.claims]
        assert_allclose(problem.objective(other.params), other.value, rtol=1e-12)
        runs = [
            ufm.train(each, optax.sgd(0.5), steps=20, snapshots=3, precision="float64") for each in (problem, classes)
        ]
        assert_allclose(runs[0].history.loss, runs[1].history.loss, rtol=1e-12)
        assert_allclose(runs[0].history.nc3, runs[1].history.nc3, rtol=1e-10)
    assert as_classes(posed()).targets is not None


def test_a_constant_added_to_real_targets_is_the_free_bias():
    words, counts = {"loss": ufm.SquaredError(), "lambda_A": 0.02, "lambda_H": 0.005}, (1, 2, 1, 3, 1, 2)
    weights = [1.0, 2.0, 1.0, 1.0, 0.5, 1.0]
    for given_weights in (None, weights):
        here = ufm.minimize(posed(REAL, counts, given_weights, **words))
        moved = ufm.minimize(posed(np.add(REAL, [3.0, -1.0, 7.0]), counts, given_weights, **words))
        assert here.certified
        assert moved.certified
        assert_allclose(moved.value, here.value, rtol=1e-12)


@pytest.mark.parametrize(
    "words",
    [
        {"features": ufm.Ball(2.0), "lambda_H": 0.0},
        {"features": ufm.Sphere(2.0), "lambda_H": 0.0},
        {"features": ufm.MeanBall(2.0), "lambda_H": 0.0},
        {"features": ufm.Nonnegative(), "dim": 8, "bias": False},
        {"classifier": ufm.Fixed.etf(4, 6), "lambda_A": 0.0},
        {"loss": ufm.SquaredError(), "features": ufm.Ball(0.5), "lambda_H": 0.0},
        {"loss": ufm.LabelSmoothing(0.2)},
    ],
)
def test_constraints_and_losses_are_certified_as_with_classes(words):
    rows = [(0.7, 0.3, 0, 0), (0.1, 0.2, 0.3, 0.4), (0, 0, 1, 0), (0, 0.5, 0, 0.5)]
    best = ufm.minimize(posed(rows, (3, 1, 4, 2), lambda_b=0.0, **words))
    assert best.certified, best
    assert best.lower_bound <= best.value


def test_the_objective_is_the_mean_over_samples_and_has_derivatives_in_the_targets():
    problem = posed(weights=[1.0, 2.0, 0.5, 1.0, 3.0])
    params, T = problem.init(1), np.repeat(np.array(SOFT), (3, 1, 4, 2, 2), axis=0)
    w = np.repeat([1.0, 2.0, 0.5, 1.0, 3.0], (3, 1, 4, 2, 2))
    Z = params.H @ params.A.T + params.b
    losses = np.logaddexp.reduce(Z, axis=1) * T.sum(axis=1) - np.sum(T * Z, axis=1)
    decay = 3e-3 * np.sum(params.A**2) + 4e-4 * np.sum(params.H**2)
    assert_allclose(problem.objective(params), np.mean(w * losses) + decay / 2, rtol=1e-13)
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(lambda problem: problem.objective(params)))(problem).targets
    lse = np.logaddexp.reduce(Z, axis=1)[:, None] - Z
    expected = [
        np.sum((w[:, None] * lse)[np.repeat(np.arange(5), (3, 1, 4, 2, 2)) == m], axis=0) / 12 for m in range(5)
    ]
    assert_allclose(slope.rows, expected, rtol=1e-10)
    assert problem.labels.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 4, 4]


def test_training_ends_at_the_certified_minimum_and_says_what_groups_have():
    problem = posed(lambda_A=3e-2, lambda_H=4e-3)
    run = ufm.train(problem, optax.sgd(1.0, momentum=0.9), steps=3000, snapshots=5, precision="float64")
    best = ufm.minimize(problem)
    assert_allclose(run.history.loss[-1], best.value, rtol=1e-6)
    assert np.all(np.isnan(run.history.nc3))
    assert run.history.nc1[-1] < 1e-3
    assert run.history.accuracy[-1] == best.metrics.accuracy
    assert ufm.curvature(problem, best.params).smallest > -1e-10


def test_hits_are_of_sets_and_of_the_likeliest():
    rows = np.array([[1, 1, 0], [1, 1, 0], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3]]).T
    logits = np.array([[2, 1, 0], [2, 0, 1], [0, 2, 1], [0, 1, 2], [2, 1, 3], [3, 2, 1]], float).T
    expected = [True, False, True, False, False, True]
    assert hits(logits, rows).tolist() == expected
    assert np.asarray(hits(jnp.asarray(logits), jnp.asarray(rows))).tolist() == expected


def test_targets_are_swept_over_stored_and_saved(tmp_path):
    problem = posed()
    over = {"targets.weights": [np.ones(5), np.linspace(1, 2, 5)], "lambda_A": [1e-3, 3e-3]}
    table = ufm.sweep(problem, over, store=tmp_path / "sweep.zarr")
    assert table.certified.all()
    again = ufm.sweep(problem, over, store=tmp_path / "sweep.zarr")
    assert_allclose(again["value"], table["value"])
    zipped = {("targets", "lambda_A"): [(ufm.Targets(np.array(SOFT), n), 3e-3) for n in (1, (3, 1, 4, 2, 2))]}
    assert_allclose(ufm.sweep(problem, zipped)["value"][1], ufm.minimize(problem).value, rtol=1e-12)
    best = ufm.minimize(problem)
    best.save(tmp_path / "best.npz")
    loaded = ufm.load(tmp_path / "best.npz")
    assert_allclose(loaded.problem.objective(loaded.params), best.value, rtol=1e-13)
    assert loaded.problem.targets.counts == (3, 1, 4, 2, 2)


def test_many_groups_are_one_problem():
    random = np.random.default_rng(0)
    best = ufm.minimize(
        ufm.Problem(targets=ufm.Targets(random.dirichlet(np.ones(5), 600), 2), dim=8, lambda_A=1e-2, lambda_H=1e-5)
    )
    assert best.certified
    assert best.means.shape == (600, 5)


def test_one_output_is_a_regression():
    # T23: ĉ·sd − ĉ²/2
    y = np.array([[0.3], [-1.0], [2.0], [0.5]])
    best = ufm.minimize(posed(y, (1, 2, 1, 1), loss=ufm.SquaredError(), lambda_A=0.02, lambda_H=0.01))
    price, sd = np.sqrt(5 * 0.02 * 0.01), np.std(np.repeat(y[:, 0], (1, 2, 1, 1)))
    assert_allclose(best.value, price * sd - price**2 / 2, rtol=1e-12)
    assert best.params.A.shape == (1, 6)


def test_label_smoothing_wants_an_output_that_no_row_does():
    best = ufm.minimize(posed([(0.5, 0.5, 0.0), (1.0, 0.0, 0.0)], [2, 3], loss=ufm.LabelSmoothing(0.1)))
    assert best.certified
    assert np.all(np.isfinite(best.b))
    with pytest.raises(ValueError, match="is zero"):
        posed([(0.5, 0.5, 0.0), (1.0, 0.0, 0.0)], [2, 3], loss=ufm.LabelSmoothing(0.0))


def test_one_group_is_told_by_a_free_bias():
    best = ufm.minimize(posed([(1.0, 2.0, -3.0)], [5], loss=ufm.SquaredError()))
    assert best.certified
    assert best.value == 0
    assert_allclose(best.b, [1.0, 2.0, -3.0], rtol=1e-14)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"num_classes": 4}, "num_classes = 4 beside targets"),
        ({"per_class": 3}, "per_class = 3 beside targets"),
        ({"class_weights": [1.0] * 4}, "class_weights = .* beside targets"),
        ({"loss": ufm.Focal(2.0)}, "Focal.*labels"),
        ({"loss": ufm.DotRegression(1.0)}, "DotRegression.*labels"),
        ({"targets": 3}, "targets = 3"),
        ({"targets": ufm.Targets([[1.0, 0.0], [2.0, 0.0]], 1)}, r"rows\[:, 1\] is zero"),
        ({"targets": ufm.Targets([[1.0, -0.5], [1.0, 1.0]], 1)}, "rows.*-0.5"),
        ({"targets": ufm.Targets([[1.0], [2.0]], 1)}, "one output"),
        ({"targets": None}, "num_classes = None"),
    ],
)
def test_what_cannot_be_is_said(words, message):
    with pytest.raises(ValueError, match=message):
        posed(**words)
    if "is zero" in message:
        assert ufm.minimize(posed(**words, bias=False)).certified
