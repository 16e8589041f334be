"""A problem in the logits of a few kinds of samples, each with a count, and kinds of outputs: value and derivatives.

Row g stands for m_g groups of n_g samples, column h for m_h outputs, and C_gh = √(n_g m_g m_h) B_gh for block means B
of logits. `ufm.minima.symmetry` has classes of one size for both and says where C and u come from; `ufm.minima.rows`
has groups and outputs one by one, m = 1 and no u. One column of a row is its own: the right class's, and its peers'.

*Bias.* With y ∝ √(n_g m_g) of norm 1, n̄ = Σ n_g m_g, and F = C + y βᵀ, β_h = √(n̄ m_h) b_h, the logits with their
bias are F_gh/√(n_g m_g m_h): a bias is what is added to F along y. A free one is the y-part of F and C has none, since
taking it off C lowers the nuclear norm.

*Slopes.* The risk's gradient has the same form. With s_gh the slope of one class of size h, and s̄_gg the mean over the
classes of the own size, it is G_gh = ω_g √(m_g m_h/n_g) s̄_gh along C, and along √n_g u_g, for each of the m_g − 1
dimensions, t_g = ω_g (s_kk − s_kj)/√n_g with j ≠ k of the same size. The dual's condition is ‖G‖_op ≤ c, |t_g| ≤ c.
"""

import dataclasses
import functools as ft
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ufm._core.arrays import silent
from ufm._core.interrupts import check
from ufm.model.losses import SizeConjugate, SizeLoss, facts_of

BIAS_STEPS = 60  # of Newton's method for a bias
HALVINGS = 40  # of a step of it
LEAST_FLOOR = 0.1  # of a row's mean wrong probability: the least that a start gives a wrong class


