"""Theorems about bounded, non-negative and fixed factors: every claim against the certified optimum, and its limits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import ufm
from ufm.theory.formulas import TOTAL

CE, SE = ufm.CrossEntropy(), ufm.SquaredError()
K, D = 3, 6
SKEWED = (40, 9, 4)
TWINS = (40, 4, 4)
powers = st.floats(-4.0, -1.5).map(lambda x: 10.0**x)
radii = st.floats(0.3, 6.0)


def make(counts=(5,) * K, dim=D, loss=CE, features=None, classifier=None, decays=(0.0, 0.0), **words):
    """A problem with decays (λ_H, λ_A) and no bias."""
    kinds = {"features": features or ufm.Free(), "classifier": classifier or ufm.Free()}
    decay = {"lambda_H": decays[0], "lambda_A": decays[1]}
    return ufm.Problem(len(counts), dim, per_class=counts, loss=loss, **{"bias": False, **kinds, **decay, **words})


def said(problem, name):
    """What one theorem predicts, or None where it doesn't apply."""
    known = [theorem for theorem in ufm.theorems() if theorem.name == name and theorem.applies(problem)]
    return known[0].predict(problem) if known else None


def assert_all_hold(problem, name, but=()):
    """That the theorem speaks and every claim holds; those in `but` to 3e-5 only, the root of the certified gap."""
    report = ufm.verify(problem)
    assert name in {claim.theorem for claim in report.claims}
    open_claims = [c for c in report.claims if c.verdict != "holds"]
    beyond = [c for c in open_claims if c.quantity not in but or c.verdict == "fails" or c.error > 3e-5]
    assert not beyond, [(c.theorem, c.quantity, c.error, c.verdict) for c in beyond]
    return report


# --- spheres and balls

