"""What a prediction costs: a loss takes one sample's logits and its target, and JAX differentiates it.

A target is a label, a whole number, or a row of real numbers, one for each logit: soft labels, several labels, values
to regress. A loss is a small frozen pytree with `__call__(logits, label)`, where `label` is a target of whichever kind
the loss `takes`. It may declare facts (`Facts`), from which rigorous lower bounds follow, and beside them

- `slope(logits, label)`, its gradient, where that is better known than derived;
- `conjugate(slope, label)`, its Fenchel conjugate, from which tighter bounds follow;
- `curvature(logits, label)`, a diagonal d and a vector q with ∇² = diag d − q qᵀ, which find a best bias faster;
- `soft_target(label, num_classes)`, where its conjugate is finite on the simplex about another target than e_y, or
  the row;
- `flat(num_classes)`, a direction (K,) along which logits can be moved at no change of the loss, whatever the target;
  of a loss that `ignores_shift` it is that of ones;
- `along(lead, num_classes)` and `steepest(num_classes)`, where it isn't convex: the line on which it is least on
  balanced classes (`Focal` says what they promise).

Any function or object of one sample's (logits, label) serves too, with the same as attributes: one of (logits, row)
where it says `takes = "row"`, or "both". Everything works without the optional parts; what cannot be certified then
says so. Who inherits from a loss of ours and writes another formula inherits none of its facts and methods, which are
of ours alone.

Losses of ours are written against the namespace of their arguments: NumPy computes what JAX traces. Those that are
convex and treat all wrong classes alike have a form in which one logit stands for several classes, `on_sizes` and
`conjugate_on_sizes`; and where they take rows the same for one class each, `on_rows`, the right class being that of the
row's largest entry. One that is such a loss of scaled logits declares its `scaling` instead, and what its conjugate
adds up beside slopes times logits, `conjugate_size`. Of a user's loss these are not used, since nothing would say that
they are of the same loss.
"""

import contextlib
import functools as ft
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ufm._core.archive import Absent, storable
from ufm._core.arrays import Array, mapped, namespace, silent
from ufm._core.checks import Real, array_of, choice, function, instance, number, numeric, real, shown
from ufm._core.precision import at_once, is_traced
from ufm._core.pytree import check_flags, check_static, pytree, set_field, static
from ufm.model.entropies import (
    Targets,
    are_rows,
    both_of_rows,
    conjugate_of_rows,
    cross_entropy,
    cross_entropy_of_rows,
    curvature_of_rows,
    logits_of_rows,
    logsumexp,
    negative_entropy,
    odds,
    one_hot,
    slope_of_rows,
    softmax,
    true_logit,
    x_log_x,
)

Kind = TypeVar("Kind", bound=type)
ON_SIZES = "on_sizes", "conjugate_on_sizes"  # of classes that are alike
OURS: list[type] = []  # losses of ours, each of which says so
OPTIONAL = (
    "slope",
    "conjugate",
    "curvature",
    "soft_target",
    "flat",
    *ON_SIZES,
    "along",
    "steepest",
)  # methods that a loss may have
FORMULAS = "__call__", "of_columns"  # methods of which one computes a loss
TAKES = "label", "row", "both"  # what a loss says of its targets
NO_FLAGS = "takes", "infimum"  # facts that are no truth values
DIFFERENCE = 5e-6  # of a logit, of which a curvature is a quotient where none is declared


class Facts(NamedTuple):
    """What a loss declares of itself; the defaults are those of a user's loss that declares nothing.

    Attributes:
        takes: "label", "row" or "both", which targets it is of.
        convex: in the logits.
        infimum: greatest lower bound of one sample's loss, a number or a function of the number of classes; of a row
            it counts only where no conjugate tells that row's own (`infima`).
        attained: whether that is a minimum, as a square's is, so that a value may be it up to rounding.
        keeps_digits: whether loss and conjugate keep their relative accuracy where they vanish.
        falls_exponentially: whether it vanishes like exp(−margin), or at another rate in it, so that its logarithm is
            what can be minimised where all norms are bounded.
        one_rate: whether, where it falls exponentially, it does so at one rate in all margins z_y − z_k, so that
            without weight decay logits turn to the hard margin of `ufm.max_margin`.
        ignores_shift: whether adding one number to all logits changes nothing.
        conjugate_on_simplex: whether the conjugate is finite exactly where slope + target is a probability vector; the
            target is e_y unless a `soft_target` says otherwise. Of a row: where it is not negative, and has the row's
            sum. A row that itself is neither has no least loss, and is refused.
    """

    takes: Any = "label"
    convex: Any = False
    infimum: Any = -np.inf
    attained: Any = False
    keeps_digits: Any = False
    falls_exponentially: Any = False
    one_rate: Any = True
    ignores_shift: Any = False
    conjugate_on_simplex: Any = False


class SizeLoss(NamedTuple):
    """R samples' losses and derivatives, each sample with a right logit and E kinds of wrong ones, in NumPy float64.

    A kind stands for `alike` (R, E) classes of equal logits: a real number, 0 where there are none. Slopes and second
    derivatives are those of one class each: of the right one, and of one of a kind.

    Attributes:
        value: (R,) losses.
        right: (R,) slope of the right logit.
        wrong: (R, E) slope of a wrong one.
        curvature: (R,) second derivative of the right logit, ℓ_yy.
        diagonal: (R, E) d, of the second derivatives ℓ_jk = δ_jk d_j − q_j q_k between wrong ones.
        factor_right: (R,) q_y, of the second derivatives ℓ_yj = −q_y q_j.
        factor: (R, E) q.
    """

    value: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    curvature: np.ndarray
    diagonal: np.ndarray
    factor_right: np.ndarray
    factor: np.ndarray


