"""The smaller problem with the same minimum, many of them side by side, and the way back.

*Samples.* For a given classifier the objective is a sum over samples, equal for the samples of one group, which share
target and weight. Copying to a whole group the features of its cheapest sample never raises it, whatever the loss and
the constraint on a row. So M group samples with weights w_m n_m/N and decay n_m λ_H have the same minimum. (Jensen's
inequality gives the same for convex losses; this needs none.) Only `MeanBall` couples samples: there it is Jensen's
inequality, and for a loss that isn't convex, or behind a ReLU, the minimum found is one over features that are equal
within groups.

*Dimension.* Only H Aᵀ enters the loss, M group samples span at most M dimensions and the rows of A at most K: a factor
loses what is orthogonal to the other, or keeps it along one extra axis where its norms are fixed. So d is replaced by
min(d, M, K), or for M = K by min(d, K + 1) where norms on both sides are fixed. A rotation carries the solution back; a
fixed classifier is rotated to its row space, and non-negative entries can't be rotated. With hidden layers the first
of them takes the classifier's place. Linear ones can be rotated too, and need no more outputs than d needs; what a ReLU
follows keeps its width.

*Scale.* The solver works with X = √(λ_H n_m) h_m and Y = √λ_A a_k, in which weight decay is half a squared norm and
the minimum's two factors are equally large; the bias is scaled by its curvature at the start. Where all is bounded
by norms, a cross-entropy falls exponentially with them and its logarithm is minimised.

*Lanes.* Compiled code holds L problems of one shape and kind, and every array's last axis is the problem, its lane.
Numbers of a loss or constraint, scalars in a problem, are (1, L) there, since they meet numbers of groups (M, L) and of
outputs (K, L); a fixed matrix is (1, K, d, L). `side_by_side` makes lanes of problems and `without_lanes` takes the
lane out of one, whatever gave it; nothing else knows of that layout but the constraints' `unfold`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ufm._core.archive import storable
from ufm._core.arrays import Array, namespace
from ufm._core.lanes import each
from ufm._core.precision import is_traced
from ufm._core.pytree import pytree, static
from ufm.model.constraints import Free
from ufm.model.losses import facts_of, infima, infimum
from ufm.model.params import Params
from ufm.model.problem import Problem, class_means, classes_in_order

KINDS = "loss", "features", "classifier"  # fields of a reduced problem that hold numbers of their own


@storable
class LaneParams(NamedTuple):
    """Parameters in lanes, or of one: group means H (M, r, L), classifier A (K, w, L), bias b (K, L), hidden layers W.

    W[j] is (w_{j+1}, w_j, L) with w_0 = r; without hidden layers w = r.
    """

    H: Any
    A: Any
    b: Any
    W: Any = ()


class LaneFactor(NamedTuple):
    """One factor of the logits of reduced problems, whose rows a constraint keeps and weight decay prices.

    Attributes:
        name: of what it is in `LaneParams`: a field, or an entry of W.
        rows: how many.
        dim: coordinates of each.
        constraint: of the rows, with numbers (1, L), or scalars in one lane.
        decay: (L,) λ of half the squared norm of a row of the problem as posed.
        counts: (rows, L) for how many rows of the problem as posed each stands; None for one.
        layer: which entry of W it is; None of the others.
    """

    name: str
    rows: int
    dim: int
    constraint: Any
    decay: Any
    counts: Any = None
    layer: int | None = None

    def of(self, params: LaneParams) -> Any:
        """The matrix that it is in parameters."""
        return getattr(params, self.name) if self.layer is None else params.W[self.layer]

    @property
    def width(self) -> int:
        """The solver's variables for a row; none where nothing is to be found."""
        return 0 if self.constraint.fixed else self.dim + self.constraint.slack

    @property
    def size(self) -> int:
        """The solver's variables."""
        return self.rows * self.width

    @property
    def row_counts(self) -> Float[Array, "rows *L"]:
        """`counts`, with its ones."""
        if self.counts is not None:
            return self.counts
        return namespace(self.decay).ones((self.rows, *np.shape(self.decay)), getattr(self.decay, "dtype", float))

    @property
    def row_decay(self) -> Float[Array, "rows *L"]:
        """λ of half the squared norm of each row."""
        xp = namespace(self.decay, self.counts)
        decay = xp.asarray(self.decay)[None]
        return decay * self.counts if self.counts is not None else xp.broadcast_to(decay, (self.rows, *decay.shape[1:]))


