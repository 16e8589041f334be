"""What groups of samples want: a row of targets each, how many samples share it, and what these weigh."""

import dataclasses
import functools as ft
import numbers
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ufm._core import archive
from ufm._core.checks import Integer, doubles, instance, integer, listed, shown
from ufm._core.distinct import distinct_rows
from ufm._core.precision import is_traced
from ufm._core.pytree import pytree, set_field, static
from ufm._core.repr import call, fields_of
from ufm.model.losses import facts_of, simplex_targets

MOST_SAMPLES = 2**53  # that a float64 counts


@archive.storable
@pytree
class Targets:
    """Targets of any kind: M groups of samples, all samples of a group with one row of targets and one weight.

    With logits Z the risk is (1/N) Σ_m n_m w_m loss(z_m, T_m). For cross-entropy, −Σ_k T_mk log softmax(z)_k, a row is
    non-negative; its mass Σ_k T_mk need not be one, and is a weight as w_m is. For squared error, ½‖z − T_m‖², it is
    any real numbers. `ufm.targets` has builders for noisy labels, many labels, mixup, next tokens and real targets.

    Rows and weights are traced by JAX; counts are static, since they are shapes.

    Args:
        rows: T (M, K), finite numbers, of any library and precision: dimensionless for cross-entropy, in the units of
            the outputs for squared error. K = 1 is a regression with one output.
        counts: n, samples of each group: M positive integers, or one for all. It becomes a tuple.
        weights: w (M,), positive and finite, of each sample's loss, dimensionless; None, the default, becomes ones.
            They are not normalised.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """

    rows: ArrayLike
    counts: Integer | Sequence[int] | np.ndarray = static()
    _: dataclasses.KW_ONLY
    weights: ArrayLike | None = None

    def __post_init__(self):
        rows = doubles("rows", self.rows, (None, None), "finite numbers of shape (groups, outputs)")
        set_field(self, "rows", rows + 0.0)  # the caller's array may change; and −0.0 is 0.0
        set_field(self, "counts", counts_of("counts", self.counts, len(rows)))
        set_field(self, "weights", weights_of("weights", self.weights, len(rows)))

    def __repr__(self) -> str:
        return call("Targets", self._said())

    def _to_file(self) -> dict[str, Any]:
        """What a file says: counts as one array, since there may be a million of them."""
        return self._said() | {"counts": self.group_counts}

    def _said(self) -> dict[str, Any]:
        """What the constructor would have to be told."""
        fields = fields_of(self)
        return {name: value for name, value in fields.items() if name != "weights" or weighted(value)}

    @property
    def num_groups(self) -> int:
        """M, groups of samples."""
        return len(self._counts)

    @property
    def num_outputs(self) -> int:
        """K, entries of a row."""
        return np.shape(self.rows)[-1]

    @property
    def num_samples(self) -> int:
        """N, samples in all."""
        return int(self.group_counts.sum())

    @ft.cached_property
    def group_counts(self) -> Int[np.ndarray, "M"]:
        """(M,) samples of each group, int64; read-only."""
        counts = np.array(self._counts, np.int64)
        counts.flags.writeable = False
        return counts

    @property
    def shares(self) -> Float[np.ndarray, "M"]:
        """(M,) shares of samples π = n/N, which sum to one."""
        return self.group_counts / self.num_samples

    @property
    def masses(self) -> Any:
        """(M,) τ, sums of the rows, in their units; traced where they are."""
        rows: Any = self.rows
        return rows.sum(axis=-1)

    @property
    def _counts(self) -> tuple[int, ...]:
        """The tuple that the constructor made."""
        counts: Any = self.counts
        return counts

    def merged(self) -> tuple["Targets", Int[np.ndarray, "M"]]:
        """The same risk in fewer groups: those of equal row and equal weight are one, whose samples add up.

        The minimum is the same for every loss and every constraint on rows of features (`MeanBall` wants a convex
        loss), since given a classifier the objective is a sum over samples. Groups of unequal weight stay apart: a
        sample's least loss with decay is concave in its weight.

        Returns:
            Targets of the merged groups, in the order in which these first appear, and (M,) the merged group of each
            group, with which whatever is found of merged groups is indexed to be that of all.

        Raises:
            ValueError: where rows or weights are traced by JAX.
        """
        return self._merged

    @ft.cached_property
    def _merged(self) -> tuple["Targets", Int[np.ndarray, "M"]]:
        """The same, found once: it is asked for wherever a problem is reduced."""
        table = np.column_stack([self._known(), np.asarray(self.weights)])
        first, index = distinct_rows(table)
        if len(first) == self.num_groups:
            return self, index
        counts = np.bincount(index, weights=self.group_counts).astype(np.int64)  # exact, since N is at most 2⁵³
        return Targets(table[first, :-1], counts, weights=table[first, -1]), index

    def is_one_hot_in_order(self) -> bool:
        """Whether these are class labels: as many groups as outputs, and rows the identity.

        Raises:
            ValueError: where rows are traced by JAX.
        """
        rows = self._known()
        square = self.num_groups == self.num_outputs
        return bool(square and np.count_nonzero(rows) == len(rows) and np.all(np.diagonal(rows) == 1.0))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to exactly `path`, an npz file without pickle; `ufm.load` and the command line's `--targets` read it.

        Raises:
            ValueError: for what is no path.
            OSError: where it can't be written.
        """
        archive.save(path, self)

    def _known(self) -> np.ndarray:
        """The rows, where they have values."""
        if is_traced(self):
            raise ValueError("targets are traced by JAX: those whose numbers have values are needed")
        return np.asarray(self.rows)


def as_targets(targets: Any) -> Targets:
    """`targets` where they are ours, traced or not; else a ValueError."""
    return instance("targets", targets, Targets, "a ufm.Targets")


def check_probabilities(targets: Targets) -> None:
    """Refuse what can't be targets of a cross-entropy, τ logsumexp(z) − T·z.

    Raises:
        ValueError: for a negative entry, a row of zeros, a sum that overflows, or a single output.
    """
    rows = np.asarray(targets.rows)
    if targets.num_outputs < 2:
        raise ValueError("targets of one output: a cross-entropy of one output is zero whatever it is; two are needed")
    if np.any(rows < 0):
        group, output = np.unravel_index(np.argmax(rows < 0), rows.shape)
        raise ValueError(
            f"targets.rows[{group}, {output}] = {float(rows[group, output])!r}: rows of a cross-entropy are "
            "probabilities, or multiples of them; entries of at least zero are needed"
        )
    with np.errstate(over="ignore"):
        masses = targets.masses
    if not np.all((masses > 0) & np.isfinite(masses)):
        group = int(np.argmin((masses > 0) & np.isfinite(masses)))
        raise ValueError(
            f"targets.rows[{group}], whose sum is {float(masses[group])!r}: a row of a cross-entropy weighs as much as "
            "its sum, and one of zeros nothing, whatever its logits; a positive, finite sum is needed"
        )


def check_columns(targets: Targets, loss: Any) -> None:
    """Refuse an output that no group wants, under a cross-entropy with a free bias; label smoothing wants each.

    Raises:
        ValueError: naming the first such column.
    """
    unwanted = ~np.any(np.asarray(targets.rows) != 0, axis=0)
    if np.any(unwanted):
        output, one = int(np.argmax(unwanted)), np.asarray(targets.rows)[:1].T
        if is_traced(loss) or np.any(simplex_targets(loss, one, one)[output] > 0):
            return
        raise ValueError(
            f"targets.rows[:, {output}] is zero: no sample wants that output, so a cross-entropy falls as its free "
            "bias goes to −∞, and no minimum is attained; leave the column out, or use lambda_b > 0 or bias=False"
        )


def check_for(targets: Targets, loss: Any, bias_kind: str) -> None:
    """Refuse targets that a loss can't be told, by its facts, or with which no minimum is attained."""
    if facts_of(loss).conjugate_on_simplex and not is_traced(targets):
        check_probabilities(targets)
        if bias_kind == "free":
            check_columns(targets, loss)


