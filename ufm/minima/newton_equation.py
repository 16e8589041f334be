"""Newton's equation on the normal map of the nuclear norm, in the singular basis of a point.

With the point's matrix Y = X diag(τ) Vᵀ and a step ΔC = X E Vᵀ it is (Ĥ + P) E = R, `ufm.minima.proximal_newton` says
why. P is 2 × 2 blocks of the pairs E_ij, E_ji. Where rows of Y are many more than columns, most of E has no partner:
there P is one number a column, and Ĥ + P a small block for each row but for a term of low rank.

It is solved by conjugate gradients, whose preconditioner is P and the mean second derivative of each pair's directions,
or all of it but what a bias's decay leaves where rows are many and columns few; or by the matrix of all unknowns.
"""

from typing import Any, NamedTuple

import numpy as np

from ufm._core.interrupts import check
from ufm.minima.blocks import Curvature

MOST_PAIRS = 400  # unknowns of pairs, up to which equations of many rows are solved row by row
DENSE_UP_TO = 81  # unknowns, whose Newton equation is solved directly
MOST_INNER = 150  # conjugate gradients of a Newton step
DENSE_AT_MOST = 1600  # unknowns, for which it is solved directly where they don't do


class Frame(NamedTuple):
    """Y in its singular basis, X diag(τ) Vᵀ with square τ: columns that one side lacks are zero.

    The first `rank` directions live, σ > 0. Matrices E (k, k) in the basis, X E Vᵀ, are zero where both are dead. Where
    rows are many more than columns X has no more columns than V, and k more rows of E, one for each of Y's, are what
    is orthogonal to these: (X E_pairs + E_beyond) Vᵀ. `axis` is one more that both are orthogonal to, or None.
    """

    X: np.ndarray
    V: np.ndarray
    sigma: np.ndarray
    psi: np.ndarray
    rank: int
    thin: bool
    axis: Any

    @property
    def C(self):
        """The shrunken matrix."""
        return (self.X[:, : self.rank] * self.sigma[: self.rank]) @ self.V[:, : self.rank].T

    @property
    def few(self):
        """Whether so few live that the products of the living alone are cheaper."""
        return 2 * self.rank < len(self.sigma)

    @property
    def beyond(self):
        """Rows of a matrix that are those of no pair."""
        return len(self.X) if self.thin else 0

    @property
    def axes(self):
        """Orthonormal columns (G, k or k + 1) that what is beyond pairs is orthogonal to."""
        return self.X if self.axis is None else np.concatenate([self.X, self.axis[:, None]], axis=1)

    def off(self, Z):
        """What of Z (G, any) is orthogonal to X's columns, where these aren't all."""
        Z = Z - self.X @ (self.X.T @ Z)
        return Z if self.axis is None else Z - self.axis[:, None] * (self.axis @ Z)

    def projected(self, E):
        """E, with nothing beyond the pairs that is along X."""
        k = len(self.sigma)
        return np.concatenate([E[:k], self.off(E[k:])]) if self.thin else E

    def dead(self, Z):
        """The part of Z that is dead on both sides."""
        X, Vd = self.X, self.V[:, self.rank :]
        part = Z @ Vd
        dead = X[:, self.rank :] @ (X[:, self.rank :].T @ part)
        return (dead + self.off(part) if self.thin else dead) @ Vd.T

    def whole(self, E):
        """X E Vᵀ."""
        X, V, r, k = self.X, self.V, self.rank, len(self.sigma)
        if self.thin:
            return (X @ E[:k] + E[k:]) @ V.T
        if not self.few:
            return X @ E @ V.T
        return X[:, :r] @ (E[:r] @ V.T) + (X[:, r:] @ E[r:, :r]) @ V[:, :r].T

    def within(self, Z):
        """Xᵀ Z V where one of both lives."""
        X, V, r = self.X, self.V, self.rank
        if self.thin:
            part = Z @ V
            pairs, beyond = X.T @ part, self.off(part)
            pairs[r:, r:], beyond[:, r:] = 0.0, 0.0
            return np.concatenate([pairs, beyond])
        if not self.few:
            found = X.T @ Z @ V
            found[r:, r:] = 0.0
            return found
        found = np.zeros((len(self.sigma), len(self.sigma)))
        found[:r] = (X[:, :r].T @ Z) @ V
        found[r:, :r] = X[:, r:].T @ (Z @ V[:, :r])
        return found


