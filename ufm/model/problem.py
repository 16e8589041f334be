"""What is minimised: a loss, weight decay and constraints over free features, classifier and bias."""

import dataclasses
import functools as ft
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from ufm._core.archive import storable
from ufm._core.arrays import Array, namespace_of, silent
from ufm._core.blas import one_thread
from ufm._core.blocks import few, fits
from ufm._core.checks import Integer, Real, doubles, flag, instance, integer, listed, numeric, real, room_for, shown
from ufm._core.precision import at_once, float64, is_traced
from ufm._core.programs import kept
from ufm._core.pytree import pytree, set_field, static
from ufm._core.repr import call, fields_of, unusual
from ufm.model.constraints import Constraint, Free, as_constraint, folds
from ufm.model.factors import Factor, squared_size
from ufm.model.losses import CrossEntropy, as_loss, check_loss, closed, facts_of
from ufm.model.params import Columns, Params, columns, rows
from ufm.model.streamed_loss import streamed_loss, weighted_losses

MOST_SAMPLES = 2**53  # that a float64 counts
SMALLEST_DECAY, LARGEST_DECAY = 1e-100, 1e100  # but for zero: squares of quotients stay finite


@storable
@pytree
class Problem:
    """An unconstrained features model.

    Minimise over features H (N, d), classifier A (K, d) and bias b (K,), with logits Z = H Aᵀ + 1bᵀ,

        f = (1/N) Σ_i w_{y_i} loss(Z_i, y_i) + λ_A/2 ‖A‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖².

    Shapes, kinds of loss, constraint and bias are static; every number (λ, smoothing, gamma, radius, class
    weight) is traced, so that changing it never compiles again.

    Samples that share a target and a weight are a group. Class labels make as many groups as classes; what solves and
    measures asks for `num_groups`, `group_counts`, `group_weights` and `group_labels` all the same.

    Args:
        num_classes: K ≥ 2.
        dim: d ≥ 1, the dimension of the features.
        per_class: samples of each class, one positive integer or K of them.
        loss: `CrossEntropy()`, `SquaredError()`, `LabelSmoothing(alpha)`, `Focal(gamma)`, `DotRegression(target)`,
            or any callable of (logits, label) that JAX can differentiate; it may declare facts and a conjugate (see
            `ufm.model.losses`).
        lambda_A: weight decay λ_A of the classifier; as the others 0, or from 1e-100 to 1e100.
        lambda_H: weight decay λ_H ≥ 0 of the features, per sample; papers that divide it by N or leave out
            the half differ.
        lambda_b: weight decay λ_b ≥ 0 of the bias; 0 leaves it free.
        bias: whether there is one.
        class_weights: K positive numbers w_k; None, the default, becomes ones. They are not normalised.
        features: where rows of H may be: `Free()`, `Sphere(radius)`, `Ball(radius)`, `MeanBall(radius)` or
            `Nonnegative()`.
        classifier: where rows of A may be: one of these, or `Fixed(matrix)`.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """

    num_classes: Integer = static()
    dim: Integer = static()
    _: dataclasses.KW_ONLY
    per_class: Integer | Sequence[int] | np.ndarray = static()
    loss: Any = CrossEntropy()
    lambda_A: Real = 5e-4
    lambda_H: Real = 5e-4
    lambda_b: Real = 0.0
    bias: bool = static(default=True)
    class_weights: ArrayLike | None = None
    features: Constraint = Free()
    classifier: Constraint = Free()
    bias_kind: str = static(default="", init=False)

    def __post_init__(self):
        set_field(self, "num_classes", integer("num_classes", self.num_classes, least=2))
        set_field(self, "dim", integer("dim", self.dim, least=1))
        room_for(f"num_classes = {self.num_classes}, dim = {self.dim}: A (K, d)", self.num_classes * (self.dim + 1))
        set_field(self, "per_class", _per_class(self.per_class, self.num_classes))
        set_field(self, "loss", as_loss(self.loss))
        check_loss(self.loss, self.num_classes)
        for name in ("lambda_A", "lambda_H", "lambda_b"):
            set_field(self, name, _decay(name, getattr(self, name)))
        set_field(self, "bias", flag("bias", self.bias))
        if self.lambda_b > 0 and not self.bias:
            raise ValueError(f"lambda_b = {self.lambda_b!r}: weight decay on a bias needs bias=True")
        set_field(self, "class_weights", _class_weights(self.class_weights, self.num_classes))
        for factor in self.factors():
            _check_factor(factor)
        set_field(self, "bias_kind", ("regularised" if self.lambda_b > 0 else "free") if self.bias else "none")

    def __repr__(self) -> str:
        shown = unusual(self, always=("loss", "lambda_A", "lambda_H"))
        return call("Problem", {k: v for k, v in shown.items() if k != "class_weights" or self._weighted()})

    def _to_file(self) -> dict[str, Any]:
        """What a file or a store says; weights that are ones as none, as in those of earlier versions."""
        return fields_of(self) | ({} if self._weighted() else {"class_weights": None})

    def _weighted(self) -> bool:
        """Whether a weight is, or may be, another than one."""
        return not isinstance(self.class_weights, np.ndarray) or bool(np.any(self.class_weights != 1.0))

    @property
    def class_counts(self) -> np.ndarray:
        """(K,) samples of each class."""
        counts: Any = self.per_class  # which the constructor made a number or a tuple
        return _class_counts(counts, self.num_classes)

    @property
    def num_groups(self) -> int:
        """M, groups of samples that share a target and a weight: with class labels the classes."""
        return self.num_classes

    @property
    def group_counts(self) -> np.ndarray:
        """(M,) samples of each group."""
        return self.class_counts

    @property
    def group_weights(self) -> Any:
        """(M,) weight of each group's samples, traced."""
        return self.class_weights

    @property
    def group_labels(self) -> np.ndarray:
        """(M,) int32 targets of the groups: labels, from 0 to K − 1."""
        return classes_in_order(self.num_groups)

    @property
    def num_samples(self) -> int:
        """N, samples in all."""
        return int(self.group_counts.sum())

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32 labels of samples: groups in order."""
        room_for(f"labels of {self.num_samples} samples", self.num_samples, itemsize=4)
        return np.repeat(self.group_labels, self.group_counts)

    @property
    def balanced(self) -> bool:
        """Whether all classes have equally many samples and one weight."""
        return bool(np.ptp(self.class_counts) == 0 and np.ptp(self.group_weights) == 0)

    def factors(self) -> tuple[Factor, ...]:
        """The factors of the logits in the order in which they multiply, H … Aᵀ: shapes, constraints, decays."""
        samples = self.num_samples, self.dim
        H = Factor("H", "features", "lambda_H", samples, self.features, self.lambda_H, self.group_counts)
        A = Factor("A", "classifier", "lambda_A", (self.num_classes, self.dim), self.classifier, self.lambda_A)
        return H, A

    def init(self, seed: Integer = 0, scale: Real = 1.0) -> Params:
        """Random feasible parameters: entries of H and A normal with variance scale²/d, no bias.

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
        spread = real("scale", scale, least=0.0) / np.sqrt(self.dim)
        H = spread * random.normal(size=(self.num_samples, self.dim))
        A = spread * random.normal(size=(self.num_classes, self.dim))
        drawn = Params(H, A, np.zeros(self.num_classes))
        with float64(), silent():
            ours = all(folds(factor.constraint) for factor in self.factors())
            drawn = drawn if ours else jax.tree.map(jnp.asarray, drawn)
            return jax.tree.map(np.asarray, rows(feasible(self, columns(drawn))))

    def check_room(self) -> None:
        """Refuse features (N, d) that memory can't hold, before it is tried."""
        N, d = self.num_samples, self.dim
        room_for(f"per_class = {shown(self.per_class)}, dim = {d}: features H of shape ({N}, {d})", N * d)

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
        numbers = self.num_samples * (self.num_classes + self.dim) + self.num_classes * self.dim
        return namespace_of(params) is np and few(numbers) and closed(self.loss)

    def check_params(self, params: Params) -> Params:
        """`params` as arrays of one precision, float64 where any is, where their shapes are the problem's.

        Lists, data frames and torch tensors are converted; traced arrays are left as they are.

        Raises:
            ValueError: naming the parameter that has another shape or no real numbers, with what is needed.
        """
        parts = tuple(instance("params", params, (tuple, list), "ufm.Params(H, A, b)"))
        if len(parts) not in (3, 4):
            raise ValueError(f"params of {len(parts)} parts: ufm.Params(H, A, b) is needed")
        shapes = {factor.name: factor.shape for factor in self.factors()} | {"b": (self.num_classes,)}
        if len(parts) == 4 and not (isinstance(parts[3], tuple | list) and len(parts[3]) == 0):
            raise ValueError(f"params.W = {shown(parts[3])}: (), since there are no hidden layers, is needed")
        checked: dict[str, Any] = {
            name: numeric(f"params.{name}", part) for name, part in zip(shapes, parts, strict=False)
        }
        for name, shape in shapes.items():
            if checked[name].shape != shape:
                raise ValueError(f"params.{name} of shape {checked[name].shape}: {shape} is needed")
        return Params(**_of_one_precision(checked))

    def finite_params(self, params: Params) -> Params:
        """`params` in float64, refused where one is NaN or infinite."""
        checked = self.check_params(params)
        names = (*(factor.name for factor in self.factors()), "b")
        return checked._replace(**{name: doubles(f"params.{name}", getattr(checked, name)) for name in names})


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


