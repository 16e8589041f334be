"""Cross-entropy and what it is made of, classes first: of logits (K, ...) and labels (...), or rows of targets.

A row T ≥ 0 (K, ...) of mass τ = Σ_k T_k costs τ log Σ_j e^{z_j} − ⟨T, z⟩. With y the class of its largest entry that is

    τ ℓ(z, y) + Σ_{k≠y} T_k (z_y − z_k),

a label's loss and what is linear. So a one-hot row is its label to the last digit, and other rows keep their digits:
since T_y ≥ τ/K, neither part is more than K times the sum.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import Array, custom_jvp, namespace

Targets = Int[Array, "..."] | Float[Array, "K ..."]  # labels or rows
MASKED_CLASSES = 16  # up to which a mask over them is no slower in a gradient on a CPU than a gather


def are_rows(targets: Any) -> bool:
    """Whether targets are rows (K, ...) of real numbers, and not labels (...)."""
    return targets.dtype.kind not in "iu"


def one_hot(logits: Float[Array, "K ..."], label: Int[Array, "..."], dtype: Any = None) -> Array:
    """e_y along the first axis, in the shape of `logits`."""
    xp = namespace(logits, label)
    classes = xp.arange(logits.shape[0], dtype=label.dtype).reshape(-1, *[1] * label.ndim)
    return (classes == label[None]).astype(dtype or logits.dtype)


def true_logit(logits: Float[Array, "K ..."], label: Int[Array, "..."]) -> Float[Array, "..."]:
    """z_y; by a sum over a mask where classes are few, since that vectorises on a CPU, and a gather does not."""
    xp = namespace(logits, label)
    if logits.shape[0] > MASKED_CLASSES:
        return xp.take_along_axis(logits, label[None], axis=0)[0]
    return xp.where(one_hot(logits, label, bool), logits, 0.0).sum(axis=0)


class Odds(NamedTuple):
    """What a cross-entropy and its gradient are made of.

    Attributes:
        right: (K, ...) whether a class is the right one.
        wrong: (K, ...) e^{z_j − max z} of the wrong classes, and zero of the right one.
        sum: (...) of these.
        deficit: (...) max z − z_y ≥ 0.
        own: (...) z_y.
    """

    right: Any
    wrong: Any
    sum: Any
    deficit: Any
    own: Any

    @property
    def value(self):
        """m + log(e^{−m} + Σ_{j≠y} e^{z_j − max z}) with the deficit m."""
        xp = namespace(self.sum, self.deficit)
        return self.deficit + xp.log1p(self.sum + xp.expm1(-self.deficit))

    @property
    def slope(self):
        """Softmax less e_y; p_y − 1 as minus the others' sum, which doesn't cancel."""
        return namespace(self.sum).where(self.right, -self.sum[None], self.wrong) / self.total[None]

    @property
    def total(self):
        """Σ_j e^{z_j − max z}."""
        return self.sum + namespace(self.sum, self.deficit).exp(-self.deficit)


def odds(logits: Float[Array, "K ..."], label: Int[Array, "..."]) -> Odds:
    """The parts of each sample's cross-entropy to its label."""
    xp, top, right = namespace(logits, label), _largest(logits), one_hot(logits, label, bool)
    wrong, own = xp.where(right, 0.0, xp.exp(logits - top[None])), true_logit(logits, label)
    return Odds(right, wrong, wrong.sum(axis=0), top - own, own)


@custom_jvp
def cross_entropy(logits, label):
    """log Σ_j exp z_j − z_y, with all digits where it is small."""
    return odds(logits, label).value


@cross_entropy.defjvp
def _cross_entropy_jvp(primals, tangents):
    return cross_entropy(*primals), jnp.sum(odds(*primals).slope * tangents[0], axis=0)


class _Split(NamedTuple):
    """Rows as labels, and what is left to the other classes.

    Attributes:
        label: (...) y, of the largest entry.
        mass: (...) τ.
        rest: (K, ...) the row, zero at y.
    """

    label: Any
    mass: Any
    rest: Any


def _split(rows) -> _Split:
    label = rows.argmax(axis=0)
    rest = namespace(rows).where(one_hot(rows, label, bool), 0.0, rows)
    return _Split(label, rows.sum(axis=0), rest)


def cross_entropy_of_rows(logits: Float[Array, "K ..."], rows: Float[Array, "K ..."]) -> Float[Array, "..."]:
    """τ log Σ_j exp z_j − ⟨T, z⟩; a logit may be −∞ where the row is zero."""
    split = _split(rows)
    return split.mass * cross_entropy(logits, split.label) + _linear(
        logits, true_logit(logits, split.label), split.rest
    )