class SizeConjugate(NamedTuple):
    """Conjugates (R,) at slopes of one class each, and the logits, right (R,) and wrong (R, E), that have the slopes.

    They are the slopes of the conjugate; −∞ where a slope is one at the boundary of what slopes can be.
    """

    value: np.ndarray
    right: np.ndarray
    wrong: np.ndarray


def facts_of(loss: Any) -> Facts:
    """What a loss declares, whoever wrote it."""
    return Facts(*(fact_of(loss, name) for name in Facts._fields))


def fact_of(loss: Any, name: str) -> Any:
    """One of the facts that a loss declares."""
    usual = Facts._field_defaults[name]
    return usual if _of_another(loss, name) else getattr(loss, name, usual)


def declares(loss: Any, name: str) -> bool:
    """Whether a loss has one of the methods that are optional; a number of that name is a user's own parameter."""
    return callable(getattr(loss, name, None)) and not _is_missing(type(loss), name) and not _of_another(loss, name)


def _of_another(loss: Any, name: str) -> bool:
    """Whether a declaration is inherited from a loss of ours whose formula was replaced, of which it says nothing."""
    return name not in getattr(loss, "__dict__", ()) and _inherits_from_another(type(loss), name)


@ft.lru_cache(maxsize=1024)  # asked for each of a thousand problems
def _inherits_from_another(kind: type, name: str) -> bool:
    owner = _first(kind, name, f"{name}_of_columns")
    replaced = (ours for ours in OURS if issubclass(kind, ours) and not _has_formula_of(kind, ours))
    return owner is not None and any(issubclass(ours, owner) for ours in replaced)


@ft.lru_cache(maxsize=1024)
def _is_missing(kind: type, name: str) -> bool:
    """Whether a loss that inherits from one without formulas has none of that name."""
    return _first(kind, name, f"{name}_of_columns") in (Loss, ConvexLoss)


def is_one_of(loss: Any, *kinds: type) -> bool:
    """Whether a loss is an instance of one of the kinds, and no other formula where that is one of ours."""
    return any(isinstance(loss, kind) and (kind not in OURS or _has_formula_of(type(loss), kind)) for kind in kinds)


def _has_formula_of(kind: type, ours: type) -> bool:
    return _first(kind, *FORMULAS) is _first(ours, *FORMULAS)


def ours(kind: Kind) -> Kind:
    """Say of a class that it is a loss of ours: NumPy computes it, and what it declares is true."""
    OURS.append(kind)
    return kind


def _first(kind: type, *names: str) -> type | None:
    """The class, or the nearest above it, whose own body has one of the names."""
    return next((each for each in kind.__mro__ if any(name in vars(each) for name in names)), None)


class Loss:
    """A loss of ours: of many samples at once, whose classes run over the last axis as anywhere outside.

    What is computed is written with classes first, so that softmax vectorises over samples: `of_columns`,
    `slope_of_columns` and `curvature_of_columns` take logits (K, ...) and labels (...), `conjugate_of_columns` slopes.
    Where a loss takes rows, `label` is (K, ...) then, of the type of the logits. The attributes are those of `Facts`,
    with its defaults.
    """

    takes: str = "label"
    convex: bool = False
    infimum: Any = -np.inf
    attained: bool = False
    keeps_digits: bool = False
    falls_exponentially: bool = False
    one_rate: bool = True
    ignores_shift: bool = False
    conjugate_on_simplex: bool = False

    def check_classes(self, num_classes: int) -> None:
        """Refuse a number of classes that its own numbers aren't of."""

    def __call__(self, logits: ArrayLike, label: ArrayLike) -> Any:
        """Loss (...) of each sample from logits (..., K) and targets; traceable, and in float64 where logits are.

        Args:
            logits: (..., K).
            label: labels (...), whole numbers from 0 to K − 1; or, of a loss that takes them, rows of real numbers
                (..., K).

        Raises:
            ValueError: where the targets are neither, or, as far as their values are known, no labels from 0 to K − 1
                or no rows that the loss is of.
        """
        return _classes_last(self, self.of_columns, logits, label)

    def of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Loss of each sample, classes first."""
        raise NotImplementedError

    def slope(self, logits: ArrayLike, label: ArrayLike) -> Any:
        """Gradient (..., K) in the logits (..., K), in closed form.

        Raises:
            ValueError: as of the loss.
        """
        return _classes_last(self, self.slope_of_columns, logits, label, out=-1)

    def slope_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "K ..."]:
        """The gradient, classes first."""
        raise NotImplementedError

    def both_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Loss and gradient, which may share their work."""
        return self.of_columns(logits, label), self.slope_of_columns(logits, label)


