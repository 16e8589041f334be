"""What theorems about deep models check of every layer."""

from collections.abc import Iterator

import numpy as np

from ufm.model.problem import Problem
from ufm.theory.formulas import distance_to_gram
from ufm.theory.registry import Check, Found


def layers_of(found: Found) -> dict[str, np.ndarray]:
    """The factors in the order in which they multiply, by name."""
    H, A, _, W = found.params
    return {"H": H, **{f"W[{j}]": layer for j, layer in enumerate(W)}, "A": A}


def of_layer(problem: Problem, found: Found, j: int, H, means, gram: np.ndarray | None) -> Iterator[Check]:
    """Features (N, w) that enter layer j are equal within groups, with a predicted Gram of the classes' means."""
    unit = max(float(np.max(np.abs(H))), np.finfo(float).tiny)  # their squares may underflow
    apart = (H - np.repeat(means, problem.group_counts, axis=0)) / unit
    within = np.sum(apart**2) / max(np.sum((H / unit) ** 2), 1.0)
    yield found.of_minimiser(f"share within groups of features after {j} layers", predicted=0.0, measured=float(within))
    if gram is not None:
        distance = distance_to_gram(means, gram)
        yield found.of_minimiser(f"Gram of class means after {j} layers", predicted=0.0, measured=distance)
