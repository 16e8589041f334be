"""The lower bound of `certificate` where the M × K dual matrix is too large to hold: it is formed a block at a time.

Three things differ from the bound of matrices that are held. The bias is improved by a few steps of L-BFGS, since
Newton's method needs K × K numbers. With a free bias what is left of 1ᵀU is removed within the simplex that a
cross-entropy's conjugate is finite on: the softmax is rounded to the right class sums by scaling down the classes that
are too heavy and spreading what is then missing (Altschuler, Weed & Rigollet 2017, Algorithm 2).
And the operator norm comes from a Krylov space, with a margin that holds with probability 1 − 10⁻¹².
"""

import functools as ft
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.blocks import cut, put, scan_blocks
from ufm._core.programs import kept
from ufm.minima.reduction import LaneParams, Reduced
from ufm.model.losses import facts_of, per_sample, simplex_targets

WIDTH = 32  # vectors of the Krylov space's blocks
PASSES = 24  # products with the matrix and its transpose
FAILURE = 1e-12  # probability that the norm is above its bound
NOISE = 1e-14  # relative
BIAS_STEPS = 40  # of L-BFGS


class Dual:
    """The dual point of one lane: what makes U (M, K) a block of groups at a time, and sums over its blocks.

    Args:
        lane: the problem.
        params: group means (M, d), classifier (K, d) and bias (K,), which is improved where the problem has one.
    """

    def __init__(self, lane: Reduced, params: LaneParams):
        self.lane, self.params = lane, jax.tree.map(jnp.asarray, params)
        b = self._improved(np.asarray(params.b)) if lane.bias_kind != "none" else np.zeros(lane.num_classes)
        self.params = self.params._replace(b=jnp.asarray(b))
        _, self.surplus, heavy = _bias_sums(lane, self.params)
        self.repair = _repair(lane, self.surplus, heavy)

    def _improved(self, b):
        """A bias with a smaller surplus 1ᵀU + λ_b b."""
        from scipy.optimize import minimize  # half a second, which most never need

        decay = float(self.lane.lambda_b)

        def value_and_slope(b):
            value, slope, _ = _bias_sums(self.lane, self.params._replace(b=jnp.asarray(b)))
            return float(value) + 0.5 * decay * b @ b, np.asarray(slope) + decay * b

        scale = 1.0 / np.sqrt(float(jnp.max(self.lane.weights)))  # the curvature along a bias is at most its weight
        options: Any = {"maxiter": BIAS_STEPS, "gtol": 0.0, "ftol": 0.0, "maxls": 8}
        found = minimize(_scaled(value_and_slope, scale), b / scale, jac=True, method="L-BFGS-B", options=options)
        better = scale * found.x
        slopes = [np.linalg.norm(value_and_slope(x)[1]) for x in (b, better)]
        return better if slopes[1] < slopes[0] else b

    def pulls(self) -> LaneParams:
        """U A (M, d), Uᵀ H (K, d) and the surplus −1ᵀU (K,) before it is repaired."""
        on_features, on_classifier = _pulls(self.lane, self.params, self.repair)
        return LaneParams(on_features, on_classifier, self.surplus)

    def gram(self, decays_H: Any, decays_A: Any, vectors: Any) -> np.ndarray:
        """BᵀB V of B = D₁^{−1/2} U D₂^{−1/2} for V (K, m), from the diagonals D₁ (M,) and D₂ (K,)."""
        return np.asarray(_gram(self.lane, self.params, self.repair, decays_H, decays_A, vectors))

    def conjugates(self, of_groups: Callable[..., Any], scales: Any) -> tuple:
        """Weighted sums, at each scale, of the pair that `of_groups(lane, scale, g, z, targets, infima)` gives each."""
        return _conjugate_sums(of_groups, self.lane, self.params, self.repair, scales)


def _scaled(fun, scale):
    def scaled(x):
        value, slope = fun(scale * x)
        return value, scale * slope

    return scaled