class BlockPoint(NamedTuple):
    """A point of the problem on blocks: C (G, E), u (G,), b (E,); C without the bias."""

    C: Float[np.ndarray, "G E"]
    u: Float[np.ndarray, " G"]
    b: Float[np.ndarray, " E"]


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
    """The problem on blocks; as it is here, on sizes of classes.

    Attributes:
        counts: n (G,), samples of a class of each size.
        weights: w (G,), of a sample.
        multiplicities: m (G,) ≥ 1, classes of each size; real numbers.
        num_samples: N.
        num_classes: K.
        loss: one that declares its form on sizes.
        price: c = √(λ_A λ_H) > 0.
        lambda_b: weight decay of the bias.
        bias_kind: "none", "free" or "regularised".
    """

    counts: Float[np.ndarray, " G"]
    weights: Float[np.ndarray, " G"]
    multiplicities: Float[np.ndarray, " G"]
    num_samples: float
    num_classes: int
    loss: Any
    price: float
    lambda_b: float
    bias_kind: str

    @property
    def num_sizes(self) -> int:
        """G."""
        return len(self.counts)

    @property
    def outputs(self) -> Float[np.ndarray, " E"]:
        """How many outputs each column stands for: m, since sizes are both."""
        return self.multiplicities

    @ft.cached_property
    def own(self) -> tuple[Any, Any]:
        """Index of each row's own column, of the right class and its peers."""
        return np.arange(self.num_sizes), np.arange(self.num_sizes)

    @ft.cached_property
    def told(self) -> Any:
        """What else is told of sizes (G, F), logarithms where it is positive, if others can be told it too; or None."""
        return np.log(self.weights)[:, None]

    def on_others(self, counts: Any, multiplicities: Any, told: Any) -> "Blocks":
        """The problem on other sizes (J,), told so much (J, F); samples and classes are as many as before."""
        return dataclasses.replace(self, counts=counts, multiplicities=multiplicities, weights=np.exp(told[:, 0]))

    @property
    def steepness(self) -> Any:
        """Of a sample's slope between its right and wrong logits at equal ones, in units of the loss's."""
        return 1.0

    @ft.cached_property
    def cancelled(self) -> float:
        """Norm of what slopes lose when they are formed, in units of C; that of a label's loses nothing."""
        return 0.0

    def losses(self, right: Any, wrong: Any) -> SizeLoss:
        """Losses of a sample of each row, with derivatives."""
        return self.loss.on_sizes(right, wrong, self.alike)

    def conjugates(self, right: Any, wrong: Any) -> SizeConjugate:
        """Their conjugates at slopes."""
        return self.loss.conjugate_on_sizes(right, wrong, self.alike)

    def tied(self, right: Any, wrong: Any) -> Any:
        """The slope (G,) of right logits that the wrong ones' tell, where the loss ties them; else as it is."""
        return -np.sum(self.alike * wrong, axis=1) if self.flat is not None else right

    def shifted(self, right: Any, wrong: Any, excess: Any, here: "Risk") -> tuple[Any, Any]:
        """Slopes of one class each that add up to so much (E,) less, weighted: all rows' lose the same."""
        shift = excess / np.sum(self.shares)
        return right - shift[self.own[1]], wrong - shift

    def sums_to_zero(self, right: Any, wrong: Any, excess: Any) -> bool:
        """Whether shifted slopes have no excess (E,) but for rounding, as those have that all lose the same."""
        return True

    def floored(self, wrong: Any) -> Any:
        """Wrong logits, none of which has less than a small part of its row's mean odds."""
        return np.maximum(wrong, _least_logits(self.alike, wrong)[:, None])

    def sizes(self, right: Any, wrong: Any, here: "Risk") -> Any:
        """How large the numbers are (G,) that conjugates add up at slopes, near the logits of a risk."""
        sizes = np.abs(right) * (1.0 + np.abs(here.right))
        sizes = sizes + np.sum(self.alike * np.abs(wrong) * (1.0 + np.abs(here.wrong)), axis=1)
        return sizes + self.lost * (1.0 + np.maximum(np.abs(here.right), np.max(np.abs(here.wrong), axis=1)))

    @ft.cached_property
    def first_bias(self) -> Float[np.ndarray, " E"]:
        """Where the search for the zero point's bias begins: at the logarithms of shares, which sum to zero."""
        logs = np.log(self.omega)
        return logs - self.multiplicities @ logs / np.sum(self.multiplicities)

    @ft.cached_property
    def omega(self) -> Float[np.ndarray, " G"]:
        """ω_g = w_g n_g/N, the share of one class in the risk."""
        return self.weights * self.counts / self.num_samples

    @ft.cached_property
    def shares(self) -> Float[np.ndarray, " G"]:
        """m_g ω_g, the share of a size."""
        return self.multiplicities * self.omega

    @ft.cached_property
    def alone(self) -> Float[np.ndarray, " G"]:
        """m_g of each row's own column."""
        return self.outputs[self.own[1]]

    @ft.cached_property
    def others(self) -> Float[np.ndarray, " G"]:
        """m_g − 1, dimensions of the standard sector."""
        return self.alone - 1.0

    @ft.cached_property
    def alike(self) -> Float[np.ndarray, "G E"]:
        """How many wrong classes of size h a sample of size g has: m_h − δ_gh."""
        found = np.tile(self.outputs, (self.num_sizes, 1))
        found[self.own] -= 1.0
        return found

    @ft.cached_property
    def roots(self) -> Float[np.ndarray, " E"]:
        """√m_h."""
        return np.sqrt(self.outputs)

    @ft.cached_property
    def scale(self) -> Float[np.ndarray, "G E"]:
        """√(n_g m_g m_h), what C is in units of B."""
        return np.sqrt(self.counts * self.multiplicities)[:, None] * self.roots

    @ft.cached_property
    def slope_scale(self) -> Float[np.ndarray, "G E"]:
        """ω_g √(m_g m_h/n_g), what the gradient along C is in units of slopes of one class."""
        return (self.omega * np.sqrt(self.multiplicities / self.counts))[:, None] * self.roots

    @ft.cached_property
    def standard_price(self) -> Float[np.ndarray, " G"]:
        """c (m_g − 1) √n_g, the price of u_g."""
        return self.price * self.others * np.sqrt(self.counts)

    @ft.cached_property
    def several(self) -> Any:
        """(G,) whether a size has a standard sector."""
        return self.alone > 1.0

    @ft.cached_property
    def total(self) -> float:
        """n̄ = Σ n_g m_g."""
        return float(self.counts @ self.multiplicities)

    @ft.cached_property
    def bias_axis(self) -> Float[np.ndarray, " G"]:
        """y, of norm 1."""
        return np.sqrt(self.counts * self.multiplicities / self.total)

    @ft.cached_property
    def flat(self) -> Float[np.ndarray, " E"] | None:
        """A direction in which block means of logits move at no change of the loss, such as a common shift; or None."""
        return np.ones(len(self.outputs)) if facts_of(self.loss).ignores_shift else None

    @ft.cached_property
    def flat_axis(self) -> Float[np.ndarray, " E"] | None:
        """What moving logits in that direction is along, of norm 1: √(m_h/Σm) where it is a common shift."""
        if self.flat is None:
            return None
        return self.roots * self.flat / np.linalg.norm(self.roots * self.flat)

    @ft.cached_property
    def lost(self) -> Float[np.ndarray, " G"]:
        """How much of each row's target its loss and conjugate add up, and lose digits of: none, or one's."""
        return np.full(self.num_sizes, 0.0 if facts_of(self.loss).keeps_digits else 1.0)

    def beta(self, b: Any) -> Any:
        """The bias in units of F."""
        return np.sqrt(self.total) * self.roots * b

    def bias(self, beta: Any) -> Any:
        """The same, back."""
        return beta / (np.sqrt(self.total) * self.roots)

    @property
    def ridge(self) -> float:
        """Decay of β."""
        return self.lambda_b / self.total if self.bias_kind == "regularised" else 0.0


