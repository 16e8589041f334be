"""What a theorem is: assumptions that a problem meets or not, and what it then predicts of the optimum."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ufm.problem import Problem

THEOREMS: list["Theorem"] = []


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What theory says of a global minimiser; None for what a theorem leaves open.

    Attributes:
        value: the minimum of the objective.
        degenerate: whether the minimiser is the zero point, A = H = 0.
        gram_H: (K, K) Gram of the class means, up to scale.
        gram_A: (K, K) Gram of the classifier's rows, up to scale.
        norm_H: ‖H‖ in Frobenius norm.
        norm_A: ‖A‖ in Frobenius norm.
        norms_H: (K,) norms of the class means.
        norms_A: (K,) norms of the classifier's rows.
        singular_values: of H Aᵀ, the non-zero ones, largest first.
        bias: (K,) bias.
        centred_bias: (K,) bias up to a common constant, which the loss doesn't see; sums to zero.
        dead: (K,) which classes have a zero classifier row and zero features.
        merged: groups of classes whose classifier rows coincide, largest groups first; () where none do.
        metrics: values of fields of `ufm.Metrics`.
        thresholds: by name, in the unit that the name says; for reading, nothing is measured against them.
    """

    value: float | None = None
    degenerate: bool | None = None
    gram_H: np.ndarray | None = None
    gram_A: np.ndarray | None = None
    norm_H: float | None = None
    norm_A: float | None = None
    norms_H: np.ndarray | None = None
    norms_A: np.ndarray | None = None
    singular_values: np.ndarray | None = None
    bias: np.ndarray | None = None
    centred_bias: np.ndarray | None = None
    dead: np.ndarray | None = None
    merged: tuple[tuple[int, ...], ...] | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Theorem:
    """A statement of the literature as an executable check.

    Attributes:
        name: what it is called here.
        paper: authors and year.
        assumes: when it applies, in words.
        predicts: what it says, in words.
        applies: whether a problem meets the assumptions.
        predict: what it says of that problem's optimum.
    """

    name: str
    paper: str
    assumes: str
    predicts: str
    applies: Callable[[Problem], bool]
    predict: Callable[[Problem], Prediction]


def theorem(name: str, *, paper: str, assumes: str, applies: Callable[[Problem], bool]) -> Callable:
    """Register the function below it as a theorem's prediction; its docstring's first line says what it predicts."""

    def register(predict: Callable[[Problem], Prediction]) -> Callable[[Problem], Prediction]:
        predicts = (predict.__doc__ or "").strip().splitlines()[0]
        THEOREMS.append(Theorem(name, paper, assumes, predicts, applies, predict))
        return predict

    return register


def decay_scale(problem: Problem) -> float:
    """c = √(λ_A λ_H): the price of a unit of ‖H Aᵀ‖_*."""
    return float(np.sqrt(problem.lambda_A * problem.lambda_H))


def is_plain(problem: Problem, *losses: Any) -> bool:
    """Whether both factors are free and decayed, and the loss is one of those named."""
    from ufm.constraints import Free

    free = isinstance(problem.features, Free) and isinstance(problem.classifier, Free)
    return free and problem.lambda_A > 0 and problem.lambda_H > 0 and isinstance(problem.loss, losses)
