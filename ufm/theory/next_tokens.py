"""Cross-entropy of sparse targets as decay vanishes: log-odds in the support, margins off it."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ufm.model.losses import CrossEntropy
from ufm.model.problem import Problem
from ufm.theory._groups import Groups, groups_of, is_relaxed, is_told, log_softmax, logits_of, polar, targets_of
from ufm.theory._zero_point import at_zero
from ufm.theory.registry import GEOMETRY, Check, Found, Prediction, theorem

DECAYS = (1e-1, 1e-2)  # factors of both decays, along which the limit is approached; further, minima take long
STRICT = 1e-9  # below zero, of the entries of a polar factor that are to be so


def _supports(problem: Problem) -> np.ndarray:
    """(M, K) which outputs each group wants."""
    return np.asarray(targets_of(problem).rows) > 0


def limit(problem: Problem) -> np.ndarray | None:
    """(M, K) the logits that the optimum's direction tends to without a bias, where they are the centred supports.

    Z = S − |S|/K meets the margins. Where the polar factor E of D^{1/2}Z is below zero off the supports it is a
    combination of the constraints' normals, so that Z is the cheapest; and, being strictly below, the only one, since
    every margin then has to be met exactly. Elsewhere None.
    """
    if problem.bias_kind != "none":
        return None
    S = _supports(problem).astype(float)
    logits = S - np.mean(S, axis=1, keepdims=True)
    frame = polar(np.sqrt(problem.group_counts)[:, None] * logits)[0]
    return logits if np.all(frame[S == 0] < -STRICT) else None


def _allowed(groups: Groups) -> np.ndarray:
    """(M,) what ‖T − p‖ is at most, ĉ/(w√π)."""
    return groups.price / (groups.w * np.sqrt(groups.share))


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """Bounds at any decay, as shares of them; and the trend of the optimum's direction along `DECAYS`."""
    groups, inside = groups_of(problem), _supports(problem)
    log_p, allowed = log_softmax(logits_of(problem, found)), _allowed(groups)
    stray = np.sum(np.where(inside, 0.0, np.exp(log_p)), axis=1)
    room = allowed * np.sqrt(np.sum(~inside, axis=1))
    yield _at_most(found, "probability off the support, share of its bound", stray, room)
    off, bound, known = _odds(groups, inside, log_p, allowed)
    if np.any(known):
        yield _at_most(found, "log-odds in the support, share of their bound", off[known], bound[known])
    if found.history is None and (direction := limit(problem)) is not None:
        yield _trend(problem, found, direction)


def _odds(groups: Groups, inside: np.ndarray, log_p: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, ...]:
    """(M,) by how much log-odds differ from the targets' at most, a bound on that, and where there is one.

    A probability is between T − ε and T + ε, ε = ĉ/(w√π): log p between log T + log(1 − ε/T) and log T + log(1 + ε/T).
    """
    T = np.where(inside, groups.T, 1.0)
    errors = np.where(inside, log_p - np.log(T), np.nan)
    least = np.min(T, axis=1)
    known = (np.sum(inside, axis=1) > 1) & (allowed < least)
    share = np.where(known, allowed / least, 0.0)
    off = np.nanmax(errors, axis=1) - np.nanmin(errors, axis=1)
    return off, np.log1p(share) - np.log1p(-share), known


def _at_most(found: Found, quantity: str, measured: np.ndarray, bounds: np.ndarray) -> Check:
    """Of the group that uses up most of its bound."""
    most = float(np.max(measured / np.where(bounds > 0, bounds, np.inf)))
    return found.of_minimiser(f"{quantity}, is at most", predicted=1.0, measured=most, error=max(0.0, most - 1.0))


def _trend(problem: Problem, found: Found, direction: np.ndarray) -> Check:
    """The limit is approached like 1/log(1/c): distances must fall."""
    smaller = [replace(problem, lambda_A=f * problem.lambda_A, lambda_H=f * problem.lambda_H) for f in DECAYS]
    minima = [found, *(found.minimum(other) for other in smaller)]
    distances = [_distance(problem, each.means @ each.classifier.T, direction) for each in minima]
    certified = all(minimum.certified for minimum in minima)
    return Check(
        "distance of logits to the limit's direction",
        predicted="falling",
        measured=distances,
        error=max(0.0, *(after - before for before, after in pairwise(distances))),
        tolerance=GEOMETRY,  # where the direction is met at every decay, as that of symmetric supports
        certain=certified,
        doubt=0.0 if certified else np.inf,
    )


def _distance(problem: Problem, X: np.ndarray, Y: np.ndarray) -> float:
    """‖X/‖X‖ − Y/‖Y‖‖ over samples; a zero has no direction."""
    root = np.sqrt(problem.group_counts)[:, None]
    unit = [each / max(float(np.linalg.norm(each)), np.finfo(float).tiny) for each in (root * X, root * Y)]
    return float(np.linalg.norm(unit[0] - unit[1]))


def _applies(problem: Problem) -> bool:
    return is_told(problem, CrossEntropy) and is_relaxed(problem) and not np.all(_supports(problem))


@theorem(
    "next tokens",
    paper="Thrampoulidis 2024; Zhao et al. 2024",
    family="vanishing weight decay",
    assumes="cross-entropy, targets with zeros (contexts that few tokens follow), weight decay on A and H, any bias, "
    "d ≥ relaxed rank; the direction without bias, λ_A, λ_H → 0",
    applies=_applies,
    checks=_checks,
    any_targets=True,
)
def next_tokens(problem: Problem) -> Prediction:
    """Between which numbers the minimum lies; log-odds in supports are the targets' but for O(ĉ); margins off grow.

    At an optimum ‖T_m − p_m‖ ≤ ĉ/(w_m√π_m) with ĉ = √(N λ_A λ_H), so log-odds in a support converge linearly, and off
    it a probability is at most of the order ĉ: margins grow like log(1/ĉ), and f* → H(T), the targets' entropy, from
    above. Their direction tends to the cheapest ‖D^{1/2}Z‖_* with equal logits in supports and margins of 1 off them,
    which depends on supports and counts alone. It is the centred matrix of supports where the polar factor of
    D^{1/2}(S − |S|/K) is negative off them, as with labels; not always: `ufm.max_margin` finds what it is. Trap: the
    papers decay each distinct context once, whatever its frequency: counts of one, and weights for the frequencies.
    """
    groups = groups_of(problem)
    T = groups.T
    entropies = -np.sum(T * np.log(np.where(T > 0, T, 1.0)), axis=1)
    return Prediction(bounds=(float(groups.share * groups.w @ entropies), at_zero(problem).value))
