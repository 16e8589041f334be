"""Imbalanced classes: minima of published convex programs, thresholds from both sides, losses made for rare classes."""

import jax
import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose

import ufm

VS = ufm.VectorScaling
BIASES = {"none": {"bias": False}, "free": {}, "regularised": {"lambda_b": 0.05}}


def decayed(counts, c, **words):
    """A problem at c = √(λ_A λ_H), λ_A = 4 λ_H."""
    return ufm.Problem(len(counts), len(counts), per_class=counts, lambda_A=2 * c, lambda_H=c / 2, **words)


def held(counts, squared_radius, **words):
    """The layer-peeled problem, (1/K)Σ‖a_k‖² and the same of features at most a squared radius."""
    ball, K = ufm.MeanBall(squared_radius**0.5), len(counts)
    return ufm.Problem(
        K, K, per_class=counts, lambda_A=0.0, lambda_H=0.0, features=ball, classifier=ball, bias=False, **words
    )


def majority(count):
    """Counts of that many classes of 100 and of one sample each, ten in all."""
    return (100,) * count + (1,) * (10 - count)


def logits(best):
    """(K, K) of class means, and their softmax after what a VectorScaling does to them, Δ and ι as matrices."""
    Z = best.means @ best.A.T + best.b
    factors, offsets = scaling(best.problem.loss, len(Z))
    X = factors * Z + offsets
    E = np.exp(X - X.max(axis=1, keepdims=True))
    return Z, E / E.sum(axis=1, keepdims=True)


def scaling(loss, K):
    """Δ and ι (K, K), of labels and logits."""
    made = getattr(loss, "multiplicative", 1.0), getattr(loss, "additive", 0.0)
    return [np.broadcast_to(np.asarray(each), (K, K)) for each in made]


# --- values of the convex programs

# Minima over logits Z of class means of Σ π_k w_k loss(z_k + b, k) + ĉ‖Π^{1/2}Z‖_* + λ_b‖b‖²/2, ĉ = √N c, or of the
# first sum under ‖Z‖_* ≤ K R². Each was solved in cvxpy by Clarabel at tolerances of 1e-12, in Z and in Π^{1/2}Z at
# several scales; the number is the smallest value at logits that are feasible, thus an upper bound. A lower bound,
# Σ ω_k (entropy(q_k) + ⟨q_k − e_k, ι_k⟩) − ‖1ᵀU‖²/(2λ_b) or − K R²‖U‖_op with U = ω Δ ∘ (e − q) scaled into the dual
# norm's ball, written out beside it with no code of ufm, lies at most 8e-11 below.
EVEN, SHORT, RARE = majority(5), (40, 20, 10, 5, 3), (30, 30, 3, 3, 3)
TAIL = (1000, 599, 359, 215, 129, 77, 46, 28, 17, 10)
VALUES = {
    "two groups, no bias": (decayed(EVEN, 1e-3, bias=False), 0.303555285073),
    "two groups, free bias": (decayed((60,) * 3 + (4,) * 4, 2e-3), 0.261107929151),
    "two groups, regularised bias": (decayed((30, 30, 3, 3, 3, 3), 5e-3, lambda_b=0.05), 0.371413645022),
    "long tail, no bias": (decayed(TAIL, 2e-4, bias=False), 0.159285587226),
    "long tail, free bias": (decayed(TAIL, 1e-3), 0.522621827295),
    "long tail, regularised bias": (decayed((120, 60, 40, 30, 24, 20, 17), 4e-3, lambda_b=0.02), 0.671235703568),
    "two groups, class weights": (
        decayed((50,) * 4 + (5,) * 4, 2e-3, class_weights=[0.2] * 4 + [2.0] * 4),
        0.268118029589,
    ),
    "long tail, class weights": (
        decayed(SHORT, 5e-3, bias=False, class_weights=[0.5, 0.75, 1.0, 1.5, 2.0]),
        0.338908938457,
    ),
    "layer-peeled, 3 of 10, radius² 1": (held(majority(3), 1.0), 0.274429924308),
    "layer-peeled, 5 of 10, radius² 1": (held(majority(5), 1.0), 0.711562471814),
    "layer-peeled, 7 of 10, radius² 1": (held(majority(7), 1.0), 1.053446436008),
    "layer-peeled, 3 of 10, radius² 5": (held(majority(3), 5.0), 0.004366685435),
    "layer-peeled, 5 of 10, radius² 5": (held(majority(5), 5.0), 0.006456300831),
    "layer-peeled, 7 of 10, radius² 5": (held(majority(7), 5.0), 0.011047528249),
    "logit adjustment": (decayed(EVEN, 1e-3, bias=False, loss=VS.logit_adjustment(EVEN)), 0.257299893596),
    "CDT": (decayed(SHORT, 5e-3, bias=False, loss=VS.cdt(SHORT, gamma=0.3)), 0.434727258918),
    "LDT": (decayed(RARE, 4e-3, lambda_b=0.05, loss=VS.ldt(RARE, gamma=0.2)), 0.297106832784),
    "VS": (decayed(SHORT, 5e-3, lambda_b=0.1, loss=VS.vs(SHORT, gamma=0.2)), 0.372625172867),
    "LDAM, two groups": (decayed(RARE, 4e-3, bias=False, loss=VS.ldam(RARE, margin=2.0)), 0.347708649081),
    "LDAM, long tail": (decayed(SHORT, 5e-3, loss=VS.ldam(SHORT, margin=1.0)), 0.363884615755),
    "logit adjustment, layer-peeled": (held(EVEN, 1.0, loss=VS.logit_adjustment(EVEN)), 0.347779051465),
    "VS, layer-peeled": (held(majority(3), 5.0, loss=VS.vs(majority(3), gamma=0.1)), 0.025011761486),
}


