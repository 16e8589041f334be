"""The objective of reduced problems side by side, at the solver's variables and at class means."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm._core.lanes import dot
from ufm.minima.reduction import Reduced, falls_exponentially
from ufm.model.losses import per_sample, takes_columns

UNROLLED_TO = 16  # dimensions up to which products are sums of broadcasts: small batched products are slow on a CPU


def objective(x: Float[Array, "n L"], reduced: Reduced) -> Float[Array, " L"]:
    """f of each lane at the solver's variables, or its logarithm."""
    means, A, b = unfold(x, reduced)
    decay = _decay(reduced.features, means, reduced.lambda_H[None] * reduced.counts)
    decay = decay + _decay(reduced.classifier, A, reduced.lambda_A[None]) + reduced.lambda_b * dot(b, b)
    value = dot(reduced.weights, losses(outer(A, means) + b[:, None], reduced)) + 0.5 * decay
    if not falls_exponentially(reduced):
        return value
    value = jnp.maximum(value, jnp.finfo(value.dtype).tiny)  # an underflow is as small as can be told
    # away from zero, where the solver's relative tests would mean nothing
    return jnp.log(value / dot(reduced.weights, jnp.ones_like(b))) - 2.0 - np.log(np.log(reduced.num_classes))


def _decay(constraint, rows, decay):
    """Twice the decay of the rows, which a fixed norm has none of."""
    return dot(decay[:, None] * rows, rows) if constraint.decays else jnp.zeros(rows.shape[-1])


def plain_objective(params: Any, reduced: Reduced) -> Float[Array, " L"]:
    """f of each lane at class means (K, r, L), classifier (K, r, L) and bias (K, L)."""
    means, A, b = params
    risk = jnp.sum(reduced.weights * losses(outer(A, means) + b[:, None], reduced), axis=0)
    decay_H = reduced.lambda_H * jnp.sum(reduced.counts * jnp.sum(means**2, axis=1), axis=0)
    decay = decay_H + reduced.lambda_A * jnp.sum(A**2, axis=(0, 1)) + reduced.lambda_b * jnp.sum(b**2, axis=0)
    return risk + 0.5 * decay


def losses(logits: Float[Array, "K K L"], reduced: Reduced) -> Float[Array, "K L"]:
    """Loss of each class's sample; logits are (class, sample, lane)."""
    K, _, L = logits.shape
    labels = jnp.broadcast_to(jnp.arange(K)[:, None], (K, L))
    if takes_columns(reduced.loss):
        return per_sample(reduced.loss, logits, labels)
    of_lane = jax.vmap(lambda loss, Z: per_sample(loss, Z, jnp.arange(K)), in_axes=(0, -1), out_axes=-1)
    return of_lane(jax.tree.map(lambda leaf: leaf[0], reduced.loss), logits)


def unfold(x: Float[Array, "n L"], reduced: Reduced) -> tuple:
    """Class means (K, r, L), classifier (K, r, L) and bias (K, L) at the solver's variables."""
    K, (first, second) = reduced.num_classes, reduced.factor_sizes
    X, Y = x[:first].reshape(K, -1, x.shape[1]), x[first : first + second].reshape(K, second // K, x.shape[1])
    b = x[first + second :] * reduced.bias_scale if reduced.bias_kind != "none" else jnp.zeros((K, x.shape[1]), x.dtype)
    means = reduced.features.unfold(X, reduced.lambda_H[None] * reduced.counts)
    return means, reduced.classifier.unfold(Y, jnp.broadcast_to(reduced.lambda_A[None], b.shape)), b


def fold(X: Float[Array, "K r L"], Y: Float[Array, "K r L"], b: Float[Array, "K L"], reduced: Reduced) -> Any:
    """The solver's variables to start from, where those of free factors would be X and Y."""
    parts = [reduced.features.fold(X), reduced.classifier.fold(Y)]
    parts = [part.reshape(-1, part.shape[-1]) for part in parts]
    return jnp.concatenate(parts if reduced.bias_kind == "none" else [*parts, b / reduced.bias_scale])


def gradient_norm(params: Any, reduced: Reduced) -> Float[Array, " L"]:
    """Norm of the gradient of the problem as posed, along the constraints, at lifted parameters.

    A sample's gradient is the n_k-th part of its class's, so that its n_k copies add up to ‖g_k‖²/n_k.
    """
    _, pull = jax.vjp(lambda params: plain_objective(params, reduced), params)
    (means, A, _), (g_means, g_A, g_b) = params, pull(jnp.ones(reduced.counts.shape[1]))[0]
    g_means, g_A = _residual(reduced.features, means, g_means), _residual(reduced.classifier, A, g_A)
    if reduced.bias_kind == "none":
        g_b = jnp.zeros_like(g_b)
    squares = jnp.sum(g_means**2 / reduced.counts[:, None], axis=(0, 1)) + jnp.sum(g_A**2, axis=(0, 1))
    return jnp.sqrt(squares + jnp.sum(g_b**2, axis=0))


def _residual(constraint, rows, gradient):
    """The constraint's residual in every lane."""
    constraint = jax.tree.map(lambda leaf: leaf[0], constraint)
    of_lane = jax.vmap(lambda kind, x, g: kind.residual(x, g), in_axes=-1, out_axes=-1)
    return of_lane(constraint, rows, gradient)


@jax.custom_vjp
def outer(A: Float[Array, "K r L"], M: Float[Array, "k r L"]) -> Float[Array, "K k L"]:
    """A Mᵀ of each lane."""
    if A.shape[1] > UNROLLED_TO:
        return jnp.einsum("jrl,krl->jkl", A, M)
    return sum(A[:, None, i] * M[None, :, i] for i in range(A.shape[1]))  # pyright: ignore[reportReturnType]


def _outer_forward(A, M):
    return outer(A, M), (A, M)


def _outer_backward(factors, U):
    A, M = factors
    return _along(U, M), _along(jnp.swapaxes(U, 0, 1), A)


outer.defvjp(_outer_forward, _outer_backward)


def _along(U, M):
    """U M of each lane."""
    if M.shape[0] > UNROLLED_TO:
        return jnp.einsum("jkl,krl->jrl", U, M)
    return sum(U[:, k, None] * M[None, k] for k in range(M.shape[0]))
