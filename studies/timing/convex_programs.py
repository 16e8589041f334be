"""cvxpy with Clarabel as a peer: imbalanced cross-entropy as a convex program. It need not be installed.

In logits Z (K, K) of class means, with shares π_k = n_k/N of the samples and without bias, the minimum is that of
Σ π_k CE(z_k, k) + √(N λ_A λ_H)‖diag(√π) Z‖_*; or, where rows are held by `MeanBall` instead, of the first sum where
‖Z‖_* ≤ K R_A R_H (Fang et al. 2021).
"""

# pyright: reportMissingImports=false

import functools as ft
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import ufm

MISSING = "left out: cvxpy with Clarabel is not installed; pip install -e '.[benchmark]' adds it"


class Program(NamedTuple):
    """A program of cvxpy whose shares, stretches ĉ√π, and radius can be set to those of a problem."""

    program: Any
    shares: Any
    stretches: Any
    radius: Any

    def value(self, problem: ufm.Problem) -> float:
        """The minimum that Clarabel finds; NaN where it gives up."""
        import cvxpy as cp

        shares = problem.class_counts / problem.num_samples
        self.shares.value = shares
        self.stretches.value = np.sqrt(problem.num_samples * problem.lambda_A * problem.lambda_H * shares)
        if is_held(problem):
            self.radius.value = problem.num_classes * problem.features.radius * problem.classifier.radius
        try:
            return float(self.program.solve(solver=cp.CLARABEL))
        except cp.SolverError:
            return np.nan


def installed() -> bool:
    """Whether there is cvxpy with Clarabel to compare with."""
    return all(importlib.util.find_spec(name) is not None for name in ("cvxpy", "clarabel"))


def is_held(problem: ufm.Problem) -> bool:
    """Whether features are held by a radius."""
    return problem.features.radius is not None


def posed(problem: ufm.Problem) -> Program:
    """The program of problems like this one."""
    import cvxpy as cp

    K = problem.num_classes
    Z, shares, stretches, radius = cp.Variable((K, K)), *(cp.Parameter(size, nonneg=True) for size in (K, K, ()))
    risk = shares @ (cp.log_sum_exp(Z, axis=1) - cp.diag(Z))
    if is_held(problem):
        program = cp.Problem(cp.Minimize(risk), [cp.normNuc(Z) <= radius])
    else:
        program = cp.Problem(cp.Minimize(risk + cp.normNuc(cp.diag(stretches) @ Z)))
    return Program(program, shares, stretches, radius)


def minima(problems: list[ufm.Problem]) -> dict[str, Callable[[], list[float]]]:
    """Their minimum values: each posed anew, or one program with other numbers, whose translation is not timed."""
    kept = posed(problems[0])
    kept.value(problems[0])
    ways = {"posed anew": posed, "posed once": lambda problem: kept}
    return {f"Clarabel, {name}": ft.partial(values, problems, way) for name, way in ways.items()}


def values(problems: list[ufm.Problem], way: Callable[[ufm.Problem], Program]) -> list[float]:
    """Minimum values by the programs that a way makes of problems."""
    return [way(problem).value(problem) for problem in problems]
