"""The objective of reduced problems side by side, at the solver's variables and at group means."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ufm._core.arrays import Array, namespace
from ufm._core.lanes import dot
from ufm.minima.reduction import LaneParams, Reduced, by_lane, falls_exponentially
from ufm.model.constraints import folds
from ufm.model.layers import ACTIVATIONS
from ufm.model.losses import closed, per_sample, per_sample_both, per_sample_slope, takes_columns

UNROLLED_TO = 16  # dimensions up to which products are sums of broadcasts: small batched products are slow on a CPU


class Objective:
    """f of each lane at the solver's variables, or its logarithm; with its gradient in closed form where there is one.

    NumPy needs that form, and JAX derives what has none.
    """

    def __call__(self, x: Float[Array, "n L"], reduced: Reduced) -> Float[Array, " L"]:
        """(L,) values."""
        params = unfold(x, reduced)
        return _in_logarithms(_value(params, losses(logits(params, reduced), reduced), reduced), reduced)[0]

    def value_and_grad(self, x: Float[Array, "n L"], reduced: Reduced) -> tuple[Any, Any]:
        """(L,) values and the gradient (n, L)."""
        if not is_closed(reduced):
            value, pull = jax.vjp(lambda x: self(x, reduced), x)
            return value, pull(namespace(value).ones_like(value))[0]
        params = unfold(x, reduced)
        features = layers(params, reduced)
        Z = _outputs(params, features[-1])
        of_groups, along_logits = per_sample_both(reduced.loss, Z, _labels(Z, reduced))
        value, per_value = _in_logarithms(_value(params, of_groups, reduced), reduced)
        at_params = _slopes(params, features, reduced.weights[None] * along_logits, reduced)
        slope = fold(x, at_params, reduced)
        return value, slope if per_value is None else slope * per_value[None]


objective = Objective()


def is_closed(reduced: Any) -> bool:
    """Whether the gradient is known in closed form, of loss and constraints: what NumPy can minimise.

    Args:
        reduced: a reduced problem, or a `Problem`.
    """
    return closed(reduced.loss) and all(folds(factor.constraint) for factor in reduced.factors())


def _value(params, of_groups, reduced):
    """f (L,) from the losses of groups (M, L)."""
    decay = sum(_decay(factor, factor.of(params)) for factor in reduced.factors())
    decay = decay + reduced.lambda_b * dot(params.b, params.b)
    return dot(reduced.weights, of_groups) + 0.5 * decay


def _in_logarithms(value, reduced):
    """What is minimised of values f (L,), and its derivative by f; None where that is f itself."""
    xp = namespace(value)
    if not falls_exponentially(reduced):
        return value, None
    least = np.finfo(value.dtype).tiny  # an underflow is as small as can be told
    kept = xp.maximum(value, least)
    # away from zero, where the solver's relative tests would mean nothing
    risk_of_one = dot(reduced.weights, xp.ones_like(reduced.weights))
    return xp.log(kept / risk_of_one) - 2.0 - np.log(np.log(reduced.num_classes)), xp.where(
        value > least, 1 / kept, 0.0
    )


def _decay(factor, rows):
    """Twice the decay of the rows, which a fixed norm has none of."""
    if not factor.constraint.decays:
        return namespace(rows).zeros(rows.shape[-1])
    return dot(factor.row_decay[:, None] * rows, rows)


def _slopes(params, features, along_logits, reduced):
    """Gradient of f at the parameters, from what each layer gives and the gradient along the logits (K, M, L)."""
    passes = ACTIVATIONS[reduced.activation].passes
    of_A, along = _outer_backward((params.A, features[-1]), along_logits)  # along features (M, w, L)
    found = [of_A]
    for W, given, before in zip(params.W[::-1], features[:0:-1], features[-2::-1], strict=True):
        along = along if passes is None else along * passes(given)
        along, of_W = _outer_backward((before, W), along)
        found.append(of_W)
    decayed = [
        of_risk + factor.row_decay[:, None] * factor.of(params) if factor.constraint.decays else of_risk
        for factor, of_risk in zip(reduced.factors(), [along, *found[::-1]], strict=True)
    ]
    return reduced.assembled(decayed, along_logits.sum(axis=1) + reduced.lambda_b[None] * params.b)


def plain_objective(params: LaneParams, reduced: Reduced) -> Float[Array, " L"]:
    """f of each lane at its parameters."""
    risk = (reduced.weights * losses(logits(params, reduced), reduced)).sum(axis=0)
    decay = reduced.lambda_b * (params.b**2).sum(axis=0)
    for factor in reduced.factors():
        squares = (factor.of(params) ** 2).sum(axis=1)
        decay = decay + (factor.row_decay * squares).sum(axis=0)
    return risk + 0.5 * decay


def layers(params: LaneParams, reduced: Reduced) -> list[Any]:
    """Features (M, r, L) of each group's sample, and what each hidden layer (w, r, L) makes of them, (M, w, L)."""
    found, act = [params.H], ACTIVATIONS[reduced.activation].of
    for W in params.W:
        found.append(act(outer(found[-1], W)))
    return found


def logits(params: LaneParams, reduced: Reduced) -> Float[Array, "K M L"]:
    """Logits of each group's sample: (output, group, lane)."""
    return _outputs(params, layers(params, reduced)[-1])


def _outputs(params, read):
    """Logits of what the classifier reads (M, w, L)."""
    return outer(params.A, read) + params.b[:, None]