def counts_of(name: str, value: Any, num_groups: int) -> tuple[int, ...]:
    """As many positive integers as groups, of so many or of one for all; else a ValueError that names the argument."""
    if is_one_number(value):
        return (integer(name, value, least=1, most=MOST_SAMPLES // num_groups),) * num_groups
    needed = f"a positive integer, or {num_groups} of them,"
    counts = listed(name, value, needed)
    if len(counts) != num_groups:
        raise ValueError(f"{name} = {shown(value)}: {needed} is needed")
    if not {*map(type, counts)} <= {int, np.int64} or min(counts) < 1:  # as those of a million groups are
        counts = [integer(name, count, least=1, most=MOST_SAMPLES) for count in counts]
    counts = tuple(map(int, counts))
    if sum(counts) > MOST_SAMPLES:
        raise ValueError(f"{name} = {shown(value)}: {sum(counts):,} samples; at most {MOST_SAMPLES:,} can be counted")
    return counts


def is_one_number(value: Any) -> bool:
    """Whether a value is a number of any library, and no list of them."""
    return isinstance(value, numbers.Number) or getattr(value, "ndim", None) == 0


def weights_of(name: str, value: Any, num_groups: int) -> np.ndarray:
    """(M,) positive weights, a copy, or ones of None, one number repeated; else a ValueError that names it."""
    if value is None or _is_unsaid(value):
        return np.broadcast_to(1.0, num_groups)
    needed = f"{num_groups} positive, finite numbers"
    weights = doubles(name, value, (num_groups,), needed)
    if not np.all(weights > 0):
        raise ValueError(f"{name} = {shown(value)}: {needed} are needed")
    return weights.copy() if weighted(weights) else np.broadcast_to(1.0, num_groups)


def weighted(weights: Any) -> bool:
    """Whether a weight is, or may be, another than one."""
    return not isinstance(weights, np.ndarray) or bool(np.any(weights != 1.0))


def _is_unsaid(weights: Any) -> bool:
    """Whether these are the ones that None became: `dataclasses.replace` hands them over for other groups too."""
    repeated = isinstance(weights, np.ndarray) and weights.size > 0 and weights.strides == (0,)
    return repeated and not weighted(weights)
