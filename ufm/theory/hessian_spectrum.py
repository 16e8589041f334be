"""The whole Hessian spectrum at a balanced optimum, in closed form."""

from ufm.model.problem import Problem
from ufm.theory._modes import applies, spectrum
from ufm.theory.registry import Prediction, theorem


@theorem(
    "Hessian spectrum",
    paper="here, after Zhu et al. 2021 (the landscape)",
    family="landscape and dynamics",
    assumes="cross-entropy, label smoothing or squared error, balanced classes, d ≥ relaxed rank, weight decay on A "
    "and H short of total collapse, any bias",
    applies=applies,
)
def hessian_spectrum(problem: Problem) -> Prediction:
    """Every eigenvalue of the objective's Hessian at the optimum, with its multiplicity.

    Permutations of the classes leave the optimum as it is, up to a rotation of the features. So the Hessian falls into
    blocks of at most seven numbers, one for each representation of the symmetric group that the parameters contain, and
    each as often as the representation has dimensions (`ufm.theory._modes` derives them). With κ = c√n, ε the
    probability of a wrong class, s its margin and θ = εs/(Kκ), cross-entropy has: within classes λ_H out of the means'
    span, λ_H(1+θ) across and λ_H(1+s(1−(K−1)ε)ε/κ) along a class's own direction; 0 and λ_A + λ_H out of the span and 0
    and (1+θ)(λ_A+λ_H) for rotations of both factors; and eigenvalues of [[λ_H(1+θ), c(θ−1)], [c(θ−1), λ_A(1+θ)]] for
    what makes the means no simplex. Under squared error θ = (1−p)/p, p = Kκ: within classes λ_H/p in the span. Flat
    directions are rotations, and with a free bias a common shift of it where the loss doesn't see one.
    """
    return Prediction(spectrum=spectrum(problem))
