"""Margins of 1 by factors of fewer dimensions than the convex form needs: a local method, from several starts.

Over x = (A, H, b) of the merged problem, A and H times C^{1/2} and D^{1/2}, it minimises ½(‖A‖² + ‖H‖²) with margins
g ≥ 0 and differences e = 0 of logits in a support by the augmented Lagrangian (Hestenes 1969, Powell 1969, Rockafellar
1973), inside by L-BFGS. What it finds is made feasible but for rounding: differences by Newton's least steps, margins
by scaling. Not convex: other minima there may be, and no start may find a feasible point where there is none.
"""

from typing import Any, NamedTuple

import numpy as np

from ufm._core.interrupts import check
from ufm.minima.margins import Priced, Supports
from ufm.minima.reduction import LaneParams

FIRST_PRICE = 10.0  # of a violation, over a multiplier's size
RAISED, SHRINKS = 2.0, 0.5  # by how much the price rises where violations don't shrink so
MOST_RAISED = 256.0  # in all; beyond, rounding of violations hides the slopes
VIOLATED = 1e-8  # of margins of 1: from where Newton's steps do the rest
HOPELESS = 100.0  # of K² times the convex form's value: multipliers that add up to more have nothing to settle at
INNER = {"maxiter": 500, "maxcor": 30, "ftol": 0.0}
SLOPES = 1e-9  # that the inner minimisation leaves at the end; at first as many as the price of violations is worth
OFF_SADDLES = 1e-2  # of random factors, added to those of the relaxed solution
NEWTON_STEPS = 8  # of differences to zero
ROUNDED = 1e-13  # violations that are left alone
SAME = 1e-12  # differences in supports that count as none, of a margin
BINDS = 1e-6  # a multiplier, of the largest: of a margin that binds


class Found(NamedTuple):
    """Feasible parameters of the merged problem and ½(‖A‖² + ‖H‖²), infinite where none were found; whether settled."""

    params: LaneParams
    value: float
    settled: bool


