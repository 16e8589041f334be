"""What holds at every optimum whatever the targets are, by the first-order conditions alone."""

from collections.abc import Iterator

import numpy as np

from ufm.model.losses import facts_of
from ufm.model.problem import Problem
from ufm.theory._groups import groups_of, in_units, is_relaxed, is_told, logits_of, of_features, slopes
from ufm.theory.registry import Check, Found, Prediction, theorem


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """Each identity as its distance from being one; sizes of parameters are in units of √f."""
    n, H, A, facts = problem.group_counts, found.means, found.classifier, facts_of(problem.loss)
    pulls = -slopes(problem, logits_of(problem, found))
    said = {"features are Aᵀ(−∇ℓ) w/(Nλ_H)": of_features(problem, found, _features(problem, pulls @ A))}
    off = problem.lambda_A * A.T @ A - problem.lambda_H * (n[:, None] * H).T @ H
    said["λ_A AᵀA − λ_H HᵀH"] = float(np.linalg.norm(off)) / max(abs(found.value), np.finfo(float).tiny)
    if facts.ignores_shift:
        sums = np.sqrt(problem.lambda_A / problem.num_classes) * np.linalg.norm(np.sum(A, axis=0))
        said["sum of the classifier's rows"] = in_units(found, sums)
    if problem.bias_kind == "free":
        said["sum of the features"] = in_units(found, np.sqrt(problem.lambda_H / problem.num_samples) * _norm(n @ H))
    for quantity, error in said.items():
        yield found.of_minimiser(quantity, predicted=0.0, measured=error)
    if facts.convex and is_relaxed(problem):
        most = _largest_pull(problem, pulls)
        yield found.of_minimiser("‖∇ℓ‖ w √π/ĉ is at most", predicted=1.0, measured=most, error=max(0.0, most - 1.0))


def _features(problem: Problem, pulled: np.ndarray) -> np.ndarray:
    """(M, r) of Aᵀ(−∇ℓ), rows."""
    return pulled * np.asarray(problem.group_weights)[:, None] / (problem.num_samples * problem.lambda_H)


def _largest_pull(problem: Problem, pulls: np.ndarray) -> float:
    groups = groups_of(problem)
    weighed = np.asarray(problem.group_weights) * np.sqrt(groups.share)
    return float(np.max(weighed * np.linalg.norm(pulls, axis=1))) / groups.price


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x))


@theorem(
    "identities of any targets",
    paper="Zhu et al. 2021 (balancedness); Andriopoulos et al. 2024; here for any targets",
    family="any problem",
    assumes="any targets and loss, free factors with weight decay, any bias and d",
    applies=is_told,
    checks=_checks,
    any_targets=True,
)
def identities(problem: Problem) -> Prediction:
    """At an optimum features follow from the slopes, both factors weigh alike, and NC1 is zero.

    The gradient in a sample's features vanishes: h_m = (w_m/(Nλ_H)) Aᵀ(−∇ℓ_m). With U = −∂(risk)/∂Z, UᵀH = λ_A A and
    UA = λ_H H give λ_A AᵀA = AᵀUᵀH = λ_H HᵀH. A slope that sums to zero, as those of losses that ignore a common shift,
    leaves λ_A 1ᵀA = 1ᵀUᵀH = 0; a free bias has 1ᵀU = 0, so λ_H 1ᵀH = 1ᵀUA = 0. Where the loss is convex and d is at
    least the rank of the relaxed optimum, U/√n_m has rows of a matrix of operator norm at most c, so that
    ‖∇ℓ_m‖ ≤ ĉ/(w_m √π_m). Given A, convex losses with decay have one minimum in h: samples of a target share features.
    """
    convex = bool(facts_of(problem.loss).convex)
    return Prediction(metrics={"nc1": 0.0} if convex else {})