def losses(logits: Float[Array, "K M L"], reduced: Reduced) -> Float[Array, "M L"]:
    """Loss of each group's sample."""
    if takes_columns(reduced.loss):
        return per_sample(reduced.loss, logits, _labels(logits, reduced))
    return by_lane(lambda lane, Z: per_sample(lane.loss, Z, lane.targets), reduced, logits)


def slopes(logits: Float[Array, "K M L"], reduced: Reduced) -> Float[Array, "K M L"]:
    """Its gradient in the sample's logits."""
    if takes_columns(reduced.loss):
        return per_sample_slope(reduced.loss, logits, _labels(logits, reduced))
    return by_lane(lambda lane, Z: per_sample_slope(lane.loss, Z, lane.targets), reduced, logits)


def _labels(logits, reduced):
    """Targets of each lane: labels (M, L), or columns (K, M, L)."""
    if reduced.group_labels is None:
        return reduced.targets
    return namespace(logits, reduced.targets).broadcast_to(reduced.targets[:, None], logits.shape[1:])


def unfold(x: Float[Array, "n L"], reduced: Reduced) -> LaneParams:
    """The parameters at the solver's variables: those of each factor in turn, row by row, and then the bias."""
    found, first, lanes = [], 0, x.shape[1]
    for factor in reduced.factors():
        X = x[first : first + factor.size].reshape(factor.rows, factor.width, lanes)
        found.append(factor.constraint.unfold(X, factor.row_decay))
        first += factor.size
    none = namespace(x).zeros((reduced.num_classes, lanes), x.dtype)
    return reduced.assembled(found, x[first:] * reduced.bias_scale if reduced.bias_kind != "none" else none)


def fold(x: Float[Array, "n L"], slopes: LaneParams, reduced: Reduced) -> Float[Array, "n L"]:
    """The gradient along the solver's variables x, from that along the parameters."""
    parts, first, lanes = [], 0, x.shape[1]
    for factor in reduced.factors():
        X = x[first : first + factor.size].reshape(factor.rows, factor.width, lanes)
        along = factor.constraint.fold(X, factor.row_decay, factor.of(slopes))
        parts.append(along.reshape(factor.size, lanes))
        first += factor.size
    parts = parts if reduced.bias_kind == "none" else [*parts, slopes.b * reduced.bias_scale]
    return namespace(x).concatenate(parts)


def variables(params: LaneParams, reduced: Reduced) -> Float[Array, "n L"]:
    """The solver's variables to start from, where those of factors without constraint would be `params`."""
    parts = [factor.constraint.variables(factor.of(params)) for factor in reduced.factors()]
    parts = [part.reshape(-1, part.shape[-1]) for part in parts]
    return namespace(*parts).concatenate(
        parts if reduced.bias_kind == "none" else [*parts, params.b / reduced.bias_scale]
    )


def gradient_norm(params: LaneParams, reduced: Reduced) -> Float[Array, " L"]:
    """Norm of the gradient of the problem as posed, along the constraints, at lifted parameters.

    A sample's gradient is the n_m-th part of its group's, so that its n_m copies add up to ‖g_m‖²/n_m.
    """
    features = layers(params, reduced)
    along = reduced.weights[None] * slopes(_outputs(params, features[-1]), reduced)
    return by_lane(_norm_along, reduced, params, _slopes(params, features, along, reduced))


def _norm_along(lane, params, gradient):
    """The same of one lane."""
    xp = namespace(gradient.b)
    squares = (gradient.b**2).sum() if lane.bias_kind != "none" else xp.zeros(())
    for factor in lane.factors():
        left = factor.constraint.residual(factor.of(params), factor.of(gradient))
        squares = squares + (left**2 / factor.row_counts[:, None]).sum()
    return xp.sqrt(squares)


def outer(A: Float[Array, "K r L"], H: Float[Array, "M r L"]) -> Float[Array, "K M L"]:
    """A Hᵀ of each lane; features (M, r, L) before a layer (w, r, L) give those after it, (M, w, L)."""
    return (_outer if namespace(A, H) is np else _traced_outer)(A, H)


def _outer(A, H):
    if isinstance(A, np.ndarray) and isinstance(H, np.ndarray):
        return _lane_by_lane(lambda A, H: A @ H.T, A, H)
    if A.shape[1] > UNROLLED_TO:
        return jnp.einsum("krl,mrl->kml", A, H)
    return sum(A[:, None, i] * H[None, :, i] for i in range(A.shape[1]))  # pyright: ignore[reportReturnType]


_traced_outer = jax.custom_vjp(_outer)


def _outer_forward(A, H):
    return _outer(A, H), (A, H)


def _outer_backward(factors, U):
    A, H = factors
    return _along(U, H), _along(U.swapaxes(0, 1), A)


_traced_outer.defvjp(_outer_forward, _outer_backward)


def _along(U, X):
    """U X (j, r, L) of each lane, from U (j, k, L) and X (k, r, L)."""
    if isinstance(U, np.ndarray) and isinstance(X, np.ndarray):
        return _lane_by_lane(lambda U, X: U @ X, U, X)
    if X.shape[0] > UNROLLED_TO:
        return jnp.einsum("jkl,krl->jrl", U, X)
    return sum(U[:, k, None] * X[None, k] for k in range(X.shape[0]))


def _lane_by_lane(product, *arrays):
    """A product of NumPy's matrices, which is the linear algebra library's only without lanes."""
    return np.stack([product(*(array[..., lane] for array in arrays)) for lane in range(arrays[0].shape[-1])], axis=-1)
