"""The exact reduction by symmetry: classes of equal count and weight share one block of a smaller problem.

*Sizes.* With decay on both factors and d at least the rank of the solution, the minimum over H and A is that of a
problem in the logits Z (K × K, of class means) alone, which is convex where the loss is:

    min  Σ_k ω_k ℓ(z_k + b, k) + c ‖diag(n)^{1/2} Z‖_* + (λ_b/2) ‖b‖²,   ω_k = w_k n_k/N,  c = √(λ_A λ_H).

Where the loss treats all wrong classes alike, permuting classes of equal count n and weight w, in the samples and in
the logits together, changes nothing. The mean of an optimum over these permutations is optimal by Jensen's inequality.
So there is one that treats the classes of a size alike: G sizes of m_g classes each, with

    z_kl = B_gh for class k of size g and l of size h ≠ g,   B_gg − u_g/m_g + δ_kl u_g for h = g,   b_k = b_g.

ℝ^K is the sum of what is constant on each size, with the basis 1_g/√m_g, and for each size of what sums to zero on its
classes. On the first diag(n)^{1/2} Z is the matrix C_gh = √(n_g m_g m_h) B_gh, on the others √n_g u_g times the
identity of m_g − 1 dimensions. So the minimum is that of

    Σ_g m_g ω_g ℓ_g + c [ Σ_g (m_g − 1) √n_g |u_g| + ‖C‖_* ] + (λ_b/2) Σ_g m_g b_g²

over C, u and b: G² + 2G numbers, whatever K is. Nothing here asks m_g to be a whole number.

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
from jaxtyping import Float, Int

from ufm._core.arrays import silent
from ufm._core.interrupts import check
from ufm._core.linalg import operator_norm
from ufm._core.precision import allowance
from ufm.minima.sectors import Sectors
from ufm.model.losses import ON_SIZES, SizeLoss, closed, declares, facts_of
from ufm.model.problem import Problem

SCALES = np.linspace(0.0, 1.0, 9)  # of the dual point, tried away from an optimum; at zero the loss's infimum
CLOSE, NEAR = 1e-11, 1e-2  # relative gaps from which other slopes are tried, and from which other scales are
SHIFTS = 3  # of slopes, to zero: where they are far off, what the first leaves is rounding of what it takes
BIAS_STEPS = 60  # of Newton's method for a bias
HALVINGS = 40  # of a step of it
RANK_CUT = 1e-9  # of the largest singular value of all sectors


class BlockPoint(NamedTuple):
    """A point of the problem on sizes: C (G, G), u (G,), b (G,); C without the bias."""

    C: Float[np.ndarray, "G G"]
    u: Float[np.ndarray, " G"]
    b: Float[np.ndarray, " G"]


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
    """The problem on sizes.

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

    @ft.cached_property
    def omega(self) -> Float[np.ndarray, " G"]:
        """ω_g = w_g n_g/N, the share of one class in the risk."""
        return self.weights * self.counts / self.num_samples

    @ft.cached_property
    def shares(self) -> Float[np.ndarray, " G"]:
        """m_g ω_g, the share of a size."""
        return self.multiplicities * self.omega

    @ft.cached_property
    def others(self) -> Float[np.ndarray, " G"]:
        """m_g − 1, dimensions of the standard sector."""
        return self.multiplicities - 1.0

    @ft.cached_property
    def alike(self) -> Float[np.ndarray, "G G"]:
        """How many wrong classes of size h a sample of size g has: m_h − δ_gh."""
        return self.multiplicities[None] - np.eye(self.num_sizes)

    @ft.cached_property
    def roots(self) -> Float[np.ndarray, " G"]:
        """√m_h."""
        return np.sqrt(self.multiplicities)

    @ft.cached_property
    def scale(self) -> Float[np.ndarray, "G G"]:
        """√(n_g m_g m_h), what C is in units of B."""
        return (np.sqrt(self.counts) * self.roots)[:, None] * self.roots

    @ft.cached_property
    def slope_scale(self) -> Float[np.ndarray, "G G"]:
        """ω_g √(m_g m_h/n_g), what the gradient along C is in units of slopes of one class."""
        return (self.omega * self.roots / np.sqrt(self.counts))[:, None] * self.roots

    @ft.cached_property
    def standard_price(self) -> Float[np.ndarray, " G"]:
        """c (m_g − 1) √n_g, the price of u_g."""
        return self.price * self.others * np.sqrt(self.counts)

    @ft.cached_property
    def several(self) -> Any:
        """(G,) whether a size has a standard sector."""
        return self.multiplicities > 1.0

    @ft.cached_property
    def total(self) -> float:
        """n̄ = Σ n_g m_g."""
        return float(self.counts @ self.multiplicities)

    @ft.cached_property
    def bias_axis(self) -> Float[np.ndarray, " G"]:
        """y, of norm 1."""
        return np.sqrt(self.counts * self.multiplicities / self.total)

    @ft.cached_property
    def shift_axis(self) -> Float[np.ndarray, " G"]:
        """√(m_h/Σm), of norm 1: what one number added to all logits of a row is along."""
        return self.roots / np.linalg.norm(self.roots)

    @ft.cached_property
    def ignores_shift(self) -> bool:
        """Whether the loss does."""
        return bool(facts_of(self.loss).ignores_shift)

    @ft.cached_property
    def keeps_digits(self) -> bool:
        """Whether the loss does."""
        return bool(facts_of(self.loss).keeps_digits)

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