class ConvexLoss(Loss):
    """A convex loss whose Fenchel conjugate and second derivative are known."""

    convex = True

    def conjugate(self, slope: ArrayLike, label: ArrayLike) -> Any:
        """sup over z of ⟨slope, z⟩ − loss(z, label), (...) for slopes (..., K) and targets.

        Raises:
            ValueError: as of the loss.
        """
        return _classes_last(self, self.conjugate_of_columns, slope, label)

    def conjugate_of_columns(self, slope: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """The conjugate, classes first."""
        raise NotImplementedError

    def logits_of_columns(self, slope: Float[np.ndarray, "K ..."], rows: Float[np.ndarray, "K ..."]) -> np.ndarray:
        """Logits at which the loss of rows has a slope, in NumPy: the conjugate's gradient; −∞ at its boundary."""
        raise NotImplementedError

    def curvature(self, logits: ArrayLike, label: ArrayLike) -> tuple[Any, Any]:
        """A diagonal d and a vector q, (..., K) each, with ∇² = diag d − q qᵀ in the logits (..., K).

        Raises:
            ValueError: as of the loss.
        """
        return _classes_last(self, self.curvature_of_columns, logits, label, out=-1)

    def curvature_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Diagonal and vector, classes first."""
        raise NotImplementedError


def _check_target(loss: Any, values: Any, target: Any) -> None:
    """Refuse what is neither a label for each row of numbers (..., K), nor a row where the loss takes rows."""
    shape, takes = jnp.shape(values), fact_of(loss, "takes")
    if shape:
        loss.check_classes(shape[-1])
    if not are_rows(target) and takes != "row" and target.shape == shape[:-1] != shape:
        _check_labels(target, shape[-1])
    elif are_rows(target) and takes != "label" and target.shape == shape != ():
        check_rows("label", loss, _known(target))
    else:
        raise ValueError(
            f"label of shape {target.shape} and type {target.dtype}: {_needed(takes, shape)}, is needed; "
            f"the numbers are of shape {shape}, (..., K)"
        )


def _needed(takes: str, shape: tuple[int, ...]) -> str:
    """The targets that a loss takes beside numbers of a shape (..., K)."""
    label = f"a whole number for each row of numbers, of shape {shape[:-1]}"
    row = f"a row of floats for each, of shape {shape}"
    alone = f"{label} (the loss takes labels alone)"
    return {"label": alone, "row": f"{row} (the loss takes rows alone)", "both": f"{label}, or {row}"}[takes]


def _known(target: Any) -> np.ndarray:
    """Targets as an array with values; empty where JAX traces them."""
    return np.zeros((0, 1)) if is_traced(target) else np.asarray(target)


def _check_labels(label: Any, num_classes: int) -> None:
    """Refuse labels that are no class, where JAX doesn't trace them; what 32 bits can't hold would wrap to another."""
    known = _known(label)
    if known.size and not 0 <= known.min() <= known.max() < num_classes:
        wrong = known.min() if known.min() < 0 else known.max()
        raise ValueError(f"label = {wrong}: a class from 0 to {num_classes - 1} is needed")


def check_rows(name: str, loss: Any, rows: Float[np.ndarray, "... K"]) -> None:
    """Refuse rows of targets whose loss has no least value, or is nothing.

    Raises:
        ValueError: naming a row that is not finite or, where the loss's conjugate is finite on a simplex about it, has
            a negative entry or no positive one.
    """
    legal, needed = np.isfinite(rows).all(axis=-1), "finite numbers"
    if fact_of(loss, "conjugate_on_simplex"):
        legal &= (rows >= 0).all(axis=-1) & (rows > 0).any(axis=-1)
        needed = "finite numbers of at least 0, one of them positive,"
    if not legal.all():
        raise ValueError(f"{name} with a row {shown(rows[~legal][0].tolist())}: {needed} are needed")


def _classes_last(loss: Any, of_columns: Callable, values: Any, target: Any, out: Any = None) -> Any:
    """A loss's function of columns at rows (..., K): traced, or at once in the precision of what is given.

    Results keep their shape (...), or have classes (`out` = -1) last too.
    """
    values, target = array_of("logits", values), numeric("label", target)
    _check_target(loss, values, target)
    traced = is_traced(loss, values, target)
    xp = jnp if traced else np
    if not traced:
        values, target = np.asarray(values), np.asarray(target)
    if not xp.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float32)
    with contextlib.nullcontext() if traced else at_once(values), silent():
        if are_rows(target):
            target = xp.moveaxis(target, -1, 0).astype(values.dtype)
        found = of_columns(xp.moveaxis(values, -1, 0), target)
        found = found if out is None else jax.tree.map(lambda part: xp.moveaxis(part, 0, out), found)
        return found if traced else jax.tree.map(lambda part: np.asarray(part)[()], found)


@ours
@storable
@pytree
class CrossEntropy(ConvexLoss):
    """log Σ_j exp z_j − z_y. Dimensionless (nats), convex, infimum 0 (not attained).

    Of a row T ≥ 0 of mass τ = Σ_k T_k it is −Σ_k T_k log p_k = τ log Σ_j exp z_j − ⟨T, z⟩, p the softmax: a mass is a
    weight. Its infimum is then Σ_k T_k log(τ/T_k), the entropy where τ = 1.
    """

    takes = "both"
    infimum = 0.0
    keeps_digits = falls_exponentially = ignores_shift = conjugate_on_simplex = True

    def of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Loss of each sample, with all its digits where it is small."""
        return cross_entropy_of_rows(logits, label) if are_rows(label) else cross_entropy(logits, label)

    def slope_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "K ..."]:
        """Softmax less e_y, with all digits of both where the loss is small; of a row τ p − T."""
        return slope_of_rows(logits, label) if are_rows(label) else odds(logits, label).slope

    def both_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Loss and gradient of the same exponentials."""
        if are_rows(label):
            return both_of_rows(logits, label)
        at_label = odds(logits, label)
        return at_label.value, at_label.slope

    def conjugate_of_columns(self, slope: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Σ q log q at q = slope + e_y where q is a probability vector, elsewhere +∞; with all digits near q = e_y.

        Of a row it is Σ q log(q/τ) at q = slope + T ≥ 0 of mass τ.
        """
        if are_rows(label):
            return conjugate_of_rows(slope, label)
        right = true_logit(slope, label)
        xp = namespace(slope, label)
        wrong = negative_entropy(xp.where(one_hot(slope, label, bool), 0.0, slope))
        positive = xp.where(right > -1.0, right, 0.0)
        inside = xp.where(right > -1.0, (1.0 + positive) * xp.log1p(positive), 0.0)
        return wrong + xp.where(right < -1.0, xp.inf, inside)

    def logits_of_columns(self, slope: Float[np.ndarray, "K ..."], rows: Float[np.ndarray, "K ..."]) -> np.ndarray:
        """log q, q = slope + T."""
        return logits_of_rows(slope, rows)

    def curvature_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Twice the softmax p: ∇² = diag p − p pᵀ; of a row τ p and √τ p."""
        return curvature_of_rows(logits, label) if are_rows(label) else (softmax(logits),) * 2

    def on_sizes(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray) -> SizeLoss:
        """With all digits where it is small, as the slopes are."""
        return _cross_entropy_on_sizes(right, wrong, alike)

    def on_rows(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray, rows: np.ndarray) -> SizeLoss:
        """A label's, and what is linear in the logits."""
        return _cross_entropy_on_rows(right, wrong, alike, rows)

    def conjugate_on_sizes(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray) -> SizeConjugate:
        """Σ q log q, with all digits near q = e_y."""
        inside, wrong = right > -1.0, np.where(alike > 0, wrong, 0.0)
        logit = np.log1p(right, out=np.full_like(right, -np.inf), where=inside)
        value = np.where(inside, (1.0 + right) * np.where(inside, logit, 0.0), np.where(right < -1.0, np.inf, 0.0))
        others, logits = _negative_entropy_on_sizes(wrong, alike)
        return SizeConjugate(value + others, logit, logits)


