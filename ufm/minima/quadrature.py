"""Many different sizes: the optimum is smooth in log n, so that far fewer sizes with real multiplicities tell it.

The optimality conditions of the problem on sizes are those of an operator on functions of t = log n, discretised by the
counts' own measure Σ_g m_g δ(log n_g): logits between classes are a kernel f(t, t') and an own part u(t) on the
diagonal. They are analytic but where w√n s = cN, s the slope of a right logit over a wrong one at equal logits: there
u(t) goes to zero. A Gauss rule of the measure in panels that become narrow there gives a problem of the same form on
few sizes. Its solution, extended by polynomials in both arguments of f and in that of u, is where the problem on all
sizes starts from, which mostly is where it ends: nothing but speed rests on any of this.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ufm._core.status import Status
from ufm.minima import proximal_newton
from ufm.minima.block_bound import value_and_bound
from ufm.minima.blocks import BlockPoint, Blocks, along_shift
from ufm.minima.clusters import median_cuts, radial
from ufm.minima.gauss import Rule, rule
from ufm.minima.proximal_newton import Solved

MANY = 48  # sizes from which a rule is tried
SHRINKS = 0.8  # the share of the sizes that nodes may be
SMOOTH = 1e-2  # relative error of weights as polynomials of log n, up to which they are a function of it
SCATTERED = 128  # sizes from which clusters are formed where there is no rule
CLUSTERS = 3, 128  # sizes to one, and how many at most


class Fewer(NamedTuple):
    """A problem on J < G sizes, and what takes values at these to values at all (G, J)."""

    blocks: Blocks
    to_all: Float[np.ndarray, "G J"]


def solve(blocks: Blocks, *, tol: float = 1e-11, enough: float = 1e-9, max_steps: int = 100) -> Solved:
    """As `ufm.minima.proximal_newton.solve`, from a start that fewer sizes give where there are many.

    Args:
        blocks: the problem on sizes.
        tol: relative gap at which the iteration ends.
        enough: relative gap up to which the start is the answer.
        max_steps: of each of the two problems.
    """
    fewer = fewer_sizes(blocks)
    if fewer is None:
        return proximal_newton.solve(blocks, tol=tol, max_steps=max_steps)
    first = proximal_newton.solve(fewer.blocks, tol=max(tol, 0.1 * enough), max_steps=max_steps)
    start = extended(blocks, fewer, first.point)
    enough = max(tol, enough)
    value, bound = value_and_bound(blocks, start, close=enough)
    if value - bound <= enough * abs(value):
        return Solved(start, value, bound, first.steps, Status.CONVERGED, value - bound)
    polished = proximal_newton.solve(blocks, start, tol=tol, max_steps=max_steps)
    return polished._replace(steps=first.steps + polished.steps)


def fewer_sizes(blocks: Blocks) -> Fewer | None:
    """The problem on fewer sizes that is solved first, or None where there are few anyhow."""
    if blocks.num_sizes < MANY or blocks.told is None:
        return None
    found = rule_of(blocks)
    if pays(blocks, found):
        return on_nodes(blocks, found)
    return on_clusters(blocks) if blocks.num_sizes >= SCATTERED else None


def rule_of(blocks: Blocks) -> Rule:
    """The rule in log n."""
    return rule(np.log(blocks.counts), blocks.multiplicities, singular=thresholds(blocks))


def pays(blocks: Blocks, found: Rule) -> bool:
    """Whether nodes are far fewer than sizes, and what these are told a function of the count that it interpolates."""
    fitted = found.interpolation @ found.fitted(blocks.multiplicities, blocks.told)
    return len(found.nodes) <= SHRINKS * blocks.num_sizes and float(np.max(np.abs(fitted - blocks.told))) <= SMOOTH


def on_nodes(blocks: Blocks, found: Rule) -> Fewer:
    """The problem on a rule's nodes."""
    told = found.fitted(blocks.multiplicities, blocks.told)
    return Fewer(blocks.on_others(np.exp(found.nodes), found.weights, told), found.interpolation)


