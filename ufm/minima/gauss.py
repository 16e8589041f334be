"""Gauss rules of a discrete measure on a line, panel by panel, and polynomials through their nodes.

Of points t_g with masses m_g, Lanczos' method on diag(t) from √m gives orthonormal polynomials and the Gauss rule of
the measure: J nodes and weights, exact to degree 2J − 1. The polynomial through values at the nodes is the same sum
over orthonormal polynomials at any point, which is how it is evaluated at the t_g.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

FIRST = 0.03  # width of the panels next to a singular point
GROWTH = 3.0  # of widths from there on
WIDEST = 2.0
MOST_NODES = 16  # of a Gauss rule
FEWEST_NODES = 8  # of one that is worth it
MOST_EXACT = 48  # points of a panel that are nodes themselves where Gauss rules have fewer
NOISE = 1e-12  # of orthogonal polynomials, where points to tell them apart have ended
LEAST_WEIGHT = 1.05  # of a node that stands for several points


class Rule(NamedTuple):
    """A measure on G points by J nodes.

    Attributes:
        nodes: where.
        weights: how much; they add up to the masses of the points.
        interpolation: takes values at the nodes to those of a polynomial through them, in each panel its own, at the
            points.
    """

    nodes: Float[np.ndarray, " J"]
    weights: Float[np.ndarray, " J"]
    interpolation: Float[np.ndarray, "G J"]

    def fitted(self, masses: Float[np.ndarray, " G"], values: Float[np.ndarray, "G F"]) -> Float[np.ndarray, "J F"]:
        """Values at the nodes of the polynomials of least squares, in the measure, through values at the points."""
        return self.interpolation.T @ (masses[:, None] * values) / self.weights[:, None]


def rule(
    points: Float[np.ndarray, " G"], masses: Float[np.ndarray, " G"], *, singular: Float[np.ndarray, " s"]
) -> Rule:
    """The rule of each panel, side by side: for functions that are smooth but at the singular points.

    Args:
        points: in any order, all different.
        masses: at least 1.
        singular: one or more, towards which panels become narrow, inside the points' range or out of it.
    """
    panel_of = np.digitize(points, edges(points.min(), points.max(), singular))
    panels = [np.flatnonzero(panel_of == panel) for panel in np.unique(panel_of)]
    parts = [part for panel in panels for part in _rules(points, masses, panel)]
    nodes, weights = (np.concatenate([getattr(r, name) for _, r in parts]) for name in ("nodes", "weights"))
    interpolation, last = np.zeros((len(points), len(nodes))), np.cumsum([len(r.nodes) for _, r in parts])
    for (panel, r), end in zip(parts, last, strict=True):
        interpolation[panel, end - len(r.nodes) : end] = r.interpolation
    return Rule(nodes, weights, interpolation)


def edges(low: float, high: float, singular: Float[np.ndarray, " s"]) -> Float[np.ndarray, " edges"]:
    """Bounds of panels of [low, high]: at growing distances from the nearest singular point, none too far apart."""
    singular = np.unique(singular)
    steps = FIRST * GROWTH ** np.arange(np.ceil(np.log(WIDEST / FIRST) / np.log(GROWTH)))
    around = singular[:, None] + np.concatenate([-steps, [0.0], steps])
    halfway = np.concatenate([[-np.inf], (singular[1:] + singular[:-1]) / 2, [np.inf]])[:, None]
    own = (around >= halfway[:-1]) & (around <= halfway[1:])
    bounds = np.unique(np.concatenate([[low, high], around[own & (around > low) & (around < high)]]))
    ends = zip(bounds[:-1], bounds[1:], np.ceil(np.diff(bounds) / WIDEST).astype(int), strict=True)
    inner = [np.linspace(left, right, parts, endpoint=False) for left, right, parts in ends]
    return np.concatenate([*inner, bounds[-1:]])


def _rules(points, masses, panel) -> list[tuple[np.ndarray, Rule]]:
    """Rules of the points of a panel, given by their indices: one, or those of its halves where masses are too few.

    It is that of the points themselves where they are few, else the Gauss rule of most nodes that are classes yet.
    """
    at, mass = points[panel], masses[panel]
    if len(panel) <= MOST_NODES:
        return [(panel, _exact(at, mass))]
    polynomials = _polynomials(at, mass, MOST_NODES)
    rules = (_gauss(polynomials, nodes) for nodes in range(len(polynomials.diagonal), 0, -1))
    found = next(r for r in rules if r.weights.min() >= LEAST_WEIGHT)
    if len(found.nodes) >= FEWEST_NODES:
        return [(panel, found)]
    if len(panel) <= MOST_EXACT:
        return [(panel, _exact(at, mass))]
    low, high = np.array_split(panel[np.argsort(at, kind="stable")], 2)
    return _rules(points, masses, low) + _rules(points, masses, high)


def _exact(points, masses) -> Rule:
    return Rule(points, masses, np.eye(len(points)))


def gauss(points: Float[np.ndarray, " G"], masses: Float[np.ndarray, " G"], nodes: int) -> Rule:
    """The Gauss rule of so many nodes, which are less than the points, or of as many as there are different points."""
    polynomials = _polynomials(points, masses, nodes)
    return _gauss(polynomials, len(polynomials.diagonal))


class _Polynomials(NamedTuple):
    """Orthonormal ones in (t − middle)/half: their recursion, and values (G, J) at the points."""

    middle: float
    half: float
    mass: float
    diagonal: np.ndarray
    beside: np.ndarray
    values: np.ndarray


def _gauss(polynomials, nodes) -> Rule:
    """The rule of so many of them."""
    middle, half, mass, diagonal, beside, values = polynomials
    beside = beside[: nodes - 1]
    at, vectors = np.linalg.eigh(np.diag(diagonal[:nodes]) + np.diag(beside, 1) + np.diag(beside, -1))
    roots = vectors[0] * np.sqrt(mass)  # of the weights; their signs are the vectors'
    return Rule(middle + half * at, roots**2, values[:, :nodes] @ (vectors * roots))


def _polynomials(points, masses, most) -> _Polynomials:
    """Lanczos' method on the points from the roots of their masses; it ends where different points do."""
    low, high = float(points.min()), float(points.max())
    middle, half = (low + high) / 2, (high - low) / 2 or 1.0
    x, start = (points - middle) / half, np.sqrt(masses)
    Q, diagonal, beside = [start / np.linalg.norm(start)], [], []
    while True:
        q = x * Q[-1]
        diagonal.append(q @ Q[-1])
        for _ in range(2):  # once loses orthogonality by rounding
            q = q - np.transpose(Q) @ (np.stack(Q) @ q)
        norm = np.linalg.norm(q)
        if len(Q) == most or norm <= NOISE:
            values = np.transpose(Q) / start[:, None]
            return _Polynomials(middle, half, float(masses.sum()), np.array(diagonal), np.array(beside), values)
        Q.append(q / norm)
        beside.append(norm)
