"""How fast gradient descent approaches a balanced optimum: the slopes of NC1–NC3 and of the objective."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ufm._core.descent import Descent, factor, oscillates
from ufm.model.problem import Problem
from ufm.theory._modes import Mode, applies, modes
from ufm.theory.registry import Check, Found, Prediction, theorem

FLAT = 1e-12  # of the largest eigenvalue: one that is zero but for rounding
SAME = 1e-9  # relative, of rates that are one but for rounding
APART = 1.3  # by which factor the two slowest rates must differ, for a slope to be that of the slowest
LEAST_POINTS = 4  # snapshots in each of the later thirds of a terminal phase, to which a slope is fitted
LEAST_SPAN = 3.0  # decades of it
EFFECT = 3.0  # relative change of a slope, at most, over the root of the objective's relative excess


class Slope(NamedTuple):
    """How a quantity's terminal phase is told.

    Attributes:
        power: of deviations, which it goes like.
        least, most: between which it is in the terminal phase: above rounding, below what isn't linear.
        tolerance: relative, of its slope.
    """

    power: int
    least: float
    most: float
    tolerance: float


SLOPES = {
    "nc1": Slope(2, 1e-24, 1e-8, 0.01),
    "trace_ratio": Slope(2, 1e-24, 1e-8, 0.01),
    "nc2": Slope(1, 1e-12, 1e-3, 0.05),
    "nc3": Slope(1, 1e-12, 1e-3, 0.05),
    "loss": Slope(2, 1e-11, 1e-5, 0.05),  # its excess over the minimum, relative to that
}


Route = tuple[float, ...]  # eigenvalues of modes, the product of whose deviations moves a quantity


# what NC1 and NC3 see of modes out of the means' span, or of the classifier's: as it tilts, of itself or with the mean
TILTED = {
    "nc1": [("beyond", "tilt beyond"), ("common", "tilt common"), ("beyond", "mean beyond", "mean")],
    "nc3": [("rows beyond", "tilt beyond")],
}


def _routes(found: tuple[Mode, ...], quantity: str) -> list[Route]:
    """What moves a quantity: modes by themselves, and products of others.

    Pairs of modes of the logits move the means' shape, but for two that permutations leave as they are; with two
    classes means have no shape. Of a sum of all squares, as the objective and the ratio of traces, a mode is slowest.
    """
    flat = FLAT * max(abs(mode.value) for mode in found)
    moving = [mode for mode in found if mode.value > flat]
    excess = [mode for mode in moving if mode.of_logits or not mode.invariant]  # a shift of the bias stays at zero
    alone = [(mode.value,) for mode in (excess if quantity == "loss" else moving) if quantity in ("loss", *mode.moves)]
    products: list[tuple[Mode, ...]] = []
    for kinds in TILTED.get(quantity, []):
        products += itertools.product(*([mode for mode in moving if kind in mode.moves] for kind in kinds))
    if quantity in ("nc2", "nc3") and any("nc2" in mode.moves for mode in moving):
        pairs = itertools.combinations_with_replacement([mode for mode in moving if mode.of_logits], 2)
        products += [pair for pair in pairs if not all(mode.invariant for mode in pair)]
    return [*alone, *(tuple(mode.value for mode in product) for product in products)] if alone else []


def rates(problem: Problem) -> dict[str, float]:
    """The rates r of quantities ~ exp(−r t) along the gradient flow; none of what is zero all the time."""
    known = modes(problem)
    routes = {name: _routes(known, name) for name in SLOPES}
    return {name: SLOPES[name].power * min(map(sum, found)) for name, found in routes.items() if found}


class _Expected(NamedTuple):
    """Logarithm of what a step multiplies a quantity by.

    Attributes:
        slope: the logarithm.
        alone: whether nothing else is nearly as slow.
        others: of other single modes; where the slope is one of these, the slowest was too small to be seen.
        single: whether the slowest is a mode by itself; a product may be too small to be seen.
    """

    slope: float
    alone: bool
    others: list[float]
    single: bool


def _expected(routes: list[Route], power: int, descent: Descent) -> _Expected | None:
    """Of the slowest route; None where there is none, or a step makes one of its deviations grow.

    Products of more deviations are smaller to begin with: where they are faster too, they are no rivals.
    """
    eta, beta, nesterov = descent
    slopes = [power * sum(np.log(factor(value, eta, beta, nesterov=nesterov)) for value in route) for route in routes]
    index = int(np.argmax(slopes)) if slopes else 0
    if not slopes or not slopes[index] < 0.0:
        return None
    slowest, chief = slopes[index], routes[index]
    others = {len(route): [] for route in routes}
    for slope, route in zip(slopes, routes, strict=True):
        if not np.isclose(slope, slowest, rtol=SAME):
            others[len(route)].append(slope)
    rivals = [slope for length, found in others.items() for slope in found if length <= len(chief)]
    turns = any(oscillates(value, descent) for value in chief)
    alone = not turns and all(slope <= APART * slowest for slope in rivals)
    return _Expected(float(slowest), alone, others[1], len(chief) == 1)


class _Phase(NamedTuple):
    """A quantity's terminal phase: steps, logarithms of the quantity, and how far the optimum still is, relative."""

    steps: np.ndarray
    logs: np.ndarray
    distance: np.ndarray


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """The slope of each quantity in the later thirds of its terminal phase; of descents whose course was recorded."""
    history = found.history
    if history is None or found.descent is None or len(history.step) < 3 * LEAST_POINTS:
        return
    least = found.minimum(problem).value
    excess = (np.asarray(history.loss, np.float64) - least) / least
    known = modes(problem)
    for quantity in SLOPES:
        expected = _expected(_routes(known, quantity), SLOPES[quantity].power, found.descent)
        if expected is not None:
            values = excess if quantity == "loss" else np.asarray(getattr(history, quantity), np.float64)
            phase = _terminal(values, SLOPES[quantity])
            distance = np.sqrt(np.abs(excess[phase]))
            yield _slope(quantity, expected, _Phase(history.step[phase] * 1.0, np.log(values[phase]), distance))