def symmetric(problem: Problem) -> bool:
    """Whether classes of equal count and weight are exchangeable, and the relaxation over logits is of the form above.

    It is the minimum where d is at least the rank of its solution, which the solution says.
    """
    decayed = all(f.decay > 0 and _unbound(f.constraint) for f in problem.factors())
    return (
        decayed
        and closed(problem.loss)
        and problem.num_groups == problem.num_classes
        and bool(facts_of(problem.loss).convex)
        and all(declares(problem.loss, name) for name in ON_SIZES)
    )


def _unbound(constraint: Any) -> bool:
    """Whether all rows are allowed: what can be scaled and rotated at will, and is no single choice."""
    free = constraint.cone and constraint.rotatable and constraint.decays
    return free and not constraint.bounds and not constraint.fixed


def blocks_of(problem: Problem) -> tuple[Blocks, Int[np.ndarray, " K"]]:
    """The problem on sizes, and the size of each class; classes equal in count and weight share one."""
    counts, weights = problem.group_counts, np.asarray(problem.group_weights, np.float64)
    _, first, size_of, multiplicities = np.unique(
        counts.astype(np.float64) + 1j * weights, return_index=True, return_inverse=True, return_counts=True
    )
    blocks = Blocks(
        counts=counts[first].astype(np.float64),
        weights=weights[first],
        multiplicities=multiplicities.astype(np.float64),
        num_samples=float(problem.num_samples),
        num_classes=problem.num_classes,
        loss=problem.loss,
        price=float(np.sqrt(problem.lambda_A) * np.sqrt(problem.lambda_H)),
        lambda_b=float(problem.lambda_b),
        bias_kind=problem.bias_kind,
    )
    return blocks, size_of


class Risk(NamedTuple):
    """The risk at a point, with its gradient.

    Attributes:
        value: of the risk alone.
        along_C: G (G, G).
        along_u: t (G,); zero where a size has one class.
        at: the losses of each size's sample, with slopes and curvature.
        right: (G,) right logits.
        wrong: (G, G) wrong ones, the own size's on the diagonal.
    """

    value: float
    along_C: Float[np.ndarray, "G G"]
    along_u: Float[np.ndarray, " G"]
    at: SizeLoss
    right: Float[np.ndarray, " G"]
    wrong: Float[np.ndarray, "G G"]


