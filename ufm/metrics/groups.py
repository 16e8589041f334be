"""Metrics of groups of samples that share a target and are no classes: soft labels, many labels, regression."""

import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import Array, namespace
from ufm._core.linalg import ROWS_AT_ONCE
from ufm.metrics.arithmetic import norm, power_of_two
from ufm.metrics.decisions import hits
from ufm.metrics.definitions import Metrics, of_groups, passes_of_columns, relative_spread


def of_group_columns(
    H: Float[Array, "d N"],
    labels: Int[Array, " N"],
    num_groups: int,
    A: Float[Array, "K d"] | None,
    b: Float[Array, " K"],
    told: Float[Array, "K N"] | None,
) -> Metrics:
    """Metrics of features in columns; in their namespace, traceable.

    Args:
        H: features.
        labels: the group of each sample.
        num_groups: how many there are.
        A: classifier; None where another layer's features are what it reads.
        b: its bias.
        told: probabilities that samples are told, for the accuracy; None where targets are no such thing.
    """
    about, spreads = passes_of_columns(H, labels, num_groups, None, None)
    accuracy = None
    if told is not None and A is not None:
        accuracy = namespace(H).mean(hits(A @ H + b[:, None], told).astype(H.dtype))
    return of_groups(about, spreads, A, accuracy)


def of_group_means(
    means: Float[Array, "groups d"],
    count: Float[Array, " groups"],
    A: Float[Array, "K d"] | None,
    b: Float[Array, " K"],
    told: Float[Array, "K groups"] | None,
) -> Metrics:
    """The same of features that have collapsed to their groups' means: none is spread about these."""
    xp, zero = namespace(means, count, A, b), namespace(count).zeros_like(count[0])
    values = {"nc1": zero, "trace_ratio": zero, "equinorm": relative_spread(_norms_about_their_mean(means))}
    if A is not None:
        values["equinorm_A"] = relative_spread(norm(A * power_of_two(A), axis=1))
        if told is not None:
            right = xp.where(hits(A @ means.T + b[:, None], told), count, 0.0)
            values["accuracy"] = xp.sum(right) / xp.sum(count)
    return Metrics(**{**dict.fromkeys(Metrics._fields), **values})


def _norms_about_their_mean(means):
    """(groups,) norms in a unit of their own; what the rounding of the centring leaves is zero."""
    xp, rows = namespace(means), ROWS_AT_ONCE if namespace(means) is np else len(means)
    middle, shrink = xp.mean(means, axis=0), power_of_two(means)
    blocks = (means[first : first + rows] for first in range(0, len(means), rows))
    norms = xp.concatenate([norm((block - middle[None]) * shrink, axis=1) for block in blocks])
    whole = xp.sqrt(xp.sum(norms**2) + len(means) * xp.sum((middle * shrink) ** 2))
    return xp.where(norms <= 4 * float(np.finfo(means.dtype).eps) * whole, 0.0, norms)
