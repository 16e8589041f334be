"""Without weight decay: the direction that logits take, that of the hard margin, with a certificate."""

import dataclasses
import functools as ft
import os
from typing import NamedTuple

import numpy as np

from ufm._core import archive
from ufm._core.arrays import silent
from ufm._core.blas import one_thread
from ufm._core.checks import MOST_STEPS, Integer, Real, integer, real, room_for
from ufm._core.interrupts import interruptible
from ufm._core.progress import says
from ufm._core.status import Status
from ufm.metrics import definitions as metrics
from ufm.metrics.definitions import Metrics, numbers
from ufm.metrics.groups import of_group_means
from ufm.minima.margin_factors import Found, narrow
from ufm.minima.margin_sectors import Labelled, labelled
from ufm.minima.margin_splitting import iterates
from ufm.minima.margins import (
    Priced,
    Supports,
    centred_supports,
    check_margins,
    lower_bound,
    priced,
    supports_of,
)
from ufm.minima.reduction import LaneParams, filled_up, least_dim, lift
from ufm.minima.sector_metrics import metrics_of
from ufm.minima.sectors import Sectors, lifted
from ufm.minima.ways import RANDOM_STARTS
from ufm.model.params import Params
from ufm.model.problem import Problem, as_classes, with_values

SOLVED = 1e-4  # of the gap that counts as certified: to which the method goes on, since logits are off by its root
PATIENCE = 4  # looks that a certified gap may stay as it is, as where rounding keeps it
AGREEMENT = 1e-9  # relative, of two starts that found the same value
FEW_STARTS = 2  # where each takes longer than a second
MANY_UP_TO = 2**12  # multiplications of the logits, up to which it doesn't


