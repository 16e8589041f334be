"""The shallow problem beneath one with hidden layers, which bounds it from below.

Let a problem have L factors with hidden ones, C = (N λ_H Π λ_W λ_A)^{1/L}, and Z be the logits without their bias, of
which Π^{1/2}Z, Π = diag(n_m/N), has the nuclear norm z. The norm of what a layer gives, linear or with a ReLU, is at
most that of its matrix times that of what it is given, so z is at most the product of the factors' norms, and by the
inequality of means decay is at least (L/2) C z^{2/L}. For L = 2 this is what decay is.

Where the objective is no more than a known value, decay is at most what that value is above the risk's infimum, whence
z ≤ s = (2 (value − infimum)/(L C))^{L/2}; and z^{2/L}, which is concave, is at least s^{2/L−1} z on [0, s]. So the
minimum is at least that of the shallow problem in which a unit of z costs (L/2) C s^{2/L−1}.
"""

import dataclasses

import numpy as np

from ufm._core.precision import allowance
from ufm._core.thresholding import geometric_mean
from ufm.minima.reduction import lane_of
from ufm.model.constraints import Free
from ufm.model.losses import facts_of
from ufm.model.problem import LARGEST_DECAY, SMALLEST_DECAY, Problem, relaxed_rank


def scale_of(problem: Problem) -> float:
    """C: decay along a direction of Π^{1/2}Z of size x is (L/2) C x^{2/L} at least; 0 where a factor costs nothing."""
    factors = problem.factors()
    decays = np.array([float(factor.decay) for factor in factors])
    if not np.all(decays > 0):
        return 0.0
    return float(geometric_mean(decays * [problem.num_samples, *[1] * (len(factors) - 1)]))


def shallow(problem: Problem, price: float) -> Problem | None:
    """The problem without hidden layers and constraints, in which a unit of z costs `price`; None beyond legal decays.

    It has as many dimensions as its relaxation needs.
    """
    decay = price / np.sqrt(problem.num_samples)
    if not SMALLEST_DECAY <= decay <= LARGEST_DECAY:
        return None
    without = dataclasses.replace(
        problem,
        widths=(),
        lambda_W=None,
        activation="linear",
        features=Free(),
        classifier=Free(),
        lambda_H=decay,
        lambda_A=decay,
    )
    return dataclasses.replace(without, dim=max(relaxed_rank(without), 1))


def beneath(problem: Problem, value: float) -> Problem | None:
    """The shallow problem whose minimum is below all objectives up to a value; None where none is known to be."""
    scale, factors = scale_of(problem), 2 + len(problem.widths)
    above = value + allowance() * abs(value) - infimum_of(problem)
    if not (scale > 0 and above > 0 and np.isfinite(above)):
        return None
    return shallow(problem, 0.5 * factors * scale * (2.0 * above / (factors * scale)) ** (1.0 - 0.5 * factors))


def infimum_of(problem: Problem) -> float:
    """What the objective is nowhere below, since the risk isn't; −∞ where the loss isn't convex, and says nothing."""
    if not facts_of(problem.loss).convex:
        return -np.inf
    lane = lane_of(problem)
    return float(np.asarray(lane.weights) @ np.asarray(lane.infima))
