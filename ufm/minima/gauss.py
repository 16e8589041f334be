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
FEWEST_NODES = 13  # of one that is worth it
MOST_EXACT = 48  # points of a panel that are nodes themselves where Gauss rules have fewer
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

    def fitted(self, masses: Float[np.ndarray, " G"], values: Float[np.ndarray, " G"]) -> Float[np.ndarray, " J"]:
        """Values at the nodes of the polynomial of least squares, in the measure, through values at the points."""
        return self.interpolation.T @ (masses * values) / self.weights


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
    found = next(r for r in (gauss(at, mass, J) for J in range(MOST_NODES, 0, -1)) if r.weights.min() >= LEAST_WEIGHT)
    if len(found.nodes) >= FEWEST_NODES:
        return [(panel, found)]
    if len(panel) <= MOST_EXACT:
        return [(panel, _exact(at, mass))]
    low = at <= (at.min() + at.max()) / 2
    return _rules(points, masses, panel[low]) + _rules(points, masses, panel[~low])


def _exact(points, masses) -> Rule:
    return Rule(points, masses, np.eye(len(points)))


def gauss(points: Float[np.ndarray, " G"], masses: Float[np.ndarray, " G"], nodes: int) -> Rule:
    """The Gauss rule of so many nodes, less than the points."""
    middle, half = (points.max() + points.min()) / 2, (points.max() - points.min()) / 2
    diagonal, beside, Q = _lanczos((points - middle) / half, np.sqrt(masses), nodes)
    at, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    roots = vectors[0] * np.sqrt(masses.sum())  # of the weights; their signs are the vectors'
    return Rule(middle + half * at, roots**2, (Q / np.sqrt(masses)[:, None]) @ (vectors * roots))


def _lanczos(x, start, steps):
    """The Jacobi matrix (steps,), (steps − 1,) of diag(x) from `start`, and its orthonormal vectors (G, steps)."""
    Q = np.zeros((len(x), steps))
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    q = start / np.linalg.norm(start)
    for j in range(steps):
        Q[:, j] = q
        diagonal[j] = q @ (x * q)
        q = x * q
        for _ in range(2):  # once loses orthogonality by rounding
            q = q - Q[:, : j + 1] @ (Q[:, : j + 1].T @ q)
        beside[j] = np.linalg.norm(q)
        q = q / beside[j]
    return diagonal, beside[:-1], Q
