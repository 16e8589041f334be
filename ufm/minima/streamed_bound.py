"""The lower bound of `certificate` where the K × K dual matrix is too large to hold: it is formed a block at a time.

Three things differ from the bound of matrices that are held. The bias is improved by a few steps of L-BFGS, since
Newton's method needs K × K numbers. With a free bias what is left of 1ᵀU is removed within the simplex that a
cross-entropy's conjugate is finite on: the softmax is rounded to the right class sums by scaling down the classes that
are too heavy and spreading what is then missing (Altschuler, Weed & Rigollet 2017, Algorithm 2).
And the operator norm comes from a Krylov space, with a margin that holds with probability 1 − 10⁻¹².
"""

import functools as ft
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.blocks import cut, fold
from ufm._core.programs import kept
from ufm.minima.reduction import Reduced
from ufm.model.losses import facts_of, per_sample, simplex_targets

WIDTH = 32  # vectors of the Krylov space's blocks
PASSES = 24  # products with the matrix and its transpose
FAILURE = 1e-12  # probability that the norm is above its bound
NOISE = 1e-14  # relative
BIAS_STEPS = 40  # of L-BFGS


class Dual:
    """The dual point of one lane: what makes U a block of samples at a time, and sums over its blocks.

    Args:
        reduced: one lane.
        means: (K, d) class means.
        A: (K, d) classifier.
        b: (K,) bias, improved where the problem has one.
    """

    def __init__(self, reduced: Reduced, means: Any, A: Any, b: Any):
        self.reduced, self.points = reduced, (jnp.asarray(means), jnp.asarray(A))
        self.bias = self._improved(b) if reduced.bias_kind != "none" else jnp.zeros(reduced.num_classes)
        _, self.surplus, heavy = _bias_sums(reduced, *self.points, self.bias)
        self.repair = _repair(reduced, self.surplus, heavy)

    def _improved(self, b):
        """A bias with a smaller surplus 1ᵀU + λ_b b."""
        from scipy.optimize import minimize  # half a second, which most never need

        decay = float(self.reduced.lambda_b)

        def value_and_slope(b):
            value, slope, _ = _bias_sums(self.reduced, *self.points, jnp.asarray(b))
            return float(value) + 0.5 * decay * b @ b, np.asarray(slope) + decay * b

        scale = 1.0 / np.sqrt(float(jnp.max(self.reduced.weights)))  # the curvature along a bias is at most its weight
        options: Any = {"maxiter": BIAS_STEPS, "gtol": 0.0, "ftol": 0.0, "maxls": 8}
        found = minimize(_scaled(value_and_slope, scale), b / scale, jac=True, method="L-BFGS-B", options=options)
        better = scale * found.x
        slopes = [np.linalg.norm(value_and_slope(x)[1]) for x in (b, better)]
        return jnp.asarray(better if slopes[1] < slopes[0] else b)

    def pulls(self) -> tuple:
        """U A and Uᵀ M, (K, d) each."""
        return _pulls(self.reduced, *self.points, self.bias, self.repair)

    def gram(self, rows: Any, columns: Any, vectors: Any) -> np.ndarray:
        """BᵀB V of B = D₁^{−1/2} U D₂^{−1/2} for V (K, m)."""
        return np.asarray(_gram(self.reduced, *self.points, self.bias, self.repair, rows, columns, vectors))

    def conjugates(self, of_slopes: Callable[..., Any], scales: Any) -> tuple:
        """Weighted sums, at each scale, of the pair that `of_slopes(scale, g, z, labels, reduced)` gives each."""
        return _conjugate_sums(of_slopes, self.reduced, *self.points, self.bias, self.repair, scales)


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


def _blocks(reduced, means, A, b, step, start):
    """`step(carry, logits, labels, fresh weights, first, fresh)` over blocks of samples; logits are (class, sample)."""
    labels = jnp.arange(reduced.num_classes, dtype=jnp.int32)

    def one(carry, first, fresh):
        Z = A @ cut(means, first, fresh).T + b[:, None]
        weights = jnp.where(fresh, cut(reduced.weights, first, fresh), 0.0)
        return step(carry, Z, cut(labels, first, fresh), weights, first, fresh)

    return fold(one, start, reduced.num_classes, reduced.num_classes)


