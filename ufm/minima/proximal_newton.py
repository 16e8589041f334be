"""One problem on sizes at once: a semismooth Newton method on the normal map of the nuclear norm, in NumPy.

*State.* A matrix Y, of which C is the shrunken one: C = shrink(Y)/h lowers all singular values τ of Y by c, those below
c to zero, and divides by h, a typical second derivative of the risk. With the residual

    R = h C − ∇risk(C) − Y = −∇risk(C) − c W,   W in the subdifferential of ‖C‖_*,

C is optimal iff R = 0. In the basis of Y's singular vectors the derivative of `shrink` is diagonal in the symmetric and
antisymmetric parts of each pair of entries (i, j), (j, i), so that Newton's equation for ΔC is

    (Ĥ + P) ΔC = R,   P = c (ψ_i + ψ_j)/(σ_i + σ_j) on antisymmetric, c |ψ_i − ψ_j|/|σ_i − σ_j| on symmetric parts,

σ being C's singular values and ψ = min(τ/c, 1); where i and j are both dead, σ = 0, ΔC is zero. Y then moves by
R + h ΔC − Ĥ ΔC. A standard sector's u is one number, dead where its slope is below c and smooth elsewhere: it is
eliminated from each row's Hessian, and the bias from all rows'. Few unknowns are solved for directly, many by conjugate
gradients in the basis of the singular vectors, where P is 2 × 2 blocks and the risk's Hessian nearly diagonal.

*Start.* The zero point with its best bias is a dual point, whose singular values are clipped at c: feasible then, and
its slopes' logits are the first.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ufm._core.arrays import silent
from ufm._core.interrupts import check
from ufm._core.linalg import operator_norm
from ufm._core.precision import allowance
from ufm._core.status import Status
from ufm.minima.block_bound import RANK_CUT, lower_bound, subgradient
from ufm.minima.blocks import (
    BlockPoint,
    Blocks,
    Risk,
    along_shift,
    best_bias,
    bias_inverse,
    bias_slope,
    curvature,
    decay,
    objective,
    risk,
    slopes,
    with_bias,
)
from ufm.minima.newton_equation import Equation, Frame, Price
from ufm.model.losses import facts_of

KINK = 5  # halvings of a step, after which another kind of step is tried too
SUFFICIENT = 1e-4  # of the decrease that the slope promises, which a step must bring
HALVINGS, SHORTER = 16, 8.0  # of a step, and how much shorter proximal ones become
THIN = 1.5  # times as many rows as columns, from which those beyond pairs are kept apart
LOOSEST, FORCING, TIGHTEST = 0.1, 0.3, 1e-6  # of their residual: relative, in units of the outer one, and the least
TINY = float(np.finfo(np.float64).tiny)
ROUNDED = 1e-15  # relative, of a singular value that shrinks to zero but for rounding
FAR, REACH = 4.0, 30.0  # logits that a step moves by, from which secants are looked at; what is tried first of those
CAREFUL = 1e-4  # the same where logits are far from where they belong
PATIENCE = 60  # steps before a problem of a larger price is solved first
EASIER, ROUGH = 10.0, 1e-3  # times the price, and to what gap
RESOLUTION = 1e-13  # relative; below it decreases drown in rounding


class Solved(NamedTuple):
    """How a minimisation ended."""

    point: BlockPoint
    value: float
    lower_bound: float
    steps: int
    status: Status
    gap: float


class _State(NamedTuple):
    """A point with what is known of it."""

    Y: np.ndarray
    frame: Frame
    C: np.ndarray
    u: np.ndarray
    beta: np.ndarray
    here: Risk
    value: float


def solve(blocks: Blocks, start: BlockPoint | None = None, *, tol: float = 1e-11, max_steps: int = 100) -> Solved:
    """The minimum, with its certificate.

    Args:
        blocks: the problem on sizes.
        start: where to begin; by default at a dual point's logits.
        tol: relative gap to end at; where rounding keeps the gradient from it, at what rounding leaves.
        max_steps: of Newton's method.

    Returns:
        The best point found. `CONVERGED` where the gradient's estimate of the relative gap, or the gap, is at most tol.
    """
    with silent():
        if start is None:
            zero, here = _zero_point(blocks)
            if _collapsed(blocks, here):
                return _solved(blocks, zero, here.value + decay(blocks, 0.0, zero.u, zero.b), 0, tol, True)
            dual = _dual_start(blocks, here, zero.b)
            # slopes that round to zero have no logits
            start = dual if all(np.all(np.isfinite(part)) for part in dual) else zero
        found = _Newton(blocks).run(start, tol, min(max_steps, PATIENCE))
        settled = found.gap <= ROUGH * abs(found.value) and found.steps < PATIENCE
        if found.status.ok or settled or found.steps == max_steps:
            return found
        left = max_steps - found.steps
        easier = solve(dataclasses.replace(blocks, price=EASIER * blocks.price), tol=ROUGH, max_steps=left)
        again = _Newton(blocks).run(easier.point, tol, left)
        best = min((found, again), key=lambda each: each.gap)
        return best._replace(steps=found.steps + easier.steps + again.steps)


def _zero_point(blocks: Blocks) -> tuple[BlockPoint, Risk]:
    """C = u = 0 with the best bias."""
    G, E = blocks.scale.shape
    zero = BlockPoint(np.zeros((G, E)), np.zeros(G), blocks.first_bias if blocks.bias_kind != "none" else np.zeros(E))
    if blocks.bias_kind == "none":
        return zero, risk(blocks, zero.C, zero.u)
    b, here = best_bias(blocks, zero)
    return zero._replace(b=b), here


def _collapsed(blocks: Blocks, here: Risk) -> bool:
    """Whether the zero point is the optimum."""
    most = blocks.price * (1.0 + max(here.along_C.shape) * allowance())
    return bool(np.max(np.abs(here.along_u)) <= most and operator_norm(here.along_C) <= most)


def _dual_start(blocks: Blocks, here: Risk, at_zero: Any) -> BlockPoint:
    """The logits whose slopes are the zero point's with singular values clipped at c."""
    X, tau, Vt = np.linalg.svd(here.along_C, full_matrices=False)
    along_C = (X * np.minimum(tau, blocks.price)) @ Vt
    along_u = np.clip(here.along_u, -blocks.price, blocks.price)
    found = blocks.conjugates(*slopes(blocks, along_C, along_u))
    right, wrong = found.right, found.wrong
    if facts_of(blocks.loss).ignores_shift:
        wrong = blocks.floored(wrong)
    u = np.where(np.abs(here.along_u) > blocks.price, right - wrong[blocks.own], 0.0)
    B = wrong.copy()
    B[blocks.own] = np.where(blocks.several, wrong[blocks.own] + u / blocks.alone, right)
    return _split(blocks, B, u, at_zero)


