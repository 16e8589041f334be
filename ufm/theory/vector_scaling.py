"""Cross-entropy of scaled and moved logits: what factors and offsets change, and what they don't."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ufm.geometry import gram_distance
from ufm.model.losses import flat_of
from ufm.model.problem import Problem
from ufm.model.vector_scaling import VectorScaling
from ufm.theory._groups import in_units, is_relaxed, logits_of, slopes
from ufm.theory._zero_point import collapse
from ufm.theory.formulas import VALUE, decay_scale, is_about, is_decayed, is_plain, named
from ufm.theory.registry import GEOMETRY, Check, Found, Prediction, theorem

CLEAR = 1e-2  # relative distance of c from a threshold, within which classes nearly coincide and nothing is said


class Alike(NamedTuple):
    """Classes any two of which can be exchanged, and the c from which they coincide."""

    classes: np.ndarray
    reach: float

    def __str__(self) -> str:
        return named("classes", self.classes)


def exchangeable(problem: Problem) -> list[Alike]:
    """Classes of one count, weight, and kind of offsets and factors, with one offset and factor among themselves."""
    n, w = problem.class_counts, np.asarray(problem.group_weights, np.float64)
    told = np.stack([n, w, problem.loss.kinds(problem.num_classes)])
    _, kind_of_class = np.unique(told, axis=1, return_inverse=True)
    kinds = [np.flatnonzero(kind_of_class.ravel() == kind) for kind in range(np.max(kind_of_class) + 1)]
    found = []
    for kind in kinds:
        if len(kind) == 1:
            continue
        of_size = problem.loss.scaling(kind[:1], kind[1:2])
        own, other = of_size.own_factor[0], of_size.factor[0, 0]
        if own == other and of_size.own_offset[0] == of_size.offset[0, 0]:
            found.append(Alike(kind, float(w[kind[0]] * own * np.sqrt(n[kind[0]]) / problem.num_samples)))
    return sorted(found, key=lambda alike: alike.classes[0])


def _checks_of_merging(problem: Problem, found: Found) -> Iterator[Check]:
    """Of logits, not of rows of A, which where they coincide are known to half as many digits."""
    c, logits = decay_scale(problem), logits_of(problem, found)
    moved = logits - (found.bias if problem.bias else 0.0)
    slope, size = slopes(problem, logits), np.sqrt(np.mean(np.sum(moved**2, axis=1)))
    w, n = np.asarray(problem.group_weights, np.float64), problem.class_counts
    for alike in exchangeable(problem):
        if abs(c - alike.reach) <= CLEAR * alike.reach or size == 0:
            continue
        of_kind = logits[np.ix_(alike.classes, alike.classes)]
        leads = np.diag(of_kind) - (np.sum(of_kind, axis=1) - np.diag(of_kind)) / (len(of_kind) - 1)
        merged = c >= alike.reach
        measured = bool((np.max if merged else np.min)(np.abs(leads)) <= GEOMETRY * size)
        yield found.of_minimiser(f"{alike} coincide", predicted=merged, measured=measured)
        if not merged:
            k, other = alike.classes[:2]
            pull = w[k] * np.sqrt(n[k]) * (slope[k, other] - slope[k, k]) / problem.num_samples
            yield found.of_minimiser(f"slopes that keep {alike} apart, over c", predicted=1.0, measured=pull / c)


@theorem(
    "minority collapse under vector scaling",
    paper="after Fang et al. 2021, Kini et al. 2021",
    family="imbalanced classes",
    assumes="vector scaling with weight decay on A and H, two classes of equal count, weight, offset and factor (of "
    "logits, of labels, or both); any bias, d ≥ K − 1",
    applies=lambda problem: is_plain(problem, VectorScaling) and is_relaxed(problem) and bool(exchangeable(problem)),
    checks=_checks_of_merging,
)
def merging(problem: Problem) -> Prediction:
    """Which classes of one size coincide: those with w Δ √n ≤ N c, whatever the offsets are.

    As for cross-entropy, of the logits only v(e_k − 1_B/K_B) tells K_B such classes apart, at the price c√n(K_B − 1).
    At v = 0 the K_B logits of a sample are equal, and so are their x = Δz + ι: the right one and its peers have one
    probability p, and slopes Δ(p − 1) and Δp. So the risk's slope in v is −(w n Δ/N)(K_B − 1), and v = 0 iff
    c ≥ wΔ√n/N; above, w√n Δ(1 − p_kk + p_kj) = Nc. Offsets cancel: logit adjustment moves the onset of minority
    collapse nowhere. Class weights put it off by their factor, and factors Δ < 1 of rare classes, of logits (CDT, VS)
    or of labels (LDT), bring it on earlier by theirs.

    Trap: an offset of the right logit alone (Cao et al. 2019) is none of these. It leaves p_kk < p_kj at v = 0, and the
    onset is at wΔ√n(1 − p_kk + p_kj) = Nc, of which no closed form is known: such margins put collapse off.
    """
    thresholds = {f"c at which {alike} merge": alike.reach for alike in exchangeable(problem)}
    return Prediction(thresholds=thresholds)


def _without_offsets(problem: Problem) -> Problem:
    """The same problem, each logit's offset taken off."""
    return dataclasses.replace(problem, loss=VectorScaling(multiplicative=problem.loss.multiplicative))


