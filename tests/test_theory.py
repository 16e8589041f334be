"""Every prediction against something that doesn't know it: optimality conditions, or a solver of the model itself."""

import dataclasses

import jax
import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import optimize

import ufm
from ufm import geometry, theory
from ufm.theory import cross_entropy, imbalanced_squared_error, seli, squared_error
from ufm.theory.focal import Margins, focal
from ufm.theory.formulas import TOTAL
from ufm.theory.imbalanced_cross_entropy import minority_collapse, total_collapse, two_groups
from ufm.theory.registry import nothing_more

BIASES = ("none", "free", "regularised")


def make(loss, counts, dim, c, ratio=1.0, bias="none", weights=None, lambda_b=0.1):
    """A problem with √(λ_A λ_H) = c and λ_A/λ_H = ratio²."""
    return ufm.Problem(
        num_classes=len(counts),
        dim=dim,
        per_class=counts,
        loss=loss,
        lambda_A=c * ratio,
        lambda_H=c / ratio,
        lambda_b=lambda_b if bias == "regularised" else 0.0,
        bias=bias != "none",
        class_weights=weights,
    )


def case(*words):
    """What `make` takes, for strategies: checks of types at run time draw random numbers, which they may not."""
    return words


def with_c(problem, c):
    """The same problem at another c = √(λ_A λ_H)."""
    factor = c / np.sqrt(problem.lambda_A * problem.lambda_H)
    return dataclasses.replace(problem, lambda_A=factor * problem.lambda_A, lambda_H=factor * problem.lambda_H)


FAMILIES = ("cross_entropy", "focal", "imbalanced_cross_entropy", "imbalanced_squared_error", "seli", "squared_error")


def applicable(problem):
    """The closed forms that apply, in order."""
    families = [f"{theory.__name__}.{family}" for family in FAMILIES]
    return [known for known in theory.theorems() if known.predict.__module__ in families and known.applies(problem)]


def predictions(problem):
    """By name, whatever the closed forms say of a problem."""
    return {known.name: known.predict(problem) for known in applicable(problem)}


def decays():
    """Shares of the threshold of total collapse, mostly below."""
    return st.floats(-5.0, 0.3).map(lambda x: 10.0**x)