def risk(blocks: Blocks, F: Float[np.ndarray, "G G"], u: Float[np.ndarray, " G"]) -> Risk:
    """The risk at C with its bias, F, and u."""
    B = F / blocks.scale
    right, wrong = logits(blocks, B, u)
    at = blocks.loss.on_sizes(right, wrong, blocks.alike)
    along_C, along_u = gradient(blocks, at.right, at.wrong)
    return Risk(float(blocks.shares @ at.value), along_C, along_u, at, right, wrong)


def logits(blocks: Blocks, B: Any, u: Any) -> tuple[Any, Any]:
    """Right logits (G,), and wrong ones (G, G) with the own size's on the diagonal, from block means B."""
    wrong, own = B.copy(), B.diagonal() - u / blocks.multiplicities
    np.fill_diagonal(wrong, own)
    return own + u, wrong


def gradient(blocks: Blocks, right: Any, wrong: Any) -> tuple[Any, Any]:
    """G and t from slopes of one class each."""
    own, mean = wrong.diagonal(), wrong.copy()
    np.fill_diagonal(mean, (right + blocks.others * own) / blocks.multiplicities)
    along_u = np.where(blocks.several, blocks.omega * (right - own) / np.sqrt(blocks.counts), 0.0)
    return blocks.slope_scale * mean, along_u


def with_bias(blocks: Blocks, point: BlockPoint) -> Float[np.ndarray, "G G"]:
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
    of_bias = 0.5 * blocks.lambda_b * float(blocks.multiplicities @ b**2) if blocks.bias_kind == "regularised" else 0.0
    return float(blocks.price * nuclear + blocks.standard_price @ np.abs(u) + of_bias)


