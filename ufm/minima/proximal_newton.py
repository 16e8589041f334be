"""One problem on sizes at once: a semismooth Newton method on the normal map of the nuclear norm, in NumPy.

*State.* A matrix Y, of which C is the shrunken one: C = shrink(Y)/h lowers all singular values τ of Y by c, those below
c to zero, and divides by h, a typical second derivative of the risk. With the residual

    R = h C − ∇risk(C) − Y = −∇risk(C) − c W,   W in the subdifferential of ‖C‖_*,

C is optimal iff R = 0. In the basis of Y's singular vectors the derivative of `shrink` is diagonal in the symmetric and
antisymmetric parts of each pair of entries (i, j), (j, i), so that Newton's equation for ΔC is

    (Ĥ + P) ΔC = R,   P = c (ψ_i + ψ_j)/(σ_i + σ_j) on antisymmetric, c |ψ_i − ψ_j|/|σ_i − σ_j| on symmetric parts,

σ being C's singular values and ψ = min(τ/c, 1); where i and j are both dead, σ = 0, ΔC is zero. Y then moves by
R + h ΔC − Ĥ ΔC. A standard sector's u is one number, dead where its slope is below c and smooth elsewhere: it is
eliminated from each row's Hessian, and the bias from all rows'.

*Start.* The zero point with its best bias is a dual point, whose singular values are clipped at c: feasible then, and
its slopes' logits are the first.
"""

from typing import Any, NamedTuple

import numpy as np

from ufm._core.arrays import silent
from ufm._core.precision import allowance
from ufm._core.status import Status
from ufm.minima.symmetry import (
    BlockPoint,
    Blocks,
    Curvature,
    Risk,
    best_bias,
    bias_inverse,
    bias_slope,
    curvature,
    decay,
    lower_bound,
    operator_norm,
    risk,
    with_bias,
)

SUFFICIENT = 1e-4  # of the decrease that the slope promises, which a step must bring
HALVINGS = 30  # of a step
LEAST_FLOOR = 0.1  # of a row's mean wrong probability: the least that a start gives a wrong class
DENSE_UP_TO = 150  # unknowns, whose Newton equation is solved directly
RESOLUTION = 1e-13  # relative; below it decreases drown in rounding


class Solved(NamedTuple):
    """How a minimisation ended."""

    point: BlockPoint
    value: float
    lower_bound: float
    steps: int
    status: Status
    gap: float


class _Frame(NamedTuple):
    """Y in its singular basis, X diag(τ) Vᵀ with square τ: columns that one side lacks are zero."""

    X: np.ndarray
    V: np.ndarray
    tau: np.ndarray
    sigma: np.ndarray
    psi: np.ndarray
    rank: int

    @property
    def C(self):
        return (self.X[:, : self.rank] * self.sigma[: self.rank]) @ self.V[:, : self.rank].T


class _State(NamedTuple):
    """A point with what is known of it."""

    Y: np.ndarray
    frame: _Frame
    C: np.ndarray
    u: np.ndarray
    beta: np.ndarray
    here: Risk
    value: float


def solve(blocks: Blocks, start: BlockPoint | None = None, *, tol: float = 1e-11, max_steps: int = 100) -> Solved:
    """The minimum, from a start or from a dual point; it ends where the gap is at most tol times the value."""
    with silent():
        if start is None:
            zero, here = _zero_point(blocks)
            if _collapsed(blocks, here):
                return _solved(blocks, zero, here, 0.0, 0, tol)
            start = _dual_start(blocks, here)
        return _Newton(blocks).run(start, tol, max_steps)


def _zero_point(blocks: Blocks) -> tuple[BlockPoint, Risk]:
    """C = u = 0 with the best bias."""
    G = blocks.num_sizes
    logs = np.log(blocks.omega)
    b = logs - blocks.multiplicities @ logs / np.sum(blocks.multiplicities)
    zero = BlockPoint(np.zeros((G, G)), np.zeros(G), b if blocks.bias_kind != "none" else np.zeros(G))
    if blocks.bias_kind == "none":
        return zero, risk(blocks, zero.C, zero.u)
    b, here = best_bias(blocks, zero)
    return zero._replace(b=b), here