def _losses_and_slopes(reduced, Z, labels):
    """ℓ_k(z_k) and ∇ℓ_k(z_k) of a block."""
    losses, pull = jax.vjp(lambda Z: per_sample(reduced.loss, Z, labels), Z)
    return losses, pull(jnp.ones_like(losses))[0]


def _probabilities(reduced, slopes, labels):
    """The points q of the simplex that slopes are of, where a conjugate is finite there alone; zero for other losses."""
    if not facts_of(reduced.loss).conjugate_on_simplex:
        return jnp.zeros_like(slopes)
    return jnp.maximum(slopes + simplex_targets(reduced.loss, slopes, labels), 0.0)


@kept
def _bias_sums(reduced, means, A, b):
    """The risk, its slope along the bias Σ_k w_k g_k (K,), and Σ_k w_k q_k (K,), which `_repair` asks for."""

    def step(carry, Z, labels, weights, first, fresh):
        risk, surplus, heavy = carry
        losses, slopes = _losses_and_slopes(reduced, Z, labels)
        heavy = heavy + _probabilities(reduced, slopes, labels) @ weights
        return risk + losses @ weights, surplus + slopes @ weights, heavy

    zeros = jnp.zeros_like(reduced.weights)
    return _blocks(reduced, means, A, b, step, (zeros[0], zeros, zeros))


def _repair(reduced: Reduced, surplus: Any, heavy: Any) -> Any:
    """What makes the slopes sum to zero under a free bias: a factor and a share of what is missing, or a shift."""
    if reduced.bias_kind != "free":
        return None
    if not facts_of(reduced.loss).conjugate_on_simplex:
        return surplus / jnp.sum(reduced.weights)
    wanted = heavy - surplus
    factor = jnp.where(heavy > wanted, wanted / jnp.where(heavy > wanted, heavy, 1.0), 1.0)
    missing = jnp.maximum(wanted - factor * heavy, 0.0)
    total = jnp.sum(missing)
    return factor, missing / jnp.where(total > 0, total, 1.0)


def _dual_slopes(reduced, Z, labels, repair):
    """The slopes that make U: those of the loss, repaired."""
    slopes = _losses_and_slopes(reduced, Z, labels)[1]
    if repair is None:
        return slopes
    if not isinstance(repair, tuple):
        return slopes - repair[:, None]
    factor, shares = repair
    less = (1.0 - factor)[:, None] * _probabilities(reduced, slopes, labels)
    return slopes - less + shares[:, None] * jnp.sum(less, axis=0)[None]


@kept
def _pulls(reduced, means, A, b, repair):
    def step(carry, Z, labels, weights, first, fresh):
        along_A, along_means = carry
        U = -(_dual_slopes(reduced, Z, labels, repair) * weights[None])
        new = U.T @ A
        block = cut(along_A, first, fresh) + new
        return jax.lax.dynamic_update_slice_in_dim(along_A, block, first, 0), along_means + U @ cut(means, first, fresh)

    return _blocks(reduced, means, A, b, step, (jnp.zeros_like(means), jnp.zeros_like(A)))


@kept
def _gram(reduced, means, A, b, repair, rows, columns, vectors):
    def step(image, Z, labels, weights, first, fresh):
        U = _dual_slopes(reduced, Z, labels, repair) * (weights / jnp.sqrt(cut(rows, first, fresh)))[None]
        B = U / jnp.sqrt(columns)[:, None]
        return image + B @ (B.T @ vectors)

    return _blocks(reduced, means, A, b, step, jnp.zeros_like(vectors))


@ft.partial(kept, static_argnums=0)
def _conjugate_sums(of_slopes, reduced, means, A, b, repair, scales):
    def step(carry, Z, labels, weights, first, fresh):
        slopes = _dual_slopes(reduced, Z, labels, repair)

        def at(scale):
            pair = of_slopes(scale, slopes, Z, labels, reduced)
            # a repeated sample's conjugate may be infinite
            return jax.tree.map(lambda found: weights @ jnp.where(weights > 0, found, 0.0), pair)

        return jax.tree.map(jnp.add, carry, jax.lax.map(at, scales))

    zeros = jnp.zeros_like(scales)
    return _blocks(reduced, means, A, b, step, (zeros, zeros))
