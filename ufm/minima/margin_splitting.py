"""The cheapest logits with margins of 1, and their proof, by splitting: one singular value decomposition a step.

With B = D^{1/2} Z C^{1/2} the convex form is min ‖P B‖_* over B that meet the margins, where P takes off what costs
nothing: the constants of rows and, with a free bias, the mean over samples. The alternating direction method of
multipliers (Gabay & Mercier 1976, Eckstein & Bertsekas 1992) holds B twice, Y = B, and goes between

- the nearest B to Y − u that meets the margins, row by row in closed form,
- the Y that lowers ‖P Y‖_* + ρ/2 ‖Y − B − u‖²: singular values of P (B + u) less 1/ρ,
- u = B + u − Y, whose ρ u has an operator norm of at most 1, and sums of zero, after every step.

So every step gives logits with margins of 1, and U = D^{1/2} ρu C^{1/2}, multipliers but for signs; with as much of
strictly negative ones as signs need they are a proof. Gaps of 1e-11 take some hundred steps, of any size; where counts
differ a millionfold up to two thousand.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ufm._core.interrupts import check
from ufm.minima.margins import Supports, centred_supports

EVERY = 25  # steps, after which there is a look at how far it is
RELAXED = 1.7  # how far past B a step goes (Eckstein & Bertsekas)
SETTLES = 2000  # steps, after which ρ stays as it is
UNEVEN, CHANGED = 3.0, 1.5  # residuals of which one is so much larger, and what ρ is then changed by


class Reached(NamedTuple):
    """Logits Z (M, K) with margins of 1, multipliers U (M, K), and steps taken."""

    logits: np.ndarray
    multipliers: np.ndarray
    steps: int


def iterates(supports: Supports, max_steps: int) -> Iterator[Reached]:
    """Ever better ones, without end but `max_steps`."""
    left, right = supports.roots
    inner = _interior(supports)
    inner /= np.linalg.norm(inner / left / right, 2)
    first, _ = centred_supports(supports)
    rho = len(first.s) / first.value  # the mean singular value is 1/ρ
    Y, u = left * first.logits * right, first.X @ first.Vt / rho
    for step in range(1, max_steps + 1):
        before, scaled = Y, nearest(supports, (Y - u) / right)
        B = scaled * right
        ahead = RELAXED * B + (1.0 - RELAXED) * Y + u
        X, s, Vt = np.linalg.svd(supports.projected(ahead), full_matrices=False)
        u = (X * np.minimum(s, 1.0 / rho)) @ Vt
        Y = ahead - u
        if step % EVERY == 0 or step == max_steps:
            check()
            yield Reached(scaled / left, _signed(supports, left * (rho * u) * right, inner), step)
            apart, moved = np.linalg.norm(B - Y) / np.linalg.norm(B), np.linalg.norm(Y - before) / np.linalg.norm(u)
            if step < SETTLES and max(apart, moved) > UNEVEN * min(apart, moved):
                change = CHANGED if apart > moved else 1 / CHANGED
                rho, u = rho * change, u / change


def nearest(supports: Supports, rows: np.ndarray) -> np.ndarray:
    """(M, K) √n_m times the logits that meet the margins nearest to rows, Σ c_k (·)² apart.

    Wanted outputs get one value r, others at most r − √n_m. r is the weighted mean of the wanted ones and of those
    others, raised by √n_m, that lie above it: the largest such mean, of others taken from the highest down.
    """
    on, copies, step = supports.wanted, supports.copies, supports.roots[0]
    raised = np.where(on, -np.inf, rows + step)
    order = np.argsort(-raised, axis=1)
    highest = np.take_along_axis(raised, order, axis=1)
    there = np.isfinite(highest)
    weights = np.where(there, copies[order], 0.0)
    sums = np.concatenate([_of_wanted(on, copies * rows), weights * np.where(there, highest, 0.0)], axis=1)
    sizes = np.concatenate([_of_wanted(on, np.broadcast_to(copies, on.shape)), weights], axis=1)
    r = np.max(np.cumsum(sums, axis=1) / np.cumsum(sizes, axis=1), axis=1, keepdims=True)
    return np.where(on, r, np.minimum(rows, r - step))


def _of_wanted(on: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(M, 1) sums over the wanted outputs."""
    return np.sum(np.where(on, values, 0.0), axis=1, keepdims=True)


def _signed(supports: Supports, U: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Multipliers of the right signs: U and, of strictly negative ones, as much as it takes."""
    off = ~supports.wanted
    wrong = off & (U > 0)
    share = np.max(U[wrong] / (U[wrong] - inner[wrong]), initial=0.0)
    return (1.0 - share) * U + share * inner


def _interior(supports: Supports) -> np.ndarray:
    """(M, K) multipliers, all below zero off the supports, whose rows sum to zero, and with a free bias columns.

    Supports join groups and outputs to parts. A part's outputs get from groups what its groups give: with 1/(groups in
    the group's part × outputs in the output's) for each entry off the supports, any two parts exchange one, and entries
    α_m + β_k on the supports settle the rest.
    """
    on = supports.wanted.astype(np.float64)
    if not supports.free_bias:
        return on * (np.sum(1.0 - on, axis=1) / np.sum(on, axis=1))[:, None] - (1.0 - on)
    M, part = len(on), _parts(supports.wanted)
    sizes = np.bincount(part[:M])[part[:M]][:, None] * np.bincount(part[M:])[part[M:]]
    y = (1.0 - on) / sizes
    alpha, beta = _heights(on, np.sum(y, axis=1), np.sum(y, axis=0))
    return on * (alpha[:, None] + beta) - y


def _heights(on: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """α (M,) and β (K,), so that entries α_m + β_k on the supports have these sums; the longer of them eliminated."""
    if on.shape[0] < on.shape[1]:
        beta, alpha = _heights(on.T, columns, rows)
        return alpha, beta
    degree = np.sum(on, axis=1)
    reduced = np.diag(np.sum(on, axis=0)) - on.T @ (on / degree[:, None])
    beta = np.linalg.lstsq(reduced, columns - on.T @ (rows / degree), rcond=None)[0]
    return (rows - on @ beta) / degree, beta


def _parts(wanted: np.ndarray) -> np.ndarray:
    """(M + K,) numbers of the parts that groups and outputs, in this order, are joined to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups, outputs = np.nonzero(wanted)
    M, size = len(wanted), sum(wanted.shape)
    joined = coo_array((np.ones(len(groups)), (groups, M + outputs)), shape=(size, size))
    return connected_components(joined, directed=False)[1]
