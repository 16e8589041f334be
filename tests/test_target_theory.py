"""Theorems about any targets: reference values to their digits, and claims that hold, and fail where perturbed."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import ufm
from ufm import theory
from ufm.theory import label_noise, next_tokens, shared_classifiers, symmetric_designs
from ufm.theory._zero_point import at_zero
from ufm.theory.formulas import TOTAL

DIGITS = {"rtol": 0, "atol": 1e-11}
BIASES = ({"bias": False}, {}, {"lambda_b": 0.05})
LOSSES = (ufm.CrossEntropy(), ufm.SquaredError(), ufm.LabelSmoothing(0.1))


def posed(rows, counts, c, weights=None, dim=8, ratio=1.0, **words):
    """A problem with targets, √(λ_A λ_H) = c and λ_A/λ_H = ratio²."""
    targets = rows if counts is None else ufm.Targets(np.array(rows, float), counts, weights=weights)
    return ufm.Problem(targets=targets, dim=dim, lambda_A=c * ratio, lambda_H=c / ratio, **words)


def said(problem, name):
    """What a theorem predicts, which must apply."""
    known = {known.name: predicted for known, predicted in theory.applicable(problem)}
    return known[name]


def about(subject, name):
    """Claims of one theorem about a problem or an optimum, by quantity."""
    found = [claim for claim in ufm.verify(subject).claims if claim.theorem == name]
    return {claim.quantity: claim for claim in found}


def assert_holds(problem, *names):
    """That every claim of every theorem about a problem holds, and that these theorems are among them."""
    report = ufm.verify(problem)
    assert report.holds, report
    assert {*names} <= {claim.theorem for claim in report.claims}
    return report


def assert_refuted(monkeypatch, best, name, *wrong):
    """That claims of a theorem fail where its prediction says something else."""
    known = theory.registry.THEOREMS[name]
    for words in wrong:
        predicted = dataclasses.replace(known.predict(best.problem), **words)
        changed = dataclasses.replace(known, predict=lambda problem, predicted=predicted: predicted)
        with monkeypatch.context() as patch:
            patch.setitem(theory.registry.THEOREMS, name, changed)
            assert any(claim.verdict == "fails" for claim in about(best, name).values()), words


@st.composite
def tables(draw, real=False):
    """(rows, counts, weights) of random groups; of probabilities and their multiples unless real."""
    M, K = draw(st.sampled_from(((5, 4), (3, 5))))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = random.normal(size=(M, K)) if real else random.dirichlet(np.full(K, 0.5), size=M)
    if not real and draw(st.booleans()):
        rows[0] *= 2.0
    weights = random.uniform(0.5, 2.0, M) if draw(st.booleans()) else None
    return rows, random.integers(1, 5, M), weights


# --- what holds for any targets --------------------------------------------------------------------------------------

SOFT = [[0.7, 0.3, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 0], [0, 0.5, 0, 0.5], [0.25, 0.25, 0.25, 0.25]]
MIXED = [
    [0.5, 0.5, 0, 0, 0],
    [0.2, 0.8, 0, 0, 0],
    [0, 0, 0.1, 0.9, 0],
    [0, 1, 0, 0, 0],
    [0, 0, 0.3, 0.3, 0.4],
    [0.2, 0.2, 0.2, 0.2, 0.2],
    [0, 0, 0, 0, 1],
    [0.6, 0, 0, 0.4, 0],
]
MIXED_COUNTS = [3, 1, 2, 5, 1, 1, 2, 2]


@settings(max_examples=8)
@given(tables(), st.floats(-4.0, -1.0), st.sampled_from(BIASES), st.sampled_from(LOSSES), st.sampled_from((0.3, 3.0)))
def test_identities_hold_at_every_optimum(table, log_c, bias, loss, ratio):
    rows, counts, weights = table
    assert_holds(
        posed(rows, counts, 10.0**log_c, weights, ratio=ratio, loss=loss, **bias),
        "identities of any targets",
        "total collapse of any targets",
    )


def test_identities_fail_where_parameters_are_others():
    p = posed(SOFT, [3, 1, 4, 2, 2], 1e-3)
    best = ufm.minimize(p)
    known = theory.registry.THEOREMS["identities of any targets"]

    def errors(**changes):
        if "means" in changes:  # which are what the classifier reads
            changes["penultimate"] = changes["means"]
        there = dataclasses.replace(_found(best), **changes)
        return {check.quantity: check.distance for check in known.checks(p, there)}

    assert max(errors().values()) < 1e-9
    assert errors(means=1.01 * best.means)["features are Aᵀ(−∇ℓ) w/(Nλ_H)"] > 1e-4
    assert errors(means=1.01 * best.means)["λ_A AᵀA − λ_H HᵀH"] > 1e-5
    assert errors(classifier=best.A + 0.01)["sum of the classifier's rows"] > 1e-4
    assert errors(means=best.means + 0.01)["sum of the features"] > 1e-4
    assert errors(means=0.0 * best.means)["‖∇ℓ‖ w √π/ĉ is at most"] > 1.0


def _found(best):
    """An optimum as checks see it."""
    from ufm.verification import _of_optimum

    return _of_optimum(best)


def test_identities_are_not_claimed_of_class_labels():
    names = {
        known.name
        for known, _ in theory.applicable(ufm.Problem(num_classes=3, dim=4, per_class=2, lambda_A=0.1, lambda_H=0.1))
    }
    assert not {"identities of any targets", "total collapse of any targets"} & names


@pytest.mark.parametrize(
    ("loss", "bias", "reach"),
    [
        (ufm.CrossEntropy(), {}, 0.120633553228),
        (ufm.SquaredError(), {}, 0.120633553228),
        (ufm.CrossEntropy(), {"bias": False}, 0.135425367249),
    ],
)
def test_total_collapse_of_soft_targets(loss, bias, reach):
    p = posed(MIXED, MIXED_COUNTS, 0.03, loss=loss, **bias)
    assert_allclose(said(p, "total collapse of any targets").thresholds[TOTAL], reach, **DIGITS)


@settings(max_examples=6)
@given(tables(), st.sampled_from(BIASES), st.sampled_from(LOSSES))
def test_the_zero_point_is_optimal_from_its_reach_on(table, bias, loss):
    rows, counts, weights = table
    p = posed(rows, counts, 1.0, weights, loss=loss, **bias)
    reach = at_zero(p).reach
    for c, degenerate in ((0.97 * reach, False), (1.03 * reach, True)):
        p = posed(rows, counts, c, weights, loss=loss, **bias)
        assert said(p, "total collapse of any targets").degenerate is degenerate
        assert_holds(p)


def test_a_wrong_zero_point_is_refuted(monkeypatch):
    p = posed(SOFT, [3, 1, 4, 2, 2], 1.0)
    right = said(p, "total collapse of any targets")
    wrong = {"value": right.value * (1 + 1e-6)}, {"degenerate": False}, {"centred_bias": right.centred_bias[::-1]}
    assert_refuted(monkeypatch, ufm.minimize(p), "total collapse of any targets", *wrong)


# --- regression ------------------------------------------------------------------------------------------------------

Y = [[1, 0.2, 0], [-1, 0.4, 0.3], [0.5, -2, 0.1], [0, 1, -0.4], [2, 1, 0.2], [-1.5, 0, 0]]
REGRESSION = "regression by spectral thresholding"


def regression(lambda_A, lambda_H, dim=5, rows=Y, counts=(1, 2, 1, 3, 1, 2), weights=None, **words):
    targets = ufm.Targets(np.array(rows, float), counts, weights=weights)
    loss = ufm.SquaredError()
    return ufm.Problem(targets=targets, dim=dim, loss=loss, lambda_A=lambda_A, lambda_H=lambda_H, **words)


@pytest.mark.parametrize(
    ("lambda_A", "lambda_H", "value", "alive"),
    [
        (0.02, 0.005, 0.067579654215, 3),
        (0.08, 0.02, 0.252318616861, 3),
        (0.18, 0.045, 0.501085556854, 2),
    ],
)
def test_regression_has_its_reference_values(lambda_A, lambda_H, value, alive):
    p = regression(lambda_A, lambda_H)
    predicted = said(p, REGRESSION)
    assert_allclose(predicted.value, value, **DIGITS)
    assert len(predicted.singular_values) == alive
    report = assert_holds(p, REGRESSION)
    assert ("NRC3" in {claim.quantity for claim in report.claims}) == (alive == 3)


def test_regression_has_the_reference_spectrum():
    p = regression(0.02, 0.005)
    from ufm.theory.regression import spectrum

    assert_allclose(spectrum(p).s[::-1] ** 2, [0.059011877706, 0.738820729592, 1.170767392702], **DIGITS)


@given(tables(real=True), st.floats(-3.0, 0.3), st.booleans(), st.sampled_from((1, 2, 6)), st.sampled_from((1.0, 2.5)))
def test_regression_holds_for_any_real_targets(table, log_c, bias, dim, weight):
    rows, counts, _ = table
    p = posed(rows, counts, 10.0**log_c, [weight] * len(rows), dim=dim, loss=ufm.SquaredError(), bias=bias, ratio=2.0)
    assert_holds(p, REGRESSION)


def test_regression_of_one_output():
    p = regression(0.02, 0.005, rows=[[1.0], [-2.0], [0.5]], counts=(2, 3, 1), dim=3)
    T = np.repeat([1.0, -2.0, 0.5], [2, 3, 1])
    price = np.sqrt(6 * 0.02 * 0.005)
    assert_allclose(said(p, REGRESSION).value, price * np.std(T) - price**2 / 2, rtol=1e-12)
    assert_holds(p, REGRESSION)


def test_regression_is_silent_about_what_is_tied():
    tied = regression(0.02, 0.005, dim=1, rows=2 * np.eye(3), counts=2)
    assert said(tied, REGRESSION).gram_A is None
    assert_holds(tied, REGRESSION)


def test_regression_is_refuted_where_it_is_wrong(monkeypatch):
    p = regression(0.08, 0.02)
    right = said(p, REGRESSION)
    wrong = (
        {"value": right.value * (1 + 1e-6)},
        {"gram_A": right.gram_A[::-1, ::-1]},
        {"norm_H": 1.01 * right.norm_H},
        {"bias": right.bias + 0.01},
        {"degenerate": True},
    )
    best = ufm.minimize(p)
    assert_refuted(monkeypatch, best, REGRESSION, *wrong)
    spectrum = theory.regression.spectrum
    monkeypatch.setattr(theory.regression, "spectrum", lambda p: spectrum(dataclasses.replace(p, lambda_A=0.081)))
    failed = {name for name, claim in about(best, REGRESSION).items() if claim.verdict == "fails"}
    assert {"outputs are affine in the targets", "mean squared residual", "minimum of the objective"} <= failed


# --- symmetric designs -----------------------------------------------------------------------------------------------

DESIGNS = "symmetric designs"
FANO = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]


def orbit(row):
    """Every order of a row."""
    return sorted(set(itertools.permutations(row)))


def affine_orbit(row):
    """A row of five along x → ax + b mod 5, a 2-transitive group."""
    return [[row[(a * x + b) % 5] for x in range(5)] for a in range(1, 5) for b in range(5)]


def of_parts(parts, c, **words):
    """A problem whose groups are several kinds of rows, each with a count and a weight."""
    rows, counts, weights = zip(*((row, n, w) for rows, n, w in parts for row in rows), strict=True)
    return posed(rows, counts, c, weights, **words)


def multilabel(K, sets, **words):
    return ufm.Problem(targets=ufm.targets.multilabel(K, sets), dim=8, **{"lambda_A": 1e-2, "lambda_H": 4e-4, **words})


MIXUP = {0.5: 1, 0.6: 2, 0.75: 2, 0.9: 2}
DESIGNED = {  # value, σ
    "orbit and classes": (
        lambda: of_parts([(orbit((0.6, 0.2, 0.1, 0.1)), 1, 1), (np.eye(4), 2, 1)], 0.01),
        0.857238946825,
        1.206272228548,
    ),
    "weighted orbits": (
        lambda: of_parts([(orbit((0.5, 0.5, 0)), 2, 2.0), (orbit((0.8, 0.15, 0.05)), 1, 1)], 0.02),
        1.222915785519,
        1.213055724971,
    ),
    "outliers": (
        lambda: of_parts([(np.eye(5), 3, 1), (np.full((5, 5), 0.2), 1, 1)], 0.01),
        0.729405460883,
        1.421871659589,
    ),
    "affine, little decay": (
        lambda: of_parts([(affine_orbit((0.5, 0.3, 0.1, 0.1, 0)), 1, 1)], 1e-3),
        1.204731764436,
        None,
    ),
    "affine": (lambda: of_parts([(affine_orbit((0.5, 0.3, 0.1, 0.1, 0)), 1, 1)], 0.02), 1.493625957058, None),
    "labels and pairs": (lambda: multilabel(4, {1: 3, 2: 2}), 0.788455562450, None),
    "few labels, many pairs": (lambda: multilabel(4, {1: 1, 2: 10}), 1.445348815256, None),
    "pairs": (lambda: multilabel(4, {2: 3}), 1.473147094507, None),
    "up to triples": (lambda: multilabel(5, {1: 2, 2: 1, 3: 4}), 2.601564913114, None),
    "labels and Fano's plane": (
        lambda: multilabel(7, {1: 2, **dict.fromkeys(FANO, 1)}, lambda_A=0.02, lambda_H=0.02),
        2.037268871604,
        None,
    ),
    "mixup of three": (lambda: posed(ufm.targets.mixup(3, MIXUP, 4), None, 0.004), 0.561627810234, 1.795569120854),
    "mixup": (lambda: posed(ufm.targets.mixup(4, MIXUP, 4), None, 0.004), 0.715887166219, 1.601602409496),
}


@pytest.mark.parametrize("name", DESIGNED)
def test_symmetric_designs_have_their_reference_values(name):
    pose, value, sigma = DESIGNED[name]
    p = pose()
    predicted = said(p, DESIGNS)
    assert_allclose(predicted.value, value, **DIGITS)
    if sigma is not None:
        assert_allclose(predicted.singular_values / np.sqrt(p.num_samples), sigma, **DIGITS)
    assert_holds(p, DESIGNS)


@pytest.mark.parametrize("bias", BIASES)
def test_symmetric_designs_use_no_bias(bias):
    p = of_parts([(orbit((0.6, 0.2, 0.1, 0.1)), 1, 1), (np.eye(4), 2, 1)], 0.01, **bias)
    assert_allclose(said(p, DESIGNS).value, 0.857238946825, **DIGITS)
    assert_holds(p, DESIGNS)


def test_margins_of_sets_are_the_reference_ones():
    for p, margins in (
        (multilabel(4, {1: 3, 2: 2}), [4.746084870708, 5.319280229644]),
        (DESIGNED["labels and Fano's plane"][0](), [2.444769796672, 3.168464636809]),
    ):
        found = np.ptp(symmetric_designs.design(p).Z, axis=1)
        assert_allclose(sorted({round(t, 10) for t in found}), margins, atol=1e-10)
        quantities = {
            "features of a set are (t_m/t_1) Σ of its labels'",
            "cosine of a set and its label is √((K−m)/(m(K−1)))",
        }
        assert quantities <= set(about(p, DESIGNS))
    assert_allclose(
        said(multilabel(4, {1: 3, 2: 2}), DESIGNS).norm_A ** 2, 3 * np.sqrt(0.04) * 13.228208982484, rtol=1e-11
    )


def test_mixup_has_its_channels():
    p = posed(ufm.targets.mixup(4, MIXUP, 4), None, 0.004)
    assert about(p, DESIGNS)["features of mixed pairs are in the plane of their classes"].verdict == "holds"
    Z, T = symmetric_designs.design(p).Z, np.asarray(p.targets.rows)
    for lam, coordinates in ((0.6, (2.838701, 2.426844)), (0.9, (3.379509, 1.227082))):
        z = Z[np.flatnonzero((T[:, 0] == lam) & (T[:, 1] > 0))[0]]
        assert_allclose(z[:2] - z[2], coordinates, atol=1e-6)
    assert_allclose(np.ptp(Z[0]), 3.696914, atol=1e-6)


def test_mixup_of_a_fresh_share_at_every_step():
    samples = 10**11
    targets = ufm.targets.mixup(10, ufm.targets.beta(1.0, samples, points=100), samples)
    p = ufm.Problem(targets=targets, dim=9, lambda_A=0.01, lambda_H=0.01 / targets.num_samples)
    assert_allclose(symmetric_designs.design(p).value, 0.655640928806, rtol=0, atol=1e-10)


def test_rows_decouple_with_a_fixed_classifier_too():
    theta, T = 4 * 2.5 / (3 * 0.03), np.array([[0.6, 0.4, 0.0, 0.0]])
    z = symmetric_designs.rows_at(T, np.array([theta]))
    value = np.logaddexp.reduce(z[0]) - T[0] @ z[0] + np.sum(z**2) / (2 * theta)
    assert_allclose(value, 0.757559625769, **DIGITS)


@given(tables(), st.floats(-6.0, 6.0))
def test_rows_solve_their_equations(table, log_theta):
    T, theta = table[0] / table[0].sum(axis=1, keepdims=True), np.full(len(table[0]), 10.0**log_theta)
    z = symmetric_designs.rows_at(T, theta)
    p = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
    assert_allclose(z / theta[:, None], T - p, rtol=0, atol=1e-14)


def test_no_design_is_claimed_where_there_is_none():
    matching = multilabel(4, {1: 2, (0, 1): 1, (2, 3): 1})
    imbalanced = multilabel(4, {(0,): 8, (1,): 4, (2,): 2, (3,): 1, 2: 2}, lambda_A=1e-3, lambda_H=1e-3, bias=False)
    assert_allclose(ufm.minimize(imbalanced).value, 0.671152354004, **DIGITS)
    for p in (matching, imbalanced, posed(SOFT, [3, 1, 4, 2, 2], 1e-3)):
        assert DESIGNS not in {known.name for known, _ in theory.applicable(p)}


def test_wrong_designs_are_refuted(monkeypatch):
    p = multilabel(4, {1: 3, 2: 2}, bias=False)
    best, right = ufm.minimize(p), said(p, DESIGNS)
    wrong = {"value": right.value * (1 + 1e-6)}, {"gram_A": np.diag([1, 1, 1, 2.0])}, {"norm_A": 1.01 * right.norm_A}
    assert_refuted(monkeypatch, best, DESIGNS, *wrong)
    solved = symmetric_designs.design(p)
    stretched = solved._replace(Z=solved.Z * np.where(np.arange(10) < 4, 1.01, 1.0)[:, None])
    monkeypatch.setattr(symmetric_designs, "design", lambda p: stretched)
    failed = {name for name, claim in about(best, DESIGNS).items() if claim.verdict == "fails"}
    assert {"features are Aᵀz/σ √(λ_A/(Nλ_H))", "features of a set are (t_m/t_1) Σ of its labels'"} <= failed


# --- outputs that share a classifier ---------------------------------------------------------------------------------

SHARED = "outputs that share a classifier"
EXCHANGED = [
    [0.5, 0.2, 0.1, 0.1, 0.1],
    [0.2, 0.5, 0.1, 0.1, 0.1],
    [0.05, 0.15, 0.3, 0.3, 0.2],
    [0.15, 0.05, 0.3, 0.3, 0.2],
    [0.1, 0.1, 0.8, 0, 0],
    [0, 0, 0.2, 0.5, 0.3],
    [0.3, 0.3, 0.1, 0.1, 0.2],
    [0, 0, 0, 0, 1],
]


def exchanged(c, **words):
    return posed(EXCHANGED, [2, 2, 1, 1, 3, 2, 1, 4], c, [1, 1, 2, 2, 1, 0.5, 1, 1], **words)


def test_outputs_merge_at_the_reference_threshold():
    p = exchanged(0.02, bias=False)
    assert said(p, SHARED).thresholds == {"c at which outputs 0 and 1 merge": pytest.approx(0.029315098499, abs=1e-11)}
    assert_allclose(ufm.minimize(p).value, 1.316907473089, **DIGITS)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", BIASES)
def test_outputs_share_a_classifier_from_their_threshold_on(loss, bias):
    (reach,) = said(exchanged(0.02, loss=loss, **bias), SHARED).thresholds.values()
    for c, shared in ((0.97 * reach, False), (1.03 * reach, True)):
        p = exchanged(c, loss=loss, **bias)
        assert_holds(p, SHARED)
        assert about(p, SHARED)["outputs 0 and 1 share a classifier"].predicted is shared


def test_a_wrong_threshold_is_refuted(monkeypatch):
    best = ufm.minimize(exchanged(0.02, bias=False))
    ((alike, reach),) = shared_classifiers.exchangeable(best.problem)
    monkeypatch.setattr(shared_classifiers, "exchangeable", lambda p: (shared_classifiers.Alike(alike, 0.6 * reach),))
    assert about(best, SHARED)["outputs 0 and 1 share a classifier"].verdict == "fails"
    monkeypatch.setattr(shared_classifiers, "exchangeable", lambda p: (shared_classifiers.Alike((0, 2), reach),))
    assert about(best, SHARED)["slopes that keep outputs 0 and 2 apart"].verdict == "fails"


def test_one_pair_of_groups_has_its_probabilities_apart_by_what_decay_leaves():
    rows = [[0.6, 0.1, 0.3, 0], [0.1, 0.6, 0.3, 0], [0.2, 0.2, 0.1, 0.5]]
    p = posed(rows, [2, 2, 3], 0.02)
    best = ufm.minimize(p)
    z = best.means @ best.A.T + best.b
    q = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
    assert_allclose(q[0, 0] - q[0, 1], 0.5 - np.sqrt(7) * 0.02 / np.sqrt(2 / 7), atol=1e-9)


@settings(max_examples=6)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.3, 0.9, 1.1, 2.0)), st.sampled_from(LOSSES))
def test_sharing_holds_for_any_exchangeable_targets(seed, share, loss):
    random = np.random.default_rng(seed)
    half = random.dirichlet(np.ones(4), size=2)
    alone = random.dirichlet(np.ones(4), size=1)
    alone[:, 1] = alone[:, 0]
    rows = np.concatenate([half, half[:, [1, 0, 2, 3]], alone])
    counts, weights = [1, 2, 1, 2, 3], [1.0, 1.5, 1.0, 1.5, 0.7]
    (reach,) = said(posed(rows, counts, 0.01, weights, loss=loss, bias=False), SHARED).thresholds.values()
    assert_holds(posed(rows, counts, share * reach, weights, loss=loss, bias=False), SHARED)


def test_nothing_is_shared_without_the_exchange():
    for rows, counts in ((SOFT, [3, 1, 4, 2, 2]), (EXCHANGED[:3], [2, 2, 1]), (EXCHANGED, [1, 2, 1, 1, 3, 2, 1, 4])):
        found = shared_classifiers.exchangeable(posed(rows, counts, 0.01))
        assert not any({0, 1} <= {*alike.outputs} for alike in found)


def test_sets_of_outputs_are_exchangeable_as_a_whole():
    (alike,) = shared_classifiers.exchangeable(multilabel(6, {1: 2, 2: 1}))
    assert alike.outputs == (0, 1, 2, 3, 4, 5)
    assert str(alike) == "outputs 0, 1, 2 and 3 more"
    assert [each.outputs for each in shared_classifiers.exchangeable(multilabel(4, {1: 2, (0, 1): 1}))] == [
        (0, 1),
        (2, 3),
    ]


# --- probabilities linear in decay -----------------------------------------------------------------------------------

LINEAR = "probabilities linear in decay"
FLIPPED = np.kron(np.eye(3), [[0.8, 0.2], [0.2, 0.8]])
SPREAD = np.kron(np.eye(3), [[0.6, 0.2], [0.2, 0.6]]) + 1 / 30
CIRCULANT = np.array([np.roll([0.1, 0.05, 0.05, 0.7, 0.05, 0.05], k) for k in range(6)])
FANO_ROWS = np.array([[k in line for k in range(7)] for line in FANO]) / 3
FIXED = {  # rows, κ = c√n with n = 2, value
    "pair flips": (FLIPPED, 0.02, 0.895742402370),
    "spread pair flips": (SPREAD, 0.02, 1.308418399581),
    "circulant": (CIRCULANT, 0.01, 1.198027707933),
    "disjoint sets": (np.kron(np.eye(4), np.ones((1, 3))) / 3, 0.02, 1.546401691477),
    "Fano's plane": (FANO_ROWS, 0.01 * np.sqrt(2), 1.500059128635),
}


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", FIXED)
def test_probabilities_linear_in_decay_have_their_reference_values(name, bias):
    rows, kappa, value = FIXED[name]
    p = posed(rows, 2, kappa / np.sqrt(2), dim=12, **bias)
    assert_allclose(said(p, LINEAR).value, value, **DIGITS)
    assert_holds(p, LINEAR)


def test_no_frame_is_claimed_where_none_is_fixed():
    for p in (posed(SOFT, [3, 1, 4, 2, 2], 1e-3), posed(FLIPPED, 2, 0.2, dim=12)):
        assert LINEAR not in {known.name for known, _ in theory.applicable(p)}


def test_a_wrong_frame_is_refuted(monkeypatch):
    best = ufm.minimize(posed(SPREAD, 2, 0.02 / np.sqrt(2), dim=12, bias=False))
    right = said(best.problem, LINEAR)
    wrong = {"value": right.value * (1 + 1e-6)}, {"gram_A": np.eye(6) - 1 / 6}, {"norm_A": 1.01 * right.norm_A}
    assert_refuted(monkeypatch, best, LINEAR, *wrong)


# --- label noise -----------------------------------------------------------------------------------------------------

NOISE = "label noise"


def test_label_noise_has_its_reference_value():
    p = posed(ufm.targets.noisy(4, 0.2, 15), None, 0.01)
    assert_allclose(said(p, NOISE).value, 0.971333446620, **DIGITS)
    assert_holds(p, NOISE)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.LabelSmoothing(0.1)])
def test_label_noise_is_smoothing_whatever_the_counts(bias, loss):
    p = posed(ufm.targets.noisy(4, 0.15, [9, 9, 2, 2]), None, 0.02, loss=loss, **bias)
    assert said(p, NOISE).value is not None
    assert_holds(p, NOISE)


def test_noise_that_is_not_symmetric_is_not_smoothing(monkeypatch):
    p = posed(ufm.targets.noisy(4, [[0.8, 0.2, 0, 0], [0.2, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], 3), None, 0.02)
    assert NOISE not in {known.name for known, _ in theory.applicable(p)}
    p = posed(ufm.targets.noisy(4, 0.15, 5), None, 0.02, bias=False)
    best, other = ufm.minimize(p), label_noise.as_labels(p)
    monkeypatch.setattr(label_noise, "as_labels", lambda p: dataclasses.replace(other, loss=ufm.LabelSmoothing(0.19)))
    claims = about(best, NOISE)
    assert claims["minimum with labels and smoothing"].verdict == "fails"
    assert claims["minimum of the objective"].verdict == "fails"


# --- next tokens -----------------------------------------------------------------------------------------------------

TOKENS = "next tokens"
CONTEXTS = [[0.7, 0.3, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0.2, 0.3, 0.5], [1, 0, 0, 0, 0], [0, 0, 0, 0.9, 0.1]]
OCCURRENCES = [3, 1, 2, 1, 4]


def test_next_tokens_have_their_reference_values():
    p = posed(CONTEXTS, OCCURRENCES, 1e-4, bias=False)
    assert_allclose(said(p, TOKENS).bounds[0], 0.535034364402, **DIGITS)
    best = ufm.minimize(p)
    assert_allclose(best.value, 0.539779617535, **DIGITS)
    weighted = np.sqrt(OCCURRENCES)[:, None] * next_tokens.limit(p)
    assert_allclose(np.linalg.norm(weighted, "nuc"), 5.541996632042, **DIGITS)
    z = best.means @ best.A.T
    errors = np.where(np.array(CONTEXTS) > 0, z - np.log(np.maximum(CONTEXTS, 1e-300)), np.nan)
    off = np.nanmax(errors, axis=1) - np.nanmin(errors, axis=1)
    assert_allclose(np.max(off), 1.45e-3, atol=1e-5)


@pytest.mark.parametrize("bias", BIASES)
def test_next_tokens_hold(bias):
    p = posed(CONTEXTS, OCCURRENCES, 1e-2, **bias)
    report = assert_holds(p, TOKENS)
    trends = [claim for claim in report.claims if claim.predicted == "falling"]
    assert len(trends) == (p.bias_kind == "none")


def test_next_tokens_hold_where_each_context_decays_once():
    counts = [[7, 3, 0, 0], [0, 2, 2, 0], [0, 0, 1, 9], [5, 0, 0, 0], [0, 0, 0, 4]]
    assert_holds(posed(ufm.targets.next_token(counts, per_context=True), None, 1e-3, bias=False), TOKENS)


def test_the_limit_is_not_always_the_supports():
    rows = [[0, 0.5, 0, 0.5], [0, 0.5, 0.5, 0], [1, 0, 0, 0]]
    assert next_tokens.limit(posed(rows, 1, 1e-3, bias=False)) is None


def test_wrong_next_tokens_are_refuted(monkeypatch):
    monkeypatch.setattr(next_tokens, "DECAYS", (0.1,))
    best = ufm.minimize(posed(CONTEXTS, OCCURRENCES, 1e-2, bias=False))
    least, most = said(best.problem, TOKENS).bounds
    assert_refuted(monkeypatch, best, TOKENS, {"bounds": (least, 0.9 * least)}, {"bounds": (most, most)})
    present, allowed = best.means @ best.A.T, next_tokens._allowed
    with monkeypatch.context() as patch:
        patch.setattr(next_tokens, "limit", lambda p: present)
        assert about(best, TOKENS)["distance of logits to the limit's direction"].verdict == "fails"
    monkeypatch.setattr(next_tokens, "_allowed", lambda groups: 0.01 * allowed(groups))
    claims = about(best, TOKENS)
    assert claims["probability off the support, share of its bound, is at most"].verdict == "fails"
    assert claims["log-odds in the support, share of their bound, is at most"].verdict == "fails"
