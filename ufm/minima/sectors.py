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
