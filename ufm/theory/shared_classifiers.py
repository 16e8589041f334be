"""When two outputs share a classifier: minority collapse for any targets."""

import functools as ft
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ufm.model.problem import Problem
from ufm.theory._groups import LOSSES, Groups, groups_of, in_units, is_relaxed, is_told, logits_of, slopes, targets_of
from ufm.theory.formulas import named
from ufm.theory.registry import GEOMETRY, Check, Found, Prediction, theorem

CLEAR = 1e-2  # relative distance of ĉ from a threshold, within which columns nearly coincide and nothing is said

ROUNDING = 1e-9  # of means, relative


class Alike(NamedTuple):
    """Outputs any two of which can be exchanged, and the ĉ from which they share a classifier."""

    outputs: tuple[int, ...]
    reach: float

    def __str__(self) -> str:
        return named("outputs", self.outputs)


@ft.lru_cache(maxsize=4)
def exchangeable(problem: Problem) -> tuple[Alike, ...]:
    """Outputs whose exchange, with one of groups of equal count and weight, leaves the problem as it is.

    Exchanges of i and j and of j and k make that of i and k, so each output need be tried with one of each set only.
    """
    if not (candidates := _candidates(problem)):
        return ()
    targets, _ = targets_of(problem).merged()
    told = np.column_stack([targets.group_counts, np.asarray(targets.weights)])
    table = np.column_stack([np.asarray(targets.rows), told])
    sets: dict[bytes, list[list[int]]] = {}
    for k in candidates:
        column = table[:, [k, -2, -1]]
        homes = sets.setdefault(column[np.lexsort(column.T)].tobytes(), [])
        home = next((members for members in homes if _exchanges(table, members[0], k)), None)
        if home is None:
            homes.append([k])
        else:
            home.append(k)
    found = sorted(tuple(members) for of_column in sets.values() for members in of_column if len(members) > 1)
    groups = groups_of(problem)
    return tuple(Alike(members, _reach(groups, members[0], members[1])) for members in found)


def _candidates(problem: Problem) -> list[int]:
    """Outputs whose mean target is another's too, but for rounding: the others need not be sorted."""
    groups = groups_of(problem)
    mean, size = groups.share @ groups.T, groups.share @ np.abs(groups.T)
    order = np.argsort(mean)
    near = np.diff(mean[order]) <= ROUNDING * np.max(size)
    return sorted(int(k) for k in {*order[:-1][near], *order[1:][near]})


def _exchanges(table: np.ndarray, i: int, j: int) -> bool:
    """Whether exchanging two columns leaves rows as they are but for their order."""
    moved = table[table[:, i] != table[:, j]]
    columns = np.arange(table.shape[1])
    columns[[i, j]] = j, i
    return Counter(map(bytes, moved)) == Counter(map(bytes, moved[:, columns]))


def _reach(groups: Groups, i: int, j: int) -> float:
    """√(½ Σ π w² (T_i − T_j)²)."""
    return float(np.sqrt(0.5 * groups.share @ (groups.w * (groups.T[:, i] - groups.T[:, j])) ** 2))


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """Of logits, not of rows of A, which where they coincide are known to half as many digits."""
    price, logits = groups_of(problem).price, logits_of(problem, found)
    share = problem.group_counts / problem.num_samples
    size = np.sqrt(share @ np.sum((logits - found.bias) ** 2, axis=1))
    for alike in exchangeable(problem):
        if abs(price - alike.reach) <= CLEAR * alike.reach or size == 0:
            continue
        first, *others = alike.outputs
        apart = np.sqrt(share @ (logits[:, others] - logits[:, [first]]) ** 2)
        shared = price >= alike.reach
        measured = bool((np.max if shared else np.min)(apart) <= GEOMETRY * size)
        yield found.of_minimiser(f"{alike} share a classifier", predicted=shared, measured=measured)
        if not shared:
            off = max(_off(problem, found, logits, first, other) for other in others)
            yield found.of_minimiser(f"slopes that keep {alike} apart", predicted=0.0, measured=off)


def _off(problem: Problem, found: Found, logits: np.ndarray, i: int, j: int) -> float:
    """Of w(∇_j ℓ − ∇_i ℓ) = ĉ δ/√(½ Σ π δ²), with δ = z_i − z_j, in units of √f."""
    groups, slope = groups_of(problem), slopes(problem, logits)
    delta = logits[:, i] - logits[:, j]
    pull = np.asarray(problem.group_weights) * (slope[:, j] - slope[:, i])
    off = pull - groups.price * delta / np.sqrt(0.5 * groups.share @ delta**2)
    return in_units(found, float(np.sqrt(groups.share @ off**2)))


def _applies(problem: Problem) -> bool:
    posed = is_told(problem, *LOSSES) and is_relaxed(problem)
    return posed and bool(exchangeable(problem))


@theorem(
    "outputs that share a classifier",
    paper="Fang et al. 2021 and Dang et al. 2024 (class labels: minority collapse); here for any targets",
    family="targets",
    assumes="cross-entropy, label smoothing or squared error; any targets that exchanging two outputs leaves as they "
    "are, with an exchange of groups of equal count and weight; weight decay on A and H, any bias, d ≥ relaxed rank",
    applies=_applies,
    checks=_checks,
    any_targets=True,
)
def shared_classifiers(problem: Problem) -> Prediction:
    """Which exchangeable outputs have one classifier row: those with ½ Σ π w²(T_i − T_j)² ≤ ĉ² = N λ_A λ_H.

    The convex form is invariant under the exchange, and so is its minimum. Of Z the part that changes sign is
    δ(e_i − e_j)ᵀ/2 with δ odd under the exchange of groups: one singular vector on the right, so the nuclear norm is
    that of the even part plus √(½ Σ π δ²). At δ = 0 the slope along δ is half of π w(T_i − T_j) whatever the rest is,
    since p_i = p_j; so δ = 0 is optimal iff √(½ Σ π w²(T_i − T_j)²) ≤ ĉ, and exchanged groups then share features.
    Above, w(∇_jℓ − ∇_iℓ) = ĉδ/√(½ Σ π δ²); of one pair of groups p_i − p_j = T_i − T_j − ĉ/(w√π). With labels it says
    that classes of equal count n merge from n = N² λ_A λ_H on. Trap: without the exchange it is false.
    """
    N = problem.num_samples
    thresholds = {f"c at which {alike} merge": alike.reach / np.sqrt(N) for alike in exchangeable(problem)}
    return Prediction(thresholds=thresholds)