@pytree
class Reduced:
    """L reduced problems of one shape and kind, lanes last; or one of them, without an axis of lanes.

    Numbers of a problem are (L,), of a group (M, L), of an output (K, L), and those of loss and constraints (1, L).
    """

    loss: Any
    features: Any
    classifier: Any
    counts: Any
    weights: Any
    rows: Any  # (M, K, L) targets of the groups; None where these are labels
    lambda_A: Any
    lambda_H: Any
    lambda_b: Any
    lambda_W: tuple  # of hidden layers, each (L,)
    bias_scale: Any  # (K, L) of what the solver moves a bias by, from the start
    bias_at_zero: Any  # (K, L) best where H = A = 0, from the start
    num_classes: int = static()
    group_labels: range | tuple[int, ...] | None = static()  # where targets are labels
    dim: int = static()
    widths: tuple[int, ...] = static()
    activation: str = static()
    bias_kind: str = static()

    @property
    def num_groups(self) -> int:
        """M, groups of samples."""
        return np.shape(self.counts)[0]

    @property
    def targets(self) -> Any:
        """What each group's samples are told, as losses take it: labels (M,), or targets in columns (K, M, L).

        Where groups are the classes in order it is an iota, which XLA computes where another array would be read.
        """
        xp, labels = namespace(self.weights), self.group_labels
        if labels is None:
            return xp.swapaxes(self.rows, 0, 1)
        return xp.arange(len(labels)) if isinstance(labels, range) else xp.asarray(labels)

    @property
    def target_rows(self) -> Any:
        """The same as rows (M, K, L) of targets; of labels (M, K, 1), one-hot."""
        if self.group_labels is None:
            return self.rows
        xp = namespace(self.weights)
        right = xp.arange(self.num_classes)[None] == self.targets[:, None]
        return right.astype(self.weights.dtype)[:, :, None]

    @property
    def masses(self) -> Any:
        """Sums (M, 1, L) of the rows of targets; one of labels."""
        return 1.0 if self.group_labels is not None else self.rows.sum(axis=1, keepdims=True)

    @property
    def groups_are_classes(self) -> bool:
        """Whether each class has one group, in order."""
        return self.group_labels == range(self.num_classes)

    @property
    def infima(self) -> Float[Array, " M"]:
        """Greatest lower bound of the loss of each group's sample, in one lane."""
        if self.group_labels is None:
            return infima(self.loss, self.targets)
        bound = infimum(self.loss, self.num_classes)
        xp = namespace(self.weights, bound)
        return xp.broadcast_to(xp.asarray(bound, self.weights.dtype), (self.num_groups,))

    def factors(self) -> tuple[LaneFactor, ...]:
        """The factors of the logits in the order in which they multiply, which is that of the solver's variables."""
        columns = (self.dim, *self.widths)
        H = LaneFactor("H", self.num_groups, self.dim, self.features, self.lambda_H, self.counts)
        W = (
            LaneFactor(f"W[{j}]", rows, columns[j], Free(), decay, layer=j)
            for j, (rows, decay) in enumerate(zip(self.widths, self.lambda_W, strict=True))
        )
        return H, *W, LaneFactor("A", self.num_classes, columns[-1], self.classifier, self.lambda_A)

    def assembled(self, matrices: Iterable[Any], b: Any) -> LaneParams:
        """Parameters of a matrix for each factor, in their order, and a bias."""
        H, *W, A = matrices
        return LaneParams(H, A, b, tuple(W))

    @property
    def factor_size(self) -> int:
        """The solver's variables of all factors; those of the bias follow."""
        return sum(factor.size for factor in self.factors())

    @property
    def held(self) -> int:
        """Numbers of a lane's largest arrays: logits, what hidden layers give, or variables."""
        return max(self.num_groups * max(self.num_classes, *self.widths, 0), self.factor_size)


