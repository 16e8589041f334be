"""Squared error of deep linear models: factors share their singular values, and directions live or die by a jump."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ufm._core.linalg import right_svd
from ufm._core.thresholding import Branches, branches, fold_price, jump_price, least_size
from ufm.model.constraints import Free
from ufm.model.factors import common_decay
from ufm.model.losses import SquaredError
from ufm.model.problem import Problem, class_means
from ufm.theory._groups import ZERO, groups_of, in_units
from ufm.theory._layers import layers_of, of_layer
from ufm.theory.formulas import WITHIN, is_about, known_bias, near, same_weights
from ufm.theory.registry import Check, Found, Prediction, theorem

JUMP = "C = (N λ_H Π λ_W λ_A)^{1/L} at which the largest direction jumps to zero: total collapse"
LAST = "C up to which all directions live for which there is room"
FOLD = "C from which the zero point is the only local minimum"


class Directions(NamedTuple):
    """Targets T as T̄ and the directions of T − T̄: Σ π (T−T̄)(T−T̄)ᵀ = V diag(s²) Vᵀ, and the minima along each.

    `T` (M, K) are centred, `mean` (K,) is T̄, V (K, K) has a column for each s (K,) of `both`, which descend; `weight`
    is w, `scale` is C = (N λ_H Π λ_W λ_A)^{1/L}, `decays` (L,) are λ of features, hidden layers and classifier in
    order, and x (K,) the singular values of Π^{1/2}Z, zero of directions that die or for which the narrowest of the
    layers, `room` wide, has no room.
    """

    T: np.ndarray
    mean: np.ndarray
    V: np.ndarray
    both: Branches
    weight: float
    scale: float
    decays: np.ndarray
    x: np.ndarray
    room: int

    @property
    def s(self) -> np.ndarray:
        """(K,) of all directions, the largest first."""
        return self.both.s

    @property
    def depth(self) -> int:
        """L, how many factors there are."""
        return len(self.decays)

    @property
    def alive(self) -> np.ndarray:
        """(K,) which directions live."""
        return self.x > 0

    @property
    def squared(self) -> np.ndarray:
        """(K,) C x^{2/L}: λ times the squared singular values of each factor."""
        return self.scale * self.x ** (2.0 / self.depth)

    @property
    def per_target(self) -> np.ndarray:
        """(K,) 1/s of living directions, 0 of others, which have no part in anything."""
        return self.alive / np.where(self.alive, self.s, 1.0)

    @property
    def value(self) -> float:
        """The minimum."""
        return self.weight * float(np.sum(np.where(self.alive, self.both.value, self.both.at_zero)))

    @property
    def is_clear(self) -> bool:
        """Whether it can be told which directions live: none is at the jump, none as large as the last with room."""
        jump = least_size(self.scale / self.weight, jump_price(self.depth), factors=self.depth)
        tied = self.room < len(self.s) and self.alive[self.room - 1] and near(self.s[self.room], self.s[self.room - 1])
        return not tied and not any(near(each, jump) for each in self.s)


def directions(problem: Problem) -> Directions:
    """Of a problem with one weight, no or a free bias, and linear layers."""
    groups, factors, K = groups_of(problem), problem.factors(), problem.num_classes
    mean = groups.share @ groups.T if problem.bias_kind == "free" else np.zeros(K)
    s, Vt = right_svd(np.pad(groups.root * (groups.T - mean), ((0, max(K - len(groups.T), 0)), (0, 0))))
    decays = np.array([float(factor.decay) for factor in factors])
    scale = common_decay(factors, problem.num_samples)
    weight, room = float(groups.w[0]), min(factor.shape[1] for factor in factors)
    both = branches(s, scale / weight, factors=len(decays))
    x = np.where(both.lives & (np.arange(K) < room), both.x, 0.0)
    return Directions(groups.T - mean, mean, Vt.T, both, weight, scale, decays, x, room)


def _applies(problem: Problem) -> bool:
    """Whether layers are linear, at least one hidden, and everything is free and decayed."""
    if not problem.widths or problem.activation != "linear":
        return False
    free = is_about(problem, SquaredError, features=Free, classifier=Free)
    decayed = all(factor.decay > 0 for factor in problem.factors())
    return free and decayed and problem.bias_kind != "regularised" and same_weights(problem)


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """Balanced layers of predicted singular values; features of every layer, and outputs, affine in the targets."""
    theirs, layers = directions(problem), layers_of(found)
    scaled = [np.sqrt(decay) * layer for decay, layer in zip(theirs.decays, layers.values(), strict=True)]
    yield found.of_minimiser(
        "λ WᵀW of a layer less λ WWᵀ of the one before", predicted=0.0, measured=_off(found, scaled)
    )
    if not theirs.is_clear:
        return
    values = np.sqrt(theirs.squared)
    for name, layer in zip(layers, scaled, strict=True):
        measured = _singular_values(layer, len(values))
        error = in_units(found, np.max(np.abs(measured - values)))
        yield found.of_minimiser(
            f"singular values of {name}, times √λ", predicted=values, measured=measured, error=error
        )
    yield from _of_groups(problem, found, theirs, list(layers.values()))


def _of_groups(problem: Problem, found: Found, theirs: Directions, layers: list[np.ndarray]) -> Iterator[Check]:
    """What the groups' features and outputs are, and that of class labels all layers' Grams are as predicted."""
    n, means, product = problem.group_counts, class_means(problem, layers[0]), _product(layers[1:])
    off = n @ np.sum((means - _features(problem, theirs, product)) ** 2, axis=1)
    size = np.sqrt(problem.lambda_H * off)
    yield found.of_minimiser("features are affine in the targets", predicted=0.0, measured=in_units(found, size))
    outputs = means @ product.T + (found.bias if problem.bias else 0.0)
    off = outputs - theirs.mean - (theirs.T @ theirs.V) * (theirs.x * theirs.per_target) @ theirs.V.T
    size = np.sqrt(theirs.weight * (n / problem.num_samples) @ np.sum(off**2, axis=1))
    yield found.of_minimiser("outputs are affine in the targets", predicted=0.0, measured=in_units(found, size))
    if np.any(theirs.alive):
        features = layers[0], means
        for j, layer in enumerate(layers[1:]):
            gram = gram_after(theirs, j) if problem.targets is None else None
            yield from of_layer(problem, found, j, *features, gram)
            features = features[0] @ layer.T, features[1] @ layer.T


def gram_after(theirs: Directions, layers: int) -> np.ndarray:
    """(M, M) Gram of groups' features after so many layers, up to scale: singular values are x^{(1 + layers)/L}."""
    rows = (theirs.T @ theirs.V) * (theirs.per_target * theirs.x ** ((1.0 + layers) / theirs.depth))
    return rows @ rows.T


