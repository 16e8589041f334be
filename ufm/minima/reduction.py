"""The smaller problem with the same minimum, many of them side by side, and the way back.

*Samples.* For a given classifier the objective is a sum over samples, equal for the samples of one class. Copying
to a whole class the features of its cheapest sample never raises it, whatever the loss and the constraint on a row.
So K samples with weights w_k n_k/N and decay n_k λ_H have the same minimum. (Jensen's inequality gives the same for
convex losses; this needs none.) Only `MeanBall` couples samples: there it is Jensen's inequality, and for a loss that
isn't convex the minimum found is one over features that are equal within classes.

*Dimension.* Only H Aᵀ enters the loss, and K samples span at most K dimensions: the rows of A lose what is
orthogonal to them, or keep it along one extra axis where their norm is fixed too. So d is replaced by min(d, K), or
min(d, K + 1) where norms on both sides are fixed. A rotation carries the solution back; a fixed classifier is rotated
to its row space, and non-negative entries can't be rotated.

*Scale.* The solver works with X = √(λ_H n_k) m_k and Y = √λ_A a_k, in which weight decay is half a squared norm and
the minimum's two factors are equally large; the bias is scaled by its curvature at the start. Where all is bounded
by norms, a cross-entropy falls exponentially with them and its logarithm is minimised.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm._core.pytree import pytree, static
from ufm.model.losses import facts_of
from ufm.model.params import Params
from ufm.model.problem import Problem


@pytree
class Reduced:
    """L reduced problems of one shape and kind, lanes last.

    Numbers of a problem are (L,), of a class (K, L); leaves of loss and constraints are (1, L), so that they
    broadcast against classes.
    """

    loss: Any
    features: Any
    classifier: Any
    counts: Any
    weights: Any
    lambda_A: Any
    lambda_H: Any
    lambda_b: Any
    bias_scale: Any
    num_classes: int = static()
    dim: int = static()
    bias_kind: str = static()

    @property
    def factor_sizes(self) -> tuple[int, int]:
        """Variables of the features and of the classifier."""
        K, r = self.num_classes, self.dim
        return K * (r + self.features.slack), K * (r + self.classifier.slack) * (not self.classifier.fixed)

    @property
    def held(self) -> int:
        """Numbers of a lane's largest arrays: logits, or variables."""
        return max(self.num_classes**2, sum(self.factor_sizes))


def falls_exponentially(problem: Any) -> bool:
    """Whether f is a tail of exponentials of bounded norms; its gradient then vanishes with it, and log f is minimised.

    Args:
        problem: a `Problem` or a `Reduced` one.
    """
    return facts_of(problem.loss).falls_exponentially and problem.features.bounds and problem.classifier.bounds


def least_dim(problem: Problem) -> int:
    """Dimension of the reduced problem."""
    sides = problem.features, problem.classifier
    if not all(side.rotatable or side.fixed for side in sides):
        return problem.dim
    fixed_norms = not any(side.decays for side in sides)
    return min(problem.dim, problem.num_classes + fixed_norms)


def row_space(problem: Problem) -> np.ndarray:
    """(r, d) orthonormal rows that a fixed classifier's rows are combinations of; the reduced problem's axes."""
    d, r = problem.dim, least_dim(problem)
    if r == d or not problem.classifier.fixed:
        return np.eye(r, d)
    axes = np.linalg.svd(problem.classifier.matrix, full_matrices=False)[2]
    missing = np.eye(r - len(axes), d)
    others = np.linalg.qr(np.concatenate([axes, missing + 1.0 / d]).T)[0].T[len(axes) :]
    return np.concatenate([axes, others])


def shape_key(problem: Problem) -> Any:
    """What two problems must share to be solved side by side."""
    kinds = jax.tree.structure((problem.loss, problem.features, problem.classifier))
    return problem.num_classes, least_dim(problem), problem.bias_kind, kinds


def reduce(problems: list[Problem]) -> Reduced:
    """The reduced problems of one `shape_key`, side by side; NumPy arrays in float64."""
    first = problems[0]

    def lanes(read):
        return np.stack([np.asarray(read(problem), np.float64) for problem in problems], axis=-1)

    def side_by_side(name):
        trees = [getattr(problem, name) for problem in problems]
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1, dtype=np.float64)[None], *trees)

    counts = lanes(lambda problem: problem.class_counts)
    class_weights = lanes(lambda problem: problem.class_weights)
    return Reduced(
        num_classes=first.num_classes,
        dim=least_dim(first),
        bias_kind=first.bias_kind,
        loss=side_by_side("loss"),
        features=side_by_side("features"),
        classifier=_rotated(side_by_side("classifier"), problems),
        counts=counts,
        weights=class_weights * counts / counts.sum(axis=0),
        lambda_A=lanes(lambda problem: problem.lambda_A),
        lambda_H=lanes(lambda problem: problem.lambda_H),
        lambda_b=lanes(lambda problem: problem.lambda_b),
        bias_scale=np.ones_like(counts),
    )


def _rotated(classifier, problems):
    """A fixed classifier in the reduced problems' axes."""
    if not classifier.fixed:
        return classifier
    matrices = [problem.classifier.matrix @ row_space(problem).T for problem in problems]
    return jax.tree.map(lambda _: np.stack(matrices, axis=-1)[None], classifier)


def lift(problem: Problem, means: np.ndarray, A: np.ndarray, b: np.ndarray) -> Params:
    """Parameters of the problem as posed: every sample at its class's mean, dimensions filled up with zeros."""
    problem.check_room()
    axes = row_space(problem)
    A = problem.classifier.matrix if problem.classifier.fixed else A @ axes
    return Params(np.repeat(means @ axes, problem.class_counts, axis=0), A, b)


def zeros(reduced: Reduced, width: int) -> Float[Array, "K w L"]:
    """Zeros that depend on an argument: what follows from constants XLA computes, slowly, while it compiles."""
    K, L = reduced.weights.shape
    return jnp.broadcast_to(0.0 * reduced.weights[:, None], (K, width, L))