@pytest.mark.parametrize("name", VALUES)
def test_minima_are_those_of_the_convex_programs(name):
    problem, known = VALUES[name]
    best = ufm.minimize(problem)
    assert best.certified
    assert_allclose(best.value, known, rtol=1e-9)
    assert known * (1 - 1e-8) <= best.lower_bound <= known + 1e-12  # half of the last digit is 5e-13


def test_a_convex_program_solved_now_has_the_certified_minimum():
    cp = pytest.importorskip("cvxpy")
    pytest.importorskip("clarabel")
    problem = decayed((7, 3, 2), 1e-2, lambda_b=0.1, class_weights=[1.0, 2.0, 0.5])
    shares, weights = np.array([7, 3, 2]) / 12, np.array([1.0, 2.0, 0.5])
    Z, b = cp.Variable((3, 3)), cp.Variable((1, 3))
    moved = Z + np.ones((3, 1)) @ b
    risk = (shares * weights) @ (cp.log_sum_exp(moved, axis=1) - cp.diag(moved))
    price = np.sqrt(12) * 1e-2 * cp.normNuc(np.diag(np.sqrt(shares)) @ Z)
    program = cp.Problem(cp.Minimize(risk + price + 0.05 * cp.sum_squares(b)))
    tight = {f"tol_{name}": 1e-11 for name in ("gap_abs", "gap_rel", "feas")}
    value = program.solve(solver=cp.CLARABEL, **tight)
    assert_allclose(ufm.minimize(problem).value, value, rtol=1e-8)


# --- where rare classes merge

