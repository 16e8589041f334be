"""Focal loss on balanced classes: the simplex ETF, without convexity."""

from typing import Any

import numpy as np

from ufm.model.losses import Focal
from ufm.model.problem import Problem
from ufm.theory._scalar import maximum, root
from ufm.theory.formulas import TOTAL, balanced_shape, decay_scale, is_plain, near, unused_bias
from ufm.theory.registry import Prediction, theorem


def _applies(problem: Problem) -> bool:
    if not is_plain(problem, Focal) or not problem.balanced or problem.dim < problem.num_classes - 1:
        return False
    steepness = Margins(problem.num_classes, float(problem.loss.gamma)).descent(0.0)
    return problem.bias_kind == "none" or bool(_price(problem) < min(1.0, steepness))


@theorem(
    "simplex ETF under focal loss",
    paper="Zhou et al. 2022",
    family="balanced classes",
    assumes="focal loss, balanced classes, d ≥ K − 1, weight decay on A and H; with a bias κ(K−1) < min(1, −φ'(0))",
    applies=_applies,
)
def focal(problem: Problem) -> Prediction:
    """Value, norms and a simplex ETF for features and classifier.

    Let m_i be the mean margin of sample i over the wrong classes, φ(m) the loss at p = e^m/(e^m + K−1). By Jensen the
    loss is at least φ(m_i), and c‖Z‖_* ≥ κ(K−1) Σ|m_i|/N with κ = c√n; so

        f = min_{t ≥ 0} φ(t) + κ(K−1)t,   stationary where (1−p)^γ [(1−p) − γ p log p] = κ(K−1),

    attained at Z = t (Y − J/K). A bias shifts margins to a zero sum: the bound then keeps their sign, and needs
    φ(m) + κ(K−1)m to decrease over all m < 0, which is the assumption. Trap: −φ' first rises for many classes, so the
    minimiser jumps from zero at the threshold sup_t (φ(0)−φ(t))/((K−1)t), and zero is a local minimum from
    κ = −φ'(0)/(K−1) on: runs from small initial points end there.
    """
    K, w, scale = problem.num_classes, problem.group_weights[0], np.sqrt(problem.class_counts[0])
    loss, price = Margins(K, float(problem.loss.gamma)), _price(problem)
    steepest = loss.steepest_chord()
    unit = float(w / ((K - 1) * scale))
    thresholds = {TOTAL: steepest * unit, "c at which zero becomes a local minimum": float(loss.descent(0.0)) * unit}
    known: dict[str, Any] = {"thresholds": thresholds, **unused_bias(problem)}
    margin = loss.best_margin(price)
    value = float(w * (loss(margin) + price * margin))
    if near(price, steepest):
        return Prediction(value=value, **known)
    if margin == 0:
        return Prediction(value=value, degenerate=True, **known)
    return Prediction(value=value, degenerate=False, **balanced_shape(problem, float(scale * margin)), **known)


def _price(problem: Problem) -> float:
    """Of a unit of margin: κ(K−1), in units of the class weight."""
    per_unit = decay_scale(problem) * np.sqrt(problem.class_counts[0]) / problem.group_weights[0]
    return float((problem.num_classes - 1) * per_unit)


class Margins:
    """Focal loss φ of a sample whose wrong logits all lie t below the right one."""

    def __init__(self, num_classes: int, gamma: float):
        self.wrong_classes = num_classes - 1
        self.gamma = gamma

    def __call__(self, t: Any) -> Any:
        """φ(t) = (1−p)^γ (−log p)."""
        odds = self.wrong_classes * np.exp(-t)
        return (odds / (1 + odds)) ** self.gamma * np.log1p(odds)

    def descent(self, t: Any) -> Any:
        """−φ'(t) = (1−p)^γ [(1−p) − γ p log p]."""
        odds = self.wrong_classes * np.exp(-t)
        p, wrong = 1 / (1 + odds), odds / (1 + odds)
        return wrong**self.gamma * (wrong + self.gamma * p * np.log1p(odds))

    def best_margin(self, price: float) -> float:
        """The t ≥ 0 that minimises φ(t) + price·t.

        −p log p ≤ 1 − p ≤ (K−1)e^{−t}, so −φ'(t) ≤ (1+γ)((K−1)e^{−t})^{1+γ} bounds t. The best point of a grid leaves
        an interval over which the slope changes sign once.
        """
        most = np.log(self.wrong_classes) + np.log((1 + self.gamma) / price) / (1 + self.gamma)
        if most <= 0:
            return 0.0
        grid = np.linspace(0.0, most, 4001)
        best = int(np.argmin(self(grid) + price * grid))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 4000)]
        if best == 0 and self.descent(0.0) <= price:
            return 0.0
        return root(lambda t: price - self.descent(t), float(low), float(high))

    def steepest_chord(self) -> float:
        """Sup over t > 0 of (φ(0) − φ(t))/t, the price from which t = 0 is best; at least −φ'(0), the limit at 0."""
        most = self(0.0) / self.descent(0.0)
        grid = np.linspace(0.0, most, 4001)[1:]
        best = int(np.argmax((self(0.0) - self(grid)) / grid))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 3999)]
        chord = maximum(lambda t: (self(0.0) - self(t)) / t, float(low), float(high))
        return float(max(chord, self.descent(0.0)))
