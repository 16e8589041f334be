"""Many different sizes: the optimum is smooth in log n, so that far fewer sizes with real multiplicities tell it.

The optimality conditions of the problem on sizes are those of an operator on functions of t = log n, discretised by the
counts' own measure Σ_g m_g δ(log n_g): logits between classes are a kernel f(t, t') and an own part u(t) on the
diagonal. They are analytic but where w√n s = cN, s the slope of a right logit over a wrong one at equal logits: there
u(t) goes to zero. A Gauss rule of the measure in panels that become narrow there gives a problem of the same form on
few sizes. Its solution, extended by polynomials in both arguments of f and in that of u, is where the problem on all
sizes starts from, which mostly is where it ends: nothing but speed rests on any of this.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from ufm._core.status import Status
from ufm.minima import proximal_newton
from ufm.minima.gauss import Rule, rule
from ufm.minima.proximal_newton import Solved
from ufm.minima.symmetry import BlockPoint, Blocks, value_and_bound

MANY = 48  # sizes from which it is tried
SHRINKS = 0.6  # the share of the sizes that nodes may be
SMOOTH = 1e-2  # relative error of weights as polynomials of log n, up to which they are a function of it


def solve(blocks: Blocks, *, tol: float = 1e-11, enough: float = 1e-9, max_steps: int = 100) -> Solved:
    """As `ufm.minima.proximal_newton.solve`, from a start that fewer sizes give where there are many.

    Args:
        blocks: the problem on sizes.
        tol: relative gap at which the iteration ends.
        enough: relative gap up to which the start is the answer.
        max_steps: of each of the two problems.
    """
    found = rule_of(blocks) if blocks.num_sizes >= MANY else None
    if found is None or not pays(blocks, found):
        return proximal_newton.solve(blocks, tol=tol, max_steps=max_steps)
    nodes = coarse(blocks, found)
    first = proximal_newton.solve(nodes, tol=max(tol, 0.1 * enough), max_steps=max_steps)
    start = extended(blocks, nodes, found, first.point)
    value, bound = value_and_bound(blocks, start)
    if value - bound <= max(tol, enough) * abs(value):
        return Solved(start, value, bound, first.steps, Status.CONVERGED, value - bound)
    polished = proximal_newton.solve(blocks, start, tol=tol, max_steps=max_steps)
    return polished._replace(steps=first.steps + polished.steps)


def rule_of(blocks: Blocks) -> Rule:
    """The rule in log n."""
    return rule(np.log(blocks.counts), blocks.multiplicities, singular=thresholds(blocks))


def pays(blocks: Blocks, found: Rule) -> bool:
    """Whether nodes are far fewer than sizes, and weights a function of the count that the rule interpolates."""
    logs = np.log(blocks.weights)
    fitted = found.interpolation @ found.fitted(blocks.multiplicities, logs)
    return len(found.nodes) <= SHRINKS * blocks.num_sizes and float(np.max(np.abs(fitted - logs))) <= SMOOTH


def thresholds(blocks: Blocks) -> Float[np.ndarray, " s"]:
    """Where log n is such that w√n s = cN: between sizes, or as far beyond the first and the last as these are off."""
    order = np.argsort(blocks.counts)
    t, w = np.log(blocks.counts[order]), np.log(blocks.weights[order])
    above = w + t / 2 - np.log(blocks.price * blocks.num_samples / _steepness(blocks))
    crossed = np.flatnonzero(np.diff(np.sign(above)))
    if not len(crossed):
        return t[[0, -1]] + np.array([-2.0, 2.0]) * np.abs(above[[0, -1]])
    share = above[crossed] / (above[crossed] - above[crossed + 1])
    return t[crossed] + share * (t[crossed + 1] - t[crossed])


def _steepness(blocks):
    """The slope of a right logit over a wrong one where all are equal, 1 − α of cross-entropy."""
    zeros = np.zeros((1, blocks.num_sizes))
    at = blocks.loss.on_sizes(zeros[:, 0], zeros, blocks.alike[:1])
    return float(np.max(at.wrong) - at.right[0])


def coarse(blocks: Blocks, found: Rule) -> Blocks:
    """The problem on the rule's nodes; samples and classes are as many as before."""
    weights = np.exp(found.fitted(blocks.multiplicities, np.log(blocks.weights)))
    return dataclasses.replace(blocks, counts=np.exp(found.nodes), weights=weights, multiplicities=found.weights)


def extended(blocks: Blocks, nodes: Blocks, found: Rule, point: BlockPoint) -> BlockPoint:
    """A point of the problem on nodes as one on all sizes.

    With B_gh = f(t_g, t_h) + δ_gh u(t_g)/m_g it is f and u that are functions. Logits are centred anew.
    """
    to_all = found.interpolation
    f = point.C / nodes.scale - np.diag(point.u / nodes.multiplicities)
    u, b = np.maximum(to_all @ point.u, 0.0), to_all @ point.b
    B = to_all @ f @ to_all.T + np.diag(u / blocks.multiplicities)
    return centred(blocks, BlockPoint(blocks.scale * B, np.where(blocks.several, u, 0.0), b))


def centred(blocks: Blocks, point: BlockPoint) -> BlockPoint:
    """The point with what loss and decay ask of an optimum whose logits differ by a shift, and by a free bias."""
    C, b = point.C, point.b
    if blocks.ignores_shift:
        C, b = (
            C - np.outer(C @ blocks.shift_axis, blocks.shift_axis),
            b - blocks.multiplicities @ b / blocks.num_classes,
        )
    if blocks.bias_kind == "free":
        moved = blocks.bias_axis @ C
        C, b = C - np.outer(blocks.bias_axis, moved), b + blocks.bias(moved)
    return BlockPoint(C, point.u, b)
