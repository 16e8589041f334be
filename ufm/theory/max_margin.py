"""Cross-entropy without weight decay: no factors have a larger margin, or a smaller loss, than their size allows."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ufm.model.constraints import Free
from ufm.model.losses import CrossEntropy
from ufm.model.problem import Problem
from ufm.theory._groups import logits_of, polar
from ufm.theory.formulas import is_about
from ufm.theory.registry import Check, Found, Prediction, theorem

ROUNDING = 1e-9  # relative, of inequalities that hold of any parameters
DEEPEST = 600.0  # log of how small probabilities are told from zero


def widest(problem: Problem) -> tuple[float, np.ndarray]:
    """The least ½(‖A‖² + ‖H‖²) with margins of 1, ‖D^{1/2}Z‖_*, and the margins' multipliers (K, K), 0 for the own.

    Z = I − J/K, or with a bias I − 1πᵀ; multipliers are minus D^{1/2} polar(D^{1/2}Z), where these are positive.
    """
    K, n = problem.num_classes, problem.class_counts
    root = np.sqrt(n)[:, None]
    logits = np.eye(K) - (n / problem.num_samples if problem.bias else 1 / K)
    frame, s, _ = polar(root * logits)
    multipliers = -root * frame
    np.fill_diagonal(multipliers, 0.0)
    return float(np.sum(s)), np.maximum(multipliers, 0.0)


def least_loss(problem: Problem, size: float) -> float:
    """What any factors with ½(‖A‖² + ‖H‖²) = `size` lose at least, whatever the bias.

    Multipliers y of the margins g are the proof: Σ y g = ⟨U, Z⟩ ≤ ‖D^{-1/2}U‖ ‖D^{1/2}H̄Aᵀ‖_* ≤ size, since rows of U,
    and with a bias its columns, sum to zero. So the loss is at least the least of Σ π_k w_k log(1 + Σ_j e^{−g_kj}) with
    Σ y g ≤ size, where wrong classes have probabilities θ y_kj/(π_k w_k); and any θ bounds it. Of balanced classes it
    is log(1 + (K−1) e^{−size/V}), V the least size with margins of 1.
    """
    from scipy.optimize import brentq

    _, y = widest(problem)
    share = problem.class_counts / problem.num_samples * np.asarray(problem.class_weights, np.float64)
    price, there = y / share[:, None], y > 0
    log_price, wrong = np.log(np.where(there, price, 1.0)), np.sum(price, axis=1)

    def excess(log_theta: float) -> float:
        """Σ y g less the size."""
        right = np.log1p(-np.exp(log_theta) * wrong)[:, None]
        return float(np.sum(np.where(there, y * (right - log_theta - log_price), 0.0))) - size

    most = float(np.log1p(-1e-12) - np.log(np.max(wrong)))
    if excess(most - DEEPEST) < 0:
        return 0.0
    root: Any = brentq(excess, most - DEEPEST, most, xtol=1e-13) if excess(most) < 0 else most
    theta = np.exp(root)
    return float(share @ -np.log1p(-theta * wrong) + theta * excess(root))


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """What no parameters can do, at the end of a run: margins, or a loss, beyond what their size allows.

    Both are of class means, whose size and loss are below those of samples.
    """
    squares = problem.class_counts @ np.sum(found.means**2, axis=1), np.sum(found.classifier**2)
    size, (least, _) = 0.5 * float(sum(squares)), widest(problem)
    Z = logits_of(problem, found)
    leads = np.diagonal(Z)[:, None] - Z
    np.fill_diagonal(leads, np.inf)
    share = float(np.min(leads)) * least / max(size, np.finfo(float).tiny)
    yield _never_above("normalised margin, share of the largest", share)
    if (lowest := least_loss(problem, size)) > 0:
        yield _never_above("least loss of this size, share of the loss", lowest / found.value)


def _never_above(quantity: str, share: float) -> Check:
    """A share that is at most one."""
    return Check(
        f"{quantity}, is at most", predicted=1.0, measured=share, error=max(0.0, share - 1.0), tolerance=ROUNDING
    )


def _applies(problem: Problem) -> bool:
    return is_about(problem, CrossEntropy, features=Free, classifier=Free) and not any(
        (problem.lambda_A, problem.lambda_H, problem.lambda_b)
    )


@theorem(
    "max-margin direction",
    paper="Lyu & Li 2020; Ji et al. 2021; Thrampoulidis et al. 2022",
    family="vanishing weight decay",
    assumes="cross-entropy, any counts and class weights, no weight decay, any d and bias",
    applies=_applies,
    checks=_checks,
)
def max_margin_direction(problem: Problem) -> Prediction:
    """No minimum: logits grow along the widest margins, which no factors exceed for their size.

    Minima of factors of one size ½(‖A‖² + ‖H‖²), and minima as decay vanishes, go along the least ‖D^{1/2}Z‖_* with
    margins of 1: simplex-encoded labels (Thrampoulidis et al. 2022). Gradient flow that separates the classes goes to a
    KKT point of that problem (Lyu & Li 2020; Ji et al. 2021), at a distance of the order of 1/log t. Trap: a free bias
    lags behind there. Slopes fall like 1/(t log t) and add up to log log t, beside logits of log t: features and
    classifier tend to those without a bias, whereas at minima a free bias keeps its share. On balanced classes the two
    are one; logits go along I − J/K in both. Margins are here compared with the widest that the bias allows.
    """
    least, _ = widest(problem)
    return Prediction(thresholds={"largest min margin over ½(‖A‖² + ‖H‖²)": 1.0 / least})
