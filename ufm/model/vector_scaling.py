"""Cross-entropy of logits that are scaled and moved class by class: what is done about rare classes within a loss.

A sample of class y pays the cross-entropy of x_k = Δ_yk z_k + ι_yk, so that with r_k = s_k/Δ_yk everything is known
from cross-entropy's own: the slope is Δ ∘ (softmax x − e_y), ∇² = diag(Δ² p) − (Δ p)(Δ p)ᵀ, and, as the supremum over
z of ⟨s, z⟩ − ℓ(Δ ∘ z + ι) is one over x,

    ℓ*(s) = CE*(r) − ⟨r, ι⟩ = CE*(r) − Σ_{k≠y} r_k (ι_k − ι_y),

the last since r sums to zero where CE*(r) is finite. Moving all x_k of a sample by one number changes nothing: where Δ
is one number for each logit, or one for each label, or a product of these, so does moving z along 1/Δ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ufm._core.archive import storable
from ufm._core.arrays import Array, namespace, silent
from ufm._core.checks import Real, doubles, entries, real, shown
from ufm._core.pytree import pytree, set_field, static
from ufm._core.repr import call, fields_of
from ufm.model.entropies import Targets, one_hot, true_logit
from ufm.model.losses import ConvexLoss, CrossEntropy, ours

USUAL = {"additive": 0.0, "multiplicative": 1.0}
SUMMED = 256  # rounding's worth of what is added up, within which a sum is zero
ALIKE = 1e-12  # relative, to which rows of factors are multiples of each other


class ScalingVectors(NamedTuple):
    """Logarithms of the factors of G sizes as labels and as logits, and their offsets as logits, (G,) each.

    A right logit has its own offset `right` besides.
    """

    labels: Float[np.ndarray, " G"]
    logits: Float[np.ndarray, " G"]
    offsets: Float[np.ndarray, " G"]
    right: Float[np.ndarray, " G"]


class Scaling(NamedTuple):
    """Factors and offsets of samples of G sizes of classes, in NumPy: own those of the right logit (G,), others (G, G).

    The diagonal is that of wrong classes of a sample's own size. `vectors` are what all are made of, where they are.
    """

    own_factor: Float[np.ndarray, " G"]
    factor: Float[np.ndarray, "G G"]
    own_offset: Float[np.ndarray, " G"]
    offset: Float[np.ndarray, "G G"]
    vectors: ScalingVectors | None = None

    @classmethod
    def of(cls, vectors: ScalingVectors) -> "Scaling":
        """Of numbers of labels and logits."""
        labels, logits, offsets, right = vectors
        factor = np.exp(labels[:, None] + logits)
        return cls(np.diag(factor).copy(), factor, offsets + right, np.tile(offsets, (len(labels), 1)), vectors)

    @property
    def entries(self) -> tuple[Any, Any, Any, Any]:
        """Factors and offsets, own and others."""
        return self[:4]


@ours
@storable
@pytree
class VectorScaling(ConvexLoss):
    """Cross-entropy of the logits Δ_yk z_k + ι_yk, y a sample's label (Kini et al. 2021). Nats, convex, infimum 0.

    Offsets alone are logit adjustment (Menon et al. 2021), or margins of labels (Cao et al. 2019); factors of logits
    are class-dependent temperatures (Ye et al. 2020), factors of labels label-dependent ones. Class methods make all of
    these from counts. Takes labels alone.

    Args:
        additive: ι, dimensionless: a number, which changes nothing, (K,) of each logit, or (K, K), the label's row.
        multiplicative: Δ > 0, dimensionless: a number, (K,) of each logit, (K, 1) of each label, or (K, K).

    Raises:
        ValueError: where a shape is none of these, an offset not finite, or a factor not positive and finite.
    """

    additive: ArrayLike = USUAL["additive"]
    multiplicative: ArrayLike = USUAL["multiplicative"]
    shapes: tuple[tuple[int, int], ...] = static(default=(), init=False)  # of offsets and factors, as matrices
    infimum = 0.0
    keeps_digits = falls_exponentially = True

    def __post_init__(self):
        additive, factors = _as_matrix("additive", self.additive), _as_matrix("multiplicative", self.multiplicative)
        if additive.shape[1] == 1 < len(additive):
            raise ValueError(
                f"additive of shape {additive.shape}: one number for all logits of a sample changes nothing; (K,), of "
                "each logit, or (K, K), is needed"
            )
        if not np.all(factors > 0):
            raise ValueError(f"multiplicative = {shown(self.multiplicative)}: positive numbers are needed")
        if len({size for size in (*additive.shape, *factors.shape) if size > 1}) > 1:
            raise ValueError(
                f"multiplicative of shape {np.shape(self.multiplicative)} beside additive of shape "
                f"{np.shape(self.additive)}: numbers of as many classes are needed"
            )
        set_field(self, "additive", additive)
        set_field(self, "multiplicative", factors)
        set_field(self, "shapes", (additive.shape, factors.shape))

    @classmethod
    def logit_adjustment(cls, counts: Sequence[int] | np.ndarray, *, tau: Real = 1.0) -> "VectorScaling":
        """ι_k = τ log(n_k/N) (Menon et al. 2021): at τ = 1 the best logits of balanced accuracy minimise the risk.

        Args:
            counts: (K,) samples of each class.
            tau: τ, dimensionless.

        Raises:
            ValueError: where counts are not positive numbers, or τ not a finite one.
        """
        n = _counts(counts)
        return cls(additive=real("tau", tau) * np.log(n / np.sum(n)))

    @classmethod
    def cdt(cls, counts: Sequence[int] | np.ndarray, *, gamma: Real = 0.2) -> "VectorScaling":
        """Class-dependent temperatures Δ_k = (n_k/n_max)^γ of the logits (Ye et al. 2020).

        Args:
            counts: (K,) samples of each class.
            gamma: γ, dimensionless.

        Raises:
            ValueError: where counts are not positive numbers, or γ not a finite one.
        """
        return cls(multiplicative=_powers(counts, gamma))

    @classmethod
    def ldt(cls, counts: Sequence[int] | np.ndarray, *, gamma: Real = 0.2) -> "VectorScaling":
        """Label-dependent temperatures Δ_y = (n_y/n_max)^γ of all logits of a sample (Thrampoulidis et al. 2022).

        Args:
            counts: (K,) samples of each class.
            gamma: γ, dimensionless.

        Raises:
            ValueError: where counts are not positive numbers, or γ not a finite one.
        """
        return cls(multiplicative=_powers(counts, gamma)[:, None])

    @classmethod
    def vs(cls, counts: Sequence[int] | np.ndarray, *, gamma: Real = 0.2, tau: Real = 1.0) -> "VectorScaling":
        """Factors of `cdt` with offsets of `logit_adjustment` (Kini et al. 2021).

        Args:
            counts: (K,) samples of each class.
            gamma: γ, dimensionless.
            tau: τ, dimensionless.

        Raises:
            ValueError: where counts are not positive numbers, or γ or τ not a finite one.
        """
        return cls(cls.logit_adjustment(counts, tau=tau).additive, _powers(counts, gamma))

    @classmethod
    def ldam(cls, counts: Sequence[int] | np.ndarray, *, margin: Real = 0.5) -> "VectorScaling":
        """Margins of labels, ι_yy = −m (n_min/n_y)^{1/4} and no other offset (Cao et al. 2019).

        Args:
            counts: (K,) samples of each class.
            margin: m, the largest of the margins, in the unit of the logits.

        Raises:
            ValueError: where counts are not positive numbers, or the margin not a finite one.
        """
        n = _counts(counts)
        return cls(additive=-real("margin", margin) * np.diag((np.min(n) / n) ** 0.25))

    def __repr__(self) -> str:
        said = {name: _as_given(value) for name, value in fields_of(self).items()}
        said = {name: value for name, value in said.items() if np.ndim(value) or value != USUAL[name]}
        return call("VectorScaling", said)

    @property
    def ignores_shift(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the factors of a sample's logits are one number."""
        return self.shapes[1][1] == 1

    @property
    def one_rate(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether all factors are one number."""
        return self.shapes[1] == (1, 1)

    def check_classes(self, num_classes: int) -> None:
        """Refuse another number of classes than that of which there are offsets or factors.

        Raises:
            ValueError: naming the argument.
        """
        for name, shape in zip(("additive", "multiplicative"), self.shapes, strict=True):
            if max(shape) not in (1, num_classes):
                raise ValueError(
                    f"loss.{name} of {max(shape)} classes, and there are {num_classes}: as many numbers are needed"
                )

    def of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """Loss of each sample, with all its digits where it is small."""
        factor, offset = self._of_samples(logits, label)
        return CrossEntropy().of_columns(factor * logits + offset, label)

    def slope_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> Float[Array, "K ..."]:
        """Δ ∘ (softmax − e_y)."""
        return self.both_of_columns(logits, label)[1]

    def both_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Loss and gradient of the same exponentials."""
        factor, offset = self._of_samples(logits, label)
        value, slope = CrossEntropy().both_of_columns(factor * logits + offset, label)
        return value, factor * slope

    def conjugate_of_columns(self, slope: Float[Array, "K ..."], label: Targets) -> Float[Array, "..."]:
        """CE*(r) − Σ_{k≠y} r_k (ι_k − ι_y) at r = slope/Δ.

        That r sums to zero is trusted to the caller as by cross-entropy's, but not where factors are a matrix: slopes
        of several labels may then share no such sum, and what adds up to another one has the conjugate +∞.
        """
        xp, (factor, offset) = namespace(slope, label), self._of_samples(slope, label)
        r, moved = slope / factor, xp.broadcast_to(offset, slope.shape)
        inside = CrossEntropy().conjugate_of_columns(r, label)
        wrong = xp.where(one_hot(slope, label, bool), 0.0, r)
        found = inside - (wrong * (moved - true_logit(moved, label)[None])).sum(axis=0)
        if 1 in self.shapes[1]:
            return found
        rounding = SUMMED * float(np.finfo(slope.dtype).eps) * xp.abs(r).sum(axis=0)
        return xp.where(xp.abs(r.sum(axis=0)) > rounding, xp.inf, found)

    def conjugate_size(self, slope: Float[Array, "K N"], logits: Float[Array, "K N"], label: Any) -> Any:
        """How large the numbers are that a conjugate adds up beside ⟨slope, logits⟩ (N,), which x and ι needn't be."""
        xp, (factor, offset) = namespace(slope, logits), self._of_samples(slope, label)
        x = factor * logits + offset
        return (xp.abs(slope / factor) * (1.0 + xp.abs(x) + 2.0 * xp.abs(offset))).sum(axis=0)

    def curvature_of_columns(self, logits: Float[Array, "K ..."], label: Targets) -> tuple[Any, Any]:
        """Δ² p and Δ p, p the softmax."""
        factor, offset = self._of_samples(logits, label)
        diagonal, vector = CrossEntropy().curvature_of_columns(factor * logits + offset, label)
        return factor**2 * diagonal, factor * vector

    def flat(self, num_classes: int) -> Any:
        """1/Δ (K,), along which logits move at no change; None where factors of labels differ in more than size."""
        factors: Any = self.multiplicative
        if self.shapes[1][1] == 1:
            return np.ones(num_classes)
        if self.shapes[1][0] == 1:
            return 1.0 / factors[0]
        quotients = factors / factors[:1]
        multiples = np.all(np.abs(quotients - quotients[:, :1]) <= ALIKE * quotients)
        return 1.0 / factors[0] if multiples else None

    def kinds(self, num_classes: int) -> Int[np.ndarray, " K"]:
        """(K,) whole numbers that classes share which can be exchanged at no change of offsets and factors."""
        matrices: list[Any] = [self.additive, self.multiplicative]
        full = [matrix for matrix in matrices if 1 not in matrix.shape]
        told = [np.broadcast_to(matrix.ravel(), num_classes) for matrix in matrices if 1 in matrix.shape]
        columns = np.stack([*told, *map(np.diag, full)])
        _, found = np.unique(columns, axis=1, return_inverse=True)
        found = found.ravel()
        return _exchangeable(found, full) if full else found

    def scaling(self, first: Int[np.ndarray, " G"], second: Int[np.ndarray, " G"]) -> Scaling:
        """Factors and offsets of sizes of classes, each with a first class of it and, where there is one, a second."""
        additive: Any = self.additive
        offsets, factors, moved = _Entries(additive), _Entries(self.multiplicative), _of_logits(additive)
        if moved is not None and 1 in self.shapes[1]:
            none, (of_logits, right) = np.zeros_like(first), moved
            logs = np.log(factors.of(none, first)), np.log(factors.of(first, none) / factors.of(none, none))
            others, own = (_Entries(part[None]).of(none, first) for part in (of_logits, right))
            return Scaling.of(ScalingVectors(logs[1], logs[0], others, own))
        return Scaling(
            own_factor=factors.of(first, first),
            factor=factors.between(first, second),
            own_offset=offsets.of(first, first),
            offset=offsets.between(first, second),
        )

    def _of_samples(self, values, label):
        """Factors and offsets of samples in the rank of values (K, ...), of one logit where all share them."""
        offsets, factors = (
            _of_labels(matrix, shape, values, label)
            for matrix, shape in zip((self.additive, self.multiplicative), self.shapes, strict=True)
        )
        return factors, offsets


def _as_matrix(name: str, value: Any) -> np.ndarray:
    """A number or numbers of classes as a matrix of (labels, logits), of which an axis that says nothing is of one."""
    several = entries(value) is not None
    found = doubles(name, value, needed="finite numbers") if several else np.asarray(real(name, value))
    square = found.ndim == 2 and (len(found) == found.shape[1] or 1 in found.shape)
    if found.size == 0 or not (found.ndim < 2 or square):
        raise ValueError(
            f"{name} of shape {found.shape}: a number, or numbers of shape (K,), of each logit, (K, 1), of each label, "
            "or (K, K) are needed"
        )
    return np.atleast_2d(found).copy()  # what the caller's array becomes is none of the loss's business


def _as_given(value: Any) -> Any:
    """A matrix as its number, of each logit as a list where there are few, else as what it is."""
    if not isinstance(value, np.ndarray):
        return value
    return value.item() if value.size == 1 else value[0] if len(value) == 1 else value


def _counts(counts: Any) -> np.ndarray:
    """(K,) positive numbers of samples."""
    n = doubles("counts", counts, (None,), "positive numbers of shape (K,)")
    if not np.all(n > 0):
        raise ValueError(f"counts = {shown(counts)}: positive numbers of shape (K,) are needed")
    return n


def _powers(counts: Any, gamma: Any) -> np.ndarray:
    """(n/n_max)^γ (K,)."""
    n, gamma = _counts(counts), real("gamma", gamma)
    with silent():
        found = (n / np.max(n)) ** gamma
    if not np.all((found > 0) & np.isfinite(found)):
        raise ValueError(
            f"gamma = {gamma!r}: a number by which powers of n/n_max neither underflow nor overflow is needed"
        )
    return found


def _of_labels(matrix, shape, values, label):
    """Entries of each sample's row in the rank of values (K, ...).

    In lanes a matrix is (1, labels, logits, L), values are (K, M, L) and labels (M, L).
    """
    xp = namespace(values, matrix)
    matrix = xp.asarray(matrix, values.dtype)
    lanes = matrix.ndim == 4
    if lanes:
        matrix = matrix[0]
    if shape[0] == 1:
        between = (1,) * (values.ndim - 1 - lanes)
        return matrix[0].reshape(shape[1], *between, *matrix.shape[2:])
    rows = xp.take_along_axis(matrix, label[:, None], axis=0) if lanes else matrix[label]
    return xp.moveaxis(rows, 1 if lanes else -1, 0)


def _of_logits(offsets):
    """Offsets of each logit, and of the right one besides, that make a matrix of (labels, logits); None of others."""
    if 1 in offsets.shape:
        return offsets[0], np.zeros_like(offsets[0])
    wrong = np.where(np.arange(len(offsets)) == 0, offsets[1], offsets[0])
    apart = offsets - wrong
    return (wrong, np.diag(apart)) if np.count_nonzero(apart) == np.count_nonzero(np.diag(apart)) else None


class _Entries(NamedTuple):
    """A matrix (labels, logits) of which an axis that says nothing is of one."""

    matrix: Any

    def of(self, labels, logits):
        """Entries at labels and logits, broadcast."""
        wanted = zip((labels, logits), self.matrix.shape, strict=True)
        return self.matrix[tuple(index if size > 1 else np.zeros_like(index) for index, size in wanted)]

    def between(self, first, second):
        """Entries of every first class with every other, and with the second of its own size (G, G)."""
        found = self.of(*np.broadcast_arrays(first[:, None], first[None]))
        found[np.diag_indices(len(first))] = self.of(first, second)
        return found


def _exchangeable(candidates, matrices):
    """Of classes that share a number, which share it still where exchanging them must leave matrices as they are.

    Exchanges of i with j and of j with k make that of i with k, so each is tried with one of each kind.
    """
    found, firsts = np.zeros_like(candidates), []
    for k, number in enumerate(candidates):
        like = (kind for kind, first in enumerate(firsts) if candidates[first] == number)
        kind = next((kind for kind in like if _exchanged(matrices, firsts[kind], k)), None)
        if kind is None:
            kind = len(firsts)
            firsts.append(k)
        found[k] = kind
    return found


def _exchanged(matrices, i, j):
    """Whether exchanging two classes, as labels and as logits, leaves matrices as they are."""
    order = np.arange(len(matrices[0]))
    order[[i, j]] = j, i
    return all(
        np.array_equal(matrix[i], matrix[j, order]) and np.array_equal(matrix[:, i], matrix[order, j])
        for matrix in matrices
    )