ratios = st.floats(-1.0, 1.0).map(lambda x: 10.0**x)
smooth_losses = st.one_of(st.just(ufm.CrossEntropy()), st.floats(0.0, 0.9).map(lambda alpha: ufm.LabelSmoothing(alpha)))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads of linear algebra wait for each other longer than these matrices take."""
    with threadpoolctl.threadpool_limits(1):
        yield


# --- the model in NumPy, one row of features a class (exact for convex losses, T8: the mean of a class does better)


def losses(loss, Z, labels):
    """Losses of rows of logits, and their gradients."""
    K = Z.shape[1]
    Y = np.eye(K)[labels]
    if isinstance(loss, ufm.SquaredError):
        return 0.5 * np.sum((Z - Y) ** 2, axis=1), Z - Y
    top = np.max(Z, axis=1, keepdims=True)
    log_p = Z - top - np.log(np.sum(np.exp(Z - top), axis=1, keepdims=True))
    p = np.exp(log_p)
    if isinstance(loss, ufm.Focal):
        gamma, right = loss.gamma, p[Y == 1]
        wrong, log_right = np.sum(p * (1 - Y), axis=1), log_p[Y == 1]
        slope = -(wrong**gamma) * (wrong - gamma * right * log_right)  # in the right logit
        share = np.where(
            Y == 1, -1.0, p / np.maximum(wrong, np.finfo(float).tiny)[:, None]
        )  # softmax depends on the others through their sum of exp
        return -(wrong**gamma) * log_right, -slope[:, None] * share
    alpha = loss.alpha if isinstance(loss, ufm.LabelSmoothing) else 0.0
    T = (1 - alpha) * Y + alpha / K
    return -np.sum(T * log_p, axis=1), p - T


def class_weights(problem):
    return np.ones(problem.num_classes) if problem.class_weights is None else np.asarray(problem.class_weights)


def objective(problem, M, A, b, labels=None):
    """Value and gradients at features M, one row a class, or one a sample where `labels` are given."""
    counts = problem.class_counts if labels is None else np.ones(problem.num_samples)
    labels = np.arange(problem.num_classes) if labels is None else labels
    mass = class_weights(problem)[labels] * counts / problem.num_samples
    each, slopes = losses(problem.loss, M @ A.T + b, labels)
    V = mass[:, None] * slopes
    decay = problem.lambda_A * np.sum(A**2) + problem.lambda_H * counts @ np.sum(M**2, axis=1)
    value = mass @ each + 0.5 * (decay + problem.lambda_b * b @ b)
    dM = V @ A + problem.lambda_H * counts[:, None] * M
    return value, dM, V.T @ M + problem.lambda_A * A, np.sum(V, axis=0) + problem.lambda_b * b, V


def solved(problem, seeds=3, scale=1.0, per_sample=False):
    """Least value that L-BFGS finds, and where: (value, M, A, b)."""
    labels = problem.labels if per_sample else None
    rows, K, d = problem.num_samples if per_sample else problem.num_classes, problem.num_classes, problem.dim
    cut = np.cumsum([rows * d, K * d])

    def split(x):
        M, A, b = np.split(x, cut)
        return M.reshape(rows, d), A.reshape(K, d), b

    def fun(x):
        value, dM, dA, db, _ = objective(problem, *split(x), labels)
        return value, np.concatenate([dM.ravel(), dA.ravel(), db * problem.bias])

    scale_of_gradients = np.sqrt(problem.lambda_A * problem.lambda_H)
    best = None
    for seed in range(seeds):
        start = scale * np.random.default_rng(seed).normal(size=cut[-1] + K)
        start[cut[-1] :] = 0.0
        found = optimize.minimize(
            fun,
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-6 * scale_of_gradients, "maxcor": 30},
        )
        if best is None or found.fun < best.fun:
            best = found
    return best.fun, *split(best.x)


def factors(problem, said):
    """Class means and classifier of the predicted Grams and norms, turned towards each other.

    A = V S^{1/2} and D^{1/2}M = X S^{1/2} R: eigenvectors of either Gram, those of one value of S aligned by the polar
    factor of XᵀV; where the two Grams are one, X = V.
    """

    def eigen(G):
        values, vectors = np.linalg.eigh(G / np.trace(G))
        return np.where(values > 1e-13, values, 0.0), vectors

    D = np.sqrt(problem.class_counts)[:, None]
    (s, V), (t, X) = eigen(said.gram_A), eigen(D * said.gram_H * D.T)
    assert_allclose(t, s, atol=1e-9)
    if problem.balanced:
        t, X = s, V
    for same in np.split(np.arange(len(s)), np.flatnonzero(np.diff(s) > 1e-9) + 1):
        left, _, right = np.linalg.svd(X[:, same].T @ V[:, same])
        X[:, same] = X[:, same] @ left @ right
    return said.norm_H * X * np.sqrt(t) / D, said.norm_A * V * np.sqrt(s)


def bias_of(problem, said):
    known = said.bias if said.bias is not None else said.centred_bias
    return np.zeros(problem.num_classes) if known is None else known


def assert_globally_optimal(problem, said, tol=1e-8):
    """The predicted point has the predicted value, is critical, and no direction of logits gains more than it costs.

    For a convex loss 0 ∈ ∂ of Σ mass ℓ(Z) + c‖Z‖_* + λ_b‖b‖²/2 is: D^{-1/2}U has norm at most c and is c X Vᵀ on Z's
    singular vectors (which is what criticality of the factors says), and 1ᵀU = λ_b b.
    """
    K = problem.num_classes
    c = np.sqrt(problem.lambda_A * problem.lambda_H)
    M, A = (np.zeros((K, K)), np.zeros((K, K))) if said.degenerate else factors(problem, said)
    b = bias_of(problem, said)
    value, dM, dA, db, V = objective(problem, M, A, b)
    assert_allclose(value, said.value, rtol=1e-11, atol=1e-15)
    n, norm_A, norm_M = problem.class_counts, np.linalg.norm(A), np.linalg.norm(M)
    noise = 1e-12 * np.max(class_weights(problem) * n) / np.sum(n)  # of V, with eigenvectors of values close together
    assert np.linalg.norm(dA) < tol * problem.lambda_A * norm_A + noise * (norm_M + 1e-9)
    assert np.linalg.norm(dM) < tol * problem.lambda_H * norm_M * np.max(n) + noise * (norm_A + 1e-9)
    if problem.bias:
        assert np.linalg.norm(db) < tol * np.max(np.abs(V)) + K * noise
    assert np.linalg.norm(V / np.sqrt(n)[:, None], 2) < c * (1 + tol) + K * noise


def assert_consistent(problem, said):
    """Norms, singular values, deaths and merges all say what the Grams say."""
    M, A = factors(problem, said)
    D = np.sqrt(problem.class_counts)[:, None]
    values = np.linalg.svd(D * M @ A.T, compute_uv=False)
    assert_allclose(values[: len(said.singular_values)], said.singular_values, rtol=1e-6)
    assert np.all(values[len(said.singular_values) :] < 1e-6 * values[0])
    if said.norms_A is not None:
        assert_allclose(np.linalg.norm(A, axis=1), said.norms_A, atol=1e-6 * said.norm_A)
        assert_allclose(np.linalg.norm(M, axis=1), said.norms_H, atol=1e-6 * said.norm_H)
    if said.dead is not None:
        assert_allclose(said.norms_A == 0, said.dead)
    for group in said.merged or ():
        assert_allclose(A[list(group)], np.broadcast_to(A[group[0]], (len(group), A.shape[1])), atol=1e-6 * said.norm_A)


# --- balanced classes


@st.composite
def balanced(draw, loss, most=30, least_dim=-1):
    """Balanced problems of many sizes with d ≥ K + least_dim."""
    K, n = draw(st.integers(2, most)), draw(st.sampled_from((1, 3, 100, 5000)))
    w = draw(st.sampled_from((1.0, 0.3)))
    c = draw(decays()) * w / (K * np.sqrt(n))
    d = max(1, K + draw(st.integers(least_dim, 3)))
    bias, lambda_b = draw(st.sampled_from(BIASES)), 10.0 ** draw(st.floats(-4, 1))
    weights = None if w == 1.0 else [w] * K
    return case(draw(loss), [n] * K, d, c, draw(ratios), bias, weights, lambda_b)


@given(balanced(smooth_losses))
def test_balanced_cross_entropies_are_globally_optimal_at_a_simplex(drawn):
    problem = make(*drawn)
    known = predictions(problem)
    name = "simplex ETF" if isinstance(problem.loss, ufm.CrossEntropy) else "simplex ETF under label smoothing"
    said = known[name]
    if said.degenerate is None:
        return
    assert_globally_optimal(problem, said)
    if not said.degenerate:
        assert_consistent(problem, said)
        simplex = geometry.simplex_etf(problem.num_classes, problem.num_classes)
        assert_allclose(
            said.gram_A / np.linalg.norm(said.gram_A),
            simplex @ simplex.T / np.linalg.norm(simplex @ simplex.T),
            atol=1e-12,
        )


def test_cross_entropy_by_hand():
    # K = 2, n = 1, κ = c = 1/4: wrong probability 1/4, margin t = log 3, f the entropy of (3/4, 1/4)
    said = cross_entropy.cross_entropy(make(ufm.CrossEntropy(), [1, 1], 1, 0.25))
    assert said.value == pytest.approx(0.75 * np.log(4 / 3) + 0.25 * np.log(4), rel=1e-14)
    assert_allclose(said.singular_values, [np.log(3)], rtol=1e-14)


@given(balanced(st.just(ufm.SquaredError()), least_dim=0))
def test_balanced_squared_error_is_globally_optimal_at_its_frame(drawn):
    problem = make(*drawn)
    said = squared_error.squared_error(problem)
    if said.degenerate is None or (not said.degenerate and said.gram_A is None):
        return
    assert_globally_optimal(problem, said)
    if not said.degenerate:
        assert_consistent(problem, said)


@given(st.integers(2, 12), st.floats(0.01, 0.9), st.floats(-3, 3), st.integers(1, 50))
def test_squared_error_with_decayed_bias_lies_between_none_and_free(K, share, log_decay, n):
    c, d = share / (K * np.sqrt(n)), K + 1
    problems = [make(ufm.SquaredError(), [n] * K, d, c, bias=bias, lambda_b=10**log_decay) for bias in BIASES]
    none, free, between = (squared_error.squared_error(problem) for problem in problems)
    assert free.value <= between.value * (1 + 1e-14)
    assert between.value <= none.value * (1 + 1e-14)
    # λ_b → 0 frees the bias, λ_b → ∞ takes it away: the differences are of first order in λ_b and 1/λ_b
    for lambda_b, end in ((1e-10, free), (1e10, none)):
        last = make(ufm.SquaredError(), [n] * K, d, c, bias="regularised", lambda_b=lambda_b)
        assert squared_error.squared_error(last).value == pytest.approx(end.value, abs=1e-9)
    # where the common mode dies the two formulas meet: κ − Kκ²/2μ = μ/2K at μ = Kκ
    mu = share
    at = mu / (1 - mu)
    left, right = (
        squared_error.squared_error(make(ufm.SquaredError(), [n] * K, d, c, bias="regularised", lambda_b=at * (1 + e)))
        for e in (-1e-3, 1e-3)
    )
    assert left.value == pytest.approx(right.value, rel=1e-2)
    assert len(left.singular_values) == K - 1
    assert len(right.singular_values) == K


def test_squared_error_by_hand():
    # K = 2, n = 1, c = 1/8, no bias: each of two directions costs ½·½(1 − s)² + s/8, s = 3/4: 1/64 + 3/32 = 7/64
    said = squared_error.squared_error(make(ufm.SquaredError(), [1, 1], 2, 0.125))
    assert said.value == pytest.approx(2 * 7 / 64, rel=1e-14)
    # d = 1 leaves one of them: the other costs ½·½ = 1/4
    assert squared_error.squared_error(make(ufm.SquaredError(), [1, 1], 1, 0.125)).value == pytest.approx(
        7 / 64 + 1 / 4
    )


@given(
    st.integers(2, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.floats(0.05, 1.1),
    st.sampled_from(BIASES),
    st.sampled_from((0.01, 0.3, 3.0)),
)
def test_squared_error_in_any_dimension_against_a_solver(K, d, n, share, bias, lambda_b):
    problem = make(ufm.SquaredError(), [n] * K, d, share / (K * np.sqrt(n)), 2.0, bias, lambda_b=lambda_b)
    said = squared_error.squared_error(problem)
    value, _, _, b = solved(problem, seeds=4)
    assert said.value == pytest.approx(value, rel=1e-8)
    if bias != "none" and said.bias is not None:
        assert_allclose(b, said.bias, atol=1e-4)


# --- focal loss


@given(st.integers(2, 6), st.integers(1, 2), st.floats(0.0, 3.0), st.floats(0.05, 1.2), st.booleans())
def test_focal_against_a_solver_of_every_sample(K, n, gamma, share, bias):
    steepest = Margins(K, gamma).steepest_chord()
    c = share * steepest / ((K - 1) * np.sqrt(n))
    problem = make(ufm.Focal(gamma), [n] * K, K - 1, c, 1.5, "free" if bias else "none")
    said = predictions(problem).get("simplex ETF under focal loss")
    if said is None:  # with a bias only the proved range is claimed
        assert bias
        assert share * steepest >= min(1.0, Margins(K, gamma).descent(0.0)) * (1 - 1e-12)
        return
    value, M, A, _ = solved(problem, seeds=4, scale=3.0, per_sample=True)
    assert said.value == pytest.approx(value, rel=1e-8)
    if said.gram_A is not None:
        assert np.linalg.norm(A) == pytest.approx(said.norm_A, rel=1e-3, abs=1e-3)
        assert np.linalg.norm(M) == pytest.approx(said.norm_H, rel=1e-3, abs=1e-3)


@given(st.integers(2, 200), st.floats(0.0, 5.0), st.floats(-8.0, 0.0))
def test_focal_margin_minimises_over_a_fine_grid(K, gamma, log_price):
    loss, price = Margins(K, gamma), 10.0**log_price
    t = loss.best_margin(price)
    grid = np.linspace(0.0, 60.0, 200_001)
    assert loss(t) + price * t <= np.min(loss(grid) + price * grid) * (1 + 1e-14)
    # below every chord of φ from zero the margin is positive, above none is
    assert (t > 0) == (price < loss.steepest_chord()) or price == pytest.approx(loss.steepest_chord(), rel=1e-6)


def test_focal_transition_is_of_first_order_for_many_classes():
    # K = 100, γ = 1: zero is a strict local minimum from κ_sp on, and the global one only from κ* > κ_sp
    K, loss = 100, Margins(100, 1.0)
    assert loss.steepest_chord() > 1.01 * loss.descent(0.0)
    between = 0.5 * (loss.steepest_chord() + loss.descent(0.0)) / (K - 1)
    said = focal(make(ufm.Focal(1.0), [1] * K, K, between))
    assert said.degenerate is False
    assert said.value < np.log(K) * (1 - 1 / K)
    assert said.singular_values[0] > 1.0
    # for few classes it is continuous
    assert Margins(3, 1.0).steepest_chord() == pytest.approx(Margins(3, 1.0).descent(0.0), rel=1e-9)


# --- families meet at their ends


@given(balanced(st.just(ufm.CrossEntropy())))
def test_smoothing_and_focusing_by_nothing_is_cross_entropy(drawn):
    problem = make(*drawn)
    said = cross_entropy.cross_entropy(problem)
    others = [
        dataclasses.replace(problem, loss=ufm.LabelSmoothing(0.0)),
        dataclasses.replace(problem, loss=ufm.Focal(0.0)),
    ]
    for other in others:
        for same in predictions(other).values():
            assert same.value == pytest.approx(said.value, rel=1e-12)
            assert same.degenerate == said.degenerate
            if said.degenerate is False:
                assert same.norm_A == pytest.approx(said.norm_A, rel=1e-6)


@given(balanced(st.just(ufm.SquaredError())))
def test_imbalanced_squared_error_with_equal_counts_is_balanced(drawn):
    problem = make(*drawn)
    said = squared_error.squared_error(problem)
    if problem.bias_kind == "regularised":
        return
    none = problem.bias_kind == "none"
    formula = imbalanced_squared_error.general_orthogonal_frame if none else imbalanced_squared_error.centred_frame
    same = formula(problem)
    assert same.value == pytest.approx(said.value, rel=1e-12)
    assert same.degenerate == said.degenerate
    if said.gram_A is not None:
        assert_allclose(same.gram_A, said.gram_A, atol=1e-10 * np.max(said.gram_A))
        assert_allclose(same.norms_H, said.norms_H, rtol=1e-8)
        assert_allclose(same.singular_values, said.singular_values, rtol=1e-8)


@given(balanced(smooth_losses))
def test_two_groups_that_hardly_differ_are_one(drawn):
    problem = make(*drawn)
    if problem.num_classes < 3 or problem.class_weights is not None:
        return
    eps = 1e-9
    weights = 1.0 + eps * (np.arange(problem.num_classes) < 2)
    said, same = _main(problem), two_groups(dataclasses.replace(problem, class_weights=weights))
    assert same.value == pytest.approx(said.value, rel=10 * eps)
    if said.degenerate is False and same.gram_A is not None:
        assert_allclose(same.gram_A, said.gram_A, atol=1e-2 * np.max(said.gram_A))


def _main(problem):
    """What is said of the whole optimum, where that is said."""
    return next(said for said in predictions(problem).values() if said.value is not None)


@given(
    st.one_of(
        balanced(smooth_losses),
        balanced(st.just(ufm.SquaredError()), least_dim=-3),
        balanced(st.floats(0, 3).map(lambda gamma: ufm.Focal(gamma))),
    ),
    st.sampled_from((0.2, 5.0)),
)
def test_a_common_class_weight_divides_the_decays(drawn, w):
    # f_w(λ) = w f_1(λ/w)
    problem = make(*drawn)
    K = problem.num_classes
    plain = dataclasses.replace(problem, class_weights=None)
    heavy = dataclasses.replace(
        plain,
        class_weights=[w] * K,
        lambda_A=w * plain.lambda_A,
        lambda_H=w * plain.lambda_H,
        lambda_b=w * plain.lambda_b,
    )
    plainly, heavily = predictions(plain), predictions(heavy)
    differ = plainly.keys() ^ heavily.keys()
    assert not differ or problem.bias  # focal loss at the end of what is proved with a bias
    for name in plainly.keys() & heavily.keys():
        said, same = plainly[name], heavily[name]
        if said.value is not None:
            assert same.value == pytest.approx(w * said.value, rel=1e-12)
        if said.norm_A is not None:
            assert same.norm_A == pytest.approx(said.norm_A, rel=1e-6)
        if said.bias is not None:
            assert_allclose(same.bias, said.bias, rtol=1e-9)


# --- imbalanced classes


@st.composite
def imbalanced(draw, loss, biases=BIASES, weighted=True, groups=None):
    """Problems with unequal counts; c a share of the largest threshold."""
    K = draw(st.integers(2, 7))
    counts = np.asarray(draw(st.lists(st.integers(1, 300), min_size=K, max_size=K)))
    if groups == 2:
        counts = np.where(
            np.arange(K) < draw(st.integers(1, K - 1)), *draw(st.sampled_from(((50, 3), (7, 6), (1000, 1), (2, 90))))
        )
    elif draw(st.booleans()):
        counts[-1] = counts[0]
    weights = None
    if weighted and draw(st.booleans()):
        weights = np.where(counts == counts[0], draw(st.sampled_from((0.5, 3.0))), 1.0)
    w = 1.0 if weights is None else weights
    c = draw(decays()) * np.max(w * np.sqrt(counts)) / np.sum(counts)
    d = max(1, K + draw(st.integers(-1, 2)))
    return case(
        draw(loss), counts, d, c, draw(ratios), draw(st.sampled_from(biases)), weights, 10.0 ** draw(st.floats(-3, 1))
    )


@given(imbalanced(smooth_losses, groups=2))
def test_two_groups_are_globally_optimal(drawn):
    problem = make(*drawn)
    known = predictions(problem)
    if "two groups of classes" not in known:
        assert problem.balanced or len(np.unique(class_weights(problem) * problem.class_counts)) == 1
        return
    said = known["two groups of classes"]
    if said.degenerate is None:
        return
    assert_globally_optimal(problem, said, tol=1e-7)
    if said.degenerate:
        assert known["total collapse"].value == pytest.approx(said.value, rel=1e-13)
        assert known["total collapse"].degenerate
        return
    assert_consistent(problem, said)
    assert known["total collapse"].degenerate is False
    if known["minority collapse"].merged is not None:
        assert known["minority collapse"].merged == said.merged


@given(imbalanced(st.just(ufm.SquaredError()), biases=("none",)))
def test_general_orthogonal_frame_is_globally_optimal(drawn):
    problem = make(*drawn)
    said = predictions(problem).get("general orthogonal frame")
    if said is None or problem.dim < problem.num_classes or said.degenerate is None:
        return
    assert_globally_optimal(problem, said)
    if not said.degenerate:
        assert_consistent(problem, said)
        M, _ = factors(problem, said)
        alive = ~said.dead
        assert_allclose((M @ M.T)[alive][:, alive], np.diag(said.norms_H[alive] ** 2), atol=1e-9 * said.norm_H**2)


@given(imbalanced(st.just(ufm.SquaredError()), biases=("free",), weighted=False))
def test_centred_frame_is_globally_optimal(drawn):
    problem = make(*drawn)
    said = predictions(problem).get("centred frame of imbalanced classes")
    if said is None or said.degenerate is None:
        return
    assert_globally_optimal(problem, said)
    if not said.degenerate:
        assert_consistent(problem, said)


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.integers(1, 5),
    st.floats(0.05, 1.1),
    st.sampled_from(("none", "free")),
)
def test_imbalanced_squared_error_in_any_dimension_against_a_solver(counts, d, share, bias):
    if len(set(counts)) == 1:
        return
    c = share * np.sqrt(max(counts)) / sum(counts)
    problem = make(ufm.SquaredError(), counts, d, c, 0.7, bias)
    said = _main(problem)
    value, M, _, _ = solved(problem, seeds=4)
    assert said.value == pytest.approx(value, rel=1e-7)
    if said.norms_H is not None:
        assert_allclose(np.linalg.norm(M, axis=1), said.norms_H, atol=1e-2 * np.max(said.norms_H))


@given(imbalanced(smooth_losses))
def test_whatever_is_said_of_imbalanced_cross_entropy_against_a_solver(drawn):
    problem = make(*drawn)
    c = np.sqrt(problem.lambda_A * problem.lambda_H)
    collapse = total_collapse(problem)
    problem = with_c(problem, max(c, 0.02 * collapse.thresholds[TOTAL]))
    value, _, A, b = solved(problem, seeds=2)
    size = np.linalg.norm(A)
    for name, said in predictions(problem).items():
        if said.value is not None:
            assert said.value == pytest.approx(value, rel=1e-7), name
        if said.degenerate:
            assert size < 1e-2
        for group in said.merged or ():
            assert_allclose(A[list(group)] - A[group[0]], 0.0, atol=2e-3 * size)
        if said.bias is not None:
            assert_allclose(b, said.bias, atol=1e-4)
        if said.centred_bias is not None:
            assert_allclose(b - np.mean(b), said.centred_bias, atol=1e-3)
        if said.norms_A is not None:
            assert_allclose(np.linalg.norm(A, axis=1), said.norms_A, atol=2e-3 * size)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_minority_classes_merge_exactly_at_their_threshold(bias, alpha):
    # three classes of 4 samples merge from c = (1−α)√4/N on, whatever the other counts are
    counts, loss = [40, 25, 4, 4, 4], ufm.LabelSmoothing(alpha) if alpha else ufm.CrossEntropy()
    threshold = (1 - alpha) * 2 / sum(counts)
    for factor, merged in ((1 - 1e-3, ()), (1 + 1e-3, ((2, 3, 4),))):
        problem = make(loss, counts, 5, factor * threshold, bias=bias)
        said = minority_collapse(problem)
        if said.merged is not None:  # with smoothing and a bias deaths are not excluded
            assert said.merged == merged
        _, _, A, _ = solved(problem, seeds=1)
        spread = np.linalg.norm(A[2:] - np.mean(A[2:], axis=0)) / np.linalg.norm(A)
        assert spread < 1e-3 if merged else spread > 1e-3
    assert minority_collapse(make(loss, counts, 5, threshold * (1 + 1e-8), bias=bias)).merged is None


@pytest.mark.parametrize("bias", ["none", "free"])
def test_minorities_of_different_counts_coincide_where_both_are_dead(bias):
    # just below total collapse only the majority's own simplex is left: classes of 10 and of 5 samples are both zero
    problem = make(ufm.CrossEntropy(), [100, 100, 100, 10, 5], 5, 0.95 * np.sqrt(100) / 315, bias=bias)
    _, M, A, _ = solved(problem, seeds=2)
    assert np.linalg.norm(A[3:]) < 1e-6 * np.linalg.norm(A)
    assert np.linalg.norm(M[3:]) < 1e-6 * np.linalg.norm(M)
    # so the claim about merging abstains, where it is made it excludes this
    assert minority_collapse(problem).merged is None
    two = two_groups(make(ufm.CrossEntropy(), [100, 100, 100, 10, 10], 5, 0.95 * np.sqrt(100) / 320, bias=bias))
    assert_allclose(two.dead, [False, False, False, True, True])


# --- thresholds


@given(
    st.one_of(
        balanced(smooth_losses),
        balanced(st.just(ufm.SquaredError()), least_dim=-2),
        balanced(st.floats(0, 1).map(lambda gamma: ufm.Focal(gamma)), most=8),
        imbalanced(smooth_losses),
        imbalanced(st.just(ufm.SquaredError())),
    )
)
def test_total_collapse_is_where_theory_puts_it_from_both_sides(drawn):
    problem = make(*drawn)
    for known in applicable(problem):
        said = known.predict(problem)
        if TOTAL not in said.thresholds:
            continue
        at = said.thresholds[TOTAL]
        sides = [with_c(problem, at * (1 + e)) for e in (-1e-4, -1e-8, 1e-8, 1e-4)]
        if not all(known.applies(side) for side in sides):
            continue  # focal loss with a bias
        below, just_below, just_above, above = (known.predict(side) for side in sides)
        assert (below.degenerate, above.degenerate) == (False, True), known.name
        for close in (just_below, just_above):
            assert close.degenerate is None
            assert close.gram_A is None
            assert close.gram_H is None
            assert close.norm_A is None
        if below.value is not None and above.value is not None:
            # the value is flat beyond the threshold and meets it with no jump
            assert below.value <= above.value * (1 + 1e-12)
            assert below.value == pytest.approx(above.value, rel=1e-3)
            assert just_below.value == pytest.approx(just_above.value, rel=1e-7)


def test_dying_classes_are_named_from_both_sides():
    counts, N = [40, 9, 4], 53
    for factor, dead in ((0.999, [False, False, False]), (1.001, [False, False, True])):
        said = imbalanced_squared_error.general_orthogonal_frame(make(ufm.SquaredError(), counts, 3, factor * 2 / N))
        assert_allclose(said.dead, dead)
    close = imbalanced_squared_error.general_orthogonal_frame(make(ufm.SquaredError(), counts, 3, (1 + 1e-8) * 2 / N))
    assert close.gram_A is None
    assert close.value is not None


def test_features_are_largest_at_four_times_the_dying_count():
    # ‖h̄_k‖² ∝ (√n − Nc)/n peaks at √n = 2Nc
    counts = [900, 400, 100, 50]
    c = 10 / sum(counts)  # Nc = 10: death at 100, peak at 400
    said = imbalanced_squared_error.general_orthogonal_frame(make(ufm.SquaredError(), counts, 4, c * (1 - 1e-3)))
    assert np.argmax(said.norms_H) == 1


# --- vanishing decay


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("counts", [[20, 20, 20, 2, 2], [9, 9, 3], [50, 1, 1, 1]])
def test_simplex_encoded_labels_are_approached_as_decay_vanishes(bias, counts):
    distances = []
    for c in (1e-3, 1e-6, 1e-12, 1e-24):
        problem = make(ufm.CrossEntropy(), counts, len(counts), c, bias=bias)
        said = predictions(problem)["two groups of classes"]
        (known,) = [known for known in applicable(problem) if known.name.startswith("simplex-encoded labels")]
        assert repr(known.predict(problem)) == "Prediction()"
        for found, gram in zip((said.gram_A, said.gram_H), seli.limit(problem), strict=True):
            distances.append(np.linalg.norm(found / np.linalg.norm(found) - gram / np.linalg.norm(gram)))
    of_A, of_H = distances[::2], distances[1::2]
    assert np.all(np.diff(of_A) < 0)
    assert np.all(np.diff(of_H) < 0)
    # like 1/log(1/c): twice the logarithm, half the distance
    for path in (of_A, of_H):
        assert 0.4 < path[3] / path[2] < 0.6


def test_limits_are_grams_of_the_means_of_a_common_factorisation():
    # AAᵀ ∝ (PDP)^{1/2} and H̄H̄ᵀ ∝ its pseudo-inverse, by T6; the product with D between has PDP's own eigenvalues
    problem = make(ufm.CrossEntropy(), [30, 12, 5, 2], 4, 1e-3)
    gram_A, gram_H = seli.limit(problem)
    P = np.eye(4) - 1 / 4
    assert_allclose(gram_A @ gram_A, P @ np.diag(problem.class_counts) @ P, atol=1e-10)
    assert_allclose(gram_A @ gram_H, P, atol=1e-10)


# --- metrics, and the register


@pytest.mark.parametrize(
    "problem",
    [
        make(ufm.CrossEntropy(), [3] * 4, 5, 1e-2),
        make(ufm.LabelSmoothing(0.2), [3] * 4, 5, 1e-2, bias="free"),
        make(ufm.SquaredError(), [3] * 4, 5, 1e-2, bias="free"),
        make(ufm.SquaredError(), [3] * 4, 5, 1e-2, 3.0),
        make(ufm.SquaredError(), [3] * 4, 5, 1e-2, bias="regularised", lambda_b=0.3),
        make(ufm.Focal(2.0), [3] * 4, 5, 1e-2),
    ],
    ids=lambda problem: f"{type(problem.loss).__name__}, bias {problem.bias_kind}",
)
def test_metrics_are_what_ufm_measures_at_the_predicted_optimum(problem):
    said = _main(problem)
    M, A = factors(problem, said)
    H = np.repeat(M, problem.class_counts, axis=0)
    found = ufm.measure(H, problem.labels, A, bias_of(problem, said))
    assert set(said.metrics) == set(ufm.Metrics._fields)
    for name, value in said.metrics.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-7), name


@given(st.integers(2, 40))
def test_self_duality_of_an_orthogonal_frame(K):
    # A = I, C = P: ‖I/√K − P/√(K−1)‖² = 2 − 2(K−1)/√(K(K−1))
    said = squared_error.squared_error(make(ufm.SquaredError(), [2] * K, K, 1e-3 / K))
    assert said.metrics["self_duality"] == pytest.approx(np.sqrt(2 - 2 * np.sqrt((K - 1) / K)), rel=1e-9)


def test_every_theorem_says_where_it_is_from_and_what_it_needs():
    known = theory.theorems()
    assert len({one.name for one in known}) == len(known)
    for one in known:
        assert any(str(year) in one.paper for year in range(1990, 2030)), one.name
        assert one.assumes
        assert one.predicts
    assert [one.name for one in known if one.checks is not nothing_more and not one.any_targets] == [
        "Averaging within classes",
        "deep ReLU of two classes",
        "deep ReLU constructions",
        "strict saddles",
        "max-margin direction",
        "simplex-encoded labels",
        "simplex-encoded labels with a free bias",
        "terminal rates",
        "minority collapse under vector scaling",
        "logit adjustment under a free bias",
        "zero point under vector scaling",
    ]


def test_nothing_is_claimed_outside_the_assumptions():
    sphere = ufm.Sphere(1.0)
    on_spheres = ufm.Problem(
        3, 4, per_class=5, lambda_A=0.0, lambda_H=0.0, features=sphere, classifier=sphere, bias=False
    )
    own = make(lambda logits, label: -logits[label], [5] * 3, 4, 1e-2)
    undecayed = ufm.Problem(3, 4, per_class=5, lambda_H=0.0)
    for problem in (on_spheres, own, undecayed):
        assert predictions(problem) == {}
    # balanced cross-entropy in too few dimensions: whether all collapses, nothing else
    low = predictions(make(ufm.CrossEntropy(), [5] * 6, 2, 1e-3))
    assert list(low) == ["total collapse"]
    assert low["total collapse"].value is None
    # unequal class weights with a free bias; a decayed bias on imbalanced squared error; focal loss with a bias, beyond
    # the range with a proof
    for problem in (
        make(ufm.SquaredError(), [5] * 3, 4, 1e-3, bias="free", weights=[1, 2, 3]),
        make(ufm.SquaredError(), [5, 4, 3], 4, 1e-3, bias="regularised"),
        make(ufm.Focal(2.0), [1] * 3, 4, 0.6, bias="free"),
    ):
        assert predictions(problem) == {}


@pytest.mark.parametrize(
    "problem",
    [
        make(ufm.CrossEntropy(), [6] * 3, 4, 1e-3, 3.0, "free"),
        make(ufm.CrossEntropy(), [30, 30, 6], 4, 1e-2, 3.0, "free"),
        make(ufm.CrossEntropy(), [30, 30, 6], 4, 4e-2, 3.0),
        make(ufm.LabelSmoothing(0.2), [30, 6, 6], 4, 1e-2, 0.3, "regularised", [1.0, 2.0, 2.0]),
        make(ufm.SquaredError(), [6] * 3, 4, 1e-2, 3.0, "regularised", lambda_b=0.3),
        make(ufm.SquaredError(), [30, 20, 3], 4, 3e-2, 3.0),
        make(ufm.SquaredError(), [30, 20, 3], 4, 3e-2, 3.0, "free"),
        make(ufm.Focal(2.0), [6] * 3, 4, 1e-3, 3.0),
    ],
    ids=lambda p: f"{type(p.loss).__name__}, {'balanced' if p.balanced else 'imbalanced'}, bias {p.bias_kind}",
)
def test_predictions_are_what_ufm_minimises_to(problem):
    said, best = _main(problem), ufm.minimize(problem)
    assert best.certified
    assert said.value == pytest.approx(best.value, rel=1e-8)
    for rows, gram in ((best.A, said.gram_A), (best.means, said.gram_H)):
        found = rows @ rows.T
        assert_allclose(found / np.linalg.norm(found), gram / np.linalg.norm(gram), atol=1e-6)
    assert_allclose(np.linalg.norm(best.A, axis=1), said.norms_A, atol=1e-6 * said.norm_A)
    assert_allclose(best.b - np.mean(best.b), bias_of(problem, said) - np.mean(bias_of(problem, said)), atol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Halved(ufm.CrossEntropy):
    """A user's own, which has the name of a cross-entropy only."""

    def __call__(self, logits, label):
        return 0.5 * super().__call__(logits, label)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Renamed(ufm.CrossEntropy):
    """The same formula."""


def test_theorems_speak_of_formulas_not_of_names():
    def value(loss):
        return ufm.predict(ufm.Problem(num_classes=3, dim=3, per_class=2, loss=loss, bias=False)).value

    assert value(Halved()) is None
    assert value(Renamed()) == value(ufm.CrossEntropy())
