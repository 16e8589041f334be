"""Total collapse: the decay from which the zero point is the minimum, whatever the targets are."""

from ufm.model.problem import Problem
from ufm.theory._groups import LOSSES, is_told
from ufm.theory._zero_point import collapse
from ufm.theory.registry import Prediction, theorem


@theorem(
    "total collapse of any targets",
    paper="Dang et al. 2024 (class labels); here for any targets",
    family="imbalanced classes",
    assumes="any targets, cross-entropy, label smoothing or squared error, weight decay on A and H, any bias and d",
    applies=lambda problem: is_told(problem, *LOSSES),
    any_targets=True,
)
def total_collapse(problem: Problem) -> Prediction:
    """Whether the minimiser is the zero point, and then its value and bias.

    With T in probabilities and w times a row's mass for its weight, let p₀ be the softmax of the best bias at
    A = H = 0: 1/K without one, the weighted mean of T with a free one. By convexity the zero point is a minimum iff
    ĉ = √(N λ_A λ_H) ≥ ‖Π^{1/2} diag(w)(T − 1p₀ᵀ)‖_op, Π = diag(n/N); below, a step along the top singular pair
    descends, for any d. Of squared error p₀ is the best bias itself. With a free bias and weights of one both losses
    have the same threshold, ĉ² = λ_max(Cov T).
    """
    return collapse(problem)
