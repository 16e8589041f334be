"""Targets as a problem in logits: each group of samples is a row of its own, each output a column.

The form is that of `ufm.minima.symmetry` with multiplicities of one and no standard sectors,

    min  Σ_m ω_m ℓ(z_m + b, T_m) + c ‖diag(n)^{1/2} Z‖_* + (λ_b/2) ‖b‖²,   ω_m = w_m n_m/N,  c = √(λ_A λ_H),

and the output of a row's largest target takes the part of its right class.
"""

import dataclasses
import functools as ft
from typing import Any

import numpy as np
from jaxtyping import Float

from ufm.minima.blocks import Blocks
from ufm.minima.reduction import LaneParams, least_dim, merged_groups
from ufm.minima.sectors import Sectors
from ufm.minima.symmetry import relaxed
from ufm.model.losses import (
    SizeConjugate,
    SizeLoss,
    losing_digits,
    mass_losing_digits,
    per_sample_conjugate,
)
from ufm.model.problem import Problem

LEAST_SHARE = 1e-3  # of the mean: of an output that few rows want or none, where a bias with decay is first
MOST_HELD = 2**25  # numbers of a matrix, of which there are some ten


@dataclasses.dataclass(frozen=True, eq=False)
class RowBlocks(Blocks):
    """A problem of targets, group by group.

    Attributes:
        rows: (M, K) targets.
    """

    rows: Float[np.ndarray, "M K"]

    @property
    def outputs(self) -> Float[np.ndarray, " K"]:
        """One of each."""
        return np.ones(self.num_classes)

    @ft.cached_property
    def own(self) -> tuple[Any, Any]:
        """The output of each row's largest target."""
        return np.arange(self.num_sizes), np.argmax(self.rows, axis=1)

    @ft.cached_property
    def lost(self) -> Float[np.ndarray, " M"]:
        """None of a one-hot row where the loss loses none of a label."""
        return np.broadcast_to(mass_losing_digits(self.loss, self.rows.T), self.num_sizes)

    @ft.cached_property
    def first_bias(self) -> Float[np.ndarray, " K"]:
        """Logarithms of shares where targets are probabilities, else zero.

        A bias stays finite where no row wants its output.
        """
        if self.flat is None:
            return np.zeros(self.num_classes)
        shares = self.omega @ self.rows
        logs = np.log(np.maximum(shares, LEAST_SHARE * np.mean(shares)))
        return logs - np.mean(logs)

    @ft.cached_property
    def cancelled(self) -> float:
        """That of the targets, which are taken off."""
        return float(np.linalg.norm(self.slope_scale * losing_digits(self.loss, self.rows.T).T))

    def _columns_of(self, right, wrong):
        """Logits or slopes (K, M) of the right one and the others."""
        found = wrong.copy()
        found[self.own] = right
        return found.T

    def losses(self, right: Any, wrong: Any) -> SizeLoss:
        """Losses of a sample of each group."""
        return self.loss.on_rows(right, wrong, self.alike, self.rows)

    def conjugates(self, right: Any, wrong: Any) -> SizeConjugate:
        """Their conjugates."""
        slopes = self._columns_of(right, wrong)
        logits = self.loss.logits_of_columns(slopes, self.rows.T).T
        return SizeConjugate(per_sample_conjugate(self.loss, slopes, self.rows.T), logits[self.own], logits)


def on_rows(problem: Problem) -> bool:
    """Whether a problem of targets is of this form, and its matrices are no larger than they can well be held."""
    targets, _ = merged_groups(problem)
    return targets is not None and relaxed(problem) and targets.num_groups * problem.num_classes <= MOST_HELD


def rows_of(problem: Problem) -> RowBlocks:
    """The problem on groups, of which equal ones are one."""
    targets, _ = merged_groups(problem)
    counts = targets.group_counts.astype(np.float64)
    return RowBlocks(
        counts=counts,
        weights=np.asarray(targets.weights, np.float64),
        multiplicities=np.ones(len(counts)),
        num_samples=float(problem.num_samples),
        num_classes=problem.num_classes,
        loss=problem.loss,
        price=float(np.sqrt(problem.lambda_A) * np.sqrt(problem.lambda_H)),
        lambda_b=float(problem.lambda_b),
        bias_kind=problem.bias_kind,
        rows=np.asarray(targets.rows, np.float64),
    )


def params_of(problem: Problem, found: Sectors) -> LaneParams:
    """Factors without standard sectors as group means, classifier and bias in the dimension of the reduced problem."""
    missing = ((0, 0), (0, least_dim(problem) - found.trivial_A.shape[1]))
    return LaneParams(np.pad(found.trivial_H, missing), np.pad(found.trivial_A, missing), found.b)