def _off(found: Found, scaled: list[np.ndarray]) -> float:
    """By how much λ_{j+1} W_{j+1}ᵀ W_{j+1} and λ_j W_j W_jᵀ differ at most, in units of f; of features it is HᵀH."""
    before = [scaled[0].T @ scaled[0], *[layer @ layer.T for layer in scaled[1:-1]]]
    apart = [np.linalg.norm(layer.T @ layer - gram) for layer, gram in zip(scaled[1:], before, strict=True)]
    return float(max(apart) / max(abs(found.value), np.finfo(float).tiny))


def _singular_values(matrix: np.ndarray, length: int) -> np.ndarray:
    """So many, the largest first, with zeros where there are fewer."""
    values = right_svd(matrix)[0][:length]
    return np.pad(values, (0, length - len(values)))


def _product(maps: list[np.ndarray]) -> np.ndarray:
    """A … W_2 W_1 of layers in order."""
    product = maps[0]
    for layer in maps[1:]:
        product = layer @ product
    return product


def _features(problem: Problem, theirs: Directions, product: np.ndarray) -> np.ndarray:
    """(M, d) rows h = (T − T̄) V diag(σ²/(x s)) Vᵀ A…W_1: σ² = C x^{2/L}/(N λ_H) of Π^{1/2}H, so that A…W_1 has x/σ."""
    ratio = theirs.squared / (problem.num_samples * theirs.decays[0]) / np.where(theirs.alive, theirs.x, 1.0)
    return (theirs.T @ theirs.V) * (theirs.per_target * ratio) @ (theirs.V.T @ product)


@theorem(
    "deep linear regression by jumps",
    paper="Dang et al. 2023 (class labels); here for any targets",
    family="depth",
    assumes=(
        "squared error, linear hidden layers of any widths, any counts or real targets of one weight, "
        "weight decay on every factor, no or a free bias"
    ),
    applies=_applies,
    checks=_checks,
    any_targets=True,
    any_depth=True,
)
def deep_regression(problem: Problem) -> Prediction:
    """Value, singular values of all layers, and Grams: a direction of the targets lives where it gains by a jump.

    L factors with features, C = (N λ_H Π λ_W λ_A)^{1/L}. The least decay of factors of Z is (L/2) C Σ x_i^{2/L} with x
    the singular values of Π^{1/2}Z, and ½‖Π^{1/2}(Z − T + T̄)‖² ≥ ½ Σ (x_i − s_i)² (von Neumann; T̄ = 0 without bias), so

        f* = Σ_i min over 0 ≤ x ≤ s_i of ½(s_i − x)² + (L/2) C x^{2/L},

    Z = T̄ + (T − T̄) V diag(x/s) Vᵀ, and factor j has λ_j σ² = C x^{2/L}. Along s there are x = 0 and the larger root of
    (s − x) x^{1−2/L} = C, which is a minimum up to C = κ_f s^{2−2/L} and the global one up to κ_* s^{2−2/L},

        κ_* = (1/(L−1)) ((L−2)/(L−1))^{1−2/L},    κ_f = (L/(2(L−1))) ((L−2)/(2(L−1)))^{1−2/L}:

    there x jumps from s(L−2)/(L−1) to zero. With narrow layers the r largest directions live, r = min(d, widths).
    Weights w of all divide the decays. Traps: for L ≥ 3 zero is always a strict local
    minimum, and so are the k largest directions alone for every k of them below κ_f: training ends at any of these.
    Layers' Grams differ unless all x are equal.
    """
    found = directions(problem)
    known: dict[str, Any] = {
        "value": found.value,
        "thresholds": _thresholds(found),
        **known_bias(problem, found.mean),
    }
    if not found.is_clear:
        return Prediction(**known)
    return Prediction(degenerate=not np.any(found.alive), **_shape(problem, found), **known)


