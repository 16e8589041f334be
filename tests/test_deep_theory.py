"""Theorems about deep models: their predictions are the minimum that singular values give, in every layer."""

import dataclasses
import functools

import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import ufm
from ufm import theory
from ufm._core.thresholding import fold_price, jump_price
from ufm.geometry import gram_distance
from ufm.minima.deep_linear import minima
from ufm.minima.moments import posed
from ufm.model.layers import layers
from ufm.model.params import columns
from ufm.model.problem import class_means
from ufm.theory.deep_linear import FOLD, JUMP, LAST
from ufm.theory.formulas import distance_to_gram
from ufm.theory.registry import Found

REGRESSION, FRAME = "deep linear regression by jumps", "deep linear frame"
REAL = [(1, 0.2, 0), (-1, 0.4, 0.3), (0.5, -2, 0.1), (0, 1, -0.4), (2, 1, 0.2), (-1.5, 0, 0)]
COUNTS = (1, 2, 1, 3, 1, 2)
DECAYS = {"lambda_A": 1e-2, "lambda_H": 1e-3, "lambda_W": (1e-2, 2e-2)}


def deep(**words):
    """A small problem with linear hidden layers, of classes unless it has targets."""
    shape = {} if "targets" in words else {"num_classes": 4, "per_class": 5}
    return ufm.Problem(
        **{"dim": 6, "widths": (5, 7), "loss": ufm.SquaredError(), "bias": False, **shape, **DECAYS, **words}
    )


PROBLEMS = {
    "balanced": deep(),
    "balanced, free bias": deep(bias=True),
    "narrow": deep(widths=(5, 2), bias=True),
    "all dead": deep(lambda_A=0.3, lambda_H=0.2, lambda_W=0.3),
    "imbalanced": deep(per_class=[5, 3, 9, 1], widths=(5, 4, 7), lambda_W=1e-2),
    "some dead": deep(per_class=[50, 30, 9, 1], widths=(4,), lambda_A=0.02, lambda_H=5e-4, lambda_W=0.1),
    "weighted, free bias": deep(per_class=[5, 3, 9, 1], widths=(5,), lambda_W=0.02, class_weights=[2.0] * 4, bias=True),
    "real": deep(targets=ufm.Targets(np.array(REAL), COUNTS), bias=True),
    "narrow and real": deep(targets=ufm.Targets(np.array(REAL), COUNTS, weights=[0.7] * 6), widths=(2, 8)),
}


def rotated(problem, random):
    """The parameters that singular values give, rotated in every layer, and what was found."""
    found = minima(posed([problem]))
    H, W, A, b = (part[0] if isinstance(part, np.ndarray) else tuple(W[0] for W in part) for part in found.factors)
    factors = problem.factors()
    turns = [np.linalg.qr(random.normal(size=(f.shape[1], f.shape[1])))[0] for f in factors[1:]]
    matrices = [np.repeat(H, problem.group_counts, axis=0), *W, A]
    padded = [
        np.pad(part, [(0, want - have) for want, have in zip(f.shape, part.shape, strict=True)])
        for part, f in zip(matrices, factors, strict=True)
    ]
    hidden = tuple(turns[j + 1].T @ padded[j + 1] @ turns[j] for j in range(len(W)))
    return ufm.Params(padded[0] @ turns[0], padded[-1] @ turns[-1], b, hidden), found


@functools.cache
def at_minimum(name):
    """What a theorem looks at, at the minimum."""
    problem = PROBLEMS[name]
    params, found = rotated(problem, np.random.default_rng(0))
    return as_found(problem, params, found.lower_bound[0])


def as_found(problem, params, lower_bound):
    value = problem.objective(params)
    gap = (value - lower_bound) / value
    return Found(
        means=class_means(problem, params.H),
        penultimate=class_means(problem, layers(problem.activation, columns(params))[-1].T),
        classifier=params.A,
        bias=params.b,
        value=value,
        lower_bound=lower_bound,
        relative_gap=gap,
        certified=gap <= 1e-8,
        metrics=None,
        history=None,
        lift=lambda: params,
        curve=lambda: None,
        minimum=None,
    )


def known(name):
    return next(each for each in theory.theorems() if each.name == name)


