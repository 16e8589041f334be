"""Formulas that several theorems share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ufm.geometry import gram_distance
from ufm.metrics.definitions import Metrics
from ufm.model.constraints import Constraint, Free
from ufm.model.losses import LabelSmoothing, facts_of, flat_of, is_one_of
from ufm.model.problem import Problem

Kinds = type | tuple[type, ...]

VALUE = 1e-8  # relative, of minima that are one
NEAR = 1e-6  # relative distance to a threshold within which only the value is predicted
WITHIN = {"nc1": 0.0, "trace_ratio": 0.0}  # metrics where a loss is convex and not everything is zero
COLLAPSED = dict.fromkeys(Metrics._fields, 0.0) | {"accuracy": 1.0}  # metrics of a simplex ETF and its dual classifier
TOTAL = "c at total collapse"  # c = √(λ_A λ_H) from which the minimiser is the zero point


def decay_scale(problem: Problem) -> float:
    """c = √(λ_A λ_H): the price of a unit of ‖H Aᵀ‖_*."""
    return float(np.sqrt(problem.lambda_A * problem.lambda_H))


def margin_price(problem: Problem) -> float:
    """κ = c√n/w: the price of a unit of margin in each of the simplex's K − 1 dimensions, on balanced classes."""
    return decay_scale(problem) * float(np.sqrt(problem.class_counts[0])) / float(problem.group_weights[0])


def common_weight(problem: Problem) -> float:
    """μ, what the bias leaves of the loss of the mean over samples: 1 without one, 0 with a free one."""
    if problem.bias_kind == "none":
        return 1.0
    return float(problem.lambda_b / (problem.group_weights[0] + problem.lambda_b))


def is_about(problem: Problem, *losses: type, features: Kinds = object, classifier: Kinds = object) -> bool:
    """Whether loss and constraints are of the kinds that a theorem is about; of any where it names none."""
    constrained = isinstance(problem.features, features) and isinstance(problem.classifier, classifier)
    return constrained and (not losses or is_one_of(problem.loss, *losses))


def is_decayed(problem: Problem) -> bool:
    """Whether both factors have weight decay."""
    return problem.lambda_A > 0 and problem.lambda_H > 0


def is_plain(problem: Problem, *losses: type) -> bool:
    """Whether both factors are free and decayed, and the loss is one of those named, or any where none is."""
    return is_about(problem, *losses, features=Free, classifier=Free) and is_decayed(problem)


def smoothing(problem: Problem) -> float:
    """The α of label smoothing; 0 of another loss."""
    return float(problem.loss.alpha) if is_about(problem, LabelSmoothing) else 0.0


def radius_of(constraint: Constraint) -> float:
    """Of a sphere or ball; infinite where a constraint has none."""
    return np.inf if constraint.radius is None else float(constraint.radius)


def named(kind: str, numbers: Sequence[int] | np.ndarray) -> str:
    """Two or more classes or outputs in words, those beyond three by how many they are."""
    said = [str(k) for k in numbers[:3]] + [f"{len(numbers) - 3} more"] * (len(numbers) > 3)
    return f"{kind} {', '.join(said[:-1])} and {said[-1]}"


def same_weights(problem: Problem) -> bool:
    """Whether all class weights are one number w; then f/w is the unweighted objective with decays λ/w."""
    return bool(np.ptp(problem.group_weights) == 0)


def near(x: float, threshold: float) -> bool:
    """Whether x is so close to a threshold that a computed minimiser can't tell on which side it is.

    Factors vanish there like the square root of the distance.
    """
    return bool(abs(x - threshold) <= NEAR * abs(threshold))


def distance_to_gram(rows: np.ndarray, gram: np.ndarray) -> float:
    """Scale-free distance of the Gram of rows (K, r) to another Gram (K, K)."""
    values, vectors = np.linalg.eigh(gram)
    return gram_distance(rows, vectors * np.sqrt(np.maximum(values, 0.0)))


def factor_norms(problem: Problem, singular_values: Any) -> dict[str, Any]:
    """Norms of the factors of a Z = H Aᵀ with these singular values.

    The least decay of factors of Z is c‖Z‖_*, half of it on either side: λ_A‖A‖² = λ_H‖H‖² = c‖Z‖_*.
    """
    values = np.sort(np.asarray(singular_values, np.float64))[::-1]
    price = decay_scale(problem) * np.sum(values)
    return {
        "singular_values": values,
        "norm_A": float(np.sqrt(price / problem.lambda_A)),
        "norm_H": float(np.sqrt(price / problem.lambda_H)),
    }


def balanced_shape(problem: Problem, simplex: float, common: float = 0.0) -> dict[str, Any]:
    """Everything about the factors of Z whose class means are (s₀ P + s₁ J/K)/√n, P = I − J/K.

    Z has the singular values s₀ (K − 1 times) and s₁, and A = √(λ_H n/λ_A) H̄, with AAᵀ ∝ G = s₀ P + s₁ J/K: a simplex
    ETF for s₁ = 0, an orthogonal frame for s₁ = s₀. The metrics centre the means, and P G P = s₀ P is the simplex
    again, so every metric is that of an ETF except self-duality, which sees A as it is: the cosine between A and the
    centred C is ⟨A, C⟩/‖A‖‖C‖ = √((K−1)s₀/((K−1)s₀ + s₁)).
    """
    K = problem.num_classes
    gram = simplex * (np.eye(K) - 1 / K) + common / K
    cosine = np.sqrt((K - 1) * simplex / ((K - 1) * simplex + common))
    shape = factor_norms(problem, [simplex] * (K - 1) + [common] * (common > 0))
    return shape | {
        "gram_A": gram,
        "gram_H": gram,
        "norms_A": np.full(K, shape["norm_A"] / np.sqrt(K)),
        "norms_H": np.full(K, shape["norm_H"] / np.sqrt(problem.num_samples)),
        "metrics": COLLAPSED | {"self_duality": float(np.sqrt(2 - 2 * cosine))},
    }


def known_bias(problem: Problem, b: np.ndarray) -> dict[str, Any]:
    """An optimal bias, as far as it is one: a free one up to a shift, where the loss doesn't see it."""
    free, K = problem.bias_kind == "free", problem.num_classes
    if free and facts_of(problem.loss).ignores_shift:
        return {"centred_bias": b - np.mean(b)}
    several = free and flat_of(problem.loss, K) is not None  # apart by another direction
    return {} if problem.bias_kind == "none" or several else {"bias": b}


def unused_bias(problem: Problem) -> dict[str, Any]:
    """A bias that the optimum doesn't use: 0 where it is decayed, any multiple of 1 where it is free."""
    zero = np.zeros(problem.num_classes)
    return {"none": {}, "regularised": {"bias": zero}, "free": {"centred_bias": zero}}[problem.bias_kind]