BOUNDED = "simplex ETF of bounded norms"
PAIRS = {
    "spheres": (ufm.Sphere, ufm.Sphere, CE, {}),
    "balls": (ufm.Ball, ufm.Ball, CE, {}),
    "balls on average": (ufm.MeanBall, ufm.MeanBall, CE, {}),
    "sphere and decay": (ufm.Sphere, None, CE, {"bias": True}),
    "decay and ball, smoothed": (None, ufm.Ball, ufm.LabelSmoothing(0.1), {"bias": True, "lambda_b": 0.1}),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_bounded_norms_give_a_simplex(pair):
    features, classifier, loss, words = PAIRS[pair]

    @settings(max_examples=6)
    @given(radii, radii, powers, powers, st.sampled_from((1, 7)), st.booleans())
    def check(R_H, R_A, lambda_H, lambda_A, n, decayed):
        # a ball may be decayed too, a sphere may not, and what has no radius must be
        decays = [
            decay if kind is None or (kind is ufm.Ball and decayed) else 0.0
            for kind, decay in ((features, lambda_H), (classifier, lambda_A))
        ]
        kinds = {"features": features and features(R_H), "classifier": classifier and classifier(R_A)}
        problem = make([n] * K, loss=loss, decays=decays, **kinds, **words)
        joint = K * np.sqrt(decays[0] * decays[1] * n)
        if 0.7 < joint < 1.3:  # near total collapse factors vanish like a square root
            return
        assert_all_hold(problem, BOUNDED)

    check()


@given(st.integers(2, 9), st.integers(1, 50), radii, radii, powers, powers, st.floats(0.0, 0.5))
def test_bounded_norms_are_the_best_in_their_box(K, n, R_H, R_A, lambda_H, lambda_A, alpha):
    # f ≥ φ(K/(K−1) rq) + ½Kλ_A q² + ½Nλ_H r², attained: so the least over the box, which a grid approaches from above
    loss = ufm.LabelSmoothing(alpha)
    problem = make([n] * K, K, loss, ufm.Ball(R_H), ufm.Ball(R_A), (lambda_H, lambda_A))
    known = said(problem, BOUNDED)
    r, q = np.meshgrid(np.linspace(0, R_H, 400), np.linspace(0, R_A, 400))
    t = K / (K - 1) * r * q
    f = np.log1p((K - 1) * np.exp(-t)) + alpha * (K - 1) / K * t + K / 2 * (lambda_A * q**2 + n * lambda_H * r**2)
    assert known.value <= f.min() * (1 + 1e-12)
    assert known.value == pytest.approx(f.min(), rel=1e-2)
    if known.degenerate is False:
        assert 0 < known.norms_H[0] <= R_H * (1 + 1e-12)
        assert 0 < known.norms_A[0] <= R_A * (1 + 1e-12)


def test_wide_balls_are_no_constraint_and_decay_alone_decides():
    free = make(decays=(1e-3, 1e-2))
    wide = dataclasses.replace(free, features=ufm.Ball(1e3), classifier=ufm.MeanBall(1e3))
    plain, same = said(free, "simplex ETF"), said(wide, BOUNDED)
    assert same.value == pytest.approx(plain.value, rel=1e-13)
    assert same.thresholds[TOTAL] == pytest.approx(plain.thresholds[TOTAL], rel=1e-13)
    assert_allclose(same.norms_H, plain.norms_H, rtol=1e-7)
    assert_allclose(same.singular_values, plain.singular_values, rtol=1e-7)


def test_unit_spheres_by_hand():
    # K = 2 on unit spheres: antipodal points, margin 2, f = log(1 + e^{−2}); τ = 3 makes it 6
    assert said(make([3, 3], 1, features=ufm.Sphere(1.0), classifier=ufm.Sphere(1.0)), BOUNDED).value == pytest.approx(
        np.log1p(np.exp(-2.0)), rel=1e-14
    )
    assert said(make([3, 3], 1, features=ufm.Ball(1.5), classifier=ufm.Sphere(2.0)), BOUNDED).value == pytest.approx(
        np.log1p(np.exp(-6.0)), rel=1e-14
    )


@pytest.mark.parametrize("radius", [10.0, 30.0, 200.0])
def test_vanishing_losses_are_certified_relative_to_themselves(radius):
    # f = log(1 + 2 exp(−3/2 τ)) down to 1e-130: neither value nor geometry is judged on an absolute scale
    problem = make(features=ufm.Sphere(radius), classifier=ufm.Sphere(1.0))
    report = assert_all_hold(problem, BOUNDED)
    value = next(claim for claim in report.claims if claim.quantity == "minimum of the objective")
    assert value.tolerance == pytest.approx(1e-8 * np.log1p(2 * np.exp(-3 / 2 * radius)), rel=1e-6)
    assert report.value - report.lower_bound <= 1e-8 * report.value


def test_a_vanishing_loss_without_a_bound_decides_nothing():
    best = ufm.minimize(make(features=ufm.Sphere(30.0), classifier=ufm.Sphere(1.0)))
    report = ufm.verify(dataclasses.replace(best, lower_bound=0.0))
    assert {claim.verdict for claim in report.claims} == {"undecided"}


# --- softmax codes

CODES, POLYGON = "one-vs-rest distance of softmax codes", "regular polygon"


@pytest.mark.parametrize("dim", [2, 3])
def test_softmax_codes_stay_within_their_interval(dim):
    for tau in (0.5, 3.0, 30.0):
        report = ufm.verify(make((2,) * 5, dim, features=ufm.Sphere(tau), classifier=ufm.Sphere(1.0)))
        verdicts = {(claim.theorem, claim.quantity): claim for claim in report.claims}
        assert verdicts[CODES, "minimum is at most"].verdict == "holds"
        # the certificate knows nothing of d: it reaches the lower end only where all codes are alike
        assert verdicts[CODES, "minimum is at least"].verdict == ("holds" if tau == 0.5 else "undecided")
        assert not report.fails
        if dim == 2:
            value = verdicts[POLYGON, "minimum of the objective"]
            assert value.error <= 1e-8 * value.predicted
            assert value.verdict == "undecided"
            assert verdicts[POLYGON, "singular values of H Aᵀ"].error <= 1e-6


@given(st.integers(2, 6), st.integers(2, 12), st.floats(0.1, 100.0), st.integers(0, 10**6))
def test_no_code_is_below_the_interval_and_known_ones_are_not_above(dim, more, tau, seed):
    K = dim + more
    random = np.random.default_rng(seed)
    counts = random.integers(1, 9, K).tolist()
    problem = make(counts, dim, features=ufm.Sphere(tau), classifier=ufm.Sphere(1.0))
    least, most = said(problem, CODES).bounds
    mass = problem.class_counts / problem.num_samples

    def loss(A, H):
        Z = tau * H @ A.T
        others = np.where(np.eye(K, dtype=bool), -np.inf, Z - np.diag(Z)[:, None])
        return mass @ np.logaddexp.reduce(np.concatenate([others, np.zeros((K, 1))], axis=1), axis=1)

    def unit(X):
        return X / np.linalg.norm(X, axis=1, keepdims=True)

    A = unit(random.normal(size=(K, dim)))
    assert loss(A, A) >= least
    assert loss(A, unit(A - A.mean(axis=0))) >= least
    angles = 2 * np.pi * np.arange(K) / K
    polygon = np.pad(np.stack([np.cos(angles), np.sin(angles)], axis=1), ((0, 0), (0, dim - 2)))
    assert least <= loss(polygon, polygon) * (1 + 1e-9)
    if dim == 2 or 2 * dim < K:
        assert most == pytest.approx(loss(polygon, polygon), rel=1e-6, abs=1e-15)
    if 2 * dim >= K and dim > 2:  # axes and as many antipodes as are needed, two at least
        axes = np.concatenate([np.eye(dim), -np.eye(dim)])
        orthoplex = axes[:K]
        assert loss(orthoplex, orthoplex) <= np.log1p((K - 1) * np.exp(-tau)) * (1 + 1e-9) + 1e-15
    # the logarithm's rate is pinned down to log(K N)/τ where the distance is known
    if dim == 2:
        rho = 1 - np.cos(2 * np.pi / K)
        assert -np.log(least) / tau >= rho - 1e-12
        assert np.log(most / least) <= np.log((K - 1) * 2 / mass.min()) + 1e-9


# --- a fixed simplex ETF

FIXED = {CE: "fixed simplex ETF under cross-entropy", "dot": "fixed simplex ETF under dot regression"}


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("loss", FIXED, ids=["ce", "dot"])
def test_features_follow_a_fixed_simplex_whatever_the_counts(loss, bounded):
    @settings(max_examples=6)
    @given(radii, radii, st.floats(0.3, 5.0), powers, st.booleans(), st.booleans(), st.sampled_from((SKEWED, (3,) * K)))
    def check(R_H, length, target, lambda_H, decayed, weighted, counts):
        problem = make(
            counts,
            loss=CE if loss is CE else ufm.DotRegression(target),
            features=ufm.Ball(R_H) if bounded else ufm.Free(),
            classifier=ufm.Fixed.etf(K, D, seed=1, radius=length),
            decays=(lambda_H if decayed or not bounded else 0.0, 0.0),
            class_weights=(1.0, 0.5, 3.0) if weighted else None,
        )
        if loss is not CE and problem.lambda_H == 0 and abs(R_H * length / target - 1) < 1e-2:
            return  # where the target lies just within the radius, transverse parts cost their fourth power
        report = assert_all_hold(problem, FIXED[loss])
        prediction = said(problem, FIXED[loss])
        if prediction.gram_H is not None and not weighted:
            # imbalance leaves an ETF of equal norms
            assert_allclose(prediction.norms_H, prediction.norms_H[0], rtol=1e-14)
            assert prediction.metrics["nc2"] == 0.0
        assert report.value >= 0

    check()


def test_fixed_simplex_by_hand():
    # K = 2, rows ±1, ball of radius 1: margin 2
    etf = ufm.Fixed.etf(2, 3)
    ball = make([5, 1], 3, features=ufm.Ball(1.0), classifier=etf)
    assert said(ball, FIXED[CE]).value == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-14)
    # dot regression, target 1: zero in the ball of radius 1, ½(½ − 1)² in that of ½; with decay ½ m/(1 + m), m = Nλ
    dot = dataclasses.replace(ball, loss=ufm.DotRegression(1.0))
    assert said(dot, FIXED["dot"]).value == pytest.approx(0.0, abs=1e-30)
    half = dataclasses.replace(dot, features=ufm.Ball(0.5))
    assert said(half, FIXED["dot"]).value == pytest.approx(1 / 8, rel=1e-14)
    decayed = said(make([5, 1], 3, ufm.DotRegression(1.0), None, etf, (0.5, 0.0)), FIXED["dot"])
    assert decayed.value == pytest.approx(0.5 * 3 / 4, rel=1e-14)
    assert_allclose(decayed.norms_H, 1 / 4, rtol=1e-14)