def _thresholds(found: Directions) -> dict[str, float]:
    """Values of C: of the jump and the fold of the largest direction, and of the jump of the last with room."""
    L, there = found.depth, np.count_nonzero(found.s > ZERO * found.s[0])
    r = max(min(found.room, there), 1)
    unit = found.weight * found.s ** (2.0 - 2.0 / L)
    jumps, folds = jump_price(L) * unit, fold_price(L) * unit
    return {JUMP: float(jumps[0]), LAST: float(jumps[r - 1]), FOLD: float(folds[0])}


def _shape(problem: Problem, found: Directions) -> dict[str, Any]:
    """Norms of features and classifier, Grams, and with class labels which classes die."""
    of_A = found.squared / found.decays[-1]
    gram = (found.V * of_A) @ found.V.T
    norms = np.sqrt(np.diag(gram))
    shape = {
        "norm_A": float(np.sqrt(np.sum(of_A))),
        "norm_H": float(np.sqrt(np.sum(found.squared) / found.decays[0])),
        "norms_A": norms,
    }
    if not np.any(found.alive):
        return shape
    shape |= {"gram_A": gram, "metrics": WITHIN}
    return shape | ({"gram_H": gram_after(found, 0)} if problem.targets is None else {})


def _is_balanced(problem: Problem) -> bool:
    return _applies(problem) and problem.balanced and problem.targets is None


@theorem(
    "deep linear frame",
    paper="Dang et al. 2023",
    family="depth",
    assumes="squared error, linear hidden layers, balanced classes, weight decay on every factor, no or a free bias",
    applies=_is_balanced,
    any_depth=True,
)
def deep_linear_frame(problem: Problem) -> Prediction:
    """Value, norms and one frame in all layers: orthogonal without bias, a simplex ETF with a free one.

    With c = (n Π λ)^{1/L} over all L factors, Kκ = Kc/w, and R = K directions without bias, K − 1 with a free one, of
    which r = min(R, d, widths) have room,

        f = (w/K) [r min over x in [0, 1] of ((1−x)²/2 + (L/2) Kκ x^{2/L}) + (R − r)/2],

    Z̄ = xI or x(I − J/K) + J/K where r = R, and factor j has r singular values with λ_j σ² = c x^{2/L}: equal ones, so
    that the Gram of the classes is the same after every layer. Non-zero iff Kκ < (1/(L−1)) ((L−2)/(L−1))^{1−2/L}. With
    r < R the frame is any of r dimensions.
    """
    K, n, w, factors = problem.num_classes, problem.class_counts[0], problem.group_weights[0], problem.factors()
    decays, L = np.array([float(factor.decay) for factor in factors]), len(factors)
    free = problem.bias_kind == "free"
    R = K - free
    r = min(R, *(factor.shape[1] for factor in factors))
    c = common_decay(factors, int(n))
    both = branches(np.ones(1), K * c / w, factors=L)
    value = float(w / K * (r * both.least[0] + (R - r) / 2))
    thresholds = {
        "c = (n Π λ)^{1/L} at total collapse": float(w * jump_price(L) / K),
        "c from which the zero point is the only local minimum": float(w * fold_price(L) / K),
    }
    known: dict[str, Any] = {"value": value, "thresholds": thresholds}
    known |= known_bias(problem, np.full(K, 1 / K))
    if near(K * c / w, jump_price(L)):
        return Prediction(**known)
    if not both.lives[0]:
        return Prediction(degenerate=True, **known)
    squared = c * both.x[0] ** (2.0 / L)
    shape = {"norm_A": float(np.sqrt(r * squared / decays[-1])), "norm_H": float(np.sqrt(r * squared / decays[0]))}
    if r < R:
        return Prediction(degenerate=False, metrics=WITHIN, **shape, **known)
    gram = np.eye(K) - free / K
    norms_A, norms_H = (np.full(K, shape[name] / np.sqrt(size)) for name, size in (("norm_A", K), ("norm_H", K * n)))
    return Prediction(
        degenerate=False, gram_A=gram, gram_H=gram, norms_A=norms_A, norms_H=norms_H, metrics=WITHIN, **shape, **known
    )