class Price(NamedTuple):
    """P, the second derivative of the nuclear norm's price: E ↦ straight ∘ E + crossed ∘ Eᵀ of the pairs.

    `both` is the determinant of each pair's 2 × 2 block, the product of its antisymmetric and symmetric eigenvalues,
    and `beyond` what entries without a partner cost.
    """

    straight: np.ndarray
    crossed: np.ndarray
    both: np.ndarray
    beyond: np.ndarray

    @classmethod
    def of(cls, antisymmetric, symmetric, beyond):
        """From the eigenvalues; an entry on the diagonal is its own pair, symmetric alone."""
        straight, crossed = 0.5 * (antisymmetric + symmetric), 0.5 * (symmetric - antisymmetric)
        np.fill_diagonal(straight, symmetric.diagonal())
        np.fill_diagonal(crossed, 0.0)
        return cls(straight, crossed, antisymmetric * symmetric, beyond)

    def __matmul__(self, E):
        return _paired(self.straight, self.crossed, self.beyond, E)


def _paired(straight, crossed, beyond, E):
    """straight ∘ E + crossed ∘ Eᵀ of pairs, and what multiplies entries without a partner."""
    k = len(straight)
    pairs = straight * E[:k] + crossed * E[:k].T
    return np.concatenate([pairs, beyond * E[k:]]) if len(beyond) else pairs


class _Inner(NamedTuple):
    """What conjugate gradients found, and whether it is as close as was asked."""

    E: np.ndarray
    reached: bool


