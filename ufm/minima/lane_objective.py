"""The objective of reduced problems side by side, at the solver's variables and at group means."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm._core.lanes import dot
from ufm.minima.reduction import LaneParams, Reduced, by_lane, falls_exponentially
from ufm.model.losses import per_sample, takes_columns

UNROLLED_TO = 16  # dimensions up to which products are sums of broadcasts: small batched products are slow on a CPU


def objective(x: Float[Array, "n L"], reduced: Reduced) -> Float[Array, " L"]:
    """f of each lane at the solver's variables, or its logarithm."""
    params = unfold(x, reduced)
    decay = sum(_decay(factor, getattr(params, factor.name)) for factor in reduced.factors())
    decay = decay + reduced.lambda_b * dot(params.b, params.b)
    value = dot(reduced.weights, losses(logits(params), reduced)) + 0.5 * decay
    if not falls_exponentially(reduced):
        return value
    value = jnp.maximum(value, jnp.finfo(value.dtype).tiny)  # an underflow is as small as can be told
    # away from zero, where the solver's relative tests would mean nothing
    risk_of_one = dot(reduced.weights, jnp.ones_like(reduced.weights))
    return jnp.log(value / risk_of_one) - 2.0 - np.log(np.log(reduced.num_classes))


def _decay(factor, rows):
    """Twice the decay of the rows, which a fixed norm has none of."""
    return dot(factor.row_decay[:, None] * rows, rows) if factor.constraint.decays else jnp.zeros(rows.shape[-1])


def plain_objective(params: LaneParams, reduced: Reduced) -> Float[Array, " L"]:
    """f of each lane at its parameters."""
    risk = jnp.sum(reduced.weights * losses(logits(params), reduced), axis=0)
    decay = reduced.lambda_b * jnp.sum(params.b**2, axis=0)
    for factor in reduced.factors():
        squares = jnp.sum(getattr(params, factor.name) ** 2, axis=1)
        decay = decay + jnp.sum(factor.row_decay * squares, axis=0)
    return risk + 0.5 * decay


def logits(params: LaneParams) -> Float[Array, "K M L"]:
    """Logits of each group's sample: (output, group, lane)."""
    return outer(params.A, params.H) + params.b[:, None]


def losses(logits: Float[Array, "K M L"], reduced: Reduced) -> Float[Array, "M L"]:
    """Loss of each group's sample."""
    if takes_columns(reduced.loss):
        labels = jnp.broadcast_to(reduced.targets[:, None], logits.shape[1:])
        return per_sample(reduced.loss, logits, labels)
    return by_lane(lambda lane, Z: per_sample(lane.loss, Z, lane.targets), reduced, logits)


def unfold(x: Float[Array, "n L"], reduced: Reduced) -> LaneParams:
    """The parameters at the solver's variables: those of each factor in turn, row by row, and then the bias."""
    found, first, lanes = {}, 0, x.shape[1]
    for factor in reduced.factors():
        X = x[first : first + factor.size].reshape(factor.rows, factor.width, lanes)
        found[factor.name] = factor.constraint.unfold(X, factor.row_decay)
        first += factor.size
    none = jnp.zeros((reduced.num_classes, lanes), x.dtype)
    return LaneParams(**found, b=x[first:] * reduced.bias_scale if reduced.bias_kind != "none" else none)


def variables(params: LaneParams, reduced: Reduced) -> Float[Array, "n L"]:
    """The solver's variables to start from, where those of factors without constraint would be `params`."""
    parts = [factor.constraint.variables(getattr(params, factor.name)) for factor in reduced.factors()]
    parts = [part.reshape(-1, part.shape[-1]) for part in parts]
    return jnp.concatenate(parts if reduced.bias_kind == "none" else [*parts, params.b / reduced.bias_scale])


def gradient_norm(params: LaneParams, reduced: Reduced) -> Float[Array, " L"]:
    """Norm of the gradient of the problem as posed, along the constraints, at lifted parameters.

    A sample's gradient is the n_m-th part of its group's, so that its n_m copies add up to ‖g_m‖²/n_m.
    """
    _, pull = jax.vjp(lambda params: plain_objective(params, reduced), params)
    return by_lane(_norm_along, reduced, params, pull(jnp.ones(reduced.counts.shape[1]))[0])


def _norm_along(lane, params, gradient):
    """The same of one lane."""
    squares = jnp.sum(gradient.b**2) if lane.bias_kind != "none" else jnp.zeros(())
    for factor in lane.factors():
        left = factor.constraint.residual(getattr(params, factor.name), getattr(gradient, factor.name))
        squares = squares + jnp.sum(left**2 / factor.row_counts[:, None])
    return jnp.sqrt(squares)


@jax.custom_vjp
def outer(A: Float[Array, "K r L"], H: Float[Array, "M r L"]) -> Float[Array, "K M L"]:
    """A Hᵀ of each lane."""
    if A.shape[1] > UNROLLED_TO:
        return jnp.einsum("krl,mrl->kml", A, H)
    return sum(A[:, None, i] * H[None, :, i] for i in range(A.shape[1]))  # pyright: ignore[reportReturnType]


def _outer_forward(A, H):
    return outer(A, H), (A, H)


def _outer_backward(factors, U):
    A, H = factors
    return _along(U, H), _along(jnp.swapaxes(U, 0, 1), A)


outer.defvjp(_outer_forward, _outer_backward)


def _along(U, X):
    """U X (j, r, L) of each lane, from U (j, k, L) and X (k, r, L)."""
    if X.shape[0] > UNROLLED_TO:
        return jnp.einsum("jkl,krl->jrl", U, X)
    return sum(U[:, k, None] * X[None, k] for k in range(X.shape[0]))
