"""What is minimised: a loss, weight decay and constraints over free features, hidden layers, classifier and bias."""

import dataclasses
import functools as ft
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float
from numpy.typing import ArrayLike

from ufm._core.archive import storable
from ufm._core.arrays import Array, namespace_of, silent
from ufm._core.blas import one_thread
from ufm._core.blocks import few, fits
from ufm._core.checks import (
    Integer,
    Real,
    choice,
    doubles,
    entries,
    flag,
    instance,
    integer,
    numeric,
    real,
    room_for,
    shown,
)
from ufm._core.precision import at_once, float64, is_traced
from ufm._core.programs import kept
from ufm._core.pytree import pytree, set_field, static
from ufm._core.repr import call, fields_of, unusual
from ufm.model.constraints import Constraint, Free, as_constraint, folds
from ufm.model.factors import Factor, assembled, squared_size
from ufm.model.layers import ACTIVATIONS
from ufm.model.losses import CrossEntropy, as_loss, check_loss, closed, facts_of, flat_of
from ufm.model.params import Columns, Params, columns, rows
from ufm.model.streamed_loss import streamed_loss, weighted_losses
from ufm.model.targets import Targets, as_targets, check_for, counts_of, is_one_number, weighted, weights_of

SMALLEST_DECAY, LARGEST_DECAY = 1e-100, 1e100  # but for zero: squares of quotients stay finite
USUAL_DECAY = 5e-4


