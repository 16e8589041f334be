"""Cross-entropy and label smoothing of a sample as functions of its mean margin over the wrong classes."""

import dataclasses
from typing import Any

import numpy as np

from ufm.model.problem import Problem
from ufm.theory.formulas import smoothing


@dataclasses.dataclass(frozen=True)
class MarginLoss:
    """The loss φ where the right logit leads the K − 1 others by t: what any logits of mean margin t cost at least.

    log Σ_j exp(z_j − z_y) is at least its value at equal margins by Jensen's inequality, strictly so for unequal ones,
    and smoothing adds α/K times the sum of margins, so that φ(t) = log(1 + (K−1)e^{−t}) + α(K−1)t/K; it is convex.
    """

    num_classes: int
    alpha: float

    def __call__(self, t: Any) -> Any:
        """φ(t)."""
        wrong = self.num_classes - 1
        return np.log1p(wrong * np.exp(-t)) + self.alpha * wrong * t / self.num_classes

    def descent(self, t: Any) -> Any:
        """−φ'(t)."""
        wrong = self.num_classes - 1
        odds = wrong * np.exp(-t)
        return odds / (1 + odds) - self.alpha * wrong / self.num_classes

    @property
    def best(self) -> float:
        """Where φ is least and its probabilities are the targets; infinite without smoothing."""
        return self.at_price(0.0) if self.alpha > 0 else np.inf

    def at_price(self, price: Any) -> Any:
        """The t ≥ 0 that minimises φ(t) + price·t, (K,) for (K,): each wrong class has price/(K−1) + α/K."""
        K = self.num_classes
        wrong = np.minimum(price / (K - 1) + self.alpha / K, 1 / K)
        return np.log1p(-(K - 1) * wrong) - np.log(wrong)


def margin_loss(problem: Problem) -> MarginLoss:
    """Of a problem with cross-entropy or label smoothing."""
    return MarginLoss(problem.num_classes, smoothing(problem))
