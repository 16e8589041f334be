"""The cheapest logits with margins of 1 by a primal-dual interior point method, and its proof.

With Q orthonormal bases of what costs something, Q_L ⟂ D^{1/2}1 (all of ℝᴹ without a free bias) and Q_R ⟂ C^{1/2}1, let
F = D^{1/2} Q_L (M, p) and G = C^{1/2} Q_R (K, q). Multipliers whose sums are zero are U = F Ŵ Gᵀ, for any Ŵ (p, q), and
‖D^{-1/2} U C^{-1/2}‖ = ‖Ŵ‖. Logits that meet the margins by 1 + t, t ≥ 0 off the supports, are −(1 + t) there and 0 on
them, but for what costs nothing; X̂ = −Fᵀ off(1 + t) G is their price's matrix. So

    min over t ≥ 0 of ‖X̂(t)‖_* = max over ‖Ŵ‖ ≤ 1 with y = −off(F Ŵ Gᵀ) ≥ 0 of Σ y,

of which every iterate is strictly feasible on both sides: each is a proof of how good the other is, whatever rounding
does. As a semidefinite program X = [[X₁, X̂], [X̂ᵀ, X₂]] ⪰ 0 has the price ½ tr X and the slack S = ½[[I, −Ŵ], [−Ŵᵀ,
I]], and ⟨X, S⟩ + ⟨t, y⟩ is the gap. Newton's method on X S = σμ I, t y = σμ scales by the matrix 𝒲 with 𝒲 S 𝒲 = X
(Nesterov & Todd 1998), predicts and corrects (Mehrotra 1992). With 𝒲 = [[a, c], [cᵀ, b]], X and t eliminated, a step
solves

    ½(a ΔŴ b + c ΔŴᵀ c) + Fᵀ off((t/y) ∘ F ΔŴ Gᵀ) G = right,

one positive definite system of p q unknowns, factorised in (p q)³/6 multiplications. X is held as L Lᵀ, and steps of X
are taken in scaled coordinates, where all eigenvalues are alike: so gaps of 1e-12 are reached, where X itself would
lose its smallest eigenvalues at 1e-7.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ufm._core.interrupts import check
from ufm.minima.margins import Supports

UNKNOWNS = 4096  # p q, up to which the system is formed: 134 MB, and a second or two a step
TO_BOUNDARY = 0.98  # of the way to it that a step goes at most
STALLED = 1e-4  # of a whole step: rounding has taken over


class Point(NamedTuple):
    """Strictly feasible on both sides.

    Attributes:
        t: (M, K) by which margins exceed 1, off the supports; ones on them, where they mean nothing.
        L: (p + q, p + q) of X = L Lᵀ, whose corner is X̂(t) but for rounding, which the next step takes up.
        W: (p, q) Ŵ.
        y: (M, K) multipliers off the supports; ones on them.
    """

    t: np.ndarray
    L: np.ndarray
    W: np.ndarray
    y: np.ndarray

    @property
    def S(self) -> np.ndarray:
        """(p + q, p + q) ½[[I, −Ŵ], [−Ŵᵀ, I]]."""
        return _corners(0.5, -0.5 * self.W, 0.5)


class Cone(NamedTuple):
    """F (M, p), G (K, q), and which entries are off the supports."""

    F: np.ndarray
    G: np.ndarray
    off: np.ndarray

    def corner(self, t: np.ndarray) -> np.ndarray:
        """(p, q) −Fᵀ off(t) G."""
        return -self.F.T @ np.where(self.off, t, 0.0) @ self.G

    def multipliers(self, W: np.ndarray) -> np.ndarray:
        """(M, K) U = F Ŵ Gᵀ."""
        return self.F @ W @ self.G.T


class Reached(NamedTuple):
    """Logits Z (M, K) with margins of at least 1, multipliers U (M, K), and Newton steps taken."""

    logits: np.ndarray
    multipliers: np.ndarray
    steps: int


def unknowns(supports: Supports) -> int:
    """Of a step's system."""
    M, K = supports.wanted.shape
    return (M - supports.free_bias) * (K - 1)


def iterates(supports: Supports, max_steps: int) -> Iterator[Reached]:
    """Ever better ones, until rounding stops them."""
    cone = _cone(supports)
    point = _start(cone, supports)
    for step in range(max_steps + 1):
        yield Reached(-np.where(cone.off, 1.0 + point.t, 0.0), cone.multipliers(point.W), step)
        check()
        try:
            following = _next(cone, point)
        except (np.linalg.LinAlgError, ValueError):  # matrices that are no longer positive, or finite
            return
        if following is None:
            return
        point = following