@storable
@pytree
class Problem:
    """An unconstrained features model.

    Minimise over features H (N, d), classifier A (K, d) and bias b (K,), with logits Z = H Aᵀ + 1bᵀ,

        f = (1/N) Σ_i w_{y_i} loss(Z_i, y_i) + λ_A/2 ‖A‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖².

    With hidden layers of `widths` between them, Z = X_L Aᵀ + 1bᵀ with X_0 = H, X_j = act(X_{j−1} W_jᵀ), A (K, w_L) and
    W_j (w_j, w_{j−1}), w_0 = d, of which each adds λ_j/2 ‖W_j‖².

    Shapes, kinds of loss, constraint and bias are static; every number (λ, smoothing, gamma, radius, class
    weight) is traced, so that changing it never compiles again.

    Samples that share a target and a weight are a group. Class labels make as many groups as classes, and `targets`
    any: with them y_i is the group of sample i, w its weight, and the loss is told the group's row of targets. What
    solves and measures asks for `num_groups`, `group_counts`, `group_weights` and `group_targets` all the same.

    Args:
        num_classes: K ≥ 2; with `targets` it is their number of outputs, 1 or more.
        dim: d ≥ 1, the dimension of the features.
        per_class: samples of each class, one positive integer or K of them.
        loss: `CrossEntropy()`, `SquaredError()`, `LabelSmoothing(alpha)`, `Focal(gamma)`, `DotRegression(target)`,
            `VectorScaling(additive, multiplicative)`, or any callable of (logits, label) that JAX can differentiate; it
            may declare facts and a conjugate (see `ufm.model.losses`).
        lambda_A: weight decay λ_A of the classifier; as the others 0, or from 1e-100 to 1e100.
        lambda_H: weight decay λ_H ≥ 0 of the features, per sample; papers that divide it by N or leave out
            the half differ.
        lambda_b: weight decay λ_b ≥ 0 of the bias; 0 leaves it free.
        bias: whether there is one.
        class_weights: K positive numbers w_k; None, the default, becomes ones. They are not normalised.
        targets: `ufm.Targets` instead of num_classes, per_class and class_weights: any rows of targets, how many
            samples share each and what they weigh. The loss must take rows (see `ufm.model.losses`).
        features: where rows of H may be: `Free()`, `Sphere(radius)`, `Ball(radius)`, `MeanBall(radius)` or
            `Nonnegative()`.
        classifier: where rows of A may be: one of these, or `Fixed(matrix)`.
        widths: of the hidden layers between features and classifier, each at least 1; none by default.
        lambda_W: weight decay of the hidden layers, one number or one a layer; 5e-4 where there are any.
        activation: of each hidden layer, "linear" or "relu"; features are not passed through it.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """

    num_classes: Integer = static(default=None)  # left out where targets say it
    dim: Integer = static(default=None)  # not to be left out, though what follows a default must have one
    _: dataclasses.KW_ONLY
    per_class: Integer | Sequence[int] | np.ndarray | None = static(default=None)
    loss: Any = CrossEntropy()
    lambda_A: Real = USUAL_DECAY
    lambda_H: Real = USUAL_DECAY
    lambda_b: Real = 0.0
    bias: bool = static(default=True)
    class_weights: ArrayLike | None = None
    targets: Targets | None = None
    features: Constraint = Free()
    classifier: Constraint = Free()
    widths: Sequence[int] = static(default=())
    lambda_W: Real | Sequence[Real] | None = None
    activation: str = static(default="linear")
    bias_kind: str = static(default="", init=False)

    def __post_init__(self):
        if self.targets is None:
            set_field(self, "num_classes", integer("num_classes", self.num_classes, least=2))
        else:
            self._take_targets()
        set_field(self, "dim", integer("dim", self.dim, least=1))
        self._take_layers()
        sizes = self.num_classes + sum(map(math.prod, self._shapes()))
        room_for(f"num_classes = {self.num_classes}, {self._sizes()}", sizes)
        if self.targets is None:
            set_field(self, "per_class", _per_class(self.per_class, self.num_classes))
            set_field(self, "class_weights", weights_of("class_weights", self.class_weights, self.num_classes))
        set_field(self, "loss", as_loss(self.loss))
        check_loss(self.loss, self.num_classes, rows=self.targets is not None)
        for name in ("lambda_A", "lambda_H", "lambda_b"):
            set_field(self, name, _decay(name, getattr(self, name)))
        set_field(self, "bias", flag("bias", self.bias))
        if self.lambda_b > 0 and not self.bias:
            raise ValueError(f"lambda_b = {self.lambda_b!r}: weight decay on a bias needs bias=True")
        for factor in self.factors():
            _check_factor(factor)
        set_field(self, "bias_kind", ("regularised" if self.lambda_b > 0 else "free") if self.bias else "none")
        if self.targets is not None:
            check_for(self.targets, self.loss, self.bias_kind)

    def _take_targets(self) -> None:
        """Outputs and samples from the targets, where nothing else names them."""
        outputs = as_targets(self.targets).num_outputs
        said = {name: getattr(self, name) for name in ("num_classes", "per_class", "class_weights")}
        if isinstance(self.num_classes, _OfTargets):  # as a problem hands it over to one that replaces it
            del said["num_classes"]
        for name, value in said.items():
            if value is not None:
                raise ValueError(f"{name} = {shown(value)} beside targets, which say it: one of the two is needed")
        set_field(self, "num_classes", _OfTargets(outputs))

    def _take_layers(self) -> None:
        """Widths as a tuple, and decay and activation where there are any."""
        set_field(self, "widths", _widths(self.widths))
        choice("activation", self.activation, tuple(ACTIVATIONS))
        if self.widths:
            set_field(self, "lambda_W", _layer_decays(self.lambda_W, len(self.widths)))
            return
        for name, said in (("lambda_W", self.lambda_W is not None), ("activation", self.activation != "linear")):
            if said:
                value = shown(getattr(self, name))
                raise ValueError(f"{name} = {value}: hidden layers, such as widths=(64,), are needed for it")

    def _sizes(self) -> str:
        """Dimensions, for an error about memory."""
        return f"dim = {self.dim}: A (K, d)" if not self.widths else f"dim = {self.dim}, widths = {shown(self.widths)}"

    def _shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of the hidden layers in order, and of the classifier."""
        sizes = [self.dim, *self.widths, self.num_classes]
        return [(rows, columns) for columns, rows in itertools.pairwise(sizes)]

    def __repr__(self) -> str:
        shown = unusual(self, always=("loss", "lambda_A", "lambda_H"))
        hidden = {"class_weights"} if self.targets is None and not weighted(self.class_weights) else set()
        hidden |= {"num_classes"} if self.targets is not None else set()
        return call("Problem", {k: v for k, v in shown.items() if k not in hidden})

    def _to_file(self) -> dict[str, Any]:
        """What a file or a store says; weights that are ones as none, as in those of earlier versions."""
        said = fields_of(self)
        if not self.widths:
            said = {name: value for name, value in said.items() if name not in ("widths", "lambda_W", "activation")}
        if self.targets is not None:
            return said | {"num_classes": None}
        del said["targets"]
        return said | ({} if weighted(self.class_weights) else {"class_weights": None})

    @property
    def class_counts(self) -> np.ndarray:
        """(K,) samples of each class; a ValueError where groups are no classes."""
        if self.targets is not None:
            raise ValueError("class_counts of a problem with targets: group_counts are what it has")
        counts: Any = self.per_class  # which the constructor made a number or a tuple
        return _class_counts(counts, self.num_classes)

    @property
    def num_groups(self) -> int:
        """M, groups of samples that share a target and a weight: with class labels the classes."""
        return self.num_classes if self.targets is None else self.targets.num_groups

    @property
    def group_counts(self) -> np.ndarray:
        """(M,) samples of each group."""
        return self.class_counts if self.targets is None else self.targets.group_counts

    @property
    def group_weights(self) -> Any:
        """(M,) weight of each group's samples, traced."""
        return self.class_weights if self.targets is None else self.targets.weights

    @property
    def group_labels(self) -> np.ndarray:
        """(M,) int32 numbers of the groups, in order: with class labels the classes."""
        return classes_in_order(self.num_groups)

    @property
    def group_targets(self) -> Any:
        """What a group's samples are told, as losses take it: labels (M,), or targets in columns (K, M), traced."""
        if self.targets is None:
            return self.group_labels
        rows: Any = self.targets.rows
        return rows.T

    @property
    def probabilities(self) -> Any:
        """(M, K) rows of targets where the loss is told probabilities, or multiples of them; None elsewhere."""
        if self.targets is None or not facts_of(self.loss).conjugate_on_simplex:
            return None
        return self.targets.rows

    @property
    def num_samples(self) -> int:
        """N, samples in all."""
        return int(self.group_counts.sum())

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32 groups of samples, in order: with class labels their labels."""
        room_for(f"labels of {self.num_samples} samples", self.num_samples, itemsize=4)
        return np.repeat(self.group_labels, self.group_counts)

    @property
    def balanced(self) -> bool:
        """Whether all groups have equally many samples and one weight."""
        return bool(np.ptp(self.group_counts) == 0 and np.ptp(self.group_weights) == 0)

    @property
    def widest(self) -> int:
        """Numbers of a sample in the largest array that is formed of its features: logits, or a hidden layer."""
        return max(self.num_classes, *self.widths) if self.widths else self.num_classes

    @property
    def products(self) -> int:
        """Multiplications that the logits take."""
        return self.num_samples * sum(map(math.prod, self._shapes()))

    def factors(self) -> tuple[Factor, ...]:
        """The factors of the logits in the order in which they multiply, H … Aᵀ: shapes, constraints, decays."""
        samples, (*hidden, outputs) = (self.num_samples, self.dim), self._shapes()
        H = Factor("H", "features", "lambda_H", samples, self.features, self.lambda_H, self.group_counts)
        A = Factor("A", "classifier", "lambda_A", outputs, self.classifier, self.lambda_A)
        return H, *(self._layer(j, shape) for j, shape in enumerate(hidden)), A

    def _layer(self, j: int, shape: tuple[int, int]) -> Factor:
        """A hidden layer; one weight decay is that of each."""
        name, decay = "lambda_W", self.lambda_W
        if isinstance(decay, tuple):
            name, decay = f"lambda_W[{j}]", decay[j]
        return Factor(f"W[{j}]", f"W[{j}]", name, shape, Free(), decay, layer=j)

    def init(self, seed: Integer = 0, scale: Real = 1.0) -> Params:
        """Random feasible parameters, no bias: entries of H, W and A normal with variance scale²/(columns).

        Args:
            seed: a non-negative integer; the same seed gives the same bits.
            scale: of a row's norm, dimensionless.

        Returns:
            Params in float64.

        Raises:
            ValueError: for a wrong argument, or where memory can't hold the features.
        """
        self.check_room()
        random = np.random.default_rng(integer("seed", seed, least=0))
        scale, factors = real("scale", scale, least=0.0), self.factors()
        matrices = (scale / np.sqrt(f.shape[1]) * random.normal(size=f.shape) for f in factors)
        drawn = assembled(factors, matrices, np.zeros(self.num_classes), Params)
        with float64(), silent():
            ours = all(folds(factor.constraint) for factor in factors)
            drawn = drawn if ours else jax.tree.map(jnp.asarray, drawn)
            return jax.tree.map(np.asarray, rows(feasible(self, columns(drawn))))

    def check_room(self) -> None:
        """Refuse features (N, d) that memory can't hold, before it is tried."""
        N, d = self.num_samples, self.dim
        counts = "targets.counts" if self.targets is not None else f"per_class = {shown(self.per_class)}"
        room_for(f"{counts}, dim = {d}: features H of shape ({N}, {d})", N * d)

    def objective(self, params: Params) -> Any:
        """F at the parameters, in nats (cross-entropies) or squared units (squared error).

        Computed in float64 where a parameter is float64. Inside a transformed function (jit, grad, vmap) it
        is traced like any other.

        Raises:
            ValueError: where a shape is not the problem's.
        """
        params = self.check_params(params)
        if is_traced(self, params):
            return risk(self, columns(jax.tree.map(jnp.asarray, params)))
        if self._at_once(params):
            with silent(), one_thread():
                return np.asarray(risk(self, columns(params)))[()]
        with at_once(params):
            return np.asarray(_compiled_risk(self, params))[()]

    def _at_once(self, params: Params) -> bool:
        """Whether NumPy computes the objective: of few parameters that it holds, for a loss that is written for it."""
        formed = self.num_samples * (self.num_classes + sum(self.widths))
        numbers = formed + sum(math.prod(factor.shape) for factor in self.factors())
        return namespace_of(params) is np and few(numbers) and closed(self.loss)

    def check_params(self, params: Params) -> Params:
        """`params` as arrays of one precision, float64 where any is, where their shapes are the problem's.

        Lists, data frames and torch tensors are converted; traced arrays are left as they are.

        Raises:
            ValueError: naming the parameter that has another shape or no real numbers, with what is needed.
        """
        checked, factors = self.parts_of(params), self.factors()
        shapes = [factor.shape for factor in factors] + [(self.num_classes,)]
        for (name, part), shape in zip(checked.items(), shapes, strict=True):
            if part.shape != shape:
                raise ValueError(f"params.{name} of shape {part.shape}: {shape} is needed")
        *matrices, b = _of_one_precision(list(checked.values()))
        return assembled(factors, matrices, b, Params)

    def parts_of(self, params: Params) -> dict[str, Any]:
        """What is given for each factor, in their order, and for b: arrays by name, whatever their shapes.

        Raises:
            ValueError: where there are more or fewer than the problem has, or one holds no real numbers.
        """
        parts = tuple(instance("params", params, (tuple, list), "ufm.Params(H, A, b)"))
        if len(parts) not in (3, 4):
            raise ValueError(f"params of {len(parts)} parts: ufm.Params(H, A, b) is needed")
        given, count = Params(*parts), len(self.widths)
        if not isinstance(given.W, tuple | list) or len(given.W) != count:
            needed = f"{count} matrices, one a hidden layer," if count else "(), since there are no hidden layers,"
            raise ValueError(f"params.W = {shown(given.W)}: {needed} {'are' if count else 'is'} needed")
        parts = {**{factor.name: factor.of(given) for factor in self.factors()}, "b": given.b}
        return {name: numeric(f"params.{name}", part) for name, part in parts.items()}

    def finite_params(self, params: Params) -> Params:
        """`params` in float64, refused where one is NaN or infinite."""
        parts = self.parts_of(self.check_params(params))
        *matrices, b = (doubles(f"params.{name}", part) for name, part in parts.items())
        return assembled(self.factors(), matrices, b, Params)