def _collapsed(blocks: Blocks, here: Risk) -> bool:
    """Whether the zero point is the optimum."""
    most = blocks.price * (1.0 + blocks.num_sizes * allowance())
    return float(np.max(np.abs(here.along_u))) <= most and operator_norm(here.along_C) <= most


def _dual_start(blocks: Blocks, here: Risk) -> BlockPoint:
    """The logits whose slopes are the zero point's with singular values clipped at c."""
    X, tau, Vt = np.linalg.svd(here.along_C)
    along_C = (X * np.minimum(tau, blocks.price)) @ Vt
    mean = along_C / blocks.slope_scale
    along_u = np.clip(here.along_u, -blocks.price, blocks.price) * np.sqrt(blocks.counts) / blocks.omega
    wrong, own = mean.copy(), mean.diagonal() - along_u / blocks.multiplicities
    np.fill_diagonal(wrong, own)
    found = blocks.loss.conjugate_on_sizes(own + along_u, wrong, blocks.alike)
    right, wrong = found.right, found.wrong
    if blocks.ignores_shift:
        wrong = np.maximum(wrong, _least_logits(blocks, wrong)[:, None])
    u = np.where(np.abs(here.along_u) > blocks.price, right - wrong.diagonal(), 0.0)
    B = wrong.copy()
    np.fill_diagonal(B, np.where(blocks.several, wrong.diagonal() + u / blocks.multiplicities, right))
    return _split(blocks, B, u)


def _least_logits(blocks, wrong):
    """The logits (G,) of a small part of each row's mean wrong probability."""
    some = blocks.alike > 0
    top = np.max(np.where(some, wrong, -np.inf), axis=1)
    odds = np.sum(blocks.alike * np.where(some, np.exp(wrong - top[:, None]), 0.0), axis=1)
    return top + np.log(LEAST_FLOOR * odds / np.sum(blocks.alike, axis=1))


def _split(blocks: Blocks, B: Any, u: Any) -> BlockPoint:
    """C and bias of block-mean logits."""
    if blocks.ignores_shift:
        B = B - (B @ blocks.multiplicities / np.sum(blocks.multiplicities))[:, None]
    b = np.zeros(len(u))
    if blocks.bias_kind != "none":
        b = blocks.counts * blocks.multiplicities @ B / blocks.total
    return BlockPoint(blocks.scale * (B - b), u, b)