COUNTS, RARELY = (40, 25, 4, 4, 4), [0.0, 0.0, 1.0, 1.0, 1.0]
DELTA, IOTA = np.array([1.0, 0.9, 0.6, 0.6, 0.6]), np.array([3.0, 1.0, -2.0, -2.0, -2.0])
BLOCKS = np.array([[1.3, 1.3, 0.7], [1.3, 1.3, 0.7], [0.5, 0.5, 0.45]])[np.ix_([0, 1, 2, 2, 2], [0, 1, 2, 2, 2])]
# what stands before w√n_B at N c: (1−α)Δ_B
REMEDIES = {
    "cross-entropy": (ufm.CrossEntropy(), 1.0),
    "smoothing": (ufm.LabelSmoothing(0.3), 0.7),
    "offsets of logits": (VS(additive=IOTA), 1.0),
    "factors of logits": (VS(multiplicative=DELTA), 0.6),
    "factors of labels": (VS(multiplicative=DELTA[:, None]), 0.6),
    "factors of logits times those of labels": (VS(multiplicative=np.outer(DELTA, DELTA)), 0.36),
    "both": (VS(IOTA, DELTA), 0.6),
    "matrices": (VS(np.add.outer(5 * np.array(RARELY), IOTA), BLOCKS), 0.45),
}
# matrices with a free bias go through lanes, where u above is no zero but rounding
ON_SIZES = [(name, bias) for name in REMEDIES for bias in BIASES if (name, bias) != ("matrices", "free")]
SIDES = (1 - 1e-6, 1 + 1e-6)


def apart(best):
    """u = z_kk − z_kl of two rare classes, by their sector."""
    size = best.solution.size_of[-1]
    return best.solution.standard_A[size] * best.solution.standard_H[size]


def pull(best):
    """w√n(−∂loss/∂z_kk + ∂loss/∂z_kl) of two rare classes, which is N c where u > 0 and no more where u = 0."""
    problem, (_, p) = best.problem, logits(best)
    alpha, factors = getattr(problem.loss, "alpha", 0.0), scaling(problem.loss, len(p))[0]
    slopes = factors[-1] * ((1 - alpha) * np.eye(len(p))[-1] + alpha / len(p) - p[-1])
    return problem.group_weights[-1] * np.sqrt(problem.class_counts[-1]) * (slopes[-1] - slopes[-2])


@pytest.mark.parametrize(("name", "bias"), ON_SIZES)
@pytest.mark.parametrize("weight", [1.0, 1.5])
def test_rare_classes_merge_at_their_threshold_from_both_sides(name, bias, weight):
    """u > 0 iff c < (1−α)Δ_B w√n_B/N, whatever offsets, bias and other classes.

    Only u(e_k − 1_B/K_B) tells the K_B rare classes apart. At u = 0 their logits are one number for each sample, and so
    are the softmax's entries p where offsets and factors are; the loss then falls with u at the rate
    (K_B − 1)(n_B/N)w[(1−α) − p + p]Δ_B, and the price is c√n_B(K_B − 1).
    """
    loss, factor = REMEDIES[name]
    words = {"loss": loss, "class_weights": [1.0, 1.0, *[weight] * 3], **BIASES[bias]}
    threshold = factor * weight * np.sqrt(4) / sum(COUNTS)
    below, above = (ufm.minimize(decayed(COUNTS, side * threshold, **words)) for side in SIDES)
    assert below.certified
    assert above.certified
    assert apart(below) > 1e-6  # u'(c) is of order one
    assert apart(above) == 0.0
    assert_allclose(pull(below), (1 - 1e-6) * threshold * sum(COUNTS), rtol=1e-9)
    assert_allclose(pull(above), threshold * sum(COUNTS), rtol=1e-12)