def norm_bound(gram: Any, size: int, seed: int = 0) -> float:
    """An upper bound on ‖B‖ of a matrix with `size` columns, by products V ↦ BᵀB V.

    The largest Ritz value θ of BᵀB on the Krylov space of PASSES − 1 powers of a Gaussian block G of WIDTH = m columns
    is below its largest eigenvalue λ; how far is bounded as by Kuczyński & Woźniakowski (1992), for blocks. Suppose
    θ < τ = (1 − ε)λ. Then Σ_i (λ_i − τ) q(λ_i)² c_i² < 0 for every polynomial q of that degree and every x = Σ c_i v_i
    in the range of G. With the Chebyshev polynomial T of [0, τ], which is at most 1 there,

        ε T(λ)² c_1² < (1 − ε) Σ_{i>1} c_i².

    But for x along G Gᵀv_1, c_1² ~ χ²_m and the rest an independent χ²_{size−1}: the share c_1²/Σ_i c_i² is a
    Beta(m/2, (size−1)/2) variable, which is below its quantile r with probability FAILURE. So λ ≤ θ/(1 − ε) for the ε
    with ε T(λ)² r = (1 − ε)(1 − r), whatever the spectrum, except with that probability over the draw of G (in exact
    arithmetic). Where the space would be everything, the eigenvalue itself is found.

    Args:
        gram: maps V (size, m) to BᵀB V.
        size: columns of B.
        seed: of G.
    """
    if size <= WIDTH * PASSES:
        image = gram(np.eye(size))
        return float(np.sqrt(np.linalg.eigvalsh(0.5 * (image + image.T))[-1].clip(0.0)))
    basis, ritz = np.empty((size, WIDTH * PASSES)), np.zeros((WIDTH * PASSES, WIDTH * PASSES))
    random = np.random.default_rng(seed)
    block = np.linalg.qr(random.normal(size=(size, WIDTH)))[0]
    for first in range(0, WIDTH * PASSES, WIDTH):
        here = slice(first, first + WIDTH)
        basis[:, here] = block
        known, block = basis[:, : here.stop], gram(block)
        ritz[: here.stop, here] = known.T @ block
        # rounding's worth of noise: a space that is exhausted goes on somewhere, still orthogonally
        block = block + NOISE * (np.abs(block).max() or 1.0) * random.normal(size=block.shape)
        for _ in range(2):
            block = np.linalg.qr(block - known @ (known.T @ block))[0]
    return float(np.sqrt(np.linalg.eigvalsh(ritz, UPLO="U")[-1].clip(0.0) / (1.0 - shortfall(size))))


def shortfall(size: int) -> float:
    """The ε of `norm_bound`: the largest Ritz value's relative error, exceeded with probability FAILURE."""
    from scipy.optimize import brentq
    from scipy.special import betaincinv

    share = betaincinv(WIDTH / 2, (size - 1) / 2, FAILURE)

    def excess(eps):
        chebyshev = np.cosh((PASSES - 1) * np.arccosh(1.0 + 2.0 * eps / (1.0 - eps)))
        return eps * chebyshev**2 * share - (1.0 - eps) * (1.0 - share)

    return brentq(excess, 0.0, 1.0 - 1e-4)  # pyright: ignore[reportReturnType]


class _Block(NamedTuple):
    """Some m of the M groups: what is cut out of arrays of groups, and what weights are their own.

    Logits are (K, m), targets and infima (m,); weights (m,) are zero where the block before had the group already.
    """

    logits: Any
    targets: Any
    infima: Any
    weights: Any
    first: Any
    new: Any

    def cut(self, of_groups):
        """The block's rows of an array (M, ...)."""
        return cut(of_groups, self.first, self.new)


def _over_blocks(lane, params, step, start):
    """`step(carry, block)` over the blocks of groups."""
    targets, infima, weights = lane.targets, lane.infima, jnp.asarray(lane.weights)

    def one(carry, first, new):
        logits = params.A @ cut(params.H, first, new).T + params.b[:, None]
        own = jnp.where(new, cut(weights, first, new), 0.0)
        told = cut(targets, first, new, targets.ndim - 1)
        return step(carry, _Block(logits, told, cut(infima, first, new), own, first, new))

    return scan_blocks(one, start, lane.num_groups, lane.num_classes)


def _losses_and_slopes(lane, block):
    """ℓ_m(z_m) (m,) and ∇ℓ_m(z_m) (K, m) of a block."""
    losses, pull = jax.vjp(lambda Z: per_sample(lane.loss, Z, block.targets), block.logits)
    return losses, pull(jnp.ones_like(losses))[0]