def with_values(problem: Any) -> Problem:
    """`problem` where it is one whose numbers are known; else a ValueError."""
    if is_traced(as_problem(problem)):
        raise ValueError(
            "problem is traced by JAX: one whose numbers have values is needed; inside jit, grad and vmap, "
            "problem.objective and ufm.dual_bound are what takes it"
        )
    return problem


def _of_one_precision(arrays: dict[str, Any]) -> dict[str, Any]:
    """NumPy arrays in float64 where one is, or holds whole numbers; float32 and traced ones as they are."""
    if all(array.dtype == np.float32 or isinstance(array, Tracer) for array in arrays.values()):
        return arrays
    return {
        name: array if isinstance(array, Tracer) else np.asarray(array, np.float64) for name, array in arrays.items()
    }


def risk(problem: Problem, params: Columns) -> Float[Array, ""]:
    """F at parameters in columns, in their namespace."""
    xp = namespace_of(problem, params)
    decay = squared_size(problem.factors(), params) + problem.lambda_b * xp.sum(params.b**2)
    if fits(problem.num_samples, problem.num_classes):
        return xp.mean(weighted_losses(problem, params, xp.asarray(problem.labels))) + 0.5 * decay
    return streamed_loss(params.H, params.A, params.b, problem) + 0.5 * decay


