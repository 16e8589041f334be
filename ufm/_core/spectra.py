"""Spectra as lines: eigenvalues that are one but for rounding, with how many there are of each."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

SAME = 1e-10  # of the largest eigenvalue's size, by which neighbours of one line differ at most
SHOWN = 12  # lines of a spectrum, beyond which the middle ones are left out of its text


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues with their multiplicities, in the unit of the objective over the squared unit of the parameters.

    Attributes:
        values: (m,) eigenvalues that differ, ascending.
        multiplicities: (m,) how many there are of each; of ends, how many copies were found, which can be fewer.
        complete: whether these are all; else they are some from the ends of the spectrum, from below and from above.
    """

    values: Float[np.ndarray, " m"]
    multiplicities: Int[np.ndarray, " m"]
    _: dataclasses.KW_ONLY
    complete: bool = True

    @property
    def expanded(self) -> Float[np.ndarray, " n"]:
        """(n,) every eigenvalue as often as it occurs, ascending."""
        return np.repeat(self.values, self.multiplicities)

    @property
    def num_negative(self) -> int:
        """How many eigenvalues are below zero by more than rounding."""
        return int(np.sum(self.multiplicities[self.values < -SAME * self._size]))

    @property
    def num_zero(self) -> int:
        """How many are zero but for rounding: flat directions, as those of rotations."""
        return int(np.sum(self.multiplicities[np.abs(self.values) <= SAME * self._size]))

    @property
    def positive(self) -> Float[np.ndarray, " p"]:
        """(p,) those that are above zero by more than rounding, ascending."""
        return self.values[self.values > SAME * self._size]

    @property
    def _size(self) -> float:
        return float(np.max(np.abs(self.values)))

    def __repr__(self) -> str:
        values = np.where(np.abs(self.values) <= SAME * self._size, 0.0, self.values)
        shown = [f"{value:.6g} ×{count}" for value, count in zip(values, self.multiplicities, strict=True)]
        if len(shown) > SHOWN:
            shown[SHOWN // 2 : -SHOWN // 2] = ["…"]
        return f"Spectrum({', '.join(shown)}{'' if self.complete else '; ends'})"


def lines(values: np.ndarray, multiplicities: np.ndarray, *, complete: bool = True) -> Spectrum:
    """A spectrum of eigenvalues, of which neighbours that are one but for rounding become one line, their mean."""
    order = np.argsort(values, kind="stable")
    values, counts = np.asarray(values, np.float64)[order], np.asarray(multiplicities)[order]
    values, counts = values[counts > 0], counts[counts > 0]
    first = np.diff(values, prepend=-np.inf) > SAME * np.max(np.abs(values), initial=0.0)
    line = np.cumsum(first) - 1
    found = np.bincount(line, counts)
    return Spectrum(np.bincount(line, values * counts) / found, found.astype(int), complete=complete)


def distance(one: Spectrum, other: Spectrum) -> float:
    """The largest difference of two spectra's eigenvalues in order, of their largest size; ∞ where numbers differ."""
    if np.sum(one.multiplicities) != np.sum(other.multiplicities):
        return np.inf
    ends = np.union1d(np.cumsum(one.multiplicities), np.cumsum(other.multiplicities)) - 1
    apart = _at(one, ends) - _at(other, ends)
    return float(np.max(np.abs(apart)) / max(np.max(np.abs(one.values)), np.max(np.abs(other.values))))


def _at(spectrum: Spectrum, ranks: np.ndarray) -> np.ndarray:
    """The eigenvalues of these ranks from below, without writing all of them out."""
    return spectrum.values[np.searchsorted(np.cumsum(spectrum.multiplicities), ranks, side="right")]
