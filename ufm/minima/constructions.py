"""Solutions of deep ReLU models that give their targets exactly, and what weight decay makes of them.

Rows of targets T (M, K), hidden layers ReLU, no bias: factors H (M, r), W_1, …, A with A relu(… relu(W_1 Hᵀ)) = Tᵀ.
ReLU is positively homogeneous, so that F factors scaled to x Tᵀ have (by the inequality of the two means) a least decay
of (F/2) (Πλ C)^{1/F} x^{2/F}, where all that decay prices is the *complexity* C = Π‖F_l‖², which no scaling changes.

- Collapse: every group has a coordinate of its own, through all layers. Paths that don't meet are balanced one by one,
  and (Hölder) C^{1/F} = Σ t_m^{2/F} with t_m = ‖T_m‖: K^F of class labels (Súkeník et al. 2023, optimal for two).
- Low rank (Súkeník et al. 2024): groups are edges of a simple graph on the least number r of vertices that has so many,
  features and first layer balanced factors of its incidence matrix U (r, M), middle layers identities. The last hidden
  layer is Uᵀ − ½: a column of U sums to 2, and relu(UᵀU − 1) = I, as two edges share at most one vertex. Of class
  labels C = ‖U‖_*² r^{F−4} (rK/4) K, and ‖U‖_* = (r−1)√(r−2) + √(2(r−1)) of a complete graph.
- Mixed: the largest complete graph that is full, of four vertices or more, and coordinates of their own for the groups
  that are left. Blocks that don't meet add their C^{1/F}.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ufm._core.graphs import FEWEST_VERTICES, incidence, largest_complete
from ufm._core.thresholding import branches


class Construction(NamedTuple):
    """Factors that give the targets, in as many coordinates as they need.

    Attributes:
        name: "collapse", "low rank" or "mixed".
        H: features of each group.
        W: hidden layers in order.
        A: classifier.
    """

    name: str
    H: Float[np.ndarray, "M r"]
    W: tuple[np.ndarray, ...]
    A: Float[np.ndarray, "K last"]

    @property
    def factors(self) -> tuple[np.ndarray, ...]:
        """All of them in the order in which they multiply."""
        return self.H, *self.W, self.A

    @property
    def complexity(self) -> float:
        """C, the product of their squared norms."""
        return float(np.prod([np.sum(factor**2) for factor in self.factors]))

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns of the features, and of the layers after the first: what it needs of d and the widths."""
        return self.H.shape[1], *(layer.shape[1] for layer in (*self.W, self.A)[1:])


def constructions(rows: Float[np.ndarray, "M K"], columns: tuple[int, ...]) -> list[Construction]:
    """Those that fit into columns (d, w_1, …, w_last) of features and hidden layers; of one name the least complex."""
    best: dict[str, Construction] = {}
    for each in _candidates(np.asarray(rows, np.float64), len(columns) - 1, columns[-1]):
        fits = all(need <= have for need, have in zip(each.columns, columns, strict=True))
        if fits and (each.name not in best or each.complexity < best[each.name].complexity):
            best[each.name] = each
    return list(best.values())


def value(complexity: float, scale: float, factors: int) -> float:
    """The least objective of one construction's multiples, where the mean of ‖target‖² over samples is one.

    That is the minimum over x in [0, 1] of ½(1 − x)² + (F/2) (scale^F C)^{1/F} x^{2/F}, the zero point's ½ included.

    Args:
        complexity: C, of features of each group.
        scale: (n λ_H Π λ_W λ_A)^{1/F} with n samples in each group.
        factors: F, features, hidden layers and classifier.
    """
    return float(branches(np.ones(1), scale * complexity ** (1.0 / factors), factors=factors).least[0])


def _candidates(rows: np.ndarray, hidden: int, last: int) -> Iterator[Construction]:
    """All there are whose last layer has as many columns as groups, of which there may be millions, or outputs."""
    M = len(rows)
    if rows.shape[1] < M and np.all(rows >= 0):
        yield _outputs(rows, hidden)
    if last < M:
        return
    yield _collapse(rows, hidden)
    if hidden < 2 or M < 2:
        return
    yield _low_rank(rows, hidden)
    complete = largest_complete(M)
    full = complete * (complete - 1) // 2
    if complete >= FEWEST_VERTICES and full < M:
        yield _beside(_low_rank(rows[:full], hidden), _collapse(rows[full:], hidden))


def _collapse(rows: np.ndarray, hidden: int) -> Construction:
    """A coordinate for each group, along which all factors are t^{1/F}."""
    sizes = np.linalg.norm(rows, axis=1)
    path = np.diag(sizes ** (1.0 / (hidden + 2)))
    return Construction("collapse", path, (path,) * hidden, _units(rows, sizes).T @ path)


def _outputs(rows: np.ndarray, hidden: int) -> Construction:
    """A coordinate for each output, of targets that ReLU lets pass."""
    sizes = np.linalg.norm(rows, axis=0)
    path = np.diag(sizes ** (1.0 / (hidden + 2)))
    return Construction("collapse", _units(rows.T, sizes).T @ path, (path,) * hidden, path)


def _units(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Rows of norm one, and zero ones."""
    return rows / np.where(sizes > 0, sizes, 1.0)[:, None]


def _low_rank(rows: np.ndarray, hidden: int) -> Construction:
    """Groups as edges; what goes into and comes out of each neuron of the last hidden layer is balanced."""
    U, sizes = incidence(len(rows)), np.linalg.norm(rows, axis=1)
    left, s, right = np.linalg.svd(U, full_matrices=False)
    there = s > len(s) * np.finfo(float).eps * s[0]
    root = np.sqrt(s[there])
    first, last = left[:, there] * root, np.sqrt(sizes)[:, None] * (U.T - 0.5)
    middle = (np.eye(len(U)),) * (hidden - 2)
    return Construction("low rank", right[there].T * root, (first, *middle, last), _units(rows, np.sqrt(sizes)).T)


def _beside(first: Construction, second: Construction) -> Construction:
    """Two of different groups in coordinates of their own, each with factors of one norm, which is the best."""
    *these, A = _even(first)
    *those, B = _even(second)
    H, *W = map(_blocks, these, those)
    return Construction("mixed", H, tuple(W), np.concatenate([A, B], axis=1))


def _even(construction: Construction) -> list[np.ndarray]:
    """The factors, scaled to one norm."""
    norms = np.array([np.linalg.norm(factor) for factor in construction.factors])
    if not np.all(norms > 0):
        return [0.0 * factor for factor in construction.factors]
    norm = np.exp(np.mean(np.log(norms)))
    return [factor * (norm / size) for factor, size in zip(construction.factors, norms, strict=True)]


def _blocks(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """X and Y on the diagonal."""
    return np.block([[X, np.zeros((len(X), Y.shape[1]))], [np.zeros((len(Y), X.shape[1])), Y]])