class Equation(NamedTuple):
    """(Ĥ + P) E = R in the singular basis, u being eliminated from Ĥ, and the bias where it has an inverse."""

    frame: Frame
    hessian: Curvature
    axis: np.ndarray
    inverse: Any
    price: Price
    own: Any

    def solve(self, R, tol):
        """E, to a residual of tol times R's norm."""
        if self.frame.rank == 0 or R.size == 0:
            return np.zeros_like(R)
        by_matrix = not self.frame.thin
        found = None if by_matrix and R.size <= DENSE_UP_TO else self.by_conjugate_gradients(R, tol)
        if found is not None and (found.reached or not by_matrix or R.size > DENSE_AT_MOST):
            return found.E
        return self.solved_directly(R)

    def __matmul__(self, E):
        """(Ĥ + P) E."""
        moved = self.hessian @ self.frame.whole(E)
        if self.inverse is not None:
            moved -= self.hessian.of_outer(self.axis, self.inverse @ (self.axis @ moved))
        return self.frame.within(moved) + self.price @ E

    def by_conjugate_gradients(self, R, tol):
        """Preconditioned by P and the mean second derivative of each pair's directions."""
        precondition = self.preconditioner()
        E, left, enough = np.zeros_like(R), R.copy(), tol**2 * np.vdot(R, R)
        step, before = np.zeros_like(R), 1.0
        for _ in range(MOST_INNER):
            check()
            if not np.vdot(left, left) > enough:
                return _Inner(E, True)
            toward = precondition(left)
            product = np.vdot(left, toward)
            step = toward + (product / before) * step
            moved = self @ step
            length, before = product / np.vdot(step, moved), product
            E += length * step
            left -= length * moved
        return _Inner(E, False)

    def preconditioner(self):
        """The inverse of P + mean second derivatives, 2 × 2 blocks of (i, j), (j, i): what multiplies E, and Eᵀ."""
        frame, D, price = self.frame, self.hessian.D.copy(), self.price
        # the own class's is stiff along few directions only: the row's mean stands for it
        D[self.own] = 0.0
        D[self.own] = np.sum(D, axis=1) / (D.shape[1] - 1)
        along_columns = D @ frame.V**2
        mean = (frame.X**2).T @ along_columns
        mean = np.where(mean > 0, mean, 1.0)  # of directions that one side lacks
        straight, crossed, both, beyond = price
        # without the cancellation of squares
        determinant = mean * mean.T + (mean + mean.T) * straight + both
        np.fill_diagonal(determinant, (mean.diagonal() + straight.diagonal()) ** 2)
        alone = 1.0 / (along_columns[: frame.beyond] + beyond)
        inverse = (straight + mean).T / determinant, -crossed / determinant, alone
        if not frame.thin:
            return lambda E: _paired(*inverse, E)
        if frame.axes.shape[1] * frame.rank <= MOST_PAIRS:
            return self.row_by_row(inverse)
        return lambda E: frame.projected(_paired(*inverse, E))

    def row_by_row(self, inverse):
        """Exact in living columns but for what eliminates a bias that decays; in dead ones what `inverse` says.

        F = E V_living's coordinates (G, r), row by row, would have the blocks B_g = Vᵀ Ĥ_g V + diag c/σ if all entries
        cost what they do beyond pairs. What pairs cost instead, and a free bias doesn't, is L on the coordinates along
        `axes`, so that the inverse is B⁻¹ − B⁻¹ axes (1 + L axesᵀ B⁻¹ axes)⁻¹ L axesᵀ B⁻¹ (Woodbury's identity).
        """
        frame, axes, r, k = self.frame, self.frame.axes, self.frame.rank, len(self.frame.sigma)
        blocks = np.linalg.inv(self.blocks_of_rows())  # (G, r, r)
        width = axes.shape[1]
        outer = (axes[:, :, None] * axes[:, None, :]).reshape(len(axes), -1)
        inner = (outer.T @ blocks.reshape(len(axes), -1)).reshape(width, width, r, r).transpose(0, 2, 1, 3)
        size = width * r
        lower = self.of_pairs(width).reshape(size, size)
        taken = np.linalg.solve(np.eye(size) + lower @ inner.reshape(size, size), lower)

        def of_rows(F):
            return np.matmul(blocks, F[:, :, None])[:, :, 0]

        def precondition(E):
            F = of_rows(frame.X @ E[:k, :r] + E[k:, :r])
            F -= of_rows(axes @ (taken @ (axes.T @ F).ravel()).reshape(width, r))
            found = np.zeros_like(E)
            found[:k, :r], found[k:, :r] = frame.X.T @ F, frame.off(F)
            found[:r, r:] = inverse[0][:r, r:] * E[:r, r:]
            return found

        return precondition

    def blocks_of_rows(self):
        """Vᵀ Ĥ_g V + diag c/σ (G, r, r) of the living columns."""
        hessian, r = self.hessian, self.frame.rank
        V, diagonal = self.frame.V[:, :r], np.arange(r)
        blocks = np.matmul(V.T * hessian.D[:, None, :], V)
        for half in (factor @ V for factor in hessian.factors):
            blocks -= half[:, :, None] * half[:, None, :]
        blocks[:, diagonal, diagonal] += self.price.beyond[:, :r]
        return blocks

    def of_pairs(self, width):
        """L (width, r, width, r): what entries along `axes` cost, less what they would beyond pairs."""
        straight, crossed, _, beyond = self.price
        k, r = len(straight), self.frame.rank
        found = np.zeros((width, r, width, r))
        i, j = np.indices((k, r))
        found[i, j, i, j] = straight[:, :r]
        i, j = np.indices((r, r))
        found[i, j, j, i] += crossed[:r, :r]
        i, j = np.indices((width, r))
        found[i, j, i, j] -= beyond[0, :r]
        return found

    def solved_directly(self, R):
        """By the matrix of all unknowns."""
        frame, hessian, k = self.frame, self.hessian, len(R)
        X, V = frame.X, frame.V
        halves = [factor @ V for factor in hessian.factors]
        rows = (hessian.D[:, None, :] * V.T) @ V
        for half in halves:
            rows -= half[:, :, None] * half[:, None, :]
        pairs = (X[:, :, None] * X[:, None, :]).reshape(len(X), -1)
        matrix = (pairs.T @ rows.reshape(len(X), -1)).reshape(k, k, k, k).transpose(0, 2, 1, 3).reshape(k * k, k * k)
        if self.inverse is not None:
            # of entry (i, j) with β_h, Σ_g X_gi y_g (Vᵀ Ĥ_g)_jh
            mixed = V.T * hessian.D[:, None, :]
            for half, factor in zip(halves, hessian.factors, strict=True):
                mixed -= half[:, :, None] * factor[:, None, :]
            weighted = (X * self.axis[:, None]).T
            mixed = (weighted @ mixed.reshape(len(X), -1)).reshape(k * k, -1)
            matrix -= mixed @ self.inverse @ mixed.T
        index = np.arange(k * k).reshape(k, k)
        matrix[index, index] += self.price.straight
        matrix[index, index.T] += self.price.crossed
        some = np.logical_and(frame.X.any(axis=0, keepdims=True).T, frame.V.any(axis=0, keepdims=True))
        some[frame.rank :, frame.rank :] = False
        kept = np.flatnonzero(some)
        E = np.zeros(k * k)
        E[kept] = _of_system(matrix[np.ix_(kept, kept)], R.ravel()[kept])
        return E.reshape(k, k)


def _of_system(matrix, right):
    """The solution; the least of them where rounding leaves none, and NaN where something is not finite."""
    if not np.all(np.isfinite(matrix)):
        return np.full_like(right, np.nan)
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, right, rcond=None)[0]
