"""A lower bound of a problem on blocks, from a point of it, and what the price's subgradients say of the slopes."""

from typing import Any, NamedTuple

import numpy as np

from ufm._core.arrays import silent
from ufm._core.linalg import operator_norm
from ufm._core.precision import allowance
from ufm.minima.blocks import BlockPoint, Blocks, Risk, best_bias, decay, gradient, risk, slopes, surplus, with_bias

SCALES = np.linspace(0.0, 1.0, 9)  # of the dual point, tried away from an optimum; at zero the loss's infimum
CLOSE, NEAR = 1e-11, 1e-2  # relative gaps from which other slopes are tried, and from which other scales are
SHIFTS = 3  # of slopes, to zero: where they are far off, what the first leaves is rounding of what it takes
RANK_CUT = 1e-9  # of the largest singular value of all sectors


def value_and_bound(blocks: Blocks, point: BlockPoint, *, close: float = CLOSE) -> tuple[float, float]:
    """The objective at a point, and a number that it is nowhere below, with an allowance for rounding."""
    with silent():
        here = risk(blocks, with_bias(blocks, point), point.u)
        nuclear = np.linalg.svd(point.C, compute_uv=False).sum()
        value = here.value + decay(blocks, nuclear, point.u, point.b)
        return value, lower_bound(blocks, point, value, close=close)


def lower_bound(blocks: Blocks, point: BlockPoint, value: float, *, close: float = CLOSE) -> float:
    """A number that the objective is nowhere below, from a point and its value.

    Weak duality as in `ufm.minima.dual`, in the block form: with slopes scaled by s until ‖G‖_op ≤ c and |t| ≤ c,

        f* ≥ −Σ m_g ω_g ℓ_g*(s slopes) − s² Σ m_h σ_h²/(2 λ_b),   σ_h = Σ_g m_g ω_g s̄_gh the surplus of a class,

    and for a free bias σ is taken off the slopes of all rows alike, in proportion to their weights. The slopes tried
    are those of the risk at the point with its best bias, and those that the price's subgradient would have them be:
    the same at an optimum, but where c is small beside the rounding of slopes only these are feasible in all digits.
    They take a decomposition more, and are tried where the relative gap is more than `close`.
    """
    biased = blocks.bias_kind != "none"
    here = best_bias(blocks, point)[1] if biased else risk(blocks, point.C, point.u)
    dual = _Dual.of(blocks, here, here.at.right, here.at.wrong)
    bound = dual.value(min(1.0, dual.most))
    if value - bound > close * abs(value):
        priced = _Dual.of(blocks, here, *slopes(blocks, *subgradient(blocks, point, here)))
        bound = max(bound, priced.value(min(1.0, priced.most)))
    if value - bound > NEAR * abs(value):
        bound = max(bound, *(dual.value(dual.most * scale) for scale in SCALES))
    return float(bound)


def subgradient(blocks: Blocks, point: BlockPoint, here: Risk) -> tuple[Any, Any]:
    """Minus the price's subgradients along C and u that are nearest to the risk's gradient: G and t of an optimum."""
    c = blocks.price
    X, sigma, Vt = _svd(point.C)
    rank = int(np.count_nonzero(sigma > RANK_CUT * sigma[0]))
    living, Vd = X[:, :rank], Vt[rank:]
    dead = here.along_C @ Vd.T
    for _ in range(2):  # once leaves rounding of what was large
        dead = dead - living @ (living.T @ dead)
    left, tau, right = np.linalg.svd(dead, full_matrices=False)
    along_C = (left * np.minimum(tau, c)) @ right @ Vd - c * (living @ Vt[:rank])
    return along_C, np.where(point.u != 0, -c * np.sign(point.u), np.clip(here.along_u, -c, c))


def _svd(C):
    """Singular vectors, all of the right ones."""
    return np.linalg.svd(C, full_matrices=C.shape[0] < C.shape[1])


class _Dual(NamedTuple):
    """Slopes, which a free bias has sum to zero; the logits nearby; what a regularised one costs; the largest scale."""

    blocks: Blocks
    right: Any
    wrong: Any
    here: Risk
    cost: float
    most: float

    @classmethod
    def of(cls, blocks, here, right, wrong):
        right = blocks.tied(right, wrong)  # the conjugate's domain, which it trusts its caller with
        along_C, along_u = gradient(blocks, right, wrong)
        cost = 0.0
        if blocks.bias_kind != "none":
            left = surplus(blocks, along_C)
            cost = 0.5 * float(blocks.outputs @ left**2) / blocks.lambda_b if blocks.lambda_b > 0 else 0.0
        for _ in range(SHIFTS if blocks.bias_kind == "free" else 0):
            right, wrong = blocks.shifted(right, wrong, surplus(blocks, along_C), here)
            along_C, along_u = gradient(blocks, right, wrong)
        if blocks.bias_kind == "free" and not blocks.sums_to_zero(right, wrong, surplus(blocks, along_C)):
            right, wrong = np.full_like(right, np.nan), np.full_like(wrong, np.nan)
        norm = max(float(operator_norm(along_C)), float(np.max(np.abs(along_u))))
        rounded = norm * (1.0 + max(along_C.shape) * allowance())
        return cls(blocks, right, wrong, here, cost, blocks.price / max(rounded, float(np.finfo(np.float64).tiny)))

    def value(self, scale):
        """The dual at the slopes times a scale, rounded down."""
        blocks, right, wrong, here = self.blocks, scale * self.right, scale * self.wrong, self.here
        conjugates = blocks.conjugates(right, wrong).value
        sizes = np.abs(conjugates) + blocks.sizes(right, wrong, here)
        taken = scale**2 * self.cost
        found = -float(blocks.shares @ conjugates) - taken - allowance() * (float(blocks.shares @ sizes) + taken)
        return found if found == found else -np.inf
