"""The factors of the logits, in the order in which they multiply: the one table that lists them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np

from ufm._core.arrays import custom_jvp, namespace
from ufm._core.thresholding import geometric_mean
from ufm.model.params import Columns, Params

T = TypeVar("T", Params, Columns)


class Factor(NamedTuple):
    """One matrix of the product H … Aᵀ, each of whose rows is kept by a constraint and priced by weight decay.

    Attributes:
        name: of what it is in `Params`: a field, or an entry of W.
        side: of the field of `Problem` that constrains its rows; of a hidden layer its name.
        decay_name: of what is its weight decay in `Problem`.
        shape: (rows, coordinates of each).
        constraint: of the rows.
        decay: λ of half the squared norm.
        counts: (groups,) rows of each group where the rows are samples; None where each stands for itself.
        layer: which entry of W it is; None of the others.
    """

    name: str
    side: str
    decay_name: str
    shape: tuple[int, int]
    constraint: Any
    decay: Any
    counts: Any = None
    layer: int | None = None

    def of(self, params: Params | Columns) -> Any:
        """The matrix that it is in parameters."""
        return getattr(params, self.name) if self.layer is None else params.W[self.layer]

    @property
    def samples(self) -> bool:
        """Whether its rows are samples, which jitted code holds in columns."""
        return self.counts is not None

    @property
    def axis(self) -> int:
        """The axis that runs over the coordinates of a row, in `Columns`."""
        return 0 if self.samples else 1

    @property
    def bounded(self) -> bool:
        """Whether a constraint or weight decay bounds it."""
        return bool(self.constraint.bounds or self.decay > 0)

    def project(self, matrix: Any) -> Any:
        """The nearest matrix that keeps the constraint, as `Columns` holds it."""
        # of each sample in a mean over groups, and over samples within them
        shares = np.repeat(1.0 / (len(self.counts) * self.counts), self.counts) if self.samples else None
        return self.constraint.project(matrix, axis=self.axis, shares=shares)

    def tangent(self, matrix: Any, gradient: Any) -> Any:
        """The part of a gradient along which an optimiser may step, as `Columns` holds both."""
        return self.constraint.tangent(matrix, gradient, axis=self.axis)


def assembled(factors: Sequence[Factor], matrices: Iterable[Any], b: Any, kind: type[T]) -> T:
    """Parameters of these matrices, in the order of all factors, and a bias: `Params` or `Columns`."""
    parts = list(zip(factors, matrices, strict=True))
    fields = {factor.name: matrix for factor, matrix in parts if factor.layer is None}
    return kind(**fields, b=b, W=tuple(matrix for factor, matrix in parts if factor.layer is not None))


def common_decay(factors: Sequence[Factor], samples: int) -> float:
    """(samples Π λ)^{1/L} of L factors: what a direction's decay is in units of, split evenly; 0 where one has none."""
    decays = np.array([float(factor.decay) for factor in factors])
    return float(geometric_mean(decays * [samples, *[1] * (len(decays) - 1)]))


def squared_size(factors: tuple[Factor, ...], params: Params | Columns) -> Any:
    """Σ λ ‖factor‖², twice the weight decay of all factors."""
    return sum(factor.decay * squared_norm(factor.of(params)) for factor in factors)


@custom_jvp
def squared_norm(X):
    """‖X‖², by a product with ones: XLA's own reduction of a matrix takes three times as long on a CPU."""
    xp = namespace(X)
    return xp.sum(xp.ones((1, X.shape[0]), X.dtype) @ X**2)


@squared_norm.defjvp
def _squared_norm_jvp(primals, tangents):
    (X,), (dX,) = primals, tangents
    return squared_norm(X), 2.0 * jnp.sum(X * dX)