def falls_exponentially(problem: Any) -> bool:
    """Whether f is a tail of exponentials of bounded norms; its gradient then vanishes with it, and log f is minimised.

    Args:
        problem: a `Problem` or a `Reduced` one.
    """
    labels = problem.targets is None if isinstance(problem, Problem) else problem.group_labels is not None
    bounded = all(factor.constraint.bounds for factor in problem.factors())
    return labels and facts_of(problem.loss).falls_exponentially and bounded


def least_dim(problem: Problem) -> int:
    """Dimension of the reduced problem: of what one factor spans, and an axis where the other's norms are fixed.

    A classifier that is fixed keeps its own space.
    """
    features, following = problem.features, problem.classifier
    outputs = problem.num_classes
    if problem.widths:
        following, (outputs, *_) = Free(), least_widths(problem)
    if not all(side.rotatable or side.fixed for side in (features, following)):
        return problem.dim
    of_following = outputs + (not features.decays)
    of_features = problem.num_groups + (not following.decays)
    return min(problem.dim, of_following if following.fixed else min(of_following, of_features))


def least_widths(problem: Problem) -> tuple[int, ...]:
    """Widths of the reduced problem's hidden layers: of linear ones that of what passes, and an axis for fixed norms.

    What the classifier reads keeps its width where the classifier's rows can't be rotated.
    """
    if problem.activation != "linear":
        return tuple(problem.widths)
    features, classifier = problem.features, problem.classifier
    enough = min(problem.num_groups + (not classifier.decays), problem.num_classes + (not features.decays))
    widths = tuple(min(width, enough) for width in problem.widths)
    return widths if classifier.rotatable else (*widths[:-1], problem.widths[-1])


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
    targets, _ = merged_groups(problem)
    groups = problem.num_groups, None if targets is None else targets.num_groups
    shapes = least_dim(problem), _reduced_widths(problem), problem.activation if problem.widths else None
    return groups, problem.num_classes, _labels(problem), shapes, problem.bias_kind, kinds


def _reduced_widths(problem: Problem) -> tuple[int, ...]:
    return least_widths(problem) if problem.widths else ()


def _labels(problem: Problem) -> range | tuple[int, ...] | None:
    """The groups' labels as part of a structure: a range where they are the classes in order, None of rows."""
    if problem.targets is not None:
        return None
    labels, classes = problem.group_labels, classes_in_order(problem.num_classes)
    in_order = labels is classes or np.array_equal(labels, classes)
    return range(problem.num_classes) if in_order else tuple(labels.tolist())


def merged_groups(problem: Problem) -> tuple[Any, np.ndarray | None]:
    """The targets in as few groups as they can be, and the merged group of each group; None where all stay apart.

    What JAX traces stays as it is, since which rows are equal isn't known.
    """
    targets = problem.targets
    if targets is None or is_traced(targets):
        return targets, None
    merged, index = targets.merged()
    return merged, None if merged is targets else index


def group_means(problem: Problem, H: Any) -> np.ndarray:
    """(M, d) means of the features of each group of the reduced problem, in float64."""
    means, (merged, index) = class_means(problem, H), merged_groups(problem)
    if index is None:
        return means
    counts, sums = problem.group_counts, np.zeros((merged.num_groups, means.shape[1]))
    np.add.at(sums, index, means * counts[:, None])
    return sums / merged.group_counts[:, None]