def _split(blocks: Blocks, B: Any, u: Any, at_zero: Any) -> BlockPoint:
    """C and bias of block-mean logits: a free bias is their mean, a regularised one that or the zero point's.

    A regularised one's slope along β is that of the risk along y, no more than c.
    """
    if blocks.flat is not None:
        B = B - np.outer(B @ (blocks.outputs * blocks.flat) / (blocks.outputs @ blocks.flat**2), blocks.flat)
    if blocks.bias_kind == "none":
        return BlockPoint(blocks.scale * B, u, np.zeros(B.shape[1]))
    mean = blocks.counts * blocks.multiplicities @ B / blocks.total
    if blocks.bias_kind == "free":
        return BlockPoint(blocks.scale * (B - mean), u, mean)
    least = [
        b * min(1.0, blocks.price / max(blocks.ridge * np.linalg.norm(blocks.beta(b)), TINY)) for b in (mean, at_zero)
    ]
    found = [BlockPoint(blocks.scale * (B - b), u, b) for b in least]
    return min(found, key=lambda point: objective(blocks, point))


class _Residual(NamedTuple):
    """Minus the slopes in C, u where it lives with a sign, and β, the price's included."""

    along_C: np.ndarray
    along_u: np.ndarray
    along_b: np.ndarray
    sign: np.ndarray


