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

from ufm._lanes import dot
from ufm._linalg import eigh
from ufm._pytree import pytree, static
from ufm.constraints import Fixed, Nonnegative, Sphere
from ufm.losses import ClassFirst, CrossEntropy, Focal, LabelSmoothing, curvature_of_shifts, per_sample
from ufm.problem import Params, Problem

BIAS_STEPS = 60  # of Newton's method for a bias
UNROLLED_TO = 16  # dimensions up to which products are sums of broadcasts: small batched products are slow on a CPU


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
        return K * (r + self.features.slack), K * (r + self.classifier.slack) * (not isinstance(self.classifier, Fixed))

    @property
    def held(self) -> int:
        """Numbers of a lane's largest arrays: logits, or variables."""
        return max(self.num_classes**2, sum(self.factor_sizes))


def falls_exponentially(problem: Any) -> bool:
    """Whether f is a tail of exponentials of bounded norms; its gradient then vanishes with it, and log f is minimised.

    Args:
        problem: a `Problem` or a `Reduced` one.
    """
    return isinstance(problem.loss, CrossEntropy | Focal) and problem.features.bounds and problem.classifier.bounds


def least_dim(problem: Problem) -> int:
    """Dimension of the reduced problem."""
    if isinstance(problem.features, Nonnegative) or isinstance(problem.classifier, Nonnegative):
        return problem.dim
    fixed_norms = isinstance(problem.features, Sphere) and isinstance(problem.classifier, Sphere | Fixed)
    return min(problem.dim, problem.num_classes + fixed_norms)


def row_space(problem: Problem) -> np.ndarray:
    """(r, d) orthonormal rows that a fixed classifier's rows are combinations of; the reduced problem's axes."""
    d, r = problem.dim, least_dim(problem)
    if r == d or not isinstance(problem.classifier, Fixed):
        return np.eye(r, d)
    axes = np.linalg.svd(problem.classifier.matrix, full_matrices=False)[2]
    missing = np.eye(r - len(axes), d)
    others = np.linalg.qr(np.concatenate([axes, missing + 1.0 / d]).T)[0].T[len(axes) :]
    return np.concatenate([axes, others])


def relaxed_rank(problem: Problem) -> int:
    """Dimensions from which the convex relaxation over H Aᵀ is attained: d at least this, and no bad minimum exists."""
    centred = isinstance(problem.loss, CrossEntropy | LabelSmoothing) or problem.bias_kind == "free"
    return problem.num_classes - centred


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
    class_weights = lanes(lambda p: np.ones(p.num_classes) if p.class_weights is None else p.class_weights)
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
    if not isinstance(classifier, Fixed):
        return classifier
    matrices = [problem.classifier.matrix @ row_space(problem).T for problem in problems]
    return jax.tree.map(lambda _: np.stack(matrices, axis=-1)[None], classifier)


def class_means(problem: Problem, H: Any) -> np.ndarray:
    """(K, d) means of the features of each class, in float64."""
    starts = np.concatenate([[0], np.cumsum(problem.class_counts)[:-1]])
    return np.add.reduceat(np.asarray(H, np.float64), starts, axis=0) / problem.class_counts[:, None]


def lift(problem: Problem, means: np.ndarray, A: np.ndarray, b: np.ndarray) -> Params:
    """Parameters of the problem as posed: every sample at its class's mean, dimensions filled up with zeros."""
    problem.check_room()
    axes = row_space(problem)
    A = problem.classifier.matrix if isinstance(problem.classifier, Fixed) else A @ axes
    return Params(np.repeat(means @ axes, problem.class_counts, axis=0), A, b)


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
    if isinstance(reduced.loss, ClassFirst):
        return reduced.loss(logits, labels)
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


def best_biases(products: Any, b: Any, reduced: Reduced) -> Any:
    """The biases (K, L) that minimise the objective at given products A Mᵀ (K, K, L); traceable."""
    if reduced.bias_kind == "none":
        return b

    def of_lane(reduced, products, b):
        return best_bias(reduced, products, b)

    return jax.vmap(of_lane, in_axes=-1, out_axes=-1)(reduced, products, b)


def biases_at_zero(reduced: Reduced) -> Any:
    """The best biases (K, L) at A = H = 0, found from the classes' log shares, which are those of cross-entropy."""
    if reduced.bias_kind == "none":
        return jnp.zeros_like(reduced.weights)
    shares = jnp.log(reduced.weights)
    products = zeros(reduced, reduced.num_classes)
    return best_biases(products, shares - jnp.mean(shares, axis=0)[None], reduced)


def zeros(reduced: Reduced, width: int) -> Float[Array, "K w L"]:
    """Zeros that depend on an argument: what follows from constants XLA computes, slowly, while it compiles."""
    K, L = reduced.weights.shape
    return jnp.broadcast_to(0.0 * reduced.weights[:, None], (K, width, L))


def risk_of_lane(reduced: Reduced):
    """Risk of one lane as a function of logits (class, sample)."""
    loss, labels = jax.tree.map(lambda leaf: leaf[0], reduced.loss), jnp.arange(reduced.num_classes)
    return lambda Z: jnp.sum(reduced.weights * per_sample(loss, Z, labels))


def best_bias(reduced: Reduced, products: Float[Array, "K K"], b: Float[Array, " K"]) -> Float[Array, " K"]:
    """The bias of one lane that minimises the objective at given products, in memory of order K².

    Newton's method on a convex function, kept by halving.
    """
    loss, labels = jax.tree.map(lambda leaf: leaf[0], reduced.loss), jnp.arange(reduced.num_classes)
    risk, decay = risk_of_lane(reduced), reduced.lambda_b

    def gradient(b):
        return jax.grad(lambda b: risk(products + b[:, None]))(b) + decay * b

    def hessian(b):
        found = curvature_of_shifts(loss, products + b[:, None], labels, reduced.weights)
        return found + decay * jnp.eye(b.shape[0])

    def step(state):
        b, slope, _, count = state
        values, vectors = eigh(hessian(b))
        flat = 1e-14 * values[-1] + jnp.finfo(b.dtype).tiny
        along = jnp.where(values > flat, (vectors.T @ slope) / jnp.where(values > flat, values, 1.0), 0.0)
        moves = (vectors @ along)[None] * 0.5 ** jnp.arange(8.0)[:, None]
        slopes = jax.lax.map(lambda move: gradient(b - move), moves)
        norms = jnp.linalg.norm(slopes, axis=1)
        best = jnp.argmin(norms)
        better = norms[best] < jnp.linalg.norm(slope)
        return jnp.where(better, b - moves[best], b), jnp.where(better, slopes[best], slope), better, count + 1

    settled = 8 * jnp.finfo(b.dtype).eps * jnp.linalg.norm(jax.grad(risk)(products))

    def unfinished(state):
        return state[2] & (state[3] < BIAS_STEPS) & (jnp.linalg.norm(state[1]) > settled)

    return jax.lax.while_loop(unfinished, step, (b, gradient(b), jnp.asarray(True), jnp.asarray(0)))[0]
