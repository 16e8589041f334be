"""Squared error of any real targets: the square roots of their covariance's eigenvalues, each less ĉ."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ufm._core.linalg import right_svd
from ufm.model.losses import SquaredError
from ufm.model.problem import Problem
from ufm.theory._groups import groups_of, in_units, is_told, logits_of, of_features
from ufm.theory.formulas import TOTAL, factor_norms, known_bias, near, same_weights
from ufm.theory.registry import GEOMETRY, Check, Found, Prediction, theorem


class Spectrum(NamedTuple):
    """Targets T as T̄ and the directions of T − T̄: Σ π (T−T̄)(T−T̄)ᵀ = V diag(s²) Vᵀ.

    `T` (M, K) are centred, `mean` (K,) is T̄, s (K,) and V (K, K) descend, `price` is ĉ/w, `weight` w, and `left` (K,)
    are the singular values (s − ĉ/w)₊ of Π^{1/2}Z, of the d largest.
    """

    T: np.ndarray
    mean: np.ndarray
    s: np.ndarray
    V: np.ndarray
    price: float
    weight: float
    left: np.ndarray

    @property
    def alive(self) -> np.ndarray:
        """(K,) which directions live."""
        return self.left > 0


def spectrum(problem: Problem) -> Spectrum:
    """Of a problem with one weight."""
    groups, K = groups_of(problem), problem.num_classes
    mean = groups.share @ groups.T if problem.bias_kind == "free" else np.zeros(K)
    weight = float(groups.w[0])
    price = groups.price / weight
    s, Vt = right_svd(np.pad(groups.root * (groups.T - mean), ((0, max(K - len(groups.T), 0)), (0, 0))))
    left = np.where(np.arange(K) < problem.dim, np.maximum(s - price, 0.0), 0.0)
    return Spectrum(groups.T - mean, mean, s, Vt.T, price, weight, left)


def _is_clear(problem: Problem, found: Spectrum) -> bool:
    """Whether it can be told which directions live: none is at the threshold, none as large as the d-th left out."""
    s, d = found.s, problem.dim
    tied = d < len(s) and s[d - 1] > found.price and near(s[d], s[d - 1])
    return not tied and not any(near(each, found.price) for each in s)


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """Features and outputs, affine in the targets; what is left of them; and the metrics of the paper."""
    theirs = spectrum(problem)
    if not _is_clear(problem, theirs):
        return
    yield found.of_minimiser(
        "features are affine in the targets",
        predicted=0.0,
        measured=of_features(problem, found, _features(problem, theirs, found.classifier)),
    )
    share, residual = problem.group_counts / problem.num_samples, _residual(problem, theirs, found)
    outputs, left = residual - _dampened(theirs), float(share @ np.sum(residual**2, axis=1))
    expected = float(np.sum(np.where(theirs.alive, theirs.price, theirs.s) ** 2))
    off = np.sqrt(theirs.weight * share @ np.sum(outputs**2, axis=1))
    yield found.of_minimiser("outputs are affine in the targets", predicted=0.0, measured=in_units(found, off))
    yield found.of_minimiser(
        "mean squared residual", predicted=expected, measured=left, error=abs(left - expected) / max(expected, left)
    )
    if np.all(theirs.alive):
        for quantity, measured in _nrc(problem, theirs, found).items():
            yield found.of_minimiser(quantity, predicted=0.0, measured=measured)


def _features(problem: Problem, theirs: Spectrum, A: np.ndarray) -> np.ndarray:
    """(M, r) h = √(λ_A/(Nλ_H)) Aᵀ(Σ⁺)^{1/2}(T − T̄), rows; in a dead direction A is zero, and 1/s is none."""
    inverse = theirs.alive / np.where(theirs.alive, theirs.s, 1.0)
    scale = np.sqrt(problem.lambda_A / (problem.num_samples * problem.lambda_H))
    return scale * ((theirs.T @ theirs.V) * inverse) @ (theirs.V.T @ A)


def _residual(problem: Problem, theirs: Spectrum, found: Found) -> np.ndarray:
    """(M, K) targets less outputs."""
    return theirs.T + theirs.mean - logits_of(problem, found)


def _dampened(theirs: Spectrum) -> np.ndarray:
    """(M, K) the predicted residual: ĉ of a living direction's s, all of a dead one's."""
    share = np.where(theirs.alive, theirs.price / np.where(theirs.alive, theirs.s, 1.0), 1.0)
    return (theirs.T @ theirs.V) * share @ theirs.V.T


def _nrc(problem: Problem, theirs: Spectrum, found: Found) -> dict[str, float]:
    """NRC1–3 with features at group means, at γ = ĉ²; a feature of zero has no direction and is left out."""
    H, A, K = found.means, found.classifier, problem.num_classes
    sizes = np.linalg.norm(H, axis=1)
    there = sizes > GEOMETRY * np.max(sizes)
    H, n = H[there] / sizes[there, None], problem.group_counts[there]
    components = right_svd(np.sqrt(n)[:, None] * found.means[there])[1][:K]
    rows = right_svd(A)[1][:K]
    gram, root = A @ A.T, (theirs.V * theirs.left) @ theirs.V.T
    apart = gram / np.linalg.norm(gram) - root / np.linalg.norm(root)
    nrc1, nrc2 = (float(n @ np.sum((H - H @ V.T @ V) ** 2, axis=1) / np.sum(n)) for V in (components, rows))
    return {"NRC1": nrc1, "NRC2": nrc2, "NRC3": float(np.sum(apart**2))}


@theorem(
    "regression by spectral thresholding",
    paper="Andriopoulos et al. 2024",
    family="targets",
    assumes="squared error, any real targets of one weight, weight decay on A and H, no or a free bias, any d",
    applies=lambda problem: (
        is_told(problem, SquaredError) and problem.bias_kind != "regularised" and same_weights(problem)
    ),
    checks=_checks,
    any_targets=True,
)
def regression(problem: Problem) -> Prediction:
    """Value, norms and classifier: a direction of the targets lives where its deviation s exceeds ĉ = √(N λ_A λ_H).

    A free bias takes the mean, b = T̄; without one T̄ = 0 below. Among Z of given singular values of Π^{1/2}Z,
    ½‖Π^{1/2}(Z − T + T̄)‖² is least where the singular vectors are those of Π^{1/2}(T − T̄) (von Neumann), so that each
    of its singular values s, the roots of the eigenvalues of Σ = Σ_m π_m (T_m−T̄)(T_m−T̄)ᵀ, is soft-thresholded:

        f* = Σ_alive (ĉ s − ĉ²/2) + Σ_dead s²/2,    AAᵀ = √(Nλ_H/λ_A) [Σ^{1/2} − ĉI]₊,
        h_m = √(λ_A/(Nλ_H)) Aᵀ(Σ⁺)^{1/2}(T_m−T̄),    mean squared residual = Σ_alive ĉ² + Σ_dead s².

    With d fewer than could live the d largest do. Weights w of all divide the decays. The paper has it for a Σ all of
    which lives, and then its metrics NRC1–3 are zero, NRC3 at γ = ĉ². Trap: its [Σ^{1/2} − √c I] with columns left out
    depends on the basis; eigenvalues are to be clipped.
    """
    found = spectrum(problem)
    s, price, w, N = found.s, found.price, found.weight, problem.num_samples
    alive = found.alive
    value = w * float(np.sum(np.where(alive, price * s - 0.5 * price**2, 0.5 * s**2)))
    thresholds = {
        TOTAL: w * float(s[0]) / np.sqrt(N),
        "c up to which all directions live": w * float(s[-1]) / np.sqrt(N),
    }
    known = {"value": value, "thresholds": thresholds, **known_bias(problem, found.mean)}
    shape = factor_norms(problem, np.sqrt(N) * found.left[alive])
    if not _is_clear(problem, found):
        return Prediction(**known)
    gram = (found.V * found.left) @ found.V.T
    scale = np.sqrt(N * problem.lambda_H / problem.lambda_A)
    return Prediction(
        degenerate=not np.any(alive), gram_A=gram, norms_A=np.sqrt(scale * np.diag(gram)), **shape, **known
    )
