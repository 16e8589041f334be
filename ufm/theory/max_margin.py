"""Cross-entropy without weight decay: no factors have a larger margin, or a smaller loss, than their size allows."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ufm.model.constraints import Free
from ufm.model.losses import CrossEntropy
from ufm.model.problem import Problem
from ufm.theory._groups import ZERO, logits_of
from ufm.theory.formulas import is_about
from ufm.theory.registry import Check, Found, Prediction, theorem

ROUNDING = 1e-9  # relative, of inequalities that hold of any parameters
DEEPEST = 600.0  # log of how small probabilities are told from zero


class Widest(NamedTuple):
    """The widest margins of factors, on G sizes of classes: those of equal count and weight are alike.

    Attributes:
        least: ½(‖A‖² + ‖H‖²) of the smallest factors with margins of 1.
        multipliers: (G, G) y_gh of the margin of a class of size g over one of size h.
        others: (G, G) how many such classes h there are beside one of size g, m_h − δ_gh.
        multiplicities: (G,) m, classes of each size.
        weights: (G,) share of a class in the risk, π_k w_k.
    """

    least: float
    multipliers: np.ndarray
    others: np.ndarray
    multiplicities: np.ndarray
    weights: np.ndarray


def widest(problem: Problem) -> Widest:
    """Of Z = I − J/K, or with a bias I − 1πᵀ: ‖D^{1/2}Z‖_*, and multipliers −D^{1/2} polar(D^{1/2}Z), which are ≥ 0.

    On what is constant on each size D^{1/2}Z is T_gh = √n_g (δ_gh − √m_g p_h √m_h), on the rest √n_g, m_g − 1 times.
    """
    kinds = np.column_stack([problem.class_counts, np.asarray(problem.class_weights, np.float64)])
    sizes, copied = np.unique(kinds, axis=0, return_counts=True)
    (n, w), m = sizes.T, copied.astype(np.float64)
    root, copies = np.sqrt(n), np.sqrt(m)
    taken = n / problem.num_samples if problem.bias else np.full(len(n), 1 / problem.num_classes)
    T = root[:, None] * (np.eye(len(n)) - copies[:, None] * taken * copies)
    X, s, Vt = np.linalg.svd(T)
    there = s > ZERO * np.max(root)
    frame = X[:, there] @ Vt[there]
    if problem.bias:  # columns of the multipliers sum to zero, whatever rounding made of the smallest rows
        frame = frame - np.outer(root * copies, root * copies @ frame) / (m @ n)
    multipliers = root[:, None] * (np.diag(1 / m) - frame / np.outer(copies, copies))
    others = m - np.eye(len(m))
    y = np.where(others > 0, np.maximum(multipliers, 0.0), 0.0)
    return Widest(float(np.sum(s[there]) + (m - 1) @ root), y, others, m, n * w / problem.num_samples)


def least_loss(problem: Problem, size: float) -> float:
    """What any factors with ½(‖A‖² + ‖H‖²) = `size` lose at least, whatever the bias.

    Multipliers y of the margins g are the proof: Σ y g = ⟨U, Z⟩ ≤ ‖D^{-1/2}U‖ ‖D^{1/2}H̄Aᵀ‖_* ≤ size, since rows of U,
    and with a bias its columns, sum to zero. So the loss is at least the least of Σ π_k w_k log(1 + Σ_j e^{−g_kj}) with
    Σ y g ≤ size, where wrong classes have probabilities θ y_kj/(π_k w_k); and any θ bounds it. Of balanced classes it
    is log(1 + (K−1) e^{−size/V}), V the least size with margins of 1.
    """
    from scipy.optimize import brentq

    _, y, others, m, weights = widest(problem)
    price, there = y / weights[:, None], y > 0
    log_price, wrong = np.log(np.where(there, price, 1.0)), np.sum(others * price, axis=1)
    pairs = m[:, None] * others * y

    def excess(log_theta: float) -> float:
        """Σ y g less the size."""
        right = np.log1p(-np.exp(log_theta) * wrong)[:, None]
        return float(np.sum(np.where(there, pairs * (right - log_theta - log_price), 0.0))) - size

    most = float(np.log1p(-1e-12) - np.log(np.max(wrong)))
    if excess(most - DEEPEST) < 0:
        return 0.0
    root: Any = brentq(excess, most - DEEPEST, most, xtol=1e-13) if excess(most) < 0 else most
    theta = np.exp(root)
    return float((m * weights) @ -np.log1p(-theta * wrong) + theta * excess(root))


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """What no parameters can do, at the end of a run: margins, or a loss, beyond what their size allows.

    Both are of class means, whose size and loss are below those of samples.
    """
    squares = problem.class_counts @ np.sum(found.means**2, axis=1), np.sum(found.classifier**2)
    size, least = 0.5 * float(sum(squares)), widest(problem).least
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
    return Prediction(thresholds={"largest min margin over ½(‖A‖² + ‖H‖²)": 1.0 / widest(problem).least})