@pytest.mark.parametrize("bias", BIASES)
def test_margins_of_the_right_logit_move_the_threshold_where_offsets_of_logits_do_not(bias):
    """Cao et al.'s offsets −m of the right logit: u = 0 iff w√n_B(1 − p_kk + p_kl) ≤ N c at the merged minimum.

    There p_kk = e^{−m} p_kl < p_kl, so that the threshold lies above w√n_B/N. What it is depends on the whole problem:
    the fixed point of c ↦ w√n_B(1 − p_kk + p_kl)/N at merged minima, reached from above by steps halfway to its values.
    """
    words, N = {"loss": VS.ldam(COUNTS, margin=2.0), **BIASES[bias]}, sum(COUNTS)
    plain = np.sqrt(4) / N
    c, step = 2 * plain, np.inf
    while step > 1e-8 * c:
        merged = ufm.minimize(decayed(COUNTS, c, **words))
        assert apart(merged) == 0.0
        step = (c - pull(merged) / N) / 2
        c -= step
    assert c > 1.1 * plain
    p = logits(merged)[1]
    assert_allclose(p[-1, -1], np.exp(-2.0) * p[-1, -2], rtol=1e-9)
    below, above = (ufm.minimize(decayed(COUNTS, side * c, **words)) for side in SIDES)
    assert apart(below) > 1e-6
    assert apart(above) == 0.0
    assert_allclose(pull(below), (1 - 1e-6) * c * N, rtol=1e-9)
    assert pull(above) < (1 + 1e-6) * c * N


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_classes_of_squared_error_die_at_their_threshold_from_both_sides(weight):
    """‖a_k‖² = √(λ_H/λ_A)(√n_k − N c/w_k)₊ without bias (Dang et al. 2023), here for n_k = 4 about N c = w_k√n_k."""
    N, threshold = sum(COUNTS), weight * np.sqrt(4) / sum(COUNTS)
    words = {"loss": ufm.SquaredError(), "bias": False, "class_weights": [1.0, 1.0, *[weight] * 3]}
    below, above = (ufm.minimize(decayed(COUNTS, side * threshold, **words)) for side in SIDES)
    assert_allclose(np.sum(below.A[2:] ** 2, axis=1), 0.5 * np.sqrt(4) * 1e-6, rtol=1e-7)
    assert not np.any(above.A[2:])
    assert not np.any(above.means[2:])
    expected = 0.5 * (np.sqrt([40, 25]) - N * above.problem.lambda_H * 2)
    assert_allclose(np.sum(above.A[:2] ** 2, axis=1), expected, rtol=1e-9)


def test_directions_of_squared_error_with_a_free_bias_die_at_their_threshold_from_both_sides():
    """The j-th of the directions lives iff τ_j > N c, τ² the eigenvalues of D − nnᵀ/N."""
    n = np.array([40.0, 25.0, 9.0, 4.0])
    tau = np.sqrt(np.linalg.eigvalsh(np.diag(n) - np.outer(n, n) / n.sum())[:0:-1])
    for rank, threshold in enumerate(tau / n.sum(), start=1):
        below, above = (
            ufm.minimize(decayed(n.astype(int), side * threshold, loss=ufm.SquaredError())) for side in SIDES
        )
        for best, living in ((below, rank), (above, rank - 1)):
            squares = np.linalg.svd(best.A, compute_uv=False) ** 2
            shrunk = 0.5 * np.maximum(tau - n.sum() * 2 * best.problem.lambda_H, 0.0)
            assert np.count_nonzero(shrunk) == living
            assert_allclose(squares[:3], shrunk, rtol=1e-7, atol=1e-14)


def norm_at_zero(p, K):
    """‖D^{1/2}(I − 1pᵀ)‖_op, of slopes at zero logits where the softmax is p."""
    return np.linalg.norm(np.sqrt(COUNTS)[:, None] * (np.eye(K) - p), 2)


PI = np.array(COUNTS) / sum(COUNTS)
COLLAPSES = {
    "cross-entropy, no bias": ({"bias": False}, np.full(5, 0.2), 1.0),
    "cross-entropy, free bias": ({}, PI, 1.0),
    "smoothing, free bias": ({"loss": ufm.LabelSmoothing(0.3)}, PI, 0.7),
    "squared error, no bias": ({"loss": ufm.SquaredError(), "bias": False}, np.zeros(5), 1.0),
    "squared error, free bias": ({"loss": ufm.SquaredError()}, PI, 1.0),
    # its softmax at zero logits is π: without bias all collapses where a free bias has it
    "logit adjustment, no bias": ({"loss": VS.logit_adjustment(COUNTS), "bias": False}, PI, 1.0),
    "half of it, no bias": ({"loss": VS.logit_adjustment(COUNTS, tau=0.5), "bias": False}, PI**0.5, 1.0),
}