def _terminal(values: np.ndarray, rule: Slope) -> slice:
    """From where a quantity is small for good to where it rounds."""
    above, below = np.flatnonzero(~(values <= rule.most)), np.flatnonzero(~(values >= rule.least))
    first = int(above[-1]) + 1 if above.size else 0
    after = below[below >= first]
    return slice(first, int(after[0]) if after.size else len(values))


def _slope(quantity: str, expected: _Expected, phase: _Phase) -> Check:
    """Decided where the phase is long, its later thirds agree, and no other mode is nearly as slow.

    What of the way to the optimum is left, whatever the quantity's own deviations are, changes the eigenvalues by as
    much: so large is the doubt.
    """
    tolerance, measured, steady, doubt, logs = SLOPES[quantity].tolerance, np.nan, False, np.inf, phase.logs
    thirds = [logs <= logs[0] - part * (logs[0] - logs[-1]) / 3 for part in (1, 2)] if len(logs) else []
    if len(logs) and logs[0] - logs[-1] >= LEAST_SPAN * np.log(10.0) and _points(thirds) >= LEAST_POINTS:
        second, last = (_fitted(phase, part) for part in (thirds[0] & ~thirds[1], thirds[1]))
        measured = _fitted(phase, thirds[0])
        steady = abs(last - second) <= tolerance * abs(measured)
        doubt = EFFECT * float(np.max(phase.distance[thirds[0]]))
    known = expected.alone and steady
    seen = expected.single and all(abs(measured / other - 1.0) > tolerance for other in expected.others)
    return Check(
        f"slope of log {quantity} per step",
        predicted=expected.slope,
        measured=measured,
        error=abs(measured / expected.slope - 1.0),
        tolerance=tolerance,
        certain=known,
        doubt=doubt if known and seen else np.inf,
    )


def _points(thirds: list[np.ndarray]) -> int:
    """Snapshots in the shorter of the two later thirds."""
    return int(min(np.sum(thirds[0] & ~thirds[1]), np.sum(thirds[1])))


def _fitted(phase: _Phase, part: np.ndarray) -> float:
    """The slope of a part of a phase, by least squares."""
    return float(np.polyfit(phase.steps[part], phase.logs[part], 1)[0])


@theorem(
    "terminal rates",
    paper="here, after Zhu et al. 2021 (the landscape)",
    family="landscape and dynamics",
    assumes="what the Hessian spectrum assumes, and gradient descent, with momentum or none, from where it is small",
    applies=applies,
    checks=_checks,
)
def terminal_rates(problem: Problem) -> Prediction:
    """At which rates NC1, NC2, NC3 and the objective fall in the end: those of the slowest modes that move them.

    Along an eigenvector with eigenvalue r deviations fall like exp(−r t) in the gradient flow, a step of descent
    multiplies them by `ufm.theory.factor`. NC1 sees samples about their means in the span of the means: its rate is
    twice λ_H(1+θ) for K > 2. Out of the span they fall like exp(−λ_H t), and the ratio of traces with them at 2λ_H; NC1
    sees those as the span tilts, which is slower where θ is large. NC2 and NC3 are norms, of what makes the means no
    simplex; NC3 also of the mean of the classifier's rows, at the rate λ_A where the loss doesn't see a common shift.
    Products of two other deviations move them too, which is slower where their rates add up to less.

    Measured in float64: NC1 between 1e-24 and 1e-8, NC2 and NC3 between 1e-12 and 1e-3, the objective's relative excess
    between 1e-11 and 1e-5; there by least squares over the later two thirds of the decades. Undecided with fewer than
    three decades, or four snapshots in a third, where the slopes of those thirds differ by more than the tolerance,
    where the two slowest rates are closer than 30 %, or where deviations turn as they fall. Not refuted where a product
    is slowest, or the slope is that of another mode, since the slowest may be too small to be seen; nor by less than
    what is left of the way to the optimum may change eigenvalues by, three times the root of the objective's excess.
    """
    return Prediction(rates=rates(problem))
