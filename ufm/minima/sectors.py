"""Parameters that treat classes of one size alike, known by their sectors whatever the number of classes.

*Sizes.* Classes of equal count and weight are exchangeable: m_g classes of size g, G sizes, K = Σ m_g. Permutations of
the classes of each size split ℝ^K into the vectors that are constant on each size, with the orthonormal basis
1_g/√m_g (the trivial sector, G of them), and for each size the vectors on its classes that sum to zero (its standard
sector, m_g − 1 dimensions). Class means that treat the classes of a size alike are, class k being of size g,

    μ_k = M_g/√m_g  ⊕  x_g q_k,   ⟨q_k, q_l⟩ = δ_kl − 1/m_g within a size, orthogonal between sizes,

with M (G, r) in axes that all sizes share, and q_k in axes of the size's own. The classifier's rows are alike, with the
same q_k: a_k = A_g/√m_g ⊕ y_g q_k, so that logits of class l for class k are ⟨A_h, M_g⟩/√(m_g m_h) + δ_gh x_g y_g
(δ_kl − 1/m_g) + b_h.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ufm._core.archive import storable


@storable
class Sectors(NamedTuple):
    """A point that treats the classes of each size alike.

    Attributes:
        size_of: the size of each class, from 0 to G − 1.
        trivial_H: M, of the class means.
        trivial_A: A, of the classifier.
        standard_H: x, of the class means; 0 where a size has one class.
        standard_A: y, of the classifier; likewise.
        b: bias of each size.
    """

    size_of: Int[np.ndarray, " K"]
    trivial_H: Float[np.ndarray, "G r"]
    trivial_A: Float[np.ndarray, "G r"]
    standard_H: Float[np.ndarray, " G"]
    standard_A: Float[np.ndarray, " G"]
    b: Float[np.ndarray, " G"]

    @property
    def multiplicities(self) -> Float[np.ndarray, " G"]:
        """m, classes of each size."""
        return np.bincount(self.size_of, minlength=len(self.b)).astype(np.float64)


class Lifted(NamedTuple):
    """The same point, class by class: class means (K, r'), the classifier (K, r') and its bias (K,)."""

    means: Float[np.ndarray, "K d"]
    A: Float[np.ndarray, "K d"]
    b: Float[np.ndarray, " K"]


def lifted(sectors: Sectors) -> Lifted:
    """The point on all classes, in r' axes: the r shared ones, then m_g − 1 of each size with x_g or y_g.

    Memory is what the result takes, K r' numbers a matrix.
    """
    alive = (sectors.standard_H != 0) | (sectors.standard_A != 0)
    taken = np.where(alive, sectors.multiplicities.astype(int) - 1, 0)
    last = sectors.trivial_H.shape[1] + np.cumsum(taken)
    means, A = (np.zeros((len(sectors.size_of), last[-1])) for _ in range(2))
    for g in range(len(taken)):
        classes, axes = np.flatnonzero(sectors.size_of == g), slice(last[g] - taken[g], last[g])
        basis = standard_basis(len(classes))[:, : taken[g]]
        _put(means, classes, axes, sectors.trivial_H[g], sectors.standard_H[g], basis)
        _put(A, classes, axes, sectors.trivial_A[g], sectors.standard_A[g], basis)
    return Lifted(means, A, sectors.b[sectors.size_of])


def standard_basis(count: int) -> Float[np.ndarray, "m m-1"]:
    """Rows q_k with ⟨q_k, q_l⟩ = δ_kl − 1/m: Helmert's orthonormal columns, each of which adds up to zero."""
    j = np.arange(1, count)
    k = np.arange(count)[:, None]
    return np.where(k < j, 1.0, np.where(k == j, -1.0 * j, 0.0)) / np.sqrt(j * (j + 1.0))


def _put(rows, classes, axes, trivial, standard, basis):
    """Write the rows of the classes of one size."""
    rows[classes, : len(trivial)] = trivial / np.sqrt(len(classes))
    rows[classes, axes] = standard * basis