def _cone(supports: Supports) -> Cone:
    left, right = supports.roots
    free = supports.free_bias
    Q = _complement(left[:, 0]) if free else np.eye(len(left))
    return Cone(left * Q, right[:, None] * _complement(right), ~supports.wanted)


def _complement(direction: np.ndarray) -> np.ndarray:
    """(n, n − 1) orthonormal columns at right angles to a direction: a reflection's that takes it to an axis."""
    v = direction / np.linalg.norm(direction)
    v[0] += 1.0  # the direction's entries are positive
    return (np.eye(len(v)) - np.outer(v, v) / v[0])[:, 1:]


def _start(cone: Cone, supports: Supports) -> Point:
    """Half way to the dual's boundary, margins of 2, and X as large as its corner."""
    U = _interior(supports)
    W = np.linalg.lstsq(cone.F, U, rcond=None)[0] @ np.linalg.pinv(cone.G).T
    W *= 0.5 / np.linalg.norm(W, 2)
    t = np.ones_like(U)
    corner = cone.corner(1.0 + t)
    size = 2.0 * np.linalg.norm(corner, 2)
    return Point(t, np.linalg.cholesky(_corners(size, corner, size)), W, _y(cone, W))


def _interior(supports: Supports) -> np.ndarray:
    """(M, K) multipliers, all below zero off the supports, whose rows sum to zero, and with a free bias columns.

    Supports join groups and outputs to parts. A part's outputs get from its groups what its groups give: with
    1/(groups in the group's part × outputs in the output's) for each entry off the supports, any two parts exchange
    one, and entries on the supports settle the rest.
    """
    off = ~supports.wanted
    joined = scipy.sparse.bmat([[None, supports.wanted], [supports.wanted.T, None]])
    part = scipy.sparse.csgraph.connected_components(joined, directed=False)[1]
    groups, outputs = part[: len(off)], part[len(off) :]
    sizes = np.bincount(groups)[groups][:, None] * np.bincount(outputs, minlength=np.max(part) + 1)[outputs]
    y = np.where(off, 1.0 / sizes, 0.0) if supports.free_bias else off.astype(float)
    on = supports.wanted.astype(float)
    if not supports.free_bias:
        return on * (np.sum(y, axis=1) / np.sum(on, axis=1))[:, None] - y
    laplacian = np.block([[np.diag(np.sum(on, axis=1)), on], [on.T, np.diag(np.sum(on, axis=0))]])
    wanted = np.concatenate([np.sum(y, axis=1), np.sum(y, axis=0)])
    height = np.linalg.lstsq(laplacian, wanted, rcond=None)[0]
    return on * (height[: len(off), None] + height[len(off) :]) - y


def _y(cone: Cone, W: np.ndarray) -> np.ndarray:
    return np.where(cone.off, -cone.multipliers(W), 1.0)


def _corners(first, corner, last) -> np.ndarray:
    """[[first, corner], [cornerᵀ, last]], where a number stands for so much of the identity."""
    p, q = corner.shape
    first, last = first * np.eye(p) if np.ndim(first) == 0 else first, last * np.eye(q) if np.ndim(last) == 0 else last
    return np.block([[first, corner], [corner.T, last]])


class _Scaling(NamedTuple):
    """R with 𝒲 = R Rᵀ, R⁻¹ X R⁻ᵀ = Rᵀ S R = diag(v), and R⁻¹."""

    R: np.ndarray
    inverse: np.ndarray
    v: np.ndarray


def _scaling(point: Point) -> _Scaling:
    N = np.linalg.cholesky(point.S)
    left, v, right = np.linalg.svd(N.T @ point.L)
    root = np.sqrt(v)
    return _Scaling(point.L @ (right.T / root), (left / root).T @ N.T, v)


class _Step(NamedTuple):
    """Of t, Ŵ and y; and of X and S in scaled coordinates."""

    t: np.ndarray
    W: np.ndarray
    y: np.ndarray
    X: np.ndarray
    S: np.ndarray