class _Move(NamedTuple):
    """A step, by how much it lowers the objective to first order, and by how much a logit moves at most."""

    Y: np.ndarray
    u: np.ndarray
    beta: np.ndarray
    slope: float
    largest: float


class _Newton:
    """The iteration on one problem."""

    def __init__(self, blocks: Blocks):
        self.blocks = blocks
        self.c = blocks.price
        self.left = _reflector(blocks.bias_axis) if blocks.bias_kind == "free" else None
        self.right = None if blocks.flat_axis is None else _reflector(blocks.flat_axis)
        self.with_bias = blocks.bias_kind != "none"

    def run(self, start: BlockPoint, tol: float, max_steps: int) -> Solved:
        state = self.begin(start)
        steps, before, drowned = 0, np.inf, False
        while True:
            check()
            residual = self.residual(state)
            slack = self.slack(state, residual)
            if steps == max_steps or slack <= tol or (drowned and not slack < 0.5 * before):
                break
            moved, drowned = self.step(state, residual, slack)
            steps, before = steps + 1, slack
            if moved is None:
                break
            state = moved
        point = BlockPoint(state.C, state.u, self.blocks.bias(state.beta))
        return _solved(self.blocks, point, state.value, steps, tol, slack <= tol)

    def begin(self, start: BlockPoint) -> _State:
        """The state whose C is the start, and whose dead part is as the dual has it."""
        blocks = self.blocks
        start = start._replace(u=np.where(blocks.several, start.u, 0.0))
        here = risk(blocks, with_bias(blocks, start), start.u)
        found = curvature(blocks, here.at, np.zeros(len(start.u), bool))
        sigma = np.linalg.svd(start.C, compute_uv=False)
        rank = int(np.count_nonzero(sigma > RANK_CUT * sigma[0]))
        beta = blocks.beta(start.b) if self.with_bias else np.zeros(len(start.b))
        beta = beta - along_shift(blocks, beta)
        value = here.value + decay(blocks, sigma.sum(), start.u, blocks.bias(beta))
        typical, of_price = float(np.median(found.D - found.Q**2)), self.c * rank / max(sigma.sum(), TINY)
        for self.h in (max(typical, TINY), max(typical, of_price, TINY)):
            stepped = self.state(self.h * start.C - here.along_C, start.u, beta)
            if stepped.value <= value:
                return stepped
        along_C, _ = subgradient(blocks, start, here)
        return self.state(self.h * start.C - along_C, start.u, beta)

    def state(self, Y, u, beta) -> _State:
        """What belongs to Y, u and β."""
        frame, blocks = self.frame(Y), self.blocks
        C = frame.C
        here = risk(blocks, C + blocks.bias_axis[:, None] * beta if self.with_bias else C, u)
        value = here.value + decay(blocks, frame.sigma.sum(), u, blocks.bias(beta))
        return _State(Y, frame, C, u, beta, here, value)

    def frame(self, Y) -> Frame:
        """Singular vectors of Y, without the directions that neither C nor the gradient has."""
        if self.left is not None:
            Y = _reflected(self.left, Y)[1:]
        if self.right is not None:
            Y = _reflected(self.right, Y.T)[1:].T
        thin = len(Y) > THIN * Y.shape[1] > 0
        k = Y.shape[1] if thin else max(Y.shape)
        whole = min(Y.shape) > 0
        X, tau, Vt = np.linalg.svd(Y, not thin) if whole else (np.eye(len(Y)), np.zeros(0), np.eye(Y.shape[1]))
        X, V = _embedded(self.left, X, k), _embedded(self.right, Vt.T, k)
        tau = np.concatenate([tau, np.zeros(k - len(tau))])
        sigma = np.where(tau > self.c * (1.0 + ROUNDED), tau - self.c, 0.0) / self.h
        axis = None if self.left is None else self.blocks.bias_axis
        return Frame(X, V, sigma, np.minimum(tau / self.c, 1.0), int(np.count_nonzero(sigma)), thin, axis)

    def residual(self, state: _State) -> _Residual:
        """What is left of the optimality conditions."""
        blocks, frame, here = self.blocks, state.frame, state.here
        along_C = -here.along_C - (frame.X * (self.c * frame.psi)) @ frame.V.T
        # a dead u comes alive where the slope is more than c, by more than rounding
        pushed = np.where(np.abs(here.along_u) > self.c * (1.0 + allowance()), -np.sign(here.along_u), 0.0)
        sign = np.where(state.u != 0, np.sign(state.u), pushed)
        along_u = np.where(sign != 0, -here.along_u - self.c * sign, 0.0)
        along_b = -bias_slope(blocks, here, state.beta) if self.with_bias else np.zeros_like(state.beta)
        return _Residual(along_C, along_u, along_b, sign)

    def slack(self, state: _State, residual: _Residual) -> float:
        """About how far the dual bound is below the value, relative to it; rather more than less."""
        squares = np.sum(residual.along_C**2) + np.max(residual.along_u**2) + np.sum(residual.along_b**2)
        return float(np.sqrt(squares)) / self.c

    def step(self, state: _State, residual: _Residual, slack: float) -> tuple[_State | None, bool]:
        """The next state, None where no length of the step lowers the objective; and whether rounding hides by what."""
        move = self.move(state, residual, slack)
        if move.largest > FAR:
            move = self.move(state, residual, slack, self.raised(state, residual))
        if not np.isfinite(move.largest) or not np.isfinite(move.slope):
            return None, True
        reach = np.log1p(move.largest) if move.largest < FAR else REACH
        t = min(1.0, reach / move.largest) if move.largest > 1.0 else 1.0
        rounding = RESOLUTION * abs(state.value)
        for halvings in range(HALVINGS):
            there = self.state(state.Y + t * move.Y, self.kept(state, residual, t * move.u), state.beta + t * move.beta)
            if there.value <= state.value - SUFFICIENT * t * move.slope + rounding:
                if halvings < KINK or move.slope <= rounding:
                    return there, move.slope <= rounding
                return min(there, self.beside(state, residual, move), key=lambda each: each.value), False
            t *= 0.5
        if move.slope <= rounding:
            return None, True
        beside = self.beside(state, residual, move)
        return (beside if beside.value < state.value - rounding else self.shorter(state)), False

    def kept(self, state: _State, residual: _Residual, moved: Any) -> Any:
        """u moved, and dead where it would change its sign."""
        u = state.u + moved
        return np.where(u * residual.sign > 0, u, 0.0)

    def beside(self, state: _State, residual: _Residual, move: _Move) -> _State:
        """The best step of u and the bias alone, C as it is: what is dead of C may come alive along Newton's step."""
        tried = (
            self.state(state.Y, self.kept(state, residual, t * move.u), state.beta + t * move.beta)
            for t in 0.5 ** np.arange(KINK)
        )
        return min(tried, key=lambda each: each.value)

    def shorter(self, state: _State) -> _State | None:
        """A proximal step, as short as need be, with an h that stays; None where none lowers the objective.

        At a kink, where a direction is about to live, Newton's step may go nowhere, and its h be much too small for it.
        """
        typical = self.h
        for _ in range(HALVINGS):
            self.h *= SHORTER
            there = self.state(self.h * state.C - state.here.along_C, state.u, state.beta)
            if there.value < state.value - RESOLUTION * abs(state.value):
                return there
        self.h = typical
        return None

    def move(self, state: _State, residual: _Residual, slack: float, raised: Any = None) -> _Move:
        """Newton's step: u is eliminated from each row, the bias from all, and C is solved for."""
        blocks, frame, axis = self.blocks, state.frame, self.blocks.bias_axis
        R, along_u, along_b, sign = residual
        hessian = curvature(blocks, state.here.at, sign != 0, raised)
        alive = hessian.u_units > 0
        units, prices = np.where(alive, hessian.u_units, 1.0), blocks.others * np.sqrt(blocks.counts)
        ahead = np.where(alive, prices * along_u / units, 0.0)  # of u in its units, at the present C
        of_rows = R - hessian.R * ahead[:, None]
        beta = np.zeros_like(state.beta)
        inverse = bias_inverse(blocks, hessian) if self.with_bias else None
        if inverse is not None:
            beta = inverse @ (along_b - axis @ (hessian.R * ahead[:, None]))
            of_rows = of_rows - hessian.of_outer(axis, beta)
        equation = Equation(frame, hessian, axis, inverse, self.price(frame), blocks.own)
        E = equation.solve(frame.within(of_rows), CAREFUL if raised is not None else self.enough(slack))
        C = F = frame.whole(E)
        if inverse is not None:
            beta = beta - inverse @ (axis @ (hessian @ C))
            F = C + axis[:, None] * beta
        u = np.where(alive, (ahead - np.sum(hessian.R * F, axis=1)) / units, 0.0)
        slope = np.sum(R * C) + np.sum(prices * along_u * u) + along_b @ beta
        largest = np.max(np.abs(F / blocks.scale)) + np.max(np.abs(u))
        # Y moves by (h + P) ΔC where C does, and by what the gradient does where all is dead
        Y = frame.whole(self.h * E + equation.price @ E)
        if frame.rank < len(frame.sigma):
            Y = Y + frame.dead(R - hessian @ F - hessian.R * ahead[:, None])
        return _Move(Y, u, beta, float(slope), float(largest))

    def enough(self, slack: float) -> float:
        """How small a residual of Newton's equation has to be, relative to its right side."""
        return min(LOOSEST, max(slack * FORCING, TIGHTEST))

    def raised(self, state: _State, residual: _Residual):
        """What second derivatives of wrong logits lack of secants to the logits whose slopes the price asks for.

        Where a probability is q times too small, Newton's step of its logit is q − 1, and a secant's is log q.
        """
        blocks, at = self.blocks, state.here.at
        along_u = np.where(residual.sign != 0, -self.c * residual.sign, state.here.along_u)
        right, wrong = slopes(blocks, residual.along_C + state.here.along_C, along_u)
        there = blocks.conjugates(right, wrong).wrong
        here = blocks.conjugates(at.right, at.wrong).wrong
        far = np.abs(there - here) > 1.0
        secant = np.where(far, (wrong - at.wrong) / np.where(far, there - here, 1.0), 0.0)
        return np.where((secant > at.diagonal) & (blocks.alike > 0), secant - at.diagonal, 0.0)

    def price(self, frame: Frame) -> Price:
        """P at a point."""
        sigma, psi = frame.sigma, frame.psi
        sums, differences = sigma[:, None] + sigma, np.abs(sigma[:, None] - sigma)
        antisymmetric = self.c * (psi[:, None] + psi) / np.where(sums > 0, sums, 1.0)
        symmetric = self.c * np.abs(psi[:, None] - psi) / np.where(differences > 0, differences, 1.0)
        antisymmetric[frame.rank :, frame.rank :] = symmetric[frame.rank :, frame.rank :] = 0.0
        beyond = np.where(sigma > 0, self.c * psi / np.where(sigma > 0, sigma, 1.0), 0.0)
        return Price.of(antisymmetric, symmetric, np.tile(beyond, (frame.beyond, 1)))


def _embedded(reflector, vectors, k):
    """Vectors as columns in all dimensions, with zero columns up to k."""
    if reflector is not None:
        vectors = _reflected(reflector, np.concatenate([np.zeros((1, vectors.shape[1])), vectors]))
    missing = k - vectors.shape[1]
    return np.concatenate([vectors, np.zeros((len(vectors), missing))], axis=1) if missing else vectors


def _reflector(axis):
    """v with (I − v vᵀ) axis = ± e_1 for an axis of norm 1."""
    v = axis.copy()
    v[0] += np.copysign(1.0, v[0])
    return v * (np.sqrt(2.0) / np.linalg.norm(v))


def _reflected(v, matrix):
    return matrix - v[:, None] * (v @ matrix)


def _solved(blocks, point, value, steps, tol, settled) -> Solved:
    """With its certificate, which may be closer than the gradient is."""
    if not np.isfinite(value):
        return Solved(point, value, -np.inf, steps, Status.DIVERGED, np.inf)
    bound = lower_bound(blocks, point, value)
    converged = settled or value - bound <= tol * abs(value)
    return Solved(point, value, bound, steps, Status.CONVERGED if converged else Status.MAX_STEPS, value - bound)