def test_targets_within_reach_leave_the_features_open():
    for features in (ufm.Ball(2.0), ufm.Sphere(2.0)):
        reached = said(make(SKEWED, D, ufm.DotRegression(1.0), features, ufm.Fixed.etf(K, D)), FIXED["dot"])
        assert reached.value == 0.0
        assert reached.gram_H is None
        assert reached.norms_H is None


# --- non-negative features

FRAME, CENTRED = "non-negative orthogonal frame", "non-negative orthogonal frame with a free bias"
DECOUPLED = "non-negative features decouple classes"
GRAMS = ("Gram of class means", "Gram of classifier")
shares = st.floats(-2.5, 0.3).map(lambda x: 10.0**x)  # of the c at total collapse
ratios = st.floats(-1.0, 1.0).map(lambda x: 10.0**x)


def with_share(problem, name, share, ratio):
    """The problem at a share of the total collapse that the theorem names, and a ratio of decays; None near a death."""
    at = share * said(problem, name).thresholds[TOTAL]
    problem = dataclasses.replace(problem, lambda_H=at / ratio, lambda_A=at * ratio)
    weights = np.ones(K) if problem.class_weights is None else problem.class_weights
    reach = weights * np.sqrt(problem.class_counts)
    return (
        None if np.any(np.abs(at * reach.max() / said(problem, name).thresholds[TOTAL] / reach - 1) < 0.1) else problem
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", [SE, CE], ids=["se", "ce"])
def test_non_negative_features_are_orthogonal(loss, bias):
    name = DECOUPLED if loss is CE else CENTRED if bias else FRAME

    @settings(max_examples=4 if name == FRAME else 6)  # which is slow, see below
    @given(shares, ratios, st.booleans(), st.booleans())
    def check(share, ratio, imbalanced, weighted):
        counts = (5,) * K if bias or not imbalanced else SKEWED
        weights = (0.5, 1.0, 2.0) if weighted and not bias else None
        start = make(
            counts, loss=loss, features=ufm.Nonnegative(), decays=(1e-2, 1e-2), class_weights=weights, bias=bias
        )
        problem = with_share(start, name, share, ratio)
        if problem is not None:
            # squared error without a bias isn't held by the constraint: entries near zero then cost their square, and
            # their fourth power in the solver's variables
            assert_all_hold(problem, name, but=GRAMS if name == FRAME else ())

    check()


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_small_classes_lose_their_features_on_one_side_of_their_threshold(factor):
    # n_k ≤ N²c²K/(K−1) with n = 4 twice: beyond it their classifier rows are one and the same
    c = factor * np.sqrt(4 * (K - 1) / K) / sum(TWINS)
    problem = make(TWINS, features=ufm.Nonnegative(), decays=(2 * c, c / 2))
    prediction = said(problem, DECOUPLED)
    assert prediction.merged == (() if factor < 1 else ((1, 2),))
    assert_allclose(prediction.norms_H == 0, [False, factor > 1, factor > 1])
    assert_all_hold(problem, DECOUPLED)


@given(st.integers(2, 9), st.integers(1, 30), powers)
def test_non_negativity_costs_nothing_without_a_bias_and_something_with_one(classes, n, decay):
    words = {"decays": (decay / n, decay / n), "loss": SE}
    positive, free = (make([n] * classes, classes, features=kind, **words) for kind in (ufm.Nonnegative(), ufm.Free()))
    assert said(positive, FRAME).value == said(free, "orthogonal frame to simplex ETF").value
    with_bias = [dataclasses.replace(problem, bias=True) for problem in (positive, free)]
    dearer, cheaper = said(with_bias[0], CENTRED), said(with_bias[1], "orthogonal frame to simplex ETF")
    assert dearer.value >= cheaper.value * (1 + 1e-9) or dearer.degenerate
    assert dearer.thresholds[TOTAL] == pytest.approx(
        np.sqrt(1 - 1 / classes) * cheaper.thresholds["c at total collapse"], rel=1e-12
    )


# --- thresholds, and where nothing may be said


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (BOUNDED, make(features=ufm.Ball(2.0), decays=(1e-2, 1e-2))),
        (BOUNDED, make(features=ufm.MeanBall(2.0), classifier=ufm.Ball(0.1), decays=(1e-2, 1e-2))),
        (FRAME, make(loss=SE, features=ufm.Nonnegative(), decays=(1e-2, 1e-2))),
        (FRAME, make(SKEWED, loss=SE, features=ufm.Nonnegative(), decays=(1e-2, 1e-2))),
        (CENTRED, make(loss=SE, features=ufm.Nonnegative(), decays=(1e-2, 1e-2), bias=True)),
        (DECOUPLED, make(SKEWED, features=ufm.Nonnegative(), decays=(1e-2, 1e-2))),
        (DECOUPLED, make(loss=ufm.LabelSmoothing(0.3), features=ufm.Nonnegative(), decays=(1e-2, 1e-2), bias=True)),
    ],
)
def test_total_collapse_is_where_theory_puts_it_from_both_sides(name, problem):
    at = said(problem, name).thresholds[TOTAL]
    below, near, above = (
        said(dataclasses.replace(problem, lambda_A=c, lambda_H=c), name)
        for c in at * np.array([0.999, 1 + 1e-8, 1.001])
    )
    assert (below.degenerate, near.degenerate, above.degenerate) == (False, None, True)
    assert near.gram_A is None
    assert below.value < above.value
    assert below.value == pytest.approx(above.value, rel=1e-3)
    assert near.value == pytest.approx(above.value, rel=1e-7)


