"""Roots and minima of few variables, in float64."""

from collections.abc import Callable

import numpy as np


def root(rises: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is negative at `low` and not at `high` changes sign, to the last bit."""
    while low < (middle := 0.5 * (low + high)) < high:
        if rises(middle) < 0:
            low = middle
        else:
            high = middle
    return high


def maximum(rise: Callable[[float], float], low: float, high: float) -> float:
    """Golden section: the largest value of a function with one peak in [low, high]."""
    ratio = 0.5 * (np.sqrt(5.0) - 1.0)
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    values = [rise(x) for x in inner]
    for _ in range(80):
        if values[0] > values[1]:
            high, inner[1], values[1] = inner[1], inner[0], values[0]
            inner[0] = high - ratio * (high - low)
            values[0] = rise(inner[0])
        else:
            low, inner[0], values[0] = inner[0], inner[1], values[1]
            inner[1] = low + ratio * (high - low)
            values[1] = rise(inner[1])
    return float(max(values))


def newton(convex: Callable, x: np.ndarray, most: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Minimiser of a smooth convex function by damped Newton steps, then a few undamped ones.

    Args:
        convex: x ↦ (value, gradient, Hessian), the last positive definite.
        x: where to start.
        most: the largest step of each entry, so that no exponential is left far behind.
        positive: which entries must stay so; the minimiser has them positive.
    """
    # where exponentials leave hardly any curvature rounding must leave it positive
    floor = 1e-14 * np.eye(len(x))
    polish, (value, gradient, hessian) = 4, convex(x)
    for _ in range(1000):
        scale = 1 / np.sqrt(np.diag(hessian))
        step = -scale * np.linalg.solve(hessian * np.outer(scale, scale) + floor, gradient * scale)
        promised = -gradient @ step
        limits = [0.9 * x[i] / -step[i] for i in np.flatnonzero(positive & (step < 0))]
        size = min(1.0, 1.0 / max(np.max(np.abs(step) / most), 1e-300), *limits)
        end = promised <= 1e-12 * abs(value)
        if end and polish == 0:
            break
        polish -= end
        there = convex(x + size * step)
        while not end and there[0] > value - 0.25 * size * promised:
            size *= 0.5
            there = convex(x + size * step)
        x, (value, gradient, hessian) = x + size * step, there
    return x