class Risk(NamedTuple):
    """The risk at a point, with its gradient.

    Attributes:
        value: of the risk alone.
        along_C: G (G, E).
        along_u: t (G,); zero where a size has one class.
        at: the losses of each size's sample, with slopes and curvature.
        right: (G,) right logits.
        wrong: (G, E) wrong ones, the peers' in the own column.
    """

    value: float
    along_C: Float[np.ndarray, "G E"]
    along_u: Float[np.ndarray, " G"]
    at: SizeLoss
    right: Float[np.ndarray, " G"]
    wrong: Float[np.ndarray, "G E"]


def risk(blocks: Blocks, F: Float[np.ndarray, "G E"], u: Float[np.ndarray, " G"]) -> Risk:
    """The risk at C with its bias, F, and u."""
    B = F / blocks.scale
    right, wrong = logits(blocks, B, u)
    at = blocks.losses(right, wrong)
    along_C, along_u = gradient(blocks, at.right, at.wrong)
    return Risk(float(blocks.shares @ at.value), along_C, along_u, at, right, wrong)


def logits(blocks: Blocks, B: Any, u: Any) -> tuple[Any, Any]:
    """Right logits (G,), and wrong ones (G, E) with the peers' in the own column, from block means B."""
    wrong, own = B.copy(), B[blocks.own] - u / blocks.alone
    wrong[blocks.own] = own
    return own + u, wrong


def gradient(blocks: Blocks, right: Any, wrong: Any) -> tuple[Any, Any]:
    """G and t from slopes of one class each."""
    own, mean = wrong[blocks.own], wrong.copy()
    mean[blocks.own] = (right + blocks.others * own) / blocks.alone
    along_u = np.where(blocks.several, blocks.omega * (right - own) / np.sqrt(blocks.counts), 0.0)
    return blocks.slope_scale * mean, along_u


def slopes(blocks: Blocks, along_C: Any, along_u: Any) -> tuple[Any, Any]:
    """Slopes of one class each, right (G,) and wrong (G, E), from G and t."""
    wrong = along_C / blocks.slope_scale
    difference = along_u * np.sqrt(blocks.counts) / blocks.omega
    own = wrong[blocks.own] - difference / blocks.alone
    wrong[blocks.own] = own
    return own + difference, wrong


def with_bias(blocks: Blocks, point: BlockPoint) -> Float[np.ndarray, "G E"]:
    """F, the logits with their bias in units of C."""
    if blocks.bias_kind == "none":
        return point.C
    return point.C + blocks.bias_axis[:, None] * blocks.beta(point.b)