def _next(cone: Cone, point: Point) -> Point | None:
    """A step of predictor and corrector; None where rounding leaves none to take."""
    scaling = _scaling(point)
    system, v = _System(cone, point, scaling), scaling.v
    pairs = len(v) + np.count_nonzero(cone.off)
    mu = (v @ v + np.sum((point.t * point.y)[cone.off])) / pairs
    predictor = system.step(np.diag(-v), -point.t)
    primal, dual = _lengths(point, v, predictor)
    after = np.sum((np.diag(v) + primal * predictor.X) * (np.diag(v) + dual * predictor.S))
    after += np.sum(((point.t + primal * predictor.t) * (point.y + dual * predictor.y))[cone.off])
    centre = mu * min(1.0, after / (pairs * mu)) ** 3
    both = predictor.X @ predictor.S
    twice = 2.0 * np.diag(centre - v**2) - both - both.T
    slack = (centre - predictor.t * predictor.y) / point.y - point.t
    corrector = system.step(twice / (v[:, None] + v), slack)
    primal, dual = _lengths(point, v, corrector)
    if min(primal, dual) < STALLED:
        return None
    W = point.W + dual * corrector.W
    L = scaling.R @ np.linalg.cholesky(np.diag(v) + primal * corrector.X)
    return Point(point.t + primal * corrector.t, L, W, _y(cone, W))


class _System:
    """The linear system of a step, factorised."""

    def __init__(self, cone: Cone, point: Point, scaling: _Scaling):
        self.cone, self.scaling = cone, scaling
        self.scale = scaling.R @ scaling.R.T
        self.ratio = np.where(cone.off, point.t / point.y, 0.0)
        p = cone.F.shape[1]
        self.missing = cone.corner(1.0 + point.t) - point.L[:p] @ point.L[p:].T
        a, c, b = self.scale[:p, :p], self.scale[:p, p:], self.scale[p:, p:]
        n = c.size
        matrix = 0.5 * (np.einsum("ij,kl->ikjl", a, b) + np.einsum("il,jk->ikjl", c, c)).reshape(n, n)
        matrix += self._of_margins().reshape(n, n)
        self.factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True)

    def _of_margins(self) -> np.ndarray:
        """(p, q, p, q) Σ over entries off the supports of t/y, of rows of F and G twice each."""
        (F, G, _), ratio = self.cone, self.ratio
        p, q = F.shape[1], G.shape[1]
        left = (F[:, :, None] * F[:, None, :]).reshape(len(F), p * p)
        right = (ratio @ (G[:, :, None] * G[:, None, :]).reshape(len(G), q * q)).reshape(len(F), q * q)
        return (left.T @ right).reshape(p, p, q, q).transpose(0, 2, 1, 3)

    def step(self, scaled: np.ndarray, slack: np.ndarray) -> _Step:
        """With ΔX + 𝒲 ΔS 𝒲 = R `scaled` Rᵀ and Δt + (t/y) Δy = `slack`."""
        cone, R = self.cone, self.scaling.R
        goal = R @ scaled @ R.T
        p = cone.F.shape[1]
        right = cone.corner(slack) + self.missing - goal[:p, p:]
        W = scipy.linalg.cho_solve(self.factor, right.ravel()).reshape(right.shape)
        y = np.where(cone.off, -cone.multipliers(W), 0.0)
        S = R.T @ _corners(0.0, -0.5 * W, 0.0) @ R
        return _Step(np.where(cone.off, slack - self.ratio * y, 0.0), W, y, scaled - S, S)


def _lengths(point: Point, v: np.ndarray, step: _Step) -> tuple[float, float]:
    """How far along a step each side goes, most of the way to its boundary or all of the step."""
    primal = min(_room(point.t, step.t), _room_of(v, step.X))
    dual = min(_room(point.y, step.y), _room_of(v, step.S))
    return min(1.0, TO_BOUNDARY * primal), min(1.0, TO_BOUNDARY * dual)


def _room(x: np.ndarray, dx: np.ndarray) -> float:
    """How far along dx positive numbers stay so."""
    falls = dx < 0
    return float(np.min(-x[falls] / dx[falls], initial=np.inf))


def _room_of(v: np.ndarray, dX: np.ndarray) -> float:
    """How far along dX the matrix diag(v) stays positive definite."""
    root = np.sqrt(v)
    least = np.linalg.eigvalsh(dX / root[:, None] / root)[0]
    return float(-1.0 / least) if least < 0 else np.inf