class _OfTargets(int):
    """A number of outputs that targets said: handed over to another problem, it names nothing beside its targets."""


@ft.lru_cache(maxsize=1024)  # asked for several times by each of a thousand problems
def _class_counts(per_class: int | tuple[int, ...], num_classes: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(per_class), (num_classes,))


@ft.lru_cache(maxsize=128)
def classes_in_order(num_classes: int) -> np.ndarray:
    """(K,) int32 labels 0, 1, …, one and the same read-only array for every problem of so many classes."""
    return np.broadcast_to(np.arange(num_classes, dtype=np.int32), (num_classes,))


def as_problem(problem: Any) -> Problem:
    """`problem` where it is one, traced or not; else a ValueError."""
    return instance("problem", problem, Problem, "a ufm.Problem")


def as_classes(problem: Problem) -> Problem:
    """The problem with class labels that targets are, where these are one-hot in order; any other as it is."""
    targets = problem.targets
    if targets is None or is_traced(targets) or not targets.is_one_hot_in_order():
        return problem
    words = {"num_classes": targets.num_outputs, "per_class": targets.group_counts, "class_weights": targets.weights}
    return dataclasses.replace(problem, targets=None, **words)


def with_values(problem: Any) -> Problem:
    """`problem` where it is one whose numbers are known; else a ValueError."""
    if is_traced(as_problem(problem)):
        raise ValueError(
            "problem is traced by JAX: one whose numbers have values is needed; inside jit, grad and vmap, "
            "problem.objective and ufm.dual_bound are what takes it"
        )
    return problem