def objective(blocks: Blocks, point: BlockPoint) -> float:
    """The objective of the problem on sizes, which is that of the problem as posed at the lifted point."""
    with silent():
        value = risk(blocks, with_bias(blocks, point), point.u).value
        return value + decay(blocks, np.linalg.svd(point.C, compute_uv=False).sum(), point.u, point.b)


def decay(blocks: Blocks, nuclear: float, u: Any, b: Any) -> float:
    """All decay, from the nuclear norm of C."""
    of_bias = 0.5 * blocks.lambda_b * float(blocks.outputs @ b**2) if blocks.bias_kind == "regularised" else 0.0
    return float(blocks.price * nuclear + blocks.standard_price @ np.abs(u) + of_bias)


class Curvature(NamedTuple):
    """The risk's Hessian in F, row by row: Ĥ_g = diag D_g − Q_g Q_gᵀ − R_g R_gᵀ, u being eliminated where it lives.

    With a_g = u_units_g u_g it is a quadratic form in (F, a) whose part in a is ½‖a‖², and ⟨R_g, F_g⟩ a_g between.

    Attributes:
        D: (G, E).
        Q: (G, E).
        R: (G, E); zero in rows whose u_g is kept.
        own: (G,) entries of Ĥ_g in the own column before R.
        u_units: (G,) square root of the second derivative along u_g.
    """

    D: Float[np.ndarray, "G E"]
    Q: Float[np.ndarray, "G E"]
    R: Float[np.ndarray, "G E"]
    own: Float[np.ndarray, " G"]
    u_units: Float[np.ndarray, " G"]

    @property
    def factors(self) -> tuple[Float[np.ndarray, "G E"], ...]:
        """Q, and R where a u lives."""
        return (self.Q, self.R) if self.u_units.any() else (self.Q,)

    def __matmul__(self, F: Float[np.ndarray, "G E"]) -> Float[np.ndarray, "G E"]:
        """Ĥ F."""
        found = self.D * F
        for factor in self.factors:
            found -= factor * np.einsum("gh,gh->g", factor, F)[:, None]
        return found

    def of_outer(self, axis: Float[np.ndarray, " G"], t: Float[np.ndarray, " E"]) -> Float[np.ndarray, "G E"]:
        """Ĥ (axis tᵀ)."""
        found = self.D * t
        for factor in self.factors:
            found -= factor * (factor @ t)[:, None]
        found *= axis[:, None]
        return found

    def along_bias(self, axis: Float[np.ndarray, " G"]) -> Float[np.ndarray, "E E"]:
        """The Hessian in β where F moves by axis βᵀ."""
        squares = axis**2
        found = np.diag(squares @ self.D)
        for factor in self.factors:
            scaled = axis[:, None] * factor
            found -= scaled.T @ scaled
        return found


def curvature(blocks: Blocks, at: SizeLoss, alive: Any, raised: Any = None) -> Curvature:
    """The risk's Hessian, u_g being eliminated where `alive` (G,).

    Args:
        blocks: the problem.
        at: the losses at the point.
        alive: (G,) which u_g may move.
        raised: (G, E) what is added to second derivatives along a wrong logit less the right one.
    """
    if raised is not None:
        against = np.sum(blocks.alike * raised, axis=1)
        at = at._replace(diagonal=at.diagonal + raised, curvature=at.curvature + against)
    m, others = blocks.alone, blocks.others
    unit = np.sqrt(blocks.weights / blocks.num_samples)
    q, d = at.factor[blocks.own], at.diagonal[blocks.own]
    # second derivatives of the right logit, of it with the sum of the others of its size, and of that sum
    right, cross, peers = at.curvature, -others * at.factor_right * q, others * (d - others * q**2)
    own = (right + 2 * cross + peers) / m
    left = others / m
    mixed = left * (right + cross) - (cross + peers) / m
    along_u = left**2 * right - 2 * left / m * cross + peers / m**2
    alive = alive & (along_u > 0)
    root = np.sqrt(np.where(alive, along_u, 1.0))
    Q, roots = blocks.roots * at.factor, np.sqrt(m)
    Q[blocks.own] = (at.factor_right + others * q) / roots
    R = np.where(alive, -left * (at.factor_right - q) / root, 0.0)[:, None] * (blocks.roots * at.factor)
    R[blocks.own] = np.where(alive, mixed / (root * roots), 0.0)
    D = at.diagonal.copy()
    D[blocks.own] = own + Q[blocks.own] ** 2
    units = np.where(alive, np.sqrt(blocks.shares) * root, 0.0)
    per_sample = unit[:, None]
    return Curvature(per_sample**2 * D, per_sample * Q, per_sample * R, unit**2 * own, units)


