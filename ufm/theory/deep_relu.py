"""Squared error of deep ReLU models without bias: two classes collapse, and of more, solutions that are known bound it.

F factors with features (hidden layers and two), c = (n λ_H Π λ_W λ_A)^{1/F} of balanced classes, weight w. Factors that
give x times the labels have a least decay of (F/2) c C^{1/F} x^{2/F}, with C = Π‖F_l‖² of factors that give them
exactly, and so a value of

    w g(C),    g(C) = min over x in [0, 1] of ½(1−x)² + (F/2) (c/w) C^{1/F} x^{2/F}.

As ReLU is homogeneous, what goes into and comes out of a hidden neuron may be scaled against each other: wherever the
objective doesn't fall, both have one weight decay, λ‖row of W_j‖² = λ‖column of W_{j+1}‖², and so have all factors;
features and first layer, with no ReLU between them, balance as matrices.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ufm._core.graphs import FEWEST_VERTICES, incidence, largest_complete
from ufm._core.thresholding import Branches, branches, jump_price
from ufm.model.constraints import Free
from ufm.model.factors import common_decay
from ufm.model.layers import ACTIVATIONS
from ufm.model.losses import SquaredError
from ufm.model.problem import Problem, class_means
from ufm.theory._layers import layers_of, of_layer
from ufm.theory.formulas import VALUE, WITHIN, is_about, near
from ufm.theory.registry import Check, Found, Prediction, theorem

COLLAPSE = "c = (n Π λ)^{1/F} at total collapse"
LIVES = "c up to which the zero point is not the minimum: a construction is better"
DIES = "c from which the zero point is the minimum"


class Model(NamedTuple):
    """What the theorems read of a problem: K, w, c, F decays λ of the factors, and columns of all but the last."""

    classes: int
    weight: float
    scale: float
    decays: np.ndarray
    columns: tuple[int, ...]

    @property
    def depth(self) -> int:
        """F, how many factors there are."""
        return len(self.decays)

    def multiples(self, root: float) -> Branches:
        """Zero and the other minimum along x, of weight one, for C^{1/F}; of one entry."""
        return branches(np.ones(1), root * self.scale / self.weight, factors=self.depth)

    def value(self, root: float) -> float:
        """w g(C), for C^{1/F}."""
        return self.weight * float(self.multiples(root).least[0])

    def jump(self, root: float) -> float:
        """The c from which zero is the least of all multiples, for C^{1/F}."""
        return float(self.weight * jump_price(self.depth) / root)


def model_of(problem: Problem) -> Model:
    """Of a problem that the theorems are about."""
    factors, n = problem.factors(), int(problem.group_counts[0])
    decays = np.array([float(factor.decay) for factor in factors])
    scale = common_decay(factors, n)
    columns = tuple(factor.shape[1] for factor in (factors[0], *factors[2:]))
    return Model(problem.num_classes, float(problem.group_weights[0]), scale, decays, columns)


def roots(model: Model) -> dict[str, float]:
    """C^{1/F} of the solutions that are known, where there are columns enough for them."""
    K, (d, *widths) = model.classes, model.columns
    found = {"collapse": float(K)} if min(model.columns) >= K else {}
    if len(widths) < 2 or widths[-1] < K:
        return found
    U, narrowest = incidence(K), min(widths[:-1])
    if narrowest >= len(U) and d >= np.linalg.matrix_rank(U):
        found["low rank"] = _root(model, U)
    full = largest_complete(K)
    rest = K - full * (full - 1) // 2
    if full >= FEWEST_VERTICES and rest and min(narrowest, d) >= full + rest:
        found["mixed"] = _root(model, incidence(K - rest)) + rest
    return found


def _root(model: Model, U: np.ndarray) -> float:
    """C^{1/F} of classes as the edges of a graph with this incidence matrix."""
    (r, K), F = U.shape, model.depth
    return float((np.linalg.norm(U, "nuc") ** 2 * float(r) ** (F - 4) * (r * K / 4) * K) ** (1 / F))


def _is_about(problem: Problem) -> bool:
    """Whether layers are ReLU, at least one hidden, classes balanced, and everything is free and decayed, no bias."""
    if not problem.widths or problem.activation != "relu" or problem.targets is not None or not problem.balanced:
        return False
    free = is_about(problem, SquaredError, features=Free, classifier=Free)
    return free and problem.bias_kind == "none" and all(factor.decay > 0 for factor in problem.factors())


def _is_of_two(problem: Problem) -> bool:
    return _is_about(problem) and problem.num_classes == 2 and min(problem.dim, *problem.widths) >= 2


def _is_of_more(problem: Problem) -> bool:
    return _is_about(problem) and problem.num_classes > 2


def _balance(problem: Problem, found: Found) -> Iterator[Check]:
    """What the decay of the layers on both sides of each hidden neuron is, of any minimiser."""
    model, layers = model_of(problem), list(layers_of(found).values())
    H, first, *_ = scaled = [np.sqrt(decay) * layer for decay, layer in zip(model.decays, layers, strict=True)]
    unit = max(abs(found.value), np.finfo(float).tiny)
    off = float(np.linalg.norm(first.T @ first - H.T @ H) / unit)
    yield found.of_minimiser("λ WᵀW of the first hidden layer less λ HᵀH", predicted=0.0, measured=off)
    apart = (np.sum(W**2, axis=1) - np.sum(V**2, axis=0) for W, V in itertools.pairwise(scaled[1:]))
    off = float(max(np.max(np.abs(each)) for each in apart) / unit)
    yield found.of_minimiser("λ‖·‖² of what enters a neuron less what leaves it", predicted=0.0, measured=off)


def _collapse_of_two(problem: Problem, found: Found) -> Iterator[Check]:
    """Balance, equal features within classes, and behind each ReLU classes on orthogonal axes, equally far out."""
    model = model_of(problem)
    found = _against(found, model.value(2.0))
    yield from _balance(problem, found)
    if not _lives(model, 2.0):
        return
    features, *layers = layers_of(found).values()
    means, gram, act = class_means(problem, features), None, ACTIVATIONS["relu"].of
    cosine = float(means[0] @ means[1] / max(np.linalg.norm(means[0]) * np.linalg.norm(means[1]), 1e-300))
    yield found.of_minimiser(
        "cosine of the classes' features is at most", predicted=0.0, measured=cosine, error=max(cosine, 0.0)
    )
    for j, layer in enumerate(layers):
        yield from of_layer(problem, found, j, features, class_means(problem, features), gram)
        features, gram = act(features @ layer.T), np.eye(2)


def _against(found: Found, value: float) -> Found:
    """What was found with the gap to the minimum that the theorem names, where nothing else certifies it.

    A claim is then the theorem's own: that whatever has this value is as it says.
    """
    if found.certified:
        return found
    gap = abs(found.value - value) / max(value, np.finfo(float).tiny)
    return dataclasses.replace(found, relative_gap=gap, certified=gap <= VALUE)


def _lives(model: Model, root: float) -> bool | None:
    """Whether a multiple other than zero is the best; None next to the jump."""
    if near(model.scale, model.jump(root)):
        return None
    return bool(model.multiples(root).lives[0])


@theorem(
    "deep ReLU of two classes",
    paper="Súkeník et al. 2023",
    family="depth",
    assumes="squared error, ReLU hidden layers of two or more, two balanced classes, all factors decayed, no bias",
    applies=_is_of_two,
    checks=_collapse_of_two,
    any_depth=True,
)
def two_classes(problem: Problem) -> Prediction:
    """Collapse in every layer is optimal: value, norms, and classes on orthogonal axes after each hidden layer.

    C = 2^F: f = w min over x in [0, 1] of ½(1−x)² + F (c/w) x^{2/F}, Z̄ = xI, every factor has λ‖·‖² = 2c x^{2/F}, and
    features of every layer are equal within classes, behind each ReLU with orthogonal means of one norm. Of H the means
    have one norm, but any cosine −t from −1 to 0: ReLU takes W_1 H̄ᵀ = a(I − t(J − I)) to aI, and ‖·‖_* is its trace.
    Non-zero iff 2c/w < (1/(F−1)) ((F−2)/(F−1))^{1−2/F}, by a jump; zero always is a strict local minimum, where
    training may end. What is checked of the minimiser is checked of whatever reaches this value.
    """
    model = model_of(problem)
    known: dict[str, Any] = {"value": model.value(2.0), "thresholds": {COLLAPSE: model.jump(2.0)}}
    lives = _lives(model, 2.0)
    if not lives:
        return Prediction(degenerate=None if lives is None else True, **known)
    squared = 2.0 * model.scale * model.multiples(2.0).x[0] ** (2.0 / model.depth)
    norm_A, norm_H = (float(np.sqrt(squared / decay)) for decay in (model.decays[-1], model.decays[0]))
    return Prediction(
        degenerate=False,
        norm_A=norm_A,
        norm_H=norm_H,
        norms_A=np.full(2, norm_A / np.sqrt(2)),
        norms_H=np.full(2, norm_H / np.sqrt(problem.num_samples)),
        gram_A=np.eye(2),
        metrics=WITHIN,
        **known,
    )


@theorem(
    "deep ReLU constructions",
    paper="Súkeník et al. 2024 (low rank); here with a lower bound",
    family="depth",
    assumes="squared error, ReLU hidden layers, three or more balanced classes, weight decay on every factor, no bias",
    applies=_is_of_more,
    checks=_balance,
    any_depth=True,
)
def constructions(problem: Problem) -> Prediction:
    """The minimum is between two bounds, the upper one of the best solution known: collapse or one of low rank.

    From above w g(C) of each that fits the columns, and w/2 of the zero point:

    - collapse, a coordinate for each class in every layer, C = K^F;
    - low rank, from two hidden layers on: classes are edges of a graph of r vertices, by its incidence matrix U (r, K),
      C = ‖U‖_*² r^{F−4} (rK/4) K; of complete graphs, K = r(r−1)/2, ‖U‖_* = (r−1)√(r−2) + √(2(r−1)). With three hidden
      layers or more and r ≥ 4 these beat collapse, which then is no minimiser; with two none of them does;
    - mixed, a complete graph's classes in such a block and the others in coordinates of their own: C^{1/F} add.

    From below w g(K²), whatever the widths: ReLU does not lengthen, so that ‖X‖_F ≤ Π‖·‖_F of the last layer's features
    X over the factors before, ‖Z‖_* ≤ ‖X‖_F ‖A‖_F, and of all Z with one nuclear norm multiples of the labels are the
    nearest. The zero point is the minimum where it is that of the lower bound, and isn't where a construction is
    better; between the two nothing is said. Nor is anything of Grams: minima better than all of these are found.
    """
    model = model_of(problem)
    K, best = model.classes, min(roots(model).values(), default=np.inf)
    low = float(K) ** (2.0 / model.depth)
    upper = model.value(best) if np.isfinite(best) else model.weight / 2
    thresholds = {DIES: model.jump(low)} | ({LIVES: model.jump(best)} if np.isfinite(best) else {})
    known: dict[str, Any] = {"bounds": (model.value(low), upper), "thresholds": thresholds}
    if _lives(model, low) is False:
        return Prediction(value=model.weight / 2, degenerate=True, **known)
    lives = np.isfinite(best) and _lives(model, best)
    return Prediction(degenerate=False if lives else None, **known)