def _of_one_precision(arrays: list[Any]) -> list[Any]:
    """NumPy arrays in float64 where one is, or holds whole numbers; float32 and traced ones as they are."""
    if all(array.dtype == np.float32 or isinstance(array, Tracer) for array in arrays):
        return arrays
    return [array if isinstance(array, Tracer) else np.asarray(array, np.float64) for array in arrays]


def risk(problem: Problem, params: Columns) -> Float[Array, ""]:
    """F at parameters in columns, in their namespace."""
    xp = namespace_of(problem, params)
    decay = squared_size(problem.factors(), params) + problem.lambda_b * xp.sum(params.b**2)
    if fits(problem.num_samples, problem.widest):
        return xp.mean(weighted_losses(problem, params, xp.asarray(problem.labels))) + 0.5 * decay
    return streamed_loss(params.H, params.A, params.b, params.W, problem) + 0.5 * decay


def feasible(problem: Problem, params: Columns) -> Columns:
    """The nearest parameters that keep the constraints."""
    factors = problem.factors()
    return assembled(factors, (f.project(f.of(params)) for f in factors), params.b, Columns)


def along_constraints(problem: Problem, params: Columns, gradient: Columns) -> Columns:
    """The part of a gradient along which an optimiser may step before it projects."""
    factors = problem.factors()
    return assembled(factors, (f.tangent(f.of(params), f.of(gradient)) for f in factors), gradient.b, Columns)