def those_of(problem):
    """Theorems that speak of a problem, by name."""
    return {each.name: each.predict(problem) for each in theory.theorems() if each.speaks_of(problem)}


@pytest.mark.parametrize("name", PROBLEMS)
def test_value_norms_and_grams_are_those_of_the_minimum(name):
    problem, found = PROBLEMS[name], at_minimum(name)
    for said in (those_of(problem)[each] for each in (REGRESSION, FRAME) if each in those_of(problem)):
        assert_allclose(said.value, found.value, rtol=1e-12)
        assert said.degenerate in (None, name == "all dead")
        for norm, matrix in ((said.norm_A, found.params.A), (said.norm_H, found.params.H)):
            if norm is not None:
                assert_allclose(np.linalg.norm(matrix), norm, rtol=1e-10)
        for norms, rows in ((said.norms_A, found.classifier), (said.norms_H, found.means)):
            if norms is not None:
                assert_allclose(np.linalg.norm(rows, axis=1), norms, rtol=1e-10)
        for gram, rows in ((said.gram_A, found.classifier), (said.gram_H, found.means)):
            if gram is not None:
                assert distance_to_gram(rows, gram) < 1e-7
        if said.bias is not None:
            assert_allclose(found.bias, said.bias, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_said_of_all_layers_holds_at_the_minimum(name):
    checks = list(known(REGRESSION).checks(PROBLEMS[name], at_minimum(name)))
    assert [check.quantity for check in checks if not check.distance <= check.tolerance] == []
    assert all(check.certain for check in checks)
    depth = len(PROBLEMS[name].factors())
    singular = [check for check in checks if check.quantity.startswith("singular values")]
    assert len(singular) == (0 if name == "narrow" else depth)
    if PROBLEMS[name].targets is None and name not in ("narrow", "all dead"):
        assert len([check for check in checks if check.quantity.startswith("Gram of class means")]) == depth - 1


@pytest.mark.parametrize("name", PROBLEMS)
def test_minima_are_certified_and_every_claim_about_them_holds(name, tmp_path):
    problem = PROBLEMS[name]
    best = ufm.minimize(problem)
    assert best.certified
    assert best.gap <= 1e-10 * best.value
    assert best.degenerate == (name == "all dead")
    assert_allclose(problem.objective(best.params), best.value, rtol=1e-12)
    assert [np.shape(part) for part in (best.params.H, *best.params.W, best.params.A)] == [
        factor.shape for factor in problem.factors()
    ]
    assert best.grad_norm < 1e-12
    report = ufm.verify(best)
    assert report.holds, report
    random = problem.init(3)
    assert ufm.lower_bound(problem, random) == best.lower_bound <= problem.objective(random)
    assert_allclose(best.layers.nc1, 0.0, atol=1e-20)
    best.save(tmp_path / "best.npz")
    loaded = ufm.load(tmp_path / "best.npz")
    assert_allclose(problem.objective(loaded.params), best.value, rtol=1e-12)


@pytest.mark.parametrize(("scale", "lives"), [(1.0, True), (0.05, False)])
def test_training_ends_at_either_minimum(scale, lives):
    problem = PROBLEMS["balanced, free bias"]
    best = ufm.minimize(problem)
    init = problem.init(0, scale=scale)
    run = ufm.train(problem, optax.sgd(0.3, momentum=0.9), steps=15000, snapshots=2, precision="float64", params=init)
    ended = run.history.loss[-1]
    if lives:
        assert_allclose(ended, best.value, rtol=1e-8)
        assert ufm.verify(run).holds
    else:
        assert_allclose(ended, minima(posed([problem])).local_values[0, 0], rtol=1e-8)  # the zero point's
        assert not any(claim.verdict == "holds" for claim in ufm.verify(run).claims if "minimum" in claim.quantity)


def test_many_deep_problems_are_those_one_by_one():
    many = [deep(lambda_A=decay, bias=bias) for decay in (1e-3, 1e-2, 1e-1) for bias in (False, True)]
    for best, problem in zip(ufm.minimize(many), many, strict=True):
        assert best.certified
        assert_allclose(best.value, ufm.minimize(problem).value, rtol=1e-13)


@pytest.mark.parametrize("targets", [None, ufm.Targets(np.array(REAL), COUNTS)])
def test_hundreds_have_the_metrics_of_one(targets):
    words = {} if targets is None else {"targets": targets}
    many = [deep(**words, lambda_A=decay) for decay in np.geomspace(1e-4, 1.0, 256)]
    found = ufm.minimize(many)
    assert all(best.certified for best in found)
    for index in (0, 100, 255):
        alone = ufm.minimize(many[index])
        assert_allclose(found[index].value, alone.value, rtol=1e-13)
        for name, value in alone.metrics._asdict().items():
            other = getattr(found[index].metrics, name)
            assert (other is None) == (value is None)
            if value is not None:
                assert_allclose(other, value, atol=1e-10)


def test_what_is_said_of_all_layers_fails_elsewhere():
    problem, found = PROBLEMS["imbalanced"], at_minimum("imbalanced")

    def failing(params):
        moved = as_found(problem, params, found.lower_bound)
        checks = known(REGRESSION).checks(problem, dataclasses.replace(moved, certified=True))
        return {check.quantity.split(" after")[0] for check in checks if check.distance > check.tolerance}

    params = found.params
    unbalanced = params._replace(A=1.01 * params.A, W=(params.W[0] / 1.01, *params.W[1:]))
    assert failing(unbalanced) == {
        "λ WᵀW of a layer less λ WWᵀ of the one before",
        "singular values of W[0], times √λ",
        "singular values of A, times √λ",
    }
    spread = np.zeros_like(params.H)
    spread[0], spread[1] = 1e-2, -1e-2
    assert "share within groups of features" in failing(params._replace(H=params.H + spread))
    assert "features are affine in the targets" in failing(params._replace(H=params.H[::-1]))
    assert "outputs are affine in the targets" in failing(params._replace(A=params.A[::-1]))
    assert "Gram of class means" in failing(params._replace(H=params.H[::-1]))


def test_balanced_classes_have_one_gram_in_all_layers():
    for name, gram in (("balanced", np.eye(4)), ("balanced, free bias", np.eye(4) - 0.25)):
        found = at_minimum(name)
        said = those_of(PROBLEMS[name])
        assert {REGRESSION, FRAME} == set(said)
        features = found.means
        for layer in (*found.params.W, None):
            assert distance_to_gram(features, gram) < 1e-7
            features = features if layer is None else features @ layer.T
        assert gram_distance(found.classifier, found.means) < 1e-7
        assert_allclose(said[FRAME].value, said[REGRESSION].value, rtol=1e-13)


@pytest.mark.parametrize("bias", [False, True])
def test_directions_die_at_the_thresholds(bias):
    targets = ufm.Targets(np.array(REAL), COUNTS)
    factors = 4

    def at(C):
        decays = {"lambda_H": C / 10, "lambda_A": C, "lambda_W": C}
        return deep(targets=targets, bias=bias, **decays)

    limits = those_of(at(0.1))[REGRESSION].thresholds
    assert_allclose(limits[FOLD] / limits[JUMP], fold_price(factors) / jump_price(factors), rtol=1e-12)
    for C, lives in ((0.999 * limits[LAST], 3), (1.001 * limits[LAST], 2), (0.999 * limits[JUMP], 1)):
        assert np.count_nonzero(minima(posed([at(C)])).lives) == lives
        assert those_of(at(C))[REGRESSION].degenerate is False
    assert those_of(at(1.001 * limits[JUMP]))[REGRESSION].degenerate is True
    only = minima(posed([at(C) for C in (0.999 * limits[FOLD], 1.001 * limits[FOLD])])).local_values
    assert np.isfinite(only).sum(axis=1).tolist() == [2, 1]
    # at the jump itself both minima are the least: the value is known, and not which
    said = those_of(at(limits[JUMP]))[REGRESSION]
    assert said.value is not None
    assert said.degenerate is None
    assert said.gram_A is None


def test_thresholds_of_balanced_classes():
    limit = those_of(deep())[FRAME].thresholds["c = (n Π λ)^{1/L} at total collapse"]
    assert_allclose(limit, 1 / 4 / 3 * np.sqrt(2 / 3), rtol=1e-14)  # four factors: (1/K)(1/(L−1))((L−2)/(L−1))^{1−2/L}
    for c, dead in ((0.999 * limit, False), (1.001 * limit, True)):
        problem = deep(lambda_H=c / 5, lambda_A=c, lambda_W=c)
        assert those_of(problem)[FRAME].degenerate is dead
        assert (np.count_nonzero(minima(posed([problem])).lives) == 0) == dead


@pytest.mark.parametrize(
    "words",
    [
        {"activation": "relu"},
        {"loss": ufm.CrossEntropy()},
        {"bias": True, "lambda_b": 0.1},
        {"class_weights": [1.0, 2.0, 1.0, 1.0]},
        {"lambda_W": (1e-2, 0.0)},
        {"features": ufm.Nonnegative()},
    ],
)
def test_nothing_is_said_outside_the_assumptions(words):
    assert not {REGRESSION, FRAME} & set(those_of(deep(**words)))
    assert not {REGRESSION, FRAME} & set(those_of(deep(widths=(), lambda_W=None)))


def looked_at(registered, subject):
    """What a theorem of a user's own looks at in a subject of any depth, which has the singular values it predicts."""
    seen = []

    def checks(problem, found):
        seen.append(found)
        return ()

    @theory.theorem(
        "mine", paper="me", assumes="any", applies=lambda problem: True, checks=checks, any_targets=True, any_depth=True
    )
    def mine(problem):
        """Singular values."""
        return theory.Prediction(singular_values=np.ones(2))

    claims = ufm.verify(subject).claims
    measured = [claim.measured for claim in claims if claim.quantity == "singular values of H Aᵀ"]
    return seen[0], measured[0]


def logits_of(problem, params):
    return (params.A @ layers(problem.activation, columns(params))[-1]).T + params.b


@pytest.mark.parametrize("name", PROBLEMS)
def test_theorems_of_any_depth_see_what_the_classifier_reads_at_a_minimum(name, registered):
    problem = PROBLEMS[name]
    best = ufm.minimize(problem)
    found, values = looked_at(registered, best)
    Z = class_means(problem, logits_of(problem, best.params))
    assert_allclose(found.penultimate @ found.classifier.T + found.bias, Z, atol=1e-12)
    weighted = np.sqrt(problem.group_counts)[:, None] * (Z - best.b)
    assert_allclose(values, np.linalg.svd(weighted, compute_uv=False)[: len(values)], atol=1e-12)
    assert_allclose(np.linalg.norm(found.means), np.linalg.norm(class_means(problem, best.params.H)), rtol=1e-12)
    X = layers("linear", columns(best.params))[-1].T
    if problem.targets is None and not best.degenerate:
        expected = ufm.measure(X, problem.labels, best.params.A, best.b)
        for quantity in ("nc2", "nc3", "equinorm", "self_duality"):
            assert_allclose(getattr(found.metrics, quantity), getattr(expected, quantity), atol=1e-7)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_theorems_of_any_depth_see_what_the_classifier_reads_in_a_run(activation, registered):
    problem = deep(activation=activation, loss=ufm.CrossEntropy(), bias=True)
    run = ufm.train(problem, optax.sgd(0.1), steps=5, snapshots=2, precision="float64")
    found, values = looked_at(registered, run)
    Z = class_means(problem, logits_of(problem, run.params))
    assert_allclose(found.penultimate @ found.classifier.T + found.bias, Z, atol=1e-13)
    assert_allclose(values, np.sqrt(5) * np.linalg.svd(Z - found.bias, compute_uv=False), atol=1e-12)
    X = layers(activation, columns(run.params))[-1].T
    assert found.metrics == ufm.measure(X, problem.labels, run.params.A, run.params.b)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("loss", [ufm.SquaredError(), ufm.CrossEntropy(), ufm.LabelSmoothing(0.1)])
def test_theorems_of_the_shallow_model_say_nothing_of_a_deep_one(loss, activation, bias):
    for shape in ({}, {"per_class": [5, 3, 9, 1]}, {"targets": ufm.targets.classes(4, 5)}):
        problem = deep(loss=loss, activation=activation, bias=bias, **shape)
        assert all(known(name).any_depth for name in those_of(problem))
        shallow = dataclasses.replace(problem, widths=(), lambda_W=None, activation="linear")
        assert not any(known(name).any_depth for name in those_of(shallow))
    held = deep(features=ufm.Sphere(1.0), lambda_H=0.0, loss=loss, activation=activation, bias=bias)
    assert all(known(name).any_depth for name in those_of(held))