def lane_of(problem: Problem) -> Reduced:
    """The reduced problem of one problem, without an axis of lanes; its numbers may be traced."""
    targets, _ = merged_groups(problem)
    K, weights = problem.num_classes, problem.group_weights if targets is None else targets.weights
    counts = (problem.group_counts if targets is None else targets.group_counts).astype(weights.dtype)
    return Reduced(
        loss=problem.loss,
        features=problem.features,
        classifier=problem.classifier,
        counts=counts,
        weights=weights * counts / counts.sum(),
        rows=None if targets is None else targets.rows,
        lambda_A=problem.lambda_A,
        lambda_H=problem.lambda_H,
        lambda_b=problem.lambda_b,
        lambda_W=tuple(factor.decay for factor in problem.factors()[1:-1]),
        bias_scale=np.ones(K),
        bias_at_zero=np.zeros(K),
        num_classes=K,
        group_labels=_labels(problem),
        dim=least_dim(problem),
        widths=_reduced_widths(problem),
        activation=problem.activation,
        bias_kind=problem.bias_kind,
    )


def reduce(problems: list[Problem]) -> Reduced:
    """The reduced problems of one `shape_key`, side by side; NumPy arrays in float64."""
    return side_by_side([_in_its_axes(problem) for problem in problems])


def _in_its_axes(problem: Problem) -> Reduced:
    """The reduced problem, a fixed classifier in its axes."""
    lane = lane_of(problem)
    if not problem.classifier.fixed or problem.widths:
        return lane
    axes = row_space(problem).T
    return dataclasses.replace(lane, classifier=jax.tree.map(lambda matrix: matrix @ axes, lane.classifier))


def side_by_side(lanes: list[Reduced]) -> Reduced:
    """Lanes of one structure in float64, in the layout that the module's head describes."""
    many = jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1, dtype=np.float64), *lanes)
    return _of_kinds(many, lambda leaf: leaf[None])


def without_lanes(reduced: Reduced) -> Reduced:
    """One lane in the layout of a problem, from arrays whose last axis, that of lanes, was taken off."""
    return _of_kinds(reduced, lambda leaf: leaf[0])


def _of_kinds(reduced, function):
    """The same with a function of the numbers that loss and constraints hold."""
    changed = jax.tree.map(function, {name: getattr(reduced, name) for name in KINDS})
    return dataclasses.replace(reduced, **changed)


def by_lane(of_lane: Callable[..., Any], reduced: Reduced, *trees: Any) -> Any:
    """`of_lane(lane, *trees)` of every lane, a reduced problem in the layout of a problem; results have lanes last."""

    def one(reduced, *trees):
        return of_lane(without_lanes(reduced), *trees)

    return each(one, reduced, *trees)


def lift(problem: Problem, found: LaneParams) -> Params:
    """Parameters of the problem as posed: every group's samples at its mean, dimensions filled up with zeros."""
    problem.check_room()
    H = found.H if problem.widths else found.H @ row_space(problem)
    H = np.repeat(filled_up(H, (len(H), problem.dim)), problem.group_counts, axis=0)
    _, *layers = problem.factors()
    *W, A = (filled_up(part, layer.shape) for part, layer in zip((*found.W, found.A), layers, strict=True))
    if problem.classifier.fixed:
        A = problem.classifier.matrix
    return Params(H, A, found.b, tuple(W))


def filled_up(matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The matrix with as many more rows and columns of zeros as the shape has."""
    return np.pad(matrix, [(0, missing) for missing in np.subtract(shape, matrix.shape)])


def zeros(reduced: Reduced, *shape: int) -> Float[Array, "*shape L"]:
    """Zeros that depend on an argument: what follows from constants XLA computes, slowly, while it compiles."""
    shape = (*shape, reduced.weights.shape[-1])
    xp = namespace(reduced.weights)
    return np.zeros(shape) if xp is np else jnp.broadcast_to(0.0 * reduced.weights[0], shape)