def _check_factor(factor: Factor) -> None:
    """Refuse a constraint that can't be, and weight decay on what has a fixed norm."""
    constraint = as_constraint(factor.side, factor.constraint)
    if factor.samples and constraint.fixed:
        raise ValueError(f"{factor.side} = Fixed: features are what is minimised over; only a classifier can be fixed")
    if factor.decay > 0 and not constraint.decays:
        raise ValueError(
            f"{factor.decay_name} = {factor.decay!r}: the norm of {factor.side} under {type(constraint).__name__} "
            f"is fixed, so its weight decay is a constant; {factor.decay_name} = 0 is needed"
        )
    if constraint.fixed and constraint.matrix.shape != factor.shape:
        raise ValueError(f"{factor.side} = Fixed of shape {constraint.matrix.shape}: {factor.shape} is needed")


@kept
def _compiled_risk(problem, params):
    return risk(problem, columns(params))


def _per_class(value: Any, num_classes: int) -> int | tuple[int, ...]:
    """One number as it is, so that a problem reads as it was written."""
    counts = counts_of("per_class", value, num_classes)
    return counts[0] if is_one_number(value) else counts


def _widths(value: Any) -> tuple[int, ...]:
    """Widths of hidden layers."""
    found = entries(value)
    if found is None:
        raise ValueError(f"widths = {shown(value)}: a tuple of integers of at least 1, one a hidden layer, is needed")
    return tuple(integer(f"widths[{j}]", width, least=1) for j, width in enumerate(found))


def _layer_decays(value: Any, count: int) -> float | tuple[float, ...]:
    """Weight decay of hidden layers: one number as it is, so that a problem reads as it was written."""
    found = entries(value)
    if found is None:
        return USUAL_DECAY if value is None else _decay("lambda_W", value)
    if len(found) != count:
        raise ValueError(f"lambda_W = {shown(value)}: one number, or {count} of them, one a hidden layer, are needed")
    return tuple(_decay(f"lambda_W[{j}]", decay) for j, decay in enumerate(found))


def _decay(name: str, value: Any) -> float:
    """A weight decay whose products and quotients with others neither overflow nor underflow."""
    decay = real(name, value, least=0.0)
    if decay and not SMALLEST_DECAY <= decay <= LARGEST_DECAY:
        raise ValueError(f"{name} = {decay!r}: 0 or a number from {SMALLEST_DECAY:g} to {LARGEST_DECAY:g} is needed")
    return decay


def relaxed_rank(problem: Problem) -> int:
    """Dimensions from which the convex relaxation over H Aᵀ is attained: d at least this, and no bad minimum exists."""
    K, free = problem.num_classes, problem.bias_kind == "free"
    of_outputs = K - bool(facts_of(problem.loss).convex and flat_of(problem.loss, K) is not None)
    return min(problem.num_groups - free, of_outputs)


def told(problem: Problem, groups: Any) -> Any:
    """What samples of these groups (n,) are told: labels (n,), or targets in columns (K, n)."""
    return groups if problem.targets is None else problem.group_targets[:, groups]


def class_means(problem: Problem, H: Any) -> np.ndarray:
    """(M, d) means of the features of each group, in float64."""
    starts = np.concatenate([[0], np.cumsum(problem.group_counts)[:-1]])
    return np.add.reduceat(np.asarray(H, np.float64), starts, axis=0) / problem.group_counts[:, None]
