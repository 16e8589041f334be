"""Scattered points in a plane, or in any dimensions, in clusters, and functions through values at their centres."""

import numpy as np
from jaxtyping import Float, Int


def median_cuts(points: Float[np.ndarray, "G dims"], number: int) -> list[Int[np.ndarray, " members"]]:
    """So many clusters of as many points each, or nearly: the indices of their points.

    Points are halved again and again across the axis along which they are widest.
    """
    return _cut(points, np.arange(len(points)), number)


def _cut(points, members, number):
    if number == 1:
        return [members]
    axis = np.argmax(np.ptp(points[members], axis=0))
    in_order, fewer = members[np.argsort(points[members, axis], kind="stable")], number // 2
    low, high = np.split(in_order, [len(members) * fewer // number])
    return _cut(points, low, fewer) + _cut(points, high, number - fewer)


def radial(points: Float[np.ndarray, "G dims"], centres: Float[np.ndarray, "J dims"]) -> Float[np.ndarray, "G J"]:
    """What takes values at centres to those at points of the function through them of least bending.

    It is a sum of cubes of distances to the centres and a linear function, which leaves linear functions as they are.
    """
    middle = centres.mean(axis=0)  # from which constants are the least of functions that centres on a line leave open
    points, centres = points - middle, centres - middle
    flat = _linear(centres)
    zeros = np.zeros((flat.shape[1], flat.shape[1]))
    conditions = np.block([[_cubes(centres, centres), flat], [flat.T, zeros]])
    terms = np.concatenate([_cubes(points, centres), _linear(points)], axis=1)
    return terms @ np.linalg.pinv(conditions)[:, : len(centres)]


def _cubes(points, centres):
    """Cubes of distances (G, J)."""
    squares = np.sum(points**2, axis=1)[:, None] + np.sum(centres**2, axis=1) - 2.0 * points @ centres.T
    return np.maximum(squares, 0.0) ** 1.5


def _linear(points):
    """1 and the coordinates."""
    return np.concatenate([np.ones((len(points), 1)), points], axis=1)
