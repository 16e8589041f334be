"""Which of many linear functions is largest at each sample: what classifiers decide, exactly and at little cost.

Logits of thousands of classes are nearly all of the work of a measurement. In NumPy they are formed in float32, twice
as fast as in float64, with a bound on their rounding; and anew in float64 for the few samples whose two largest logits
are too close for it. So decisions are those of float64, whatever the precision and the size of the features.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ufm._core.arrays import Array, namespace
from ufm._core.blocks import cut, fits, put, scan_blocks

UNROLLED_TO = 64  # classes up to which an argmax is unrolled in a program
EPS = float(np.finfo(np.float32).eps)


class Coarse(NamedTuple):
    """A rule in float32, less what all rows and all offsets share, which no decision depends on.

    Rows with their offsets (K, d + 1), the largest norm of a row, and the largest offset.
    """

    rows: Any
    norm: float
    offset: float


class Rule(NamedTuple):
    """Decide for the k with the largest ⟨row_k, x⟩ + offset_k, of equal ones for the first: (K, d) and (K,)."""

    rows: Any
    offsets: Any
    coarse: Coarse | None = None

    def prepared(self) -> "Rule":
        """With what many calls in NumPy share."""
        rows, offsets = self.rows - self.rows.mean(axis=0), self.offsets - self.offsets.mean()
        norm, offset = np.sqrt(np.max(np.einsum("ij,ij->i", rows, rows))), np.max(np.abs(offsets))
        beside = np.concatenate([rows, offsets[:, None]], axis=1, dtype=np.float32, casting="same_kind")
        return self._replace(coarse=Coarse(beside, float(norm), float(offset)))


def decide(rule: Rule, x: Float[Array, "d n"]) -> Int[Array, " n"]:
    """The rule's decision at each column of x."""
    return _decisions(rule, x) if rule.coarse is None else _screened(rule, rule.coarse, x)


def hits(logits: Float[Array, "K n"], rows: Float[Array, "K n"]) -> Bool[Array, " n"]:
    """Of each sample, whether its logits say what its targets do.

    Where all targets that are not zero are equal they are a set, and its members' logits must be the largest ones;
    else the largest logit must be of one of the largest targets.
    """
    xp, top = namespace(logits, rows), rows == rows.max(axis=0)[None]
    least, most = (xp.where(top, logits, xp.inf).min(axis=0), xp.where(top, -xp.inf, logits).max(axis=0))
    among = xp.take_along_axis(top, xp.argmax(logits, axis=0)[None], axis=0)[0]
    return xp.where((rows > 0).sum(axis=0) == top.sum(axis=0), least > most, among)


def _screened(rule: Rule, coarse: Coarse, x: np.ndarray) -> np.ndarray:
    """By float32 where its rounding can't matter, else by float64.

    A sum of d products differs from the exact one by at most γ = d u / (1 − d u) of the product of norms, in whatever
    order it is formed (Higham 2002, section 3.1); rounding rows, x and offsets adds some units, and a difference of two
    logits has both errors. What float32 can't hold is below 2⁻¹²⁶ a product.
    """
    d, count = x.shape
    samples = np.ones((count, d + 1), np.float32)
    samples[:, :d] = x.T
    scores = samples @ coarse.rows.T
    rows, best = np.arange(count), np.argmax(scores, axis=1)
    largest = scores[rows, best]
    scores[rows, best] = -np.inf
    size = coarse.norm * np.sqrt(np.einsum("ij,ij->i", samples, samples)) + coarse.offset
    share = (d + 9) * EPS
    allowance = share / (1 - share) * size + d * 2.0**-120 if share < 1 else np.inf
    clear = largest - np.max(scores, axis=1) > allowance
    best[~clear] = _decisions(rule, x[:, ~clear])
    return best


def _decisions(rule: Rule, x: Any) -> Any:
    """In the precision of x; logits that don't fit in blocks."""
    (A, b, _), xp, count = rule, namespace(*rule[:2], x), x.shape[1]

    def decided(block):
        return np.argmax(block.T @ A.T + b, axis=1) if xp is np else _first_largest(A @ block + b[:, None])

    def step(decisions, first, is_new):
        return put(decisions, decided(cut(x, first, is_new, 1)), first)

    return decided(x) if fits(count, len(A)) else scan_blocks(step, xp.zeros(count, np.int32), count, len(A))


def _first_largest(scores):
    """Argmax over the first axis, as comparisons that a CPU vectorises over samples."""
    xp = namespace(scores)
    if scores.shape[0] > UNROLLED_TO:
        return xp.argmax(scores, axis=0).astype(np.int32)
    best, index = scores[0], xp.zeros(scores.shape[1:], np.int32)
    for k in range(1, scores.shape[0]):
        better = scores[k] > best
        best, index = xp.where(better, scores[k], best), xp.where(better, k, index)
    return index