def slope_of_rows(logits: Float[Array, "K ..."], rows: Float[Array, "K ..."]) -> Float[Array, "K ..."]:
    """τ softmax z − T, without cancelling where a class has all of the mass and of the softmax."""
    return both_of_rows(logits, rows)[1]


def both_of_rows(logits: Float[Array, "K ..."], rows: Float[Array, "K ..."]) -> tuple[Any, Any]:
    """Cross-entropy and its slope, of the same exponentials."""
    label, mass, rest = _split(rows)
    at, xp = odds(logits, label), namespace(logits, rows)
    own, others = rest.sum(axis=0) - mass * at.sum / at.total, mass[None] * at.wrong / at.total[None] - rest
    return mass * at.value + _linear(logits, at.own, rest), xp.where(at.right, own[None], others)


def _linear(logits, own, rest):
    """Σ_{k≠y} T_k (z_y − z_k) (...) from z_y and the row without T_y."""
    absent = (rest == 0) & (logits == -np.inf)
    return (rest * namespace(logits, rest).where(absent, 0.0, own[None] - logits)).sum(axis=0)


def curvature_of_rows(logits: Float[Array, "K ..."], rows: Float[Array, "K ..."]) -> tuple[Any, Any]:
    """τ p and √τ p, p the softmax: ∇² = τ (diag p − p pᵀ)."""
    p, mass = softmax(logits), rows.sum(axis=0)[None]
    return mass * p, namespace(mass).sqrt(mass) * p


def conjugate_of_rows(slope: Float[Array, "K ..."], rows: Float[Array, "K ..."]) -> Float[Array, "..."]:
    """Σ_k q_k log(q_k/τ) at q = slope + T where q ≥ 0, elsewhere +∞; that q sums to τ is trusted to the caller.

    It is the supremum over z of ⟨q, z⟩ − τ log Σ_j exp z_j. At y, q_y/τ − 1 = (slope_y − Σ_{k≠y} T_k)/τ doesn't cancel
    where q is near a label.
    """
    xp, (label, mass, rest) = namespace(slope, rows), _split(rows)
    q = slope + rows
    own, others = true_logit(q, label), xp.where(one_hot(q, label, bool), 0.0, q)
    less = (true_logit(slope, label) - rest.sum(axis=0)) / mass
    some, near = own > 0, less > -0.5
    far = xp.log(xp.where(some, own, mass) / mass)
    logarithm = xp.where(near, xp.log1p(xp.where(near, less, 0.0)), far)
    at_label = xp.where(own < 0, xp.inf, xp.where(some, own * logarithm, 0.0))
    return mass * negative_entropy(others / mass[None]) + at_label


def logits_of_rows(slope: Float[np.ndarray, "K ..."], rows: Float[np.ndarray, "K ..."]) -> np.ndarray:
    """log(slope + T), logits of which τ p − T is the slope; −∞ where that is not above zero."""
    q = slope + rows
    return np.log(q, out=np.full_like(q, -np.inf), where=q > 0)


def _largest(logits):
    """The largest logit of each sample, which derivatives take for a constant."""
    top = logits.max(axis=0)
    return jax.lax.stop_gradient(top) if isinstance(top, jax.Array) else top


def logsumexp(logits: Float[Array, "K ..."]) -> Float[Array, "..."]:
    """Log Σ_j exp z_j over the first axis, without overflow; an entry may be −∞, not all of them."""
    xp, top = namespace(logits), _largest(logits)
    return top + xp.log(xp.exp(logits - top[None]).sum(axis=0))


def softmax(logits: Float[Array, "K ..."]) -> Float[Array, "K ..."]:
    """exp z_j/Σ exp z over the first axis; an entry may be −∞, not all of them."""
    weights = namespace(logits).exp(logits - _largest(logits)[None])
    return weights / weights.sum(axis=0)[None]


def negative_entropy(q: Float[Array, "K ..."]) -> Float[Array, "..."]:
    """Σ q log q over the first axis; +∞ off the simplex, whose sum is trusted to be kept by the caller."""
    xp = namespace(q)
    return xp.where(q < 0, xp.inf, x_log_x(q)).sum(axis=0)


def x_log_x(x: Any) -> Any:
    """x log x, 0 where x is not positive."""
    xp = namespace(x)
    return xp.where(x > 0, x * xp.log(xp.where(x > 0, x, 1.0)), 0.0)