class _Newton:
    """The iteration on one problem."""

    def __init__(self, blocks: Blocks):
        self.blocks = blocks
        self.c = blocks.price
        self.left = _reflector(blocks.bias_axis) if blocks.bias_kind == "free" else None
        self.right = _reflector(blocks.shift_axis) if blocks.ignores_shift else None
        self.with_bias = blocks.bias_kind != "none"

    def run(self, start: BlockPoint, tol: float, max_steps: int) -> Solved:
        state = self.begin(start)
        steps, slack = 0, np.inf
        while steps < max_steps:
            residual = self.residual(state)
            slack = self.slack(state, residual)
            if slack <= tol * abs(state.value):
                break
            moved = self.step(state, residual)
            steps += 1
            if moved is None:
                break
            state = moved
        return self.end(state, steps, tol)

    def begin(self, start: BlockPoint) -> _State:
        """The state whose C is the start, or nearly."""
        blocks, F = self.blocks, with_bias(self.blocks, start)
        here = risk(blocks, F, start.u)
        found = curvature(blocks, here.at, np.zeros(len(start.u), bool))
        self.h = max(float(np.median(found.D - found.Q**2)), np.finfo(np.float64).tiny)
        beta = blocks.beta(start.b) if self.with_bias else np.zeros(len(start.b))
        return self.state(self.h * start.C - here.along_C, start.u, beta)

    def state(self, Y, u, beta) -> _State:
        frame = self.frame(Y)
        C = frame.C
        blocks = self.blocks
        F = C + np.outer(blocks.bias_axis, beta) if self.with_bias else C
        here = risk(blocks, F, u)
        value = here.value + decay(blocks, frame.sigma.sum(), u, blocks.bias(beta))
        return _State(Y, frame, C, u, beta, here, value)

    def frame(self, Y) -> _Frame:
        """Singular vectors of Y, without the directions that neither C nor the gradient has."""
        if self.left is not None:
            Y = _reflected(self.left, Y)[1:]
        if self.right is not None:
            Y = _reflected(self.right, Y.T)[1:].T
        k = max(Y.shape)
        if min(Y.shape) == 0:
            X, tau, V = np.eye(Y.shape[0]), np.zeros(0), np.eye(Y.shape[1])
        else:
            X, tau, Vt = np.linalg.svd(Y)
            V = Vt.T
        X, V = self.embedded(self.left, X, k), self.embedded(self.right, V, k)
        tau = np.concatenate([tau, np.zeros(k - len(tau))])
        sigma = np.where(tau > self.c, tau - self.c, 0.0) / self.h
        return _Frame(X, V, tau, sigma, np.minimum(tau / self.c, 1.0), int(np.count_nonzero(sigma)))

    def embedded(self, reflector, vectors, k):
        """Vectors as columns in all dimensions, filled up with zero columns to k."""
        if reflector is not None:
            vectors = _reflected(reflector, np.concatenate([np.zeros((1, vectors.shape[1])), vectors]))
        missing = k - vectors.shape[1]
        return np.concatenate([vectors, np.zeros((len(vectors), missing))], axis=1) if missing else vectors

    def residual(self, state):
        """−∇risk − cW along C, and the slope in u where it lives, and the one in β."""
        blocks, (X, V, _, _, psi, _) = self.blocks, state.frame
        along_C = -state.here.along_C - (X * (self.c * psi)) @ V.T
        sign = np.sign(state.u)
        sign = np.where(
            sign == 0,
            np.where(np.abs(state.here.along_u) > self.c * (1 + 1e-14), -np.sign(state.here.along_u), 0.0),
            sign,
        )
        sign = np.where(blocks.several, sign, 0.0)
        along_u = -(state.here.along_u + self.c * sign) * (sign != 0)
        along_b = -bias_slope(blocks, state.here, state.beta) if self.with_bias else np.zeros(len(sign))
        return along_C, along_u, along_b, sign

    def slack(self, state, residual):
        """About how far the dual bound is below the value."""
        along_C, along_u, along_b, _ = residual
        off = np.sqrt(np.sum(along_C**2) + np.max(along_u**2) + np.sum(along_b**2))
        return off / self.c * state.value

    def step(self, state, residual) -> _State | None:
        blocks = self.blocks
        R, along_u, along_b, sign = residual
        alive = sign != 0
        hessian = curvature(blocks, state.here.at, alive)
        alive = alive & (hessian.u_units > 0)
        units = np.where(alive, hessian.u_units, 1.0)
        gamma = np.where(alive, blocks.others * np.sqrt(blocks.counts) * along_u / units, 0.0)
        # after elimination of u
        ahead = -hessian.R * gamma[:, None]
        if self.with_bias:
            inverse = bias_inverse(blocks, hessian)
            axis = blocks.bias_axis
            first = inverse @ (along_b + axis @ ahead)
            eliminated = hessian @ np.outer(axis, first)
        else:
            inverse = None
            eliminated = 0.0
        operator = _Eliminated(hessian, blocks.bias_axis, inverse)
        E = self.equation(state.frame, operator, R + ahead - eliminated)
        dC = state.frame.X @ E @ state.frame.V.T
        dF = dC
        dbeta = np.zeros(len(units))
        if self.with_bias:
            dbeta = first - inverse @ (axis @ (hessian @ dC))
            dF = dC + np.outer(axis, dbeta)
        da = gamma - np.sum(hessian.R * dF, axis=1)
        du = np.where(alive, da / units, 0.0)
        # what the gradient moves by
        moved = hessian @ dF + hessian.R * gamma[:, None]
        dY = R + self.h * dC - moved
        slope = float(np.sum(R * dC) + np.sum(blocks.others * np.sqrt(blocks.counts) * along_u * du) + along_b @ dbeta)
        largest = float(np.max(np.abs(dF / blocks.scale)) + np.max(np.abs(du)))
        t = np.log1p(largest) / largest if largest > 1.0 else 1.0
        rounding = RESOLUTION * abs(state.value)
        for _ in range(HALVINGS):
            u = state.u + t * du
            u = np.where(alive & (u * sign > 0), u, 0.0)
            there = self.state(state.Y + t * dY, u, state.beta + t * dbeta)
            if there.value <= state.value - SUFFICIENT * t * slope + rounding:
                return there
            t *= 0.5
        return None

    def equation(self, frame, operator, R):
        """ΔC in the singular basis."""
        X, V, _, sigma, psi, rank = frame
        k = len(sigma)
        if rank == 0 or k == 0:
            return np.zeros((k, k))
        live = np.arange(k) < rank
        mask = live[:, None] | live[None, :]
        mask &= (np.sum(X**2, axis=0) > 0.5)[:, None] & (np.sum(V**2, axis=0) > 0.5)[None, :]
        sums = sigma[:, None] + sigma[None, :]
        anti = self.c * (psi[:, None] + psi[None, :]) / np.where(sums > 0, sums, 1.0)
        diffs = np.abs(sigma[:, None] - sigma[None, :])
        sym = self.c * np.abs(psi[:, None] - psi[None, :]) / np.where(diffs > 0, diffs, 1.0)
        return operator.dense(X, V, 0.5 * (anti + sym), 0.5 * (sym - anti), mask, X.T @ R @ V)

    def end(self, state, steps, tol) -> Solved:
        point = BlockPoint(state.C, state.u, self.blocks.bias(state.beta))
        return _solved(self.blocks, point, state.here, state.frame.sigma.sum(), steps, tol)