@pytest.mark.parametrize("name", COLLAPSES)
def test_all_classes_collapse_at_their_threshold_from_both_sides(name):
    """A = H = 0 is the minimum iff c ≥ (1−α)‖D^{1/2}(I − 1pᵀ)‖_op/N, p the softmax of the best bias, or that bias."""
    words, p, factor = COLLAPSES[name]
    if p.any():
        p = p / p.sum()
    threshold = factor * norm_at_zero(p, 5) / sum(COUNTS)
    below, above = (ufm.minimize(decayed(COUNTS, side * threshold, **words)) for side in SIDES)
    assert (below.degenerate, above.degenerate) == (False, True)
    assert not np.any(above.A)
    assert np.linalg.norm(below.A) > 1e-5
    assert below.certified
    assert above.certified


# --- losses made for rare classes

RANDOM = np.random.default_rng(0)
SCALED = {
    "factors of logits": VS(RANDOM.normal(size=4), RANDOM.uniform(0.3, 2.0, 4)),
    "factors of labels": VS(RANDOM.normal(size=(4, 4)), RANDOM.uniform(0.3, 2.0, (4, 1))),
    "factors of both": VS(RANDOM.normal(size=4), RANDOM.uniform(0.3, 2.0, (4, 4))),
}


@pytest.mark.parametrize("name", SCALED)
def test_conjugates_are_the_suprema_that_define_them(name):
    """ℓ*(s) = sup_z ⟨s, z⟩ − ℓ(z), at slopes Δ ∘ (q − e_y) with q inside the simplex, where it is attained."""
    loss, random = SCALED[name], np.random.default_rng(1)
    factors = scaling(loss, 4)[0]
    for y in range(4):
        slope = factors[y] * (random.dirichlet(np.ones(4)) - np.eye(4)[y])

        def below(z, y=y, slope=slope):
            return float(loss(z, y)) - slope @ z, np.asarray(loss.slope(z, y)) - slope

        found = scipy.optimize.minimize(below, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-9})
        assert_allclose(loss.conjugate(slope, y), -found.fun, atol=1e-12)


@pytest.mark.parametrize("name", SCALED)
def test_conjugates_are_infinite_where_the_supremum_is(name):
    """A wrong class's q_k < 0: ⟨s, z⟩ − ℓ(z) grows without end as z_k → −∞. Σ s/Δ ≠ 0: along ±1/Δ_y."""
    loss, factors = SCALED[name], scaling(SCALED[name], 4)[0]
    negative = factors[0] * (np.array([0.6, -0.1, 0.2, 0.3]) - np.eye(4)[0])
    uneven = factors[0] * (np.array([0.6, 0.1, 0.2, 0.3]) - np.eye(4)[0])
    slopes = {"negative": (negative, -np.eye(4)[1])}
    if name == "factors of both":
        slopes["uneven"] = uneven, 1 / factors[0]
    for slope, direction in slopes.values():
        reached = [slope @ (t * direction) - float(loss(t * direction, 0)) for t in (1e2, 1e4, 1e6)]
        assert reached[0] < reached[1] / 10 < reached[2] / 100
        assert loss.conjugate(slope, 0) == np.inf


