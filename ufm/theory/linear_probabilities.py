"""Cross-entropy where symmetry fixes the singular vectors of the logits: probabilities are linear in ĉ."""

import functools as ft
from typing import NamedTuple

import numpy as np

from ufm.model.problem import Problem
from ufm.theory._groups import CROSS_ENTROPIES, Groups, groups_of, is_relaxed, is_told, polar
from ufm.theory.formulas import factor_norms, unused_bias
from ufm.theory.registry import Prediction, theorem

EXACT = 1e-9  # up to which what holds by symmetry holds in rounded numbers
MOST_NUMBERS = 10**6  # of targets, whose singular vectors are tried
TRIALS = 4  # of frames, each from the last one's probabilities


class Linear(NamedTuple):
    """Probabilities (M, K), singular values of Π^{1/2}Z and its right singular vectors, rows (r, K)."""

    probabilities: np.ndarray
    s: np.ndarray
    Vt: np.ndarray


@ft.lru_cache(maxsize=4)
def linear(problem: Problem) -> Linear | None:
    """Probabilities T − ĉE/(w√π) of a frame E that their own logits have; None where none of those tried has."""
    groups = groups_of(problem)
    frame, _, _ = polar(groups.root * groups.w[:, None] * (groups.T - 1 / problem.num_classes))
    for _ in range(TRIALS):
        found = _at(problem, groups, frame)
        if found is None or isinstance(found, Linear):
            return found
        frame = found
    return None


def _at(problem: Problem, groups: Groups, frame: np.ndarray) -> Linear | np.ndarray | None:
    """What a frame gives where it is optimal; else the frame of its logits, if it has any."""
    weights = groups.w[:, None] * groups.root
    p = groups.T - groups.price * frame / weights
    if np.min(p) <= 0:
        return None
    Z = np.log(p)
    Z -= np.mean(Z, axis=1, keepdims=True)
    other, s, Vt = polar(groups.root * Z)
    # the frame is a subgradient of ‖Π^{1/2}Z‖_* where its norm is at most one and its product with Π^{1/2}Z that norm
    inside = np.linalg.norm(frame, 2) <= 1 + EXACT and np.sum(s) - np.vdot(frame, groups.root * Z) <= EXACT * np.sum(s)
    if inside and _uses_no_bias(problem, groups, frame):
        return Linear(p, s, Vt)
    return other if len(s) else None


def _uses_no_bias(problem: Problem, groups: Groups, frame: np.ndarray) -> bool:
    """Whether the slopes of a bias of zero vanish, where there is one."""
    return problem.bias_kind == "none" or bool(np.max(np.abs(np.sqrt(groups.share) @ frame)) <= EXACT)


def _applies(problem: Problem) -> bool:
    posed = is_told(problem, *CROSS_ENTROPIES) and is_relaxed(problem)
    return posed and problem.num_groups * problem.num_classes <= MOST_NUMBERS and linear(problem) is not None


@theorem(
    "probabilities linear in decay",
    paper="here, after Zhu et al. 2021 (class labels)",
    family="targets",
    assumes="cross-entropy or label smoothing, targets whose symmetry fixes the logits' singular vectors at little "
    "enough decay, weight decay on A and H, any bias that then stays zero, d ≥ relaxed rank",
    applies=_applies,
    any_targets=True,
)
def linear_probabilities(problem: Problem) -> Prediction:
    """Value, norms and classifier, of probabilities p = T − ĉE/(w√π) with the polar factor E of the logits.

    Optimal are logits with Π diag(w)(T − p) = ĉΠ^{1/2}E and E in the subgradient of ‖·‖_* at Π^{1/2}Z. A frame E that
    symmetry fixes makes p known; its logits log p, centred, must have that frame, which is tested. There

        f* = Σ π_m w_m Ent(p_m),

    since ĉ⟨E, Π^{1/2}Z⟩ = Σ π w (T − p)·z adds up with the loss to Σ π w (lse z − p·z). So for as many groups as
    outputs with a symmetric T on which a group acts transitively p = T − ĉ√K(I − J/K)/w (labels, smoothing, pair flips,
    super-classes); for symmetric circulants each Fourier mode moves by its sign; M disjoint sets of r labels leave
    κ/√r to every other label. It ends where a probability would be zero or a mode of the logits changes its sign.
    """
    groups, found = groups_of(problem), linear(problem)
    assert found is not None
    p = found.probabilities
    value = -float(groups.share * groups.w @ np.sum(p * np.log(p), axis=1))
    gram = (found.Vt.T * found.s) @ found.Vt
    shape = factor_norms(problem, np.sqrt(problem.num_samples) * found.s)
    norms = np.sqrt(np.sqrt(problem.num_samples * problem.lambda_H / problem.lambda_A) * np.diag(gram))
    known = {"value": value, **unused_bias(problem), **shape}
    return Prediction(degenerate=False, gram_A=gram, norms_A=norms, **known) if len(found.s) else Prediction(**known)