@archive.storable
@dataclasses.dataclass(frozen=True, eq=False)
class Margin:
    """What `max_margin` returns; everything in float64.

    Attributes:
        problem: whose margins are meant.
        value: ½(‖A‖² + ‖H‖²) at `params`, whose margins are at least 1; its inverse is their normalised margin, the
            largest where certified. Infinite, and `params` zero, where no margins above zero were found.
        lower_bound: a number that no parameters with margins of 1 cost less than.
        steps: of the splitting method; 0 where the solution is known in closed form.
        status: whether the gap came below the tolerance, or a local method to an end, or else all steps were taken.
        certified: whether the gap is at most tol times the value.
        starts: how many starting points were tried, where dimensions don't suffice for the convex form.
        agreed: how many of them ended at the best value.
        seed: of the random starting points.
        solution: group means (M, r) of the features, classifier (K, r) and bias (K,); or what they are made of, where
            classes of equal count are treated alike.
    """

    problem: Problem
    value: float
    lower_bound: float
    steps: int
    status: Status
    certified: bool
    starts: int
    agreed: int
    seed: int
    solution: LaneParams | Sectors

    @ft.cached_property
    def _dense(self) -> LaneParams:
        """Group means (M, r), classifier (K, r) and bias (K,)."""
        if isinstance(self.solution, LaneParams):
            return self.solution
        K = self.problem.num_classes
        room_for(f"num_classes = {K}: class means and classifier in {K - 1} dimensions", 2 * K * (K - 1))
        return LaneParams(*lifted(self.solution))

    @property
    def means(self) -> np.ndarray:
        """(M, r) group means of the features in r ≤ d coordinates."""
        return self._dense.H

    @property
    def A(self) -> np.ndarray:
        """(K, r) classifier in the same coordinates."""
        return self._dense.A

    @property
    def b(self) -> np.ndarray:
        """(K,) bias."""
        solution = self.solution
        return solution.b if isinstance(solution, LaneParams) else solution.b[solution.size_of]

    @property
    def gap(self) -> float:
        """value − lower_bound: how far from optimal this can be."""
        return self.value - self.lower_bound

    @property
    def logits(self) -> np.ndarray:
        """(M, K) logits of each group, with the bias."""
        return self.means @ self.A.T + self.b

    @property
    def params(self) -> Params:
        """A minimiser of the problem as posed, H (N, d), A (K, d), b (K,), with ‖A‖ = ‖H‖."""
        (H, A, b, _), r = self._dense, least_dim(self.problem)
        return lift(self.problem, LaneParams(filled_up(H, (len(H), r)), filled_up(A, (len(A), r)), b))

    @ft.cached_property
    def metrics(self) -> Metrics:
        """`ufm.Metrics` at `params`."""
        counts = self.problem.group_counts.astype(np.float64)
        with one_thread(), silent():
            if isinstance(self.solution, Sectors):
                return numbers(metrics_of(self.solution, counts))
            H, A, b, _ = self.solution
            if as_classes(self.problem).targets is None:
                return numbers(metrics.of_means(H, counts, A, b))
            return numbers(of_group_means(H, counts, A, b, np.asarray(self.problem.group_targets)))

    def __repr__(self) -> str:
        first = f"Margin of {self.problem!r}\n"
        if not np.isfinite(self.value):
            return f"{first}  none above zero found in {self.problem.dim} dimensions, from {self.starts} starts"
        known = ("certified", "largest ") if self.certified else ("not certified", "")
        how = f"{self.agreed} of {self.starts} starts ended there" if self.starts > 1 else f"{self.steps} steps"
        return (
            f"{first}  value {self.value:.12g}, gap {self.gap:.1e}, {known[0]}\n"
            f"  {known[1]}normalised margin {1 / self.value:.12g}; {self.status.word}, {how}"
        )

    def _repr_html_(self) -> str:
        from ufm._core.tables import html

        return html(("metric", "value"), self.metrics.known(), repr(self))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to exactly `path`, an npz file without pickle; `ufm.load` reads it."""
        archive.save(path, self)


@interruptible
@says("widening margins")
def max_margin(problem: Problem, seed: Integer = 0, *, tol: Real = 1e-8, max_steps: Integer = 20000) -> Margin:
    """The direction that logits take where nothing bounds them: the cheapest factors with margins of 1, certified.

    A cross-entropy without weight decay has no minimum: training goes on for ever, and H, A grow along a direction.
    Minima with decay go the same way as decay vanishes. That direction solves

        min ½(‖A‖² + ‖H‖²) subject to z_iy − z_ij ≥ 1 for all samples i and classes j ≠ y_i, Z = H Aᵀ + 1bᵀ,

    and of sparse targets, whose log-odds stay finite: z_ik = z_il for outputs k, l that sample i has a probability of,
    z_ik − z_iv ≥ 1 for those v that it has none of. The bias, where it is free, costs nothing. Neither weights of
    samples, nor probabilities above zero, nor how large λ_A and λ_H are matter; a ratio other than 1 would only scale A
    against H. With a decayed bias the problem is that without one: at a minimum λ_b b is a sum of slopes, of the order
    of √(λ_A λ_H) at most, so that b stays bounded beside logits that grow.

    That is where minima go. Gradient flow goes to KKT points of the same problem (Lyu & Li 2020), but its free bias
    lags behind: slopes fall like 1/(t log t) and add up to log log t, beside logits of log t, so that its features and
    classifier tend to those of bias=False.

    Where d suffices for it the problem is convex in Z, min ‖D^{1/2}Z‖_* over logits of group means (see
    `ufm.minima.margins`), and its solution has the largest margin of all parameters. For class labels it is known in
    closed form, simplex-encoded labels (Thrampoulidis et al. 2022), which the dual checks; elsewhere a splitting
    method finds it. Logits may not be unique; the value is. In fewer dimensions a local method goes from some starts,
    and the convex problem's value is the bound: then the gap stays, and the value is infinite where no start finds
    margins above zero.

    Args:
        problem: free features and classifier, no hidden layers; a convex loss that falls exponentially with the margin,
            as cross-entropy does; of targets at least one group that doesn't want every output.
        seed: of the random starting points, which are used where d is less than the convex form needs.
        tol: relative gap that counts as certified, dimensionless.
        max_steps: of the splitting method, each a singular value decomposition, which takes some hundred; in fewer
            dimensions function evaluations of each start too, some thousand.

    Returns:
        A Margin.

    Raises:
        ValueError: for a problem that has no such direction, or whose direction isn't known here; or a wrong argument.
    """
    check_margins(with_values(problem))
    seed, tol = integer("seed", seed, least=0), real("tol", tol, above=0.0)
    max_steps = integer("max_steps", max_steps, least=1, most=MOST_STEPS)
    if as_classes(problem).targets is None:
        with one_thread():
            best = labelled(as_classes(problem))
        if best.rank <= problem.dim and best.value - best.lower_bound <= tol * best.value:
            return _of_labels(problem, seed, best)
    supports = supports_of(problem)
    with one_thread(), silent():
        relaxed = _relaxed(supports, tol, max_steps)
        found = [_factors(supports, relaxed.best)]
        if len(relaxed.best.s) > problem.dim:
            starts = RANDOM_STARTS if supports.wanted.size * problem.dim <= MANY_UP_TO else FEW_STARTS
            found = narrow(supports, problem.dim, relaxed.best, seed, starts, max_steps)
    return _margin(problem, seed, tol, relaxed, found, supports)


def _of_labels(problem: Problem, seed: int, best: Labelled) -> Margin:
    """What is known in closed form, and certified."""
    return Margin(
        problem=problem,
        value=best.value,
        lower_bound=best.lower_bound,
        steps=0,
        status=Status.CONVERGED,
        certified=True,
        starts=1,
        agreed=1,
        seed=seed,
        solution=best.sectors,
    )


class _Relaxed(NamedTuple):
    """The cheapest logits that were found of any rank, a bound, and how many steps that took."""

    best: Priced
    lower_bound: float
    steps: int


def _relaxed(supports: Supports, tol: float, max_steps: int) -> _Relaxed:
    """The convex form's solution: the supports themselves, or what splitting ends at."""
    best, bound = centred_supports(supports)
    if best.value - bound <= tol * best.value:
        return _Relaxed(best, bound, 0)
    steps, gap, since = 0, np.inf, 0
    for reached in iterates(supports, max_steps):
        best = min(best, priced(supports, reached.logits), key=lambda each: each.value)
        bound = max(bound, lower_bound(supports, reached.multipliers))
        steps, before, gap = reached.steps, gap, min(gap, best.value - bound)
        since = 0 if gap < before else since + 1
        if gap <= SOLVED * tol * best.value or (gap <= tol * best.value and since >= PATIENCE):
            break
    return _Relaxed(best, bound, steps)


def _margin(
    problem: Problem, seed: int, tol: float, relaxed: _Relaxed, found: list[Found], supports: Supports
) -> Margin:
    """The best of what was found."""
    best = min(found, key=lambda each: each.value)
    certified = bool(np.isfinite(best.value)) and best.value - relaxed.lower_bound <= tol * best.value
    H, A, b, _ = best.params
    return Margin(
        problem=problem,
        value=best.value,
        lower_bound=relaxed.lower_bound,
        steps=relaxed.steps,
        status=Status.CONVERGED if certified or best.settled else Status.MAX_STEPS,
        certified=bool(certified),
        starts=len(found),
        agreed=sum(bool(each.value <= (1.0 + AGREEMENT) * best.value) for each in found),
        seed=seed,
        solution=LaneParams(H[supports.group], A[supports.column], b[supports.column]),
    )


def _factors(supports: Supports, best: Priced) -> Found:
    """Balanced factors of logits."""
    left, right = supports.roots
    split = np.sqrt(best.s)
    centred = best.logits - (best.logits @ supports.copies / np.sum(supports.copies))[:, None]
    params = LaneParams(best.X * split / left, best.Vt.T * split / right[:, None], supports.bias_of(centred))
    return Found(params, best.value, False)