ETF = ufm.Fixed.etf(K, D)
BENT = ufm.Fixed(ETF.matrix * np.array([1.0, 1.0, 1.1])[:, None])
SPHERES = {"features": ufm.Sphere(1.0), "classifier": ufm.Sphere(1.0)}
POSITIVE = {"features": ufm.Nonnegative(), "decays": (1e-2, 1e-2)}


BEYOND = {
    "imbalance on spheres": (BOUNDED, make(SKEWED, **SPHERES)),
    "class weights on spheres": (BOUNDED, make(class_weights=(1.0, 1.0, 2.0), **SPHERES)),
    "too few dimensions": (BOUNDED, make(dim=1, **SPHERES)),
    "no bound at all": (BOUNDED, make(decays=(1e-2, 1e-2))),
    "one side unbounded": (BOUNDED, make(features=ufm.Ball(1.0))),
    "non-negative in a ball": (BOUNDED, make(classifier=ufm.Ball(1.0), features=ufm.Nonnegative())),
    "smoothing's targets within reach": (
        BOUNDED,
        make(loss=ufm.LabelSmoothing(0.1), features=ufm.Sphere(3.0), classifier=ufm.Sphere(3.0)),
    ),
    "squared error on spheres": (BOUNDED, make(loss=SE, **SPHERES)),
    "focal loss on spheres": (BOUNDED, make(loss=ufm.Focal(2.0), **SPHERES)),
    "room for a simplex": (CODES, make(dim=2, **SPHERES)),
    "codes with a bias": (CODES, make((5,) * 6, dim=3, bias=True, **SPHERES)),
    "codes on a line": (CODES, make(dim=1, **SPHERES)),
    "codes of decayed factors": (CODES, make((5,) * 6, dim=3, decays=(1e-2, 1e-2))),
    "imbalanced polygon": (POLYGON, make((5, 4, 3, 2, 1), dim=2, **SPHERES)),
    "polygon in space": (POLYGON, make((5,) * 6, dim=3, **SPHERES)),
    "fixed with a bias": (FIXED[CE], make(bias=True, features=ufm.Ball(1.0), classifier=ETF)),
    "fixed to no simplex": (FIXED[CE], make(features=ufm.Ball(1.0), classifier=BENT)),
    "fixed to zeros": (FIXED[CE], make(features=ufm.Ball(1.0), classifier=ufm.Fixed(np.zeros((K, D))))),
    "fixed without bound": (FIXED[CE], make(classifier=ETF)),
    "fixed for non-negative features": (FIXED[CE], make(classifier=ETF, **{**POSITIVE, "decays": (1e-2, 0.0)})),
    "fixed under squared error": (FIXED[CE], make(loss=SE, features=ufm.Ball(1.0), classifier=ETF)),
    "dot regression on the ends of a line": (
        FIXED["dot"],
        make([3, 3], 1, ufm.DotRegression(0.5), ufm.Sphere(1.0), ufm.Fixed.etf(2, 1)),
    ),
    "non-negative in too few dimensions": (DECOUPLED, make(dim=2, **POSITIVE)),
    "non-negative, imbalanced with a bias": (DECOUPLED, make(SKEWED, bias=True, **POSITIVE)),
    "two non-negative classes with a bias": (DECOUPLED, make((5, 5), bias=True, **POSITIVE)),
    "non-negative frame, bias": (FRAME, make(loss=SE, bias=True, **POSITIVE)),
    "non-negative frame, decayed bias": (CENTRED, make(loss=SE, bias=True, lambda_b=0.1, **POSITIVE)),
    "non-negative frame, imbalanced with a bias": (CENTRED, make(SKEWED, loss=SE, bias=True, **POSITIVE)),
    "non-negative frame, bounded classifier": (FRAME, make(loss=SE, classifier=ufm.Ball(1.0), **POSITIVE)),
}


@pytest.mark.parametrize("case", BEYOND)
def test_nothing_is_said_beyond_the_assumptions(case):
    assert said(*BEYOND[case][::-1]) is None


def test_a_bias_lowers_what_a_fixed_simplex_reaches_under_imbalance():
    # why the theorem excludes it
    words = {"features": ufm.Ball(1.0), "classifier": ETF}
    without, with_bias = (ufm.minimize(make(SKEWED, bias=bias, **words), max_steps=30) for bias in (False, True))
    assert with_bias.value < without.lower_bound - 1e-2
