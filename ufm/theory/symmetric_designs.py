"""Cross-entropy of symmetric targets: the simplex ETF, and rows that decouple but for one root."""

import functools as ft
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ufm.model.problem import Problem
from ufm.theory._groups import CROSS_ENTROPIES, Groups, groups_of, is_told, log_softmax, of_features, targets_of
from ufm.theory._scalar import root
from ufm.theory.formulas import factor_norms, near, unused_bias
from ufm.theory.registry import Check, Found, Prediction, theorem

SYMMETRIC = 1e-9  # relative distance from a multiple of P, and from zero, of what is one exactly

MOST_STEPS = 200  # of Newton's method, which takes a dozen


class Design(NamedTuple):
    """Centred logits Z (M, K) with ZᵀΠZ = σ²P, σ, and the minimum."""

    Z: np.ndarray
    sigma: float
    value: float


def rows_at(T: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """(M, K) the z that solves z = θ(T − softmax z), for each row T of probabilities and θ (M,).

    With L = log Σ exp z and p = softmax z, θp + log(θp) = θT − L + log θ, so that θp is Wright's ω of the right side,
    and L is where the p sum to one. Their sum is convex and falls in L, and is at least one at log K, which is the
    least L that z of mean zero have: Newton's method ascends from there.
    """
    from scipy.special import wrightomega  # slow to import, and most never need it

    theta = theta[:, None]
    L = np.full_like(theta, np.log(T.shape[1]))
    for _ in range(MOST_STEPS):
        omega = wrightomega(theta * T - L + np.log(theta))
        step = (np.sum(omega, axis=1, keepdims=True) - theta) / np.sum(omega / (1 + omega), axis=1, keepdims=True)
        L = L + step
        if np.all(step <= 4e-16 * L):
            break
    x = theta * T - L + np.log(theta)
    omega = wrightomega(x)
    # log ω = x − ω, either of which has the digits that the other has not; and so have the two forms of z
    logarithms = np.where(x < 0, x - omega, np.log(np.maximum(omega, np.finfo(float).tiny)))
    return np.where(theta < 1, theta * T - omega, L + logarithms - np.log(theta))


def _kinds(groups: Groups) -> Groups:
    """One group for those whose targets are the same but for the order of outputs, which fare alike."""
    table = np.column_stack([np.sort(groups.T, axis=1), groups.w])
    rows, index = np.unique(table, axis=0, return_inverse=True)
    return Groups(rows[:, :-1], rows[:, -1], np.bincount(index.ravel(), groups.share), groups.price)


def _solved(groups: Groups) -> Design | None:
    """By the root of Σ π‖z‖²/σ² = K − 1, which falls in σ; None where there is none, at the zero point."""
    kinds, K = _kinds(groups), groups.T.shape[1]
    if kinds.share @ (kinds.w**2 * np.sum((kinds.T - 1 / K) ** 2, axis=1)) <= (K - 1) * groups.price**2:
        return None

    def excess(log_sigma: float) -> float:
        sigma = np.exp(log_sigma)
        z = rows_at(kinds.T, kinds.w * sigma / groups.price)
        return (K - 1) - float(kinds.share @ np.sum(z**2, axis=1)) / sigma**2

    high = 0.0
    while excess(high) < 0:
        high += 2.0
    low = high - 2.0
    while excess(low) >= 0:
        low -= 2.0
    sigma = float(np.exp(root(excess, low, high)))
    theta = groups.w * sigma / groups.price
    Z = rows_at(groups.T, theta)
    losses = np.sum(Z**2, axis=1) / (2 * theta) - np.sum(groups.T * log_softmax(Z), axis=1)
    return Design(Z, sigma, float(groups.share * groups.w @ losses + groups.price * (K - 1) * sigma / 2))


@ft.lru_cache(maxsize=4)
def design(problem: Problem) -> Design | None:
    """What the equations of a symmetric design give, where they give the minimum; else None."""
    groups = groups_of(problem)
    if not _is_symmetric(problem, groups, groups.w[:, None] * (groups.T - 1 / problem.num_classes)):
        return None
    found = _solved(groups)
    return found if found is not None and _is_symmetric(problem, groups, found.Z) else None


def _is_symmetric(problem: Problem, groups: Groups, X: np.ndarray) -> bool:
    """Whether rows X (M, K) have Σ π x xᵀ ∝ P, and with a bias Σ π x = 0."""
    K, weighted = X.shape[1], groups.root * X
    moments = weighted.T @ weighted
    size = np.trace(moments) / (K - 1)
    off = np.max(np.abs(moments - size * (np.eye(K) - 1 / K)))
    mean = 0.0 if problem.bias_kind == "none" else np.max(np.abs(groups.share @ X))
    return bool(size > 0 and off <= SYMMETRIC * size and mean <= SYMMETRIC * np.sqrt(size))


def _applies(problem: Problem) -> bool:
    told = is_told(problem, *CROSS_ENTROPIES) and problem.dim >= problem.num_classes - 1
    return told and design(problem) is not None


def _scale(problem: Problem, sigma: float) -> float:
    """Of features Aᵀz."""
    return float(np.sqrt(problem.lambda_A / (problem.num_samples * problem.lambda_H)) / sigma)


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """Features, and what they are in the cases that papers are about."""
    groups, solved = groups_of(problem), design(problem)
    if solved is None or _is_near(problem):
        return
    predicted = _scale(problem, solved.sigma) * solved.Z @ found.classifier
    off = of_features(problem, found, predicted)
    yield found.of_minimiser("features are Aᵀz/σ √(λ_A/(Nλ_H))", predicted=0.0, measured=off)
    for quantity, off in (*_of_sets(problem, groups, solved, found), *_of_pairs(problem, groups, found)):
        yield found.of_minimiser(quantity, predicted=0.0, measured=off)


def _of_sets(problem: Problem, groups: Groups, solved: Design, found: Found) -> Iterator[tuple[str, float]]:
    """Tag-wise means of sets of labels, where each label is a set too: h_S = (t_m/t_1) Σ_{k∈S} h_k, t the margins."""
    T, K = np.asarray(targets_of(problem).rows), problem.num_classes
    sizes = np.sum(T > 0, axis=1)
    if not np.all((T == 0) | (np.max(T, axis=1, keepdims=True) == T)) or np.max(sizes) == 1:
        return
    single = {int(np.argmax(T[m])): m for m in np.flatnonzero(sizes == 1)}
    if len(single) < K:
        return
    margins = np.max(solved.Z, axis=1) - np.min(solved.Z, axis=1)
    of_label = [single[k] for k in range(K)]
    if np.ptp(margins[of_label]) > SYMMETRIC * margins[of_label[0]]:
        return
    sums = (T > 0) @ found.means[of_label]
    factors = margins / margins[of_label[0]]
    yield "features of a set are (t_m/t_1) Σ of its labels'", of_features(problem, found, factors[:, None] * sums)
    sets, labels = np.nonzero((T > 0) & (sizes > 1)[:, None] & (sizes < K)[:, None])
    if len(sets):
        cosines = _cosines(found.means[sets], found.means[of_label][labels])
        off = float(np.max(np.abs(cosines - np.sqrt((K - sizes[sets]) / (sizes[sets] * (K - 1))))))
        yield "cosine of a set and its label is √((K−m)/(m(K−1)))", off


def _of_pairs(problem: Problem, groups: Groups, found: Found) -> Iterator[tuple[str, float]]:
    """Mixed samples of two classes, among others: their features are in the plane of the two classifier rows."""
    T = np.asarray(targets_of(problem).rows)
    pairs = np.flatnonzero(np.sum(T > 0, axis=1) == 2)
    if not len(pairs) or np.ptp(T[T > 0]) == 0:
        return
    predicted = found.means.copy()
    for m in pairs:
        plane = np.linalg.qr(found.classifier[T[m] > 0].T)[0]
        predicted[m] = plane @ (plane.T @ found.means[m])
    yield "features of mixed pairs are in the plane of their classes", of_features(problem, found, predicted)


def _cosines(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Of rows."""
    return np.sum(X * Y, axis=1) / (np.linalg.norm(X, axis=1) * np.linalg.norm(Y, axis=1))


def _is_near(problem: Problem) -> bool:
    """Whether the zero point is so near that factors are not told from it."""
    groups, K = groups_of(problem), problem.num_classes
    reach = groups.share @ (groups.w**2 * np.sum((groups.T - 1 / K) ** 2, axis=1)) / (K - 1)
    return near(groups.price, float(np.sqrt(reach)))


@theorem(
    "symmetric designs",
    paper="Li et al. 2024 (many labels); Fisher et al. 2024 (mixup); here for any symmetric targets",
    family="targets",
    assumes="cross-entropy or label smoothing, any targets that outputs enter alike, such as all sets of a size or all "
    "ordered pairs of classes; d ≥ K − 1, weight decay on A and H, any bias, below total collapse",
    applies=_applies,
    checks=_checks,
    any_targets=True,
)
def symmetric_designs(problem: Problem) -> Prediction:
    """Value, norms and a simplex ETF for the classifier, and each group's features by one common root.

    Where a 2-transitive group of permutations of outputs leaves targets, counts and weights as they are, the optimal Z
    being unique has ZᵀΠZ = σ²P, P = I − J/K. So the slopes Π diag(w)(T − softmax Z) are ĉΠZ/σ, and rows decouple:

        z_m = θ_m(T_m − softmax z_m),  θ_m = w_m σ/ĉ,  (K−1)σ² = Σ π_m ‖z_m‖²,
        f* = Σ π_m w_m [ℓ(z_m) + ‖z_m‖²/(2θ_m)] + ĉ(K−1)σ/2,   AAᵀ ∝ P,   h_m = √(λ_A/(Nλ_H)) Aᵀz_m/σ.

    Whatever the symmetry, rows that solve these equations and have Σ π z zᵀ ∝ P, and Σ π z = 0 with a bias, are
    optimal: Π^{-1/2}U = ĉΠ^{1/2}Z/σ has the operator norm ĉ. That is what is tested. The sets of each size need only be
    a 2-design (Fano's plane is). With sets z_S is t_m(1_S − m/K), so features of a set are the sum of its labels' times
    t_m/t_1; with mixup those of a pair lie in its classes' plane, h = αa_i + βa_j.
    """
    solved = design(problem)
    assert solved is not None
    K = problem.num_classes
    known = {"value": solved.value, **unused_bias(problem)}
    if _is_near(problem):
        return Prediction(**known)
    shape = factor_norms(problem, np.full(K - 1, np.sqrt(problem.num_samples) * solved.sigma))
    return Prediction(
        degenerate=False,
        gram_A=np.eye(K) - 1 / K,
        norms_A=np.full(K, shape["norm_A"] / np.sqrt(K)),
        metrics={"equinorm_A": 0.0},
        **shape,
        **known,
    )