@ours
@storable
@pytree
class LabelSmoothing(ConvexLoss):
    """Cross-entropy to the targets (1−α) e_y + α/K (Szegedy et al. 2016). Convex; its infimum is their entropy.

    Of a row T of mass τ it is cross-entropy to the row (1−α) T + α τ/K.

    Args:
        alpha: α in [0, 1), dimensionless.
    """

    alpha: Real = 0.1
    takes = "both"
    ignores_shift = conjugate_on_simplex = True

    def __post_init__(self):
        set_field(self, "alpha", real("alpha", self.alpha, least=0.0, below=1.0))

    def of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Loss of each sample."""
        if are_rows(label):
            return cross_entropy_of_rows(logits, self._smoothed(label))
        smooth, sharp = self._weights(logits)
        return logsumexp(logits) - sharp * true_logit(logits, label) - smooth * logits.sum(axis=0)

    def slope_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "K ..."]:
        """Softmax less the targets."""
        if are_rows(label):
            return slope_of_rows(logits, self._smoothed(label))
        smooth, sharp = (_of_all_classes(number, logits) for number in self._weights(logits))
        return softmax(logits) - sharp * one_hot(logits, label) - smooth

    def both_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Loss and gradient, of rows of the same exponentials."""
        if are_rows(label):
            return both_of_rows(logits, self._smoothed(label))
        return super().both_of_columns(logits, label)

    def infimum(self, num_classes: int) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Entropy of a label's targets, in nats."""
        smooth = self.alpha / num_classes
        right = 1.0 - self.alpha + smooth
        return -x_log_x(right) - (num_classes - 1) * x_log_x(smooth)

    def conjugate_of_columns(self, slope: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Σ q log q at q = slope + target where q is a probability vector, elsewhere +∞; of rows as cross-entropy."""
        if are_rows(label):
            return conjugate_of_rows(slope, self._smoothed(label))
        smooth, sharp = self._weights(slope)
        return negative_entropy(slope + sharp * one_hot(slope, label) + smooth)

    def logits_of_columns(self, slope: Float[np.ndarray, "K ..."], rows: Float[np.ndarray, "K ..."]) -> np.ndarray:
        """As of cross-entropy."""
        return logits_of_rows(slope, self._smoothed(rows))

    def soft_target(self, label: Int[Array, ""] | Float[Array, " K"], num_classes: int) -> Any:
        """(1−α) e_y + α/K, (K,) for one label; (1−α) T + α τ/K for one row."""
        if np.ndim(label):
            return self._smoothed(label)
        smooth = self.alpha / num_classes
        xp = namespace(label, smooth)
        return xp.where(xp.arange(num_classes) == label, 1.0 - self.alpha + smooth, smooth)

    def curvature_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """As of cross-entropy: the targets are linear in the logits."""
        return CrossEntropy().curvature_of_columns(logits, label)

    def _smoothed(self, rows):
        """(1−α) T + α τ/K (K, ...)."""
        smooth, sharp = (_of_all_classes(number, rows) for number in self._weights(rows))
        return sharp * rows + smooth * rows.sum(axis=0)[None]

    def _weights(self, logits):
        alpha = namespace(logits, self.alpha).asarray(self.alpha, logits.dtype)
        return alpha / logits.shape[0], 1.0 - alpha

    def on_sizes(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray) -> SizeLoss:
        """Cross-entropy and what is linear in the logits."""
        alpha, K = self.alpha, 1.0 + np.sum(alike, axis=1)
        sharp = _cross_entropy_on_sizes(right, wrong, alike)
        mean = (right + np.sum(alike * wrong, axis=1)) / K
        return sharp._replace(
            value=sharp.value + alpha * (right - mean),
            right=sharp.right + alpha * (1.0 - 1.0 / K),
            wrong=sharp.wrong - (alpha / K)[:, None],
        )

    def on_rows(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray, rows: np.ndarray) -> SizeLoss:
        """As of cross-entropy."""
        return _cross_entropy_on_rows(right, wrong, alike, self._smoothed(rows.T).T)

    def conjugate_on_sizes(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray) -> SizeConjugate:
        """Σ q log q."""
        smooth = self.alpha / (1.0 + np.sum(alike, axis=1))
        right = right + (1.0 - self.alpha + smooth)
        value, logit = _negative_entropy_on_sizes(right[:, None], np.ones((len(right), 1)))
        others, logits = _negative_entropy_on_sizes(np.where(alike > 0, wrong + smooth[:, None], 0.0), alike)
        return SizeConjugate(value + others, logit[:, 0], logits)


@ours
@storable
@pytree
class Focal(Loss):
    """−(1−p_y)^γ log p_y with p the softmax (Lin et al. 2017). Not convex for γ > 0; infimum 0. Takes labels alone.

    Args:
        gamma: γ ≥ 0, dimensionless; 0 is cross-entropy.
    """

    gamma: Real = 2.0
    infimum = 0.0
    falls_exponentially = ignores_shift = True

    def __post_init__(self):
        set_field(self, "gamma", real("gamma", self.gamma, least=0.0))

    def of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Loss of each sample."""
        surprise, log_wrong, _ = self._parts(logits, label)
        return namespace(logits, label).exp(self._gamma(logits) * log_wrong) * surprise

    def slope_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "K ..."]:
        """(1−p_y)^γ (p − e_y − γ log p_y (q − p)), with q the softmax of the wrong classes alone."""
        return self.both_of_columns(logits, label)[1]

    def both_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Loss and gradient of the same logarithms."""
        surprise, log_wrong, wrong = self._parts(logits, label)
        xp, gamma, p = namespace(logits, label), self._gamma(logits), softmax(logits)
        along = (gamma * surprise)[None] * (softmax(wrong) - p)
        damping = xp.exp(gamma * log_wrong)
        return damping * surprise, damping[None] * (odds(logits, label).slope + along)

    def _parts(self, logits, label):
        """−log p_y, log(1 − p_y), and the logits with −∞ for the right one."""
        log_all = logsumexp(logits)
        wrong = namespace(logits, label).where(one_hot(logits, label, bool), -np.inf, logits)
        # log(1 − p) from the wrong classes' own sum keeps its digits where p is close to 1
        return log_all - true_logit(logits, label), logsumexp(wrong) - log_all, wrong

    def _gamma(self, logits):
        return namespace(logits, self.gamma).asarray(self.gamma, logits.dtype)

    def along(self, lead: Any, num_classes: int) -> Any:
        """The loss φ(t) where the right logit leads K − 1 equal ones by t = `lead` (NumPy, float64); it decreases.

        Who declares it promises what Zhou et al. (2022) prove of the focal loss: balanced classes, weighted by w, with
        free factors and without a bias are nowhere below w min_t φ(t) + κ (K − 1) t, κ = √(λ_A λ_H n).
        """
        surprise = np.log1p((num_classes - 1) * np.exp(-lead))
        log_wrong = np.log(num_classes - 1.0) - np.logaddexp(np.log(num_classes - 1.0), lead)
        return np.exp(self.gamma * log_wrong) * surprise

    def steepest(self, num_classes: int) -> float:
        """The price of a unit of lead, κ (K − 1)/w, below which a bias lowers the least value on the line by nothing.

        It is −φ'(0), and no more than the slope 1 of the loss where the lead is negative and large.
        """
        wrong = 1.0 - 1.0 / num_classes
        return min(1.0, wrong**self.gamma * (wrong + self.gamma * np.log(num_classes) / num_classes))


@ours
@storable
@pytree
class SquaredError(ConvexLoss):
    """½‖z − e_y‖². Convex, infimum 0, attained; a library's mean over N·K entries is 2/K times ours.

    Of a row T of any real numbers it is ½‖z − T‖².
    """

    takes = "both"
    infimum = 0.0
    attained = keeps_digits = True

    def of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Loss of each sample."""
        return 0.5 * (self.slope_of_columns(logits, label) ** 2).sum(axis=0)

    def slope_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "K ..."]:
        """Logits less e_y, or the row."""
        return logits - (label if are_rows(label) else one_hot(logits, label))

    def conjugate_of_columns(self, slope: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """½‖slope‖² + slope_y; of a row ½‖slope‖² + ⟨slope, T⟩."""
        along = (slope * label).sum(axis=0) if are_rows(label) else true_logit(slope, label)
        return 0.5 * (slope**2).sum(axis=0) + along

    def logits_of_columns(self, slope: Float[np.ndarray, "K ..."], rows: Float[np.ndarray, "K ..."]) -> np.ndarray:
        """The row itself, but for the slope."""
        return slope + rows

    def curvature_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Ones and zeros: ∇² is the identity."""
        xp = namespace(logits)
        return xp.ones_like(logits), xp.zeros_like(logits)

    def on_sizes(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray) -> SizeLoss:
        """½(z_y − 1)² and the others' squares."""
        missing, (one, none) = right - 1.0, (np.ones_like(wrong), np.zeros_like(wrong))
        value = 0.5 * (missing**2 + np.sum(alike * wrong**2, axis=1))
        return SizeLoss(value, missing, wrong, np.ones_like(right), one, np.zeros_like(right), none)

    def on_rows(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray, rows: np.ndarray) -> SizeLoss:
        """½‖z − T‖²."""
        missed, own = alike * (wrong - rows), right - np.sum((1.0 - alike) * rows, axis=1)
        value = 0.5 * (own**2 + np.sum(missed**2, axis=1))
        one, none = np.ones_like(wrong), np.zeros_like(wrong)
        return SizeLoss(value, own, missed, np.ones_like(own), one, np.zeros_like(own), none)

    def conjugate_on_sizes(self, right: np.ndarray, wrong: np.ndarray, alike: np.ndarray) -> SizeConjugate:
        """½‖slope‖² + slope_y."""
        value = 0.5 * (right**2 + np.sum(alike * wrong**2, axis=1)) + right
        return SizeConjugate(value, right + 1.0, wrong)


@ours
@storable
@pytree
class DotRegression(ConvexLoss):
    """(z_y − target)²/(2 target): pulls the right logit to a target and sees no other (Yang et al. 2022).

    With a fixed ETF classifier of norms √E_A and features of norms √E_H the target is √(E_A E_H). Convex, infimum 0,
    attained. Takes labels alone.

    Args:
        target: a positive number, in the unit of the logits.
    """

    target: Real = 1.0
    infimum = 0.0
    attained = keeps_digits = True

    def __post_init__(self):
        set_field(self, "target", real("target", self.target, above=0.0))

    def of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Loss of each sample."""
        target = self._target(logits)
        return (true_logit(logits, label) - target) ** 2 / (2 * target)

    def slope_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "K ..."]:
        """e_y (z_y − target)/target."""
        target = self._target(logits)
        return one_hot(logits, label) * ((true_logit(logits, label) - target) / target)[None]

    def conjugate_of_columns(self, slope: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Target · (s + s²/2) at s = slope_y where all other slopes are zero, elsewhere +∞."""
        xp, target, right = namespace(slope, label), self._target(slope), true_logit(slope, label)
        elsewhere = xp.any((slope != 0) & ~one_hot(slope, label, bool), axis=0)
        return xp.where(elsewhere, xp.inf, target * (right + right**2 / 2))

    def curvature_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """The right logit's alone: ∇² = e_y e_yᵀ/target."""
        return one_hot(logits, label) / self._target(logits), namespace(logits).zeros_like(logits)

    def _target(self, logits):
        return namespace(logits, self.target).asarray(self.target, logits.dtype)


@storable
@pytree
class Custom:
    """A user's loss that is no pytree of its own: a function, or any object, of one sample's logits and target.

    Its facts, and what else it declares, are its own attributes where it has them.
    """

    function: Callable | Any = static()

    def __call__(self, logits: Float[Array, " K"], label: Int[Array, ""] | Float[Array, " K"]) -> Any:
        """Loss of one sample."""
        return self.function(logits, label)

    def __getattr__(self, name: str) -> Any:
        if name in Facts._fields:
            return getattr(facts_of(self.function), name)
        if name in OPTIONAL and declares(self.function, name):  # which a loss has or hasn't
            return getattr(self.function, name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}")


def as_loss(loss: Any) -> Any:
    """`loss` as a pytree: a bare callable is wrapped.

    Raises:
        ValueError: where it is not callable, or has no hash by which its programs could be kept.
    """
    function("loss", loss, "an instance such as ufm.CrossEntropy(), or any callable of (logits, label),")
    if not jax.tree_util.all_leaves([loss]):
        return loss
    instance("loss", loss, Hashable, "a hashable object, such as a frozen dataclass,")
    return Custom(loss)


def check_loss(loss: Any, num_classes: int, *, rows: bool = False) -> None:
    """Try a user's loss on shapes, and what it declares; nothing is computed or compiled.

    Args:
        loss: as `as_loss` gives it.
        num_classes: K.
        rows: whether targets are rows, and not labels.

    Raises:
        ValueError: where it takes the other kind of targets, isn't one number a sample that JAX can differentiate, or
            declares what can't be.
    """
    written = loss.function if isinstance(loss, Custom) else loss
    if isinstance(written, Absent):
        return
    _check_takes(loss, written, "row" if rows else "label")
    if type(loss) in OURS:
        loss.check_classes(num_classes)
        return
    check_static("loss", loss, ["takes"])
    leaves, structure = jax.tree.flatten(loss)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    fault = _fault(structure, shapes, num_classes, jnp.result_type(float), rows)
    if fault:
        raise ValueError(f"loss = {shown(written)}: {fault}")
    facts = facts_of(loss)
    check_flags("loss", loss, {name: fact for name, fact in facts._asdict().items() if name not in NO_FLAGS})
    bound = infimum(loss, num_classes)
    if isinstance(bound, Tracer):
        return
    if not number("loss.infimum", bound) < np.inf:
        raise ValueError(f"loss.infimum = {shown(bound)}: a number below which the loss never is, or −∞, is needed")
    if facts.attained and not bound > -np.inf:
        raise ValueError("loss.attained = True: the infimum that is attained is needed as loss.infimum")


def _check_takes(loss: Any, written: Any, kind: str) -> None:
    """Refuse a loss that takes no targets of a kind."""
    takes = choice("loss.takes", fact_of(loss, "takes"), TAKES)
    if takes not in (kind, "both"):
        given = {"label": "the targets are labels", "row": "the targets are rows"}[kind]
        raise ValueError(
            f"loss = {shown(written)}: it takes {takes}s alone, and {given}; another loss, or one that declares "
            f'takes = "{kind}" or "both", is needed'
        )


@ft.lru_cache(maxsize=64)
def _fault(structure, shapes, num_classes: int, dtype, rows: bool) -> str:
    """What is wrong with a loss of these leaves; empty where nothing is."""
    count = num_classes + 1  # of samples: another number than that of classes
    logits = jax.ShapeDtypeStruct((num_classes, count), dtype)
    targets = logits if rows else jax.ShapeDtypeStruct((count,), np.int32)

    def of(evaluate):
        return lambda logits, leaves, targets: evaluate(structure.unflatten(leaves), logits, targets)

    try:
        told = {"it": jax.eval_shape(of(per_sample), logits, shapes, targets)}
        if declares(structure.unflatten(shapes), "conjugate"):
            told["its conjugate"] = jax.eval_shape(of(per_sample_conjugate), logits, shapes, targets)
        if declares(structure.unflatten(shapes), "slope"):
            found = jax.eval_shape(of(per_sample_slope), logits, shapes, targets)
            if getattr(found, "shape", None) != logits.shape:
                return f"of {count} samples its slope gives {found}; a vector of one entry a class is needed"
        if declares(structure.unflatten(shapes), "curvature"):
            pair = jax.eval_shape(of(per_sample_curvature), logits, shapes, targets)
            if [getattr(part, "shape", None) for part in jax.tree.leaves(pair)] != [(num_classes, count)] * 2:
                return f"of {count} samples its curvature gives {pair}; two vectors of one entry a class are needed"
        for name, found in told.items():
            if getattr(found, "shape", None) != (count,) or not jnp.issubdtype(found.dtype, np.floating):
                return f"of {count} samples {name} gives {found}; one real number of each is needed"
        jax.eval_shape(jax.grad(lambda *given: jnp.sum(of(per_sample)(*given))), logits, shapes, targets)
    except Exception as error:  # whatever a user's code raises
        reason = " ".join(str(error).partition("\n\n")[0].split())
        return (
            "JAX must be able to trace and differentiate it, as it is where it is written with jax.numpy; it raised "
            f"{type(error).__name__}: {reason}"
        )
    return ""


def per_sample(loss: Any, logits: Float[Array, "K *N"], targets: Any) -> Any:
    """Losses (N,) of N samples, whichever form the loss was written in; of any shape where it `takes_columns`.

    Targets are labels (N,) or rows (K, N), classes first as the logits.
    """
    of_columns = _of_columns(loss, "__call__", "of_columns")
    return of_columns(logits, targets) if of_columns else _of_each(loss, 0)(logits, targets)


def per_sample_slope(loss: Any, logits: Float[Array, "K *N"], targets: Any) -> Any:
    """Gradients (K, N) in the logits: in closed form where a loss declares one, else JAX's; shapes as `per_sample`."""
    if not declares(loss, "slope"):
        return jax.grad(lambda logits: jnp.sum(per_sample(loss, logits, targets)))(logits)
    of_columns = _of_columns(loss, "slope", "slope_of_columns")
    return of_columns(logits, targets) if of_columns else _of_each(loss.slope, 1)(logits, targets)


def per_sample_both(loss: Any, logits: Float[Array, "K *N"], targets: Any) -> tuple[Any, Any]:
    """`per_sample` and `per_sample_slope` at once."""
    if closed(loss):
        return loss.both_of_columns(logits, targets)
    return per_sample(loss, logits, targets), per_sample_slope(loss, logits, targets)


def per_sample_conjugate(loss: Any, slopes: Float[Array, "K N"], targets: Any) -> Any:
    """Conjugates (N,) of a loss that has one, whichever form it was written in."""
    of_columns = _of_columns(loss, "conjugate", "conjugate_of_columns")
    return of_columns(slopes, targets) if of_columns else _of_each(loss.conjugate, 0)(slopes, targets)


def per_sample_curvature(loss: Any, logits: Float[Array, "K N"], targets: Any) -> Any:
    """Diagonals and vectors (K, N) of a loss that declares its curvature, whichever form it was written in."""
    of_columns = _of_columns(loss, "curvature", "curvature_of_columns")
    return of_columns(logits, targets) if of_columns else _of_each(loss.curvature, 1)(logits, targets)


def _of_each(function: Callable, out: int) -> Callable:
    """A user's function of one sample, of columns of logits and of labels or columns of targets."""
    return lambda values, targets: jax.vmap(function, (1, jnp.ndim(targets) - 1), out)(values, targets)


def closed(loss: Any) -> bool:
    """Whether NumPy computes the loss, its slope and what else it declares, as of ours; a user's is written for JAX."""
    return is_one_of(loss, *OURS)


def _of_columns(loss: Any, name: str, of_columns: str) -> Callable | None:
    """The method of a loss of ours that takes classes first; None where what people call was written by a user."""
    written = getattr(type(loss), name, None)
    known = any(vars(kind).get(name) is written for kind in (Loss, ConvexLoss))
    return getattr(loss, of_columns) if written and known else None


def takes_columns(loss: Any) -> bool:
    """Whether `per_sample` takes samples of any shape, (K, ...) and (...), as it does for losses of ours."""
    return _of_columns(loss, "__call__", "of_columns") is not None


def simplex_targets(
    loss: Any, slopes: Float[Array, "K N"], targets: Int[Array, " N"] | Float[Array, "K N"]
) -> Float[Array, "K N"]:
    """What is added to slopes to make probability vectors of them, for a loss with its conjugate on the simplex.

    Of rows the sums are then the rows' own.
    """
    if not declares(loss, "soft_target"):
        return targets if are_rows(targets) else one_hot(slopes, targets)
    if namespace(slopes) is np:
        return np.stack([loss.soft_target(target, slopes.shape[0]) for target in targets.T], axis=1)
    of_target = jax.vmap(lambda target: loss.soft_target(target, slopes.shape[0]), jnp.ndim(targets) - 1, 1)
    return of_target(targets).astype(slopes.dtype)


def flat_of(loss: Any, num_classes: int) -> Any:
    """A direction (K,) along which logits can be moved at no change of the loss; None where none is known."""
    if declares(loss, "flat"):
        return loss.flat(num_classes)
    return np.ones(num_classes) if facts_of(loss).ignores_shift else None


def conjugate_sizes(loss: Any, slopes: Float[Array, "K N"], logits: Float[Array, "K N"], targets: Any) -> Any:
    """How large the numbers are that conjugates add up at slopes, near logits that have them (N,)."""
    xp = namespace(slopes)
    sizes = (xp.abs(slopes) * (1.0 + xp.abs(logits))).sum(axis=0)
    return sizes + loss.conjugate_size(slopes, logits, targets) if declares(loss, "conjugate_size") else sizes


def infimum(loss: Any, num_classes: int) -> Any:
    """Declared greatest lower bound of one sample's loss; −∞ where none is declared."""
    bound = facts_of(loss).infimum
    return bound(num_classes) if callable(bound) else bound


def infima(loss: Any, rows: Float[Array, "K N"]) -> Any:
    """Greatest lower bounds (N,) of the losses of rows: −ℓ*(0) where the conjugate is known, else what is declared."""
    xp = namespace(rows)
    if declares(loss, "conjugate"):
        return -per_sample_conjugate(loss, xp.zeros_like(rows), rows)
    return xp.broadcast_to(xp.asarray(infimum(loss, rows.shape[0]), rows.dtype), rows.shape[1:])


def losing_digits(loss: Any, rows: Float[Array, "K N"]) -> Any:
    """Entries of rows that loss and conjugate add up and lose digits of, others being zero.

    Where a loss on the simplex keeps the digits of labels these are all but the largest of each row, as its entropy
    vanishes with them; else all.
    """
    facts = facts_of(loss)
    if not (facts.keeps_digits and facts.conjugate_on_simplex):
        return rows
    return namespace(rows).where(one_hot(rows, rows.argmax(axis=0), bool), 0.0, rows)


def mass_losing_digits(loss: Any, targets: Int[Array, " N"] | Float[Array, "K N"]) -> Any:
    """How much of each target a conjugate adds up and loses digits of (N,), or a number for all; that of a label is 1.

    Rounding is that of so much, times what logits are.
    """
    facts = facts_of(loss)
    if are_rows(targets) and facts.conjugate_on_simplex:
        return losing_digits(loss, targets).sum(axis=0)
    return 0.0 if facts.keeps_digits else 1.0


def curvature_of_shifts(
    loss: Any, logits: Float[Array, "K N"], targets: Any, weights: Float[Array, " N"]
) -> Float[Array, "K K"]:
    """Σ_i w_i ∇²ℓ_i(z_i), the Hessian along what is added to all samples' logits; in memory of order K² + KN."""
    if declares(loss, "curvature"):
        diagonal, factor = per_sample_curvature(loss, logits, targets)
        return namespace(diagonal).diag(diagonal @ weights) - (factor * weights[None]) @ factor.T
    classes = namespace(logits).arange(logits.shape[0])
    return mapped(lambda j: _along_class(loss, logits, targets, weights, j), classes)


def curvatures_of_shifts(
    loss: Any, logits: Float[Array, "K N"], targets: Any, weights: Float[Array, " N"]
) -> Float[Array, " K"]:
    """The diagonal of `curvature_of_shifts`."""
    if declares(loss, "curvature"):
        diagonal, factor = per_sample_curvature(loss, logits, targets)
        return (diagonal - factor**2) @ weights
    classes = namespace(logits).arange(logits.shape[0])
    return mapped(lambda j: _along_class(loss, logits, targets, weights, j)[j], classes)


def _along_class(loss, logits, targets, weights, j):
    """A column (K,) of `curvature_of_shifts`; in NumPy a central difference, with half the digits."""
    xp = namespace(logits)
    direction = (xp.arange(logits.shape[0]) == j).astype(logits.dtype)

    def slope(shift):
        return per_sample_slope(loss, logits + shift[:, None], targets) @ weights

    if xp is np:
        return (slope(DIFFERENCE * direction) - slope(-DIFFERENCE * direction)) / (2 * DIFFERENCE)
    return jax.jvp(slope, (xp.zeros_like(direction),), (direction,))[1]


def _of_all_classes(number, logits):
    """A loss's number, of however many lanes, in the rank of logits (K, ...)."""
    return number.reshape((1,) * (logits.ndim - number.ndim) + number.shape)


def _cross_entropy_on_sizes(right, wrong, alike) -> SizeLoss:
    """Cross-entropy where wrong logits stand for several classes; 1 − p_y is the others' sum, which doesn't cancel."""
    top = np.maximum(right, np.max(wrong, axis=1))
    odds, deficit = np.exp(wrong - top[:, None]), top - right
    others, own = np.sum(alike * odds, axis=1), np.exp(-deficit)
    total = others + own
    p, hit, missed = odds / total[:, None], own / total, others / total
    value = deficit + np.log1p(others + np.expm1(-deficit))
    return SizeLoss(value, -missed, p, hit * missed, p, hit, p)


def _cross_entropy_on_rows(right, wrong, alike, rows) -> SizeLoss:
    """τ times a label's, that of the row's largest entry, and Σ T_k (z_y − z_k) over the others."""
    at, rest, mass = _cross_entropy_on_sizes(right, wrong, alike), alike * rows, np.sum(rows, axis=1)
    each, root = mass[:, None], np.sqrt(mass)
    return SizeLoss(
        value=mass * at.value + np.sum(rest * (right[:, None] - wrong), axis=1),
        right=mass * at.right + np.sum(rest, axis=1),
        wrong=each * at.wrong - rest,
        curvature=mass * at.curvature,
        diagonal=each * at.diagonal,
        factor_right=root * at.factor_right,
        factor=root[:, None] * at.factor,
    )


def _negative_entropy_on_sizes(q, alike):
    """Σ q log q (R,) of rows that stand for several classes, +∞ where a q is negative; and log q, −∞ where it isn't."""
    some = q > 0
    logs = np.log(q, out=np.full_like(q, -np.inf), where=some)
    terms = alike * np.where(some, q * np.where(some, logs, 0.0), np.where(q < 0, np.inf, 0.0))
    return np.sum(np.where(alike > 0, terms, 0.0), axis=1), logs