def on_clusters(blocks: Blocks) -> Fewer:
    """The problem on clusters of sizes, the dead and the living apart, with smooth functions on either side.

    Coordinates are the distance to the threshold, with its sign and stretched near it, and log n.
    """
    above, t = _above(blocks), np.log(blocks.counts)
    points = np.stack([np.sign(above) * np.sqrt(np.abs(above)), t / 3], axis=1)
    sizes_to_one, most = CLUSTERS
    share = min(1.0 / sizes_to_one, most / blocks.num_sizes)
    m, sides = blocks.multiplicities, (np.flatnonzero(above > 0), np.flatnonzero(above <= 0))
    means, parts = zip(*(_clustered(points, m, side, share) for side in sides if len(side)), strict=True)
    mean, to_all = np.concatenate(means), np.concatenate(parts, axis=1)
    return Fewer(blocks.on_others(np.exp(mean @ t), (mean > 0) @ m, mean @ blocks.told), to_all)


def _clustered(points, masses, side, share):
    """What takes values at all sizes to means over clusters of one side (J, G), and such values back to it (G, J)."""
    clusters = [side[c] for c in median_cuts(points[side], max(1, int(share * len(side))))]
    mean, to_side = np.zeros((len(clusters), len(points))), np.zeros((len(points), len(clusters)))
    for row, members in zip(mean, clusters, strict=True):
        row[members] = masses[members] / np.sum(masses[members])
    to_side[side] = radial(points[side], mean @ points)
    return mean, to_side


def thresholds(blocks: Blocks) -> Float[np.ndarray, " s"]:
    """Where log n is such that w√n s = cN: between sizes, or as far beyond the first and the last as these are off."""
    order = np.argsort(blocks.counts)
    t, above = np.log(blocks.counts[order]), _above(blocks)[order]
    crossed = np.flatnonzero(np.diff(np.sign(above)))
    if not len(crossed):
        return t[[0, -1]] + np.array([-2.0, 2.0]) * np.abs(above[[0, -1]])
    share = above[crossed] / (above[crossed] - above[crossed + 1])
    return t[crossed] + share * (t[crossed + 1] - t[crossed])


def _above(blocks):
    """By how much each size is above the threshold, log(w√n s/(cN)); s is 1 − α of cross-entropy with smoothing α."""
    zeros = np.zeros((1, blocks.num_sizes))
    at = blocks.loss.on_sizes(zeros[:, 0], zeros, blocks.alike[:1])
    steepness = blocks.steepness * (np.max(at.wrong) - at.right[0])
    return np.log(blocks.weights * np.sqrt(blocks.counts) * steepness / (blocks.price * blocks.num_samples))


def extended(blocks: Blocks, fewer: Fewer, point: BlockPoint) -> BlockPoint:
    """A point of the problem on fewer sizes as one on all.

    With B_gh = f(t_g, t_h) + δ_gh u(t_g)/m_g it is f and u that are functions. Logits are centred anew.
    """
    few, to_all = fewer
    f = point.C / few.scale - np.diag(point.u / few.multiplicities)
    u, b = np.maximum(to_all @ point.u, 0.0), to_all @ point.b
    B = to_all @ f @ to_all.T + np.diag(u / blocks.multiplicities)
    return centred(blocks, BlockPoint(blocks.scale * B, np.where(blocks.several, u, 0.0), b))


def centred(blocks: Blocks, point: BlockPoint) -> BlockPoint:
    """The point with what loss and decay ask of an optimum whose logits differ by a shift, and by a free bias."""
    C, b = point.C, point.b
    if blocks.flat_axis is not None:
        C = C - np.outer(C @ blocks.flat_axis, blocks.flat_axis)
        beta = blocks.beta(b)
        b = blocks.bias(beta - along_shift(blocks, beta))
    if blocks.bias_kind == "free":
        moved = blocks.bias_axis @ C
        C, b = C - np.outer(blocks.bias_axis, moved), b + blocks.bias(moved)
    return BlockPoint(C, point.u, b)