def feasible(problem: Problem, params: Columns) -> Columns:
    """The nearest parameters that keep the constraints."""
    return params._replace(**{f.name: f.project(getattr(params, f.name)) for f in problem.factors()})


def along_constraints(problem: Problem, params: Columns, gradient: Columns) -> Columns:
    """The part of a gradient along which an optimiser may step before it projects."""
    return gradient._replace(
        **{f.name: f.tangent(getattr(params, f.name), getattr(gradient, f.name)) for f in problem.factors()}
    )


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
    if isinstance(value, numbers.Number) or getattr(value, "ndim", None) == 0:
        return integer("per_class", value, least=1, most=MOST_SAMPLES // num_classes)
    needed = f"a positive integer, or {num_classes} of them,"
    counts = listed("per_class", value, needed)
    if len(counts) != num_classes:
        raise ValueError(f"per_class = {shown(value)}: {needed} is needed")
    return tuple(integer("per_class", count, least=1, most=MOST_SAMPLES // num_classes) for count in counts)


def _decay(name: str, value: Any) -> float:
    """A weight decay whose products and quotients with others neither overflow nor underflow."""
    decay = real(name, value, least=0.0)
    if decay and not SMALLEST_DECAY <= decay <= LARGEST_DECAY:
        raise ValueError(f"{name} = {decay!r}: 0 or a number from {SMALLEST_DECAY:g} to {LARGEST_DECAY:g} is needed")
    return decay


def _class_weights(value: Any, num_classes: int) -> np.ndarray:
    if value is None or _is_unsaid(value):
        return np.broadcast_to(1.0, num_classes)
    needed = f"{num_classes} positive, finite numbers"
    weights = doubles("class_weights", value, (num_classes,), needed)
    if not np.all(weights > 0):
        raise ValueError(f"class_weights = {shown(value)}: {needed} are needed")
    if np.all(weights == 1.0):
        return np.broadcast_to(1.0, num_classes)
    return weights.copy()  # what the caller's array becomes is none of the problem's business


def _is_unsaid(weights: Any) -> bool:
    """Whether these are the ones that None became: `dataclasses.replace` hands them over for other classes too."""
    repeated = isinstance(weights, np.ndarray) and weights.size > 0 and weights.strides == (0,)
    return repeated and bool(np.all(weights == 1.0))


def relaxed_rank(problem: Problem) -> int:
    """Dimensions from which the convex relaxation over H Aᵀ is attained: d at least this, and no bad minimum exists."""
    facts = facts_of(problem.loss)
    centred = (facts.convex and facts.ignores_shift) or problem.bias_kind == "free"
    return problem.num_classes - bool(centred)


def class_means(problem: Problem, H: Any) -> np.ndarray:
    """(M, d) means of the features of each group, in float64."""
    starts = np.concatenate([[0], np.cumsum(problem.group_counts)[:-1]])
    return np.add.reduceat(np.asarray(H, np.float64), starts, axis=0) / problem.group_counts[:, None]