class Curvature(NamedTuple):
    """The risk's Hessian in F, row by row: Ĥ_g = diag D_g − Q_g Q_gᵀ − R_g R_gᵀ, u being eliminated where it lives.

    With a_g = u_units_g u_g it is a quadratic form in (F, a) whose part in a is ½‖a‖², and ⟨R_g, F_g⟩ a_g between.

    Attributes:
        D: (G, G).
        Q: (G, G).
        R: (G, G); zero in rows whose u_g is kept.
        own: (G,) diagonal entries Ĥ_gg before R.
        u_units: (G,) square root of the second derivative along u_g.
    """

    D: Float[np.ndarray, "G G"]
    Q: Float[np.ndarray, "G G"]
    R: Float[np.ndarray, "G G"]
    own: Float[np.ndarray, " G"]
    u_units: Float[np.ndarray, " G"]

    @property
    def factors(self) -> tuple[Float[np.ndarray, "G G"], ...]:
        """Q, and R where a u lives."""
        return (self.Q, self.R) if self.u_units.any() else (self.Q,)

    def __matmul__(self, F: Float[np.ndarray, "G G"]) -> Float[np.ndarray, "G G"]:
        """Ĥ F."""
        found = self.D * F
        for factor in self.factors:
            found -= factor * np.einsum("gh,gh->g", factor, F)[:, None]
        return found

    def of_outer(self, axis: Float[np.ndarray, " G"], t: Float[np.ndarray, " G"]) -> Float[np.ndarray, "G G"]:
        """Ĥ (axis tᵀ)."""
        found = self.D * t
        for factor in self.factors:
            found -= factor * (factor @ t)[:, None]
        found *= axis[:, None]
        return found

    def along_bias(self, axis: Float[np.ndarray, " G"]) -> Float[np.ndarray, "G G"]:
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
        raised: (G, G) what is added to second derivatives along a wrong logit less the right one.
    """
    if raised is not None:
        against = np.sum(blocks.alike * raised, axis=1)
        at = at._replace(diagonal=at.diagonal + raised, curvature=at.curvature + against)
    m, others = blocks.multiplicities, blocks.others
    unit = np.sqrt(blocks.weights / blocks.num_samples)
    q, d = at.factor.diagonal(), at.diagonal.diagonal()
    # second derivatives of the right logit, of it with the sum of the others of its size, and of that sum
    right, cross, peers = at.curvature, -others * at.factor_right * q, others * (d - others * q**2)
    own = (right + 2 * cross + peers) / m
    left = others / m
    mixed = left * (right + cross) - (cross + peers) / m
    along_u = left**2 * right - 2 * left / m * cross + peers / m**2
    alive = alive & (along_u > 0)
    root = np.sqrt(np.where(alive, along_u, 1.0))
    Q = blocks.roots * at.factor
    np.fill_diagonal(Q, (at.factor_right + others * q) / blocks.roots)
    R = np.where(alive, -left * (at.factor_right - q) / root, 0.0)[:, None] * (blocks.roots * at.factor)
    np.fill_diagonal(R, np.where(alive, mixed / (root * blocks.roots), 0.0))
    D = at.diagonal.copy()
    np.fill_diagonal(D, own + Q.diagonal() ** 2)
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
    settled = 8 * np.finfo(np.float64).eps * np.linalg.norm(here.along_C)
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


def bias_inverse(blocks: Blocks, hessian: Curvature) -> Float[np.ndarray, "G G"]:
    """The inverse of the Hessian in β, but for the common shift of all logits, along which nothing is to be moved."""
    found = hessian.along_bias(blocks.bias_axis)
    found.flat[:: len(found) + 1] += blocks.ridge
    if not blocks.ignores_shift:
        return _inverse(found)
    axis, typical = blocks.shift_axis, np.mean(blocks.bias_axis**2 @ hessian.D)
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
    """The part of β that adds one number to all logits, which is none of an optimum where the loss ignores it."""
    return blocks.shift_axis * (blocks.shift_axis @ beta) if blocks.ignores_shift else 0.0


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
    X, sigma, Vt = np.linalg.svd(point.C)
    rank = int(np.count_nonzero(sigma > RANK_CUT * sigma[0]))
    Xd, Vd = X[:, rank:], Vt[rank:]
    left, tau, right = np.linalg.svd(Xd.T @ here.along_C @ Vd.T)
    along_C = Xd @ ((left * np.minimum(tau, c)) @ right) @ Vd - c * (X[:, :rank] @ Vt[:rank])
    return along_C, np.where(point.u != 0, -c * np.sign(point.u), np.clip(here.along_u, -c, c))


def slopes(blocks: Blocks, along_C: Any, along_u: Any) -> tuple[Any, Any]:
    """Slopes of one class each, right (G,) and wrong (G, G), from G and t."""
    wrong = along_C / blocks.slope_scale
    difference = along_u * np.sqrt(blocks.counts) / blocks.omega
    own = wrong.diagonal() - difference / blocks.multiplicities
    np.fill_diagonal(wrong, own)
    return own + difference, wrong


def _surplus(blocks, along_C):
    """σ (G,), what slopes of a class add up to, from the gradient along C."""
    return blocks.bias_axis @ along_C * np.sqrt(blocks.total) / blocks.roots


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
        if blocks.ignores_shift:  # the conjugate's domain, which it trusts its caller with
            right = -np.sum(blocks.alike * wrong, axis=1)
        along_C, along_u = gradient(blocks, right, wrong)
        cost = 0.0
        if blocks.bias_kind != "none":
            surplus = _surplus(blocks, along_C)
            cost = 0.5 * float(blocks.multiplicities @ surplus**2) / blocks.lambda_b if blocks.lambda_b > 0 else 0.0
        for _ in range(SHIFTS if blocks.bias_kind == "free" else 0):
            shift = _surplus(blocks, along_C) / np.sum(blocks.shares)
            right, wrong = right - shift, wrong - shift
            along_C, along_u = gradient(blocks, right, wrong)
        norm = max(float(operator_norm(along_C)), float(np.max(np.abs(along_u))))
        rounded = norm * (1.0 + blocks.num_sizes * allowance())
        return cls(blocks, right, wrong, here, cost, blocks.price / max(rounded, float(np.finfo(np.float64).tiny)))

    def value(self, scale):
        """The dual at the slopes times a scale, rounded down."""
        blocks, right, wrong, here = self.blocks, scale * self.right, scale * self.wrong, self.here
        conjugates = blocks.loss.conjugate_on_sizes(right, wrong, blocks.alike).value
        sizes = np.abs(conjugates) + np.abs(right) * (1.0 + np.abs(here.right))
        sizes = sizes + np.sum(blocks.alike * np.abs(wrong) * (1.0 + np.abs(here.wrong)), axis=1)
        if not blocks.keeps_digits:
            sizes = sizes + 1.0 + np.maximum(np.abs(here.right), np.max(np.abs(here.wrong), axis=1))
        taken = scale**2 * self.cost
        found = -float(blocks.shares @ conjugates) - taken - allowance() * (float(blocks.shares @ sizes) + taken)
        return found if found == found else -np.inf


def sectors_of(
    problem: Problem, blocks: Blocks, size_of: Int[np.ndarray, " K"], point: BlockPoint
) -> tuple[Sectors, int]:
    """Balanced factors of a point, and how many dimensions they need.

    λ_H Σ n_k ‖μ_k‖² = λ_A ‖A‖² in each singular direction, so that weight decay is c times the nuclear norm.
    """
    X, singular, Vt = np.linalg.svd(point.C)
    roots = np.sqrt(blocks.counts)
    standard = np.where(blocks.several, roots * np.abs(point.u), 0.0)
    cut = RANK_CUT * max(float(np.max(singular)), float(np.max(standard)))
    alive, living = singular > cut, standard > cut
    rank = int(np.sum(alive)) + int(np.sum(np.rint(blocks.others[living])))
    ratio = (problem.lambda_A / problem.lambda_H) ** 0.25
    split = np.sqrt(singular[alive])
    of_standard = np.sqrt(np.where(living, standard, 0.0))
    sectors = Sectors(
        size_of=size_of,
        trivial_H=ratio * X[:, alive] * split / roots[:, None],
        trivial_A=Vt[alive].T * split / ratio,
        standard_H=np.sign(point.u) * ratio * of_standard / roots,
        standard_A=of_standard / ratio,
        b=point.b,
    )
    return sectors, rank


def at_sectors(problem: Problem, blocks: Blocks, sectors: Sectors) -> tuple[float, float]:
    """The objective of the problem as posed at lifted parameters, and the norm of its gradient there.

    A sample's gradient is the n_m-th part of its group's, so that its n_m copies add up to ‖g_m‖²/n_m.
    """
    n, m = blocks.counts, blocks.multiplicities
    M, A, x, y = sectors.trivial_H, sectors.trivial_A, sectors.standard_H, sectors.standard_A
    roots = np.sqrt(n)
    point = BlockPoint(roots[:, None] * (M @ A.T), x * y, sectors.b)
    with silent():
        here = risk(blocks, with_bias(blocks, point), point.u)
    of_H = problem.lambda_H * (np.sum(n[:, None] * M**2) + blocks.others @ (n * x**2))
    of_A = problem.lambda_A * (np.sum(A**2) + blocks.others @ y**2)
    value = here.value + 0.5 * float(of_H + of_A + blocks.lambda_b * (m @ sectors.b**2))
    slopes, differences = roots[:, None] * here.along_C, roots * here.along_u
    along_H = slopes @ A + problem.lambda_H * n[:, None] * M
    along_A = slopes.T @ M + problem.lambda_A * A
    standard = (differences * y + problem.lambda_H * n * x) ** 2 / n + (differences * x + problem.lambda_A * y) ** 2
    squares = np.sum(along_H**2 / n[:, None]) + np.sum(along_A**2) + blocks.others @ standard
    if blocks.bias_kind != "none":
        along_b = _surplus(blocks, here.along_C) + blocks.lambda_b * sectors.b
        squares = squares + m @ along_b**2
    return value, float(np.sqrt(squares))