def _probabilities(lane, slopes, targets):
    """Points q of the simplex that slopes are of, where a conjugate is finite there alone; zero for other losses."""
    if not facts_of(lane.loss).conjugate_on_simplex:
        return jnp.zeros_like(slopes)
    return jnp.maximum(slopes + simplex_targets(lane.loss, slopes, targets), 0.0)


@kept
def _bias_sums(lane, params):
    """The risk, its slope along the bias Σ_m w_m g_m (K,), and Σ_m w_m q_m (K,), which `_repair` asks for."""

    def step(carry, block):
        risk, surplus, heavy = carry
        losses, slopes = _losses_and_slopes(lane, block)
        heavy = heavy + _probabilities(lane, slopes, block.targets) @ block.weights
        return risk + losses @ block.weights, surplus + slopes @ block.weights, heavy

    none = jnp.zeros(lane.num_classes)
    return _over_blocks(lane, params, step, (none[0], none, none))


class _Rounding(NamedTuple):
    """How slopes q − target are made to sum to zero within the simplex.

    Each class's q is scaled by `kept_share` (K,) ≤ 1, and what a group then lacks is spread by `missing_share` (K,).
    """

    kept_share: Any
    missing_share: Any

    def of(self, slopes, probabilities):
        """The slopes of the rounded points (K, m)."""
        less = (1.0 - self.kept_share)[:, None] * probabilities
        return slopes - less + self.missing_share[:, None] * jnp.sum(less, axis=0)[None]


class _Shift(NamedTuple):
    """How slopes are made to sum to zero where a conjugate is finite everywhere: all lose the same (K,)."""

    excess: Any

    def of(self, slopes, probabilities):
        """The shifted slopes (K, m)."""
        return slopes - self.excess[:, None]


def _repair(lane: Reduced, surplus: Any, heavy: Any) -> Any:
    """What makes the slopes sum to zero under a free bias; None where they needn't."""
    if lane.bias_kind != "free":
        return None
    if not facts_of(lane.loss).conjugate_on_simplex:
        return _Shift(surplus / jnp.sum(lane.weights))
    wanted = heavy - surplus  # what Σ_m w_m q_m has to be
    kept_share = jnp.where(heavy > wanted, wanted / jnp.where(heavy > wanted, heavy, 1.0), 1.0)
    missing = jnp.maximum(wanted - kept_share * heavy, 0.0)
    total = jnp.sum(missing)
    return _Rounding(kept_share, missing / jnp.where(total > 0, total, 1.0))


def _dual_slopes(lane, block, repair):
    """The slopes (K, m) that make U: those of the loss, repaired."""
    slopes = _losses_and_slopes(lane, block)[1]
    return slopes if repair is None else repair.of(slopes, _probabilities(lane, slopes, block.targets))


@kept
def _pulls(lane, params, repair):
    def step(carry, block):
        on_features, on_classifier = carry
        U = -(_dual_slopes(lane, block, repair) * block.weights[None])  # (K, m), a block of Uᵀ
        rows = block.cut(on_features) + U.T @ params.A  # a group that comes twice has no weight the second time
        return put(on_features, rows, block.first), on_classifier + U @ block.cut(params.H)

    return _over_blocks(lane, params, step, (jnp.zeros_like(params.H), jnp.zeros_like(params.A)))


@kept
def _gram(lane, params, repair, decays_H, decays_A, vectors):
    def step(image, block):
        U = _dual_slopes(lane, block, repair) * (block.weights / jnp.sqrt(block.cut(decays_H)))[None]
        B = U / jnp.sqrt(decays_A)[:, None]  # (K, m), a block of Bᵀ up to its sign
        return image + B @ (B.T @ vectors)

    return _over_blocks(lane, params, step, jnp.zeros_like(vectors))


@ft.partial(kept, static_argnums=0)
def _conjugate_sums(of_groups, lane, params, repair, scales):
    def step(sums, block):
        slopes = _dual_slopes(lane, block, repair)

        def at(scale):
            pair = of_groups(lane, scale, slopes, block.logits, block.targets, block.infima)
            # the conjugate of a group that comes twice may be infinite
            return jax.tree.map(lambda found: block.weights @ jnp.where(block.weights > 0, found, 0.0), pair)

        return jax.tree.map(jnp.add, sums, jax.lax.map(at, scales))

    return _over_blocks(lane, params, step, (jnp.zeros_like(scales), jnp.zeros_like(scales)))