def _is_moved(problem: Problem) -> bool:
    """Whether a free bias can take the place of the offsets of logits, under one factor for each logit or all."""
    if not is_about(problem, VectorScaling) or problem.bias_kind != "free":
        return False
    offsets, factors = problem.loss.shapes
    return offsets[0] == 1 == factors[0] and bool(np.ptp(problem.loss.additive) > 0)


def _checks_of_offsets(problem: Problem, found: Found) -> Iterator[Check]:
    """The minimum is compared with the other problem's, which the solver finds by itself."""
    other = found.minimum(_without_offsets(problem))
    yield found.of_another("minimum without offsets", other, tolerance=VALUE)
    if not is_decayed(problem) or not is_relaxed(problem) or not np.any(other.classifier):
        return  # minimisers may be many
    for name, rows, others in (
        ("classifier", found.classifier, other.classifier),
        ("class means", found.means, other.means),
    ):
        size = max(float(np.linalg.norm(others)), float(np.linalg.norm(rows)))
        off = gram_distance(rows, others) + abs(np.linalg.norm(rows) - np.linalg.norm(others)) / size
        yield found.of_minimiser(f"Gram of the {name} less that without offsets", predicted=0.0, measured=float(off))


@theorem(
    "logit adjustment under a free bias",
    paper="after Menon et al. 2021",
    family="imbalanced classes",
    assumes="vector scaling with an offset for each logit, and factors of logits if any; a free bias, whatever decay, "
    "constraints and d are",
    applies=_is_moved,
    checks=_checks_of_offsets,
)
def offsets(problem: Problem) -> Prediction:
    """Nothing but the bias changes: features, classifier and minimum are those without the offsets.

    Δ_k(z_k + b_k) + ι_k = Δ_k(z_k + b'_k) with b' = b + ι/Δ, and a free bias has neither price nor bounds. So what
    adjustment does to a network with a bias that isn't decayed, it does to decisions: b = b' − ι/Δ.
    """
    return Prediction()


def _checks_of_rows(problem: Problem, found: Found) -> Iterator[Check]:
    """The sum as its distance from zero, √λ_A ‖Aᵀt‖/‖t‖ in units of √f."""
    flat: Any = flat_of(problem.loss, problem.num_classes)
    off = np.sqrt(problem.lambda_A) * float(np.linalg.norm(flat @ found.classifier)) / float(np.linalg.norm(flat))
    yield found.of_minimiser(
        "sum of the classifier's rows over their factors", predicted=0.0, measured=in_units(found, off)
    )


def _is_flat(problem: Problem) -> bool:
    return is_plain(problem, VectorScaling) and flat_of(problem.loss, problem.num_classes) is not None


@theorem(
    "zero point under vector scaling",
    paper="after Dang et al. 2024",
    family="imbalanced classes",
    assumes="vector scaling whose factors are of logits, of labels, or products; weight decay on A and H; any counts, "
    "class weights, bias and d",
    applies=_is_flat,
    checks=_checks_of_rows,
)
def zero_point(problem: Problem) -> Prediction:
    """Whether the minimiser is the zero point, and then its value and bias; rows of A over their factors sum to zero.

    At A = H = 0 with the best bias let U = −∂(mean loss)/∂Z, rows w_k Δ_k ∘ (e_k − p_k)/N: the zero point is a global
    minimum iff ‖U‖_op ≤ c, as of cross-entropy. A sample's slope sums to zero over Δ_y, and with factors Δ_yk = r_y t_k
    the slopes of all samples do over t; λ_A A = Uᵀ H then gives Σ_k a_k/t_k = 0.
    """
    return collapse(problem)