class _Eliminated(NamedTuple):
    """The Hessian along C, after elimination of u and, where there is one, of the bias."""

    hessian: Curvature
    axis: np.ndarray
    inverse: Any

    def dense(self, X, V, P, Q, mask, R):
        k = len(P)
        D, Qf, Rf = self.hessian.D, self.hessian.Q, self.hessian.R
        rows = np.einsum("hj,gh,hi->gji", V, D, V)
        for factor in (Qf, Rf):
            along = factor @ V
            rows -= along[:, :, None] * along[:, None, :]
        pairs = (X[:, :, None] * X[:, None, :]).reshape(len(X), -1)
        M = (pairs.T @ rows.reshape(len(X), -1)).reshape(k, k, k, k).transpose(0, 2, 1, 3).reshape(k * k, k * k)
        if self.inverse is not None:
            # of (i, j) with β_h: Σ_g X_gi y_g (V^T H_g)_jh
            half = np.einsum("hj,gh->gjh", V, D)
            for factor in (Qf, Rf):
                half -= (factor @ V)[:, :, None] * factor[:, None, :]
            cross = np.einsum("gi,gjh->ijh", X * self.axis[:, None], half).reshape(k * k, -1)
            M = M - cross @ self.inverse @ cross.T
        index = np.arange(k * k).reshape(k, k)
        M[index, index] += P
        M[index, index.T] += Q
        keep = np.flatnonzero(mask.ravel())
        E = np.zeros(k * k)
        E[keep] = np.linalg.solve(M[np.ix_(keep, keep)], R.ravel()[keep])
        return E.reshape(k, k)


def _reflector(axis):
    """v with (I − v vᵀ) axis = ± e_1 for an axis of norm 1."""
    v = axis.copy()
    v[0] += np.copysign(1.0, v[0])
    return v * (np.sqrt(2.0) / np.linalg.norm(v))


def _reflected(v, matrix):
    return matrix - np.outer(v, v @ matrix)


def _solved(blocks, point, here, nuclear, steps, tol) -> Solved:
    """With its certificate."""
    value = here.value + decay(blocks, nuclear, point.u, point.b)
    if not np.isfinite(value):
        return Solved(point, value, -np.inf, steps, Status.DIVERGED, np.inf)
    if blocks.bias_kind != "none":
        here = best_bias(blocks, point)[1]
    bound = lower_bound(blocks, here, value)
    gap = value - bound
    status = Status.CONVERGED if gap <= tol * abs(value) else Status.MAX_STEPS
    return Solved(point, value, bound, steps, status, gap)