class _Posed:
    """A merged problem in d dimensions, as functions of x."""

    def __init__(self, supports: Supports, dim: int):
        self.supports, self.dim = supports, dim
        M, self.outputs = supports.wanted.shape
        self.first = np.argmax(supports.wanted, axis=1)
        self.rows = np.arange(M)
        self.same = supports.wanted.copy()
        self.same[self.rows, self.first] = False
        self.off = ~supports.wanted
        self.size = (M + self.outputs) * dim + self.outputs * supports.free_bias

    def split(self, x: np.ndarray) -> LaneParams:
        """Group means, classifier and bias."""
        left, right = self.supports.roots
        (M, K), d = self.off.shape, self.dim
        A, H, b = np.split(x, [K * d, (K + M) * d])
        return LaneParams(H.reshape(M, d) / left, A.reshape(K, d) / right[:, None], b if len(b) else np.zeros(K))

    def joined(self, H: np.ndarray, A: np.ndarray, b: np.ndarray) -> np.ndarray:
        left, right = self.supports.roots
        bias = b if self.supports.free_bias else np.zeros(0)
        return np.concatenate([(A * right[:, None]).ravel(), (H * left).ravel(), bias])

    def pulled(self, slopes: np.ndarray, at: LaneParams) -> np.ndarray:
        """Slopes along x from those along logits."""
        left, right = self.supports.roots
        along_b = slopes.sum(axis=0) if self.supports.free_bias else np.zeros(0)
        return np.concatenate([(slopes.T @ at.H / right[:, None]).ravel(), (slopes @ at.A / left).ravel(), along_b])

    def violations(self, at: LaneParams) -> np.ndarray:
        """(M, K) 1 − margin off the supports, minus the differences to the first wanted logit on them."""
        return np.where(self.off, 1.0, 0.0) + self._leads(at.H @ at.A.T + at.b)

    def along(self, at: LaneParams, step: LaneParams) -> np.ndarray:
        """(M, K) derivative of the violations along a step."""
        return self._leads(at.H @ step.A.T + step.H @ at.A.T + step.b)

    def _leads(self, Z: np.ndarray) -> np.ndarray:
        over = Z - Z[self.rows, self.first][:, None]
        return np.where(self.off, over, -over)

    def square(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """½(‖A‖² + ‖H‖²) and its slopes."""
        priced = x.copy()
        priced[(self.outputs + len(self.off)) * self.dim :] = 0.0
        return 0.5 * float(priced @ priced), priced

    def slopes(self, multipliers: np.ndarray) -> np.ndarray:
        """(M, K) slopes along logits of Σ multipliers · violations."""
        found = np.where(self.off, multipliers, np.where(self.same, -multipliers, 0.0))
        found[self.rows, self.first] = -np.sum(found, axis=1)
        return found


def narrow(supports: Supports, dim: int, relaxed: Priced, seed: int, starts: int, max_steps: int) -> list[Found]:
    """What the local method finds: from the relaxed solution's largest directions, and from random factors."""
    posed, draw = _Posed(supports, dim), np.random.default_rng(seed)
    size = np.sqrt(2.0 * relaxed.value / (sum(supports.wanted.shape) * dim))
    left, right = supports.roots
    split = np.sqrt(relaxed.s[:dim])
    M, K = supports.wanted.shape
    H, A = np.zeros((M, dim)), np.zeros((K, dim))
    H[:, : len(split)] = relaxed.X[:, :dim] * split / left
    A[:, : len(split)] = relaxed.Vt[:dim].T * split / right[:, None]
    first = posed.joined(H, A, supports.bias_of(relaxed.logits))
    noise = [size * draw.normal(size=first.size) for _ in range(starts)]
    points = (first + OFF_SADDLES * noise[0], *noise[1:])
    return [_feasible(posed, _minimised(posed, x, relaxed.value, max_steps)) for x in points]


class _Ended(NamedTuple):
    """Where the augmented Lagrangian's multipliers (M, K) settled, if they did."""

    x: np.ndarray
    multipliers: np.ndarray
    settled: bool


def _minimised(posed: _Posed, x: np.ndarray, scale: float, max_steps: int) -> _Ended:
    """By as many function evaluations at most."""
    from scipy.optimize import minimize  # half a second, which most never need

    off = posed.off
    multipliers, price = np.zeros(off.shape), FIRST_PRICE * scale / np.count_nonzero(off)
    before, most = np.inf, MOST_RAISED * price

    def pushed(at: LaneParams) -> np.ndarray:
        found = multipliers + price * posed.violations(at)
        return np.where(off, np.maximum(found, 0.0), np.where(posed.same, found, 0.0))

    def lagrangian(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = posed.split(x)
        (square, slopes), push = posed.square(x), pushed(at)
        return square + float(np.sum(push**2)) / (2.0 * price), slopes + posed.pulled(posed.slopes(push), at)

    while max_steps > 0:
        check()
        options = {**INNER, "maxfun": max_steps, "gtol": max(SLOPES, min(0.1, 0.1 * before * price))}
        ended = minimize(lagrangian, x, jac=True, method="L-BFGS-B", options=options)
        x, max_steps = ended.x, max_steps - ended.nfev
        push = pushed(posed.split(x))
        violated = float(np.max(np.abs(push - multipliers))) / price
        multipliers = push
        if violated <= VIOLATED or np.sum(np.abs(multipliers)) > HOPELESS * off.shape[1] ** 2 * scale:
            return _Ended(x, multipliers, violated <= VIOLATED)
        price = min(price * (RAISED if violated > SHRINKS * before else 1.0), most)
        before = violated
    return _Ended(x, multipliers, False)


def _feasible(posed: _Posed, ended: _Ended) -> Found:
    """The nearest point without differences in supports, scaled to margins of 1; or one where all that bind meet it."""
    binding = posed.same | (posed.off & (ended.multipliers > BINDS * np.max(np.abs(ended.multipliers))))
    points = (_met(posed, ended.x, entries) for entries in (posed.same, binding))
    found = min((_scaled(posed, point) for point in points), key=lambda each: each.value)
    return found._replace(settled=ended.settled and bool(np.isfinite(found.value)))


def _met(posed: _Posed, x: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Where these violations are zero, by Newton's least steps, which LSMR finds (Fong & Saunders 2011)."""
    from scipy.sparse.linalg import lsmr

    for _ in range(NEWTON_STEPS if np.any(entries) else 0):
        at = posed.split(x)
        off = posed.violations(at)[entries]
        if np.max(np.abs(off)) <= ROUNDED:
            break
        x = x - lsmr(_derivative(posed, at, entries), off, atol=0.0, btol=ROUNDED)[0]
    return x


def _derivative(posed: _Posed, at: LaneParams, entries: np.ndarray) -> Any:
    """Of these violations along x, as a linear operator."""
    from scipy.sparse.linalg import LinearOperator

    def forward(dx):
        return posed.along(at, posed.split(dx))[entries]

    def backward(weights):
        spread = np.zeros(entries.shape)
        spread[entries] = weights
        return posed.pulled(posed.slopes(spread), at)

    products: Any = {"matvec": forward, "rmatvec": backward, "dtype": np.float64}
    return LinearOperator(shape=(np.count_nonzero(entries), posed.size), **products)


def _scaled(posed: _Posed, x: np.ndarray) -> Found:
    """Margins of 1, and factors of one size."""
    H, A, b, _ = posed.split(x)
    Z = H @ A.T + b
    margin, spread = posed.supports.margin(Z), posed.supports.spread(Z)
    if not (margin > 0 and spread <= SAME * margin):
        return Found(LaneParams(0.0 * H, 0.0 * A, 0.0 * b), np.inf, False)
    counts, copies = posed.supports.counts, posed.supports.copies
    sizes = np.sqrt(counts @ np.sum(H**2, axis=1)), np.sqrt(copies @ np.sum(A**2, axis=1))
    root, ratio = np.sqrt(margin), np.sqrt(sizes[1] / sizes[0])
    params = LaneParams(H * ratio / root, A / ratio / root, b / margin)
    return Found(params, float(sizes[0] * sizes[1] / margin), True)