def best_bias(blocks: Blocks, point: BlockPoint) -> tuple[Any, Risk]:
    """The bias that minimises the objective at given C and u, from the point's, and the risk there.

    Newton's method on a convex function, kept by halving; the first step that lowers no slope is the last.
    """
    axis, beta = blocks.bias_axis, blocks.beta(point.b)
    beta = beta - along_shift(blocks, beta)
    here = risk(blocks, point.C + axis[:, None] * beta, point.u)
    slope = bias_slope(blocks, here, beta)
    settled = 8 * np.finfo(np.float64).eps * (np.linalg.norm(here.along_C) + blocks.cancelled)
    none = np.zeros(blocks.num_sizes, bool)
    for _ in range(BIAS_STEPS):
        check()
        if not np.linalg.norm(slope) > settled:
            break
        move = bias_inverse(blocks, curvature(blocks, here.at, none)) @ slope
        for halvings in range(HALVINGS):
            tried = beta - 0.5**halvings * move
            there = risk(blocks, point.C + axis[:, None] * tried, point.u)
            slope_there = bias_slope(blocks, there, tried)
            if np.linalg.norm(slope_there) < np.linalg.norm(slope):
                break
        else:
            break
        beta, here, slope = tried, there, slope_there
    return blocks.bias(beta), here


def bias_slope(blocks: Blocks, here: Risk, beta: Any) -> Any:
    """The objective's gradient in β."""
    return blocks.bias_axis @ here.along_C + blocks.ridge * beta


def bias_inverse(blocks: Blocks, hessian: Curvature) -> Float[np.ndarray, "E E"]:
    """The inverse of the Hessian in β, but for the flat direction, along which nothing is to be moved."""
    found = hessian.along_bias(blocks.bias_axis)
    found.flat[:: len(found) + 1] += blocks.ridge
    axis = blocks.flat_axis
    if axis is None:
        return _inverse(found)
    typical = np.mean(blocks.bias_axis**2 @ hessian.D)
    along = found @ axis
    along = along - 0.5 * axis * (axis @ along + typical)
    found -= np.outer(axis, along) + np.outer(along, axis)
    return _inverse(found) - np.outer(axis, axis / typical)


def _inverse(hessian):
    """The inverse, along what has one: second derivatives of biases that nothing tells apart underflow."""
    try:
        return np.linalg.inv(hessian)
    except np.linalg.LinAlgError:
        return (
            np.linalg.pinv(hessian, hermitian=True) if np.all(np.isfinite(hessian)) else np.full_like(hessian, np.nan)
        )


def along_shift(blocks: Blocks, beta: Any) -> Any:
    """The part of β that moves logits in the flat direction, which is none of an optimum."""
    return 0.0 if blocks.flat_axis is None else blocks.flat_axis * (blocks.flat_axis @ beta)


def _least_logits(alike, wrong):
    """The logits (G,) of a small part of each row's mean wrong probability."""
    some = alike > 0
    top = np.max(np.where(some, wrong, -np.inf), axis=1)
    odds = np.sum(alike * np.where(some, np.exp(wrong - top[:, None]), 0.0), axis=1)
    return top + np.log(LEAST_FLOOR * odds / np.sum(alike, axis=1))


def surplus(blocks, along_C):
    """σ (G,), what slopes of a class add up to, from the gradient along C."""
    return blocks.bias_axis @ along_C * np.sqrt(blocks.total) / blocks.roots