@pytest.mark.parametrize("name", SCALED)
def test_slopes_and_curvature_are_derivatives(name):
    loss, random = SCALED[name], np.random.default_rng(2)
    with jax.enable_x64(True):
        Z, y = 3 * random.normal(size=(4, 4)), np.arange(4)
        diagonal, vector = loss.curvature(Z, y)
        hessian = jax.vmap(jax.hessian(loss))(Z, y)
        assert_allclose(loss.slope(Z, y), jax.vmap(jax.grad(loss))(Z, y), atol=1e-14)
        assert_allclose(jax.vmap(jax.numpy.diag)(diagonal) - vector[:, :, None] * vector[:, None], hessian, atol=1e-13)


def grams(best):
    """Of classifier and class means."""
    return best.A @ best.A.T, best.means @ best.means.T


@pytest.mark.parametrize("factors", [1.0, DELTA])
def test_a_free_bias_takes_the_offsets_of_logits(factors):
    """Δ ∘ (z + b) + ι = Δ ∘ (z + b + ι/Δ): with a free bias offsets ι_k change nothing but the bias."""
    plain = ufm.minimize(decayed(COUNTS, 8e-3, loss=VS(multiplicative=factors)))
    moved = ufm.minimize(decayed(COUNTS, 8e-3, loss=VS(IOTA, factors)))
    if np.ndim(factors) == 0:
        assert_allclose(plain.value, ufm.minimize(decayed(COUNTS, 8e-3)).value, rtol=1e-13)
    assert_allclose(moved.value, plain.value, rtol=1e-12)
    for found, expected in zip(grams(moved), grams(plain), strict=True):
        assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())
    # up to a multiple of 1/Δ, along which the softmax doesn't change
    left = factors * (moved.b - plain.b) + IOTA
    assert_allclose(left, np.mean(left), atol=1e-8)


@pytest.mark.parametrize("bias", ["none", "regularised"])
def test_without_a_free_bias_offsets_of_logits_change_the_minimum(bias):
    plain, moved = (
        ufm.minimize(decayed(COUNTS, 8e-3, loss=loss, **BIASES[bias])) for loss in (ufm.CrossEntropy(), VS(IOTA))
    )
    assert abs(moved.value - plain.value) > 1e-3 * plain.value > 1e3 * (moved.gap + plain.gap)
    assert np.linalg.norm(grams(moved)[0] - grams(plain)[0]) > 1e-2 * np.linalg.norm(grams(plain)[0])


# --- metrics


def test_metrics_of_imbalanced_classes_average_samples_within_and_classes_between():
    """Cov_W = (1/N)ΣΣ, Cov_B = (1/K)Σ about the mean of class means; about that of samples they'd be other numbers."""
    random, labels = np.random.default_rng(3), np.repeat(np.arange(3), [7, 3, 2])
    H = random.normal(size=(12, 2)) + 2 * random.normal(size=(3, 2))[labels]
    means = [H[:7].mean(axis=0), H[7:10].mean(axis=0), H[10:].mean(axis=0)]
    within = sum(np.outer(h - means[y], h - means[y]) for h, y in zip(H, labels, strict=True)) / 12

    def between(centre, shares):
        return sum(share * np.outer(m - centre, m - centre) for share, m in zip(shares, means, strict=True))

    stated = between(sum(means) / 3, np.full(3, 1 / 3))
    measured = ufm.measure(H, labels)
    assert_allclose(measured.nc1, np.trace(within @ np.linalg.inv(stated)) / 3, rtol=1e-12)
    assert_allclose(measured.trace_ratio, np.trace(within) / np.trace(stated), rtol=1e-12)
    M = np.stack([(m - sum(means) / 3) / np.linalg.norm(m - sum(means) / 3) for m in means])
    simplex, gram = (np.eye(3) - 1 / 3) / np.sqrt(2), M @ M.T
    assert_allclose(measured.nc2, np.linalg.norm(gram / np.linalg.norm(gram) - simplex), rtol=1e-12)
    by_samples = between(H.mean(axis=0), np.array([7, 3, 2]) / 12)
    assert abs(measured.nc1 / (np.trace(within @ np.linalg.inv(by_samples)) / 3) - 1) > 0.05
