"""What a theorem is: assumptions that a problem meets or not, and what it then predicts of the optimum."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ufm._core.checks import function, shown
from ufm._core.repr import call, unusual
from ufm.model.params import Params
from ufm.model.problem import Problem

THEOREMS: list["Theorem"] = []


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What theory says of a global minimiser; None for what a theorem leaves open.

    Attributes:
        value: the minimum of the objective.
        bounds: two numbers that the minimum lies between.
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
        merged: groups of classes whose classifier rows coincide, zero ones too, largest groups first; () where none do.
        metrics: values of fields of `ufm.Metrics`.
        thresholds: by name, in the unit that the name says; for reading, nothing is measured against them.
    """

    value: float | None = None
    bounds: tuple[float, float] | None = None
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

    def __repr__(self) -> str:
        return call("Prediction", unusual(self))


Limit = Callable[[Problem], tuple[np.ndarray, np.ndarray]]
Identity = Callable[[Problem, Params], Mapping[str, tuple[float, float]]]


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
        limit: for a statement about λ_A, λ_H → 0 together, the Grams (of A, of the class means) that the
            optimum's approach, up to scale; slowly, like 1/log(1/λ), so that only the trend can be checked.
        identity: for a statement about any parameters, a function of problem and parameters that gives, by name of
            the quantity, what is predicted and what was measured there.
    """

    name: str
    paper: str
    assumes: str
    predicts: str
    applies: Callable[[Problem], bool]
    predict: Callable[[Problem], Prediction]
    limit: Limit | None = None
    identity: Identity | None = None

    def __repr__(self) -> str:
        return f"{self.name} ({self.paper}): {self.predicts}"


def theorem(
    name: str | Any,
    *,
    paper: str | Any,
    assumes: str | Any,
    applies: Callable[[Problem], bool] | Any,
    limit: Limit | Any = None,
    identity: Identity | Any = None,
) -> Callable:
    """Register the function below it as a theorem's prediction; its docstring's first line says what it predicts.

    Raises:
        ValueError: where a text is missing, that docstring too, or a function is none.
    """
    for said, text in (("name", name), ("paper", paper), ("assumes", assumes)):
        _text(said, text)
    for said, called in (("applies", applies), ("limit", limit), ("identity", identity)):
        if called is not None or said == "applies":
            function(said, called, "a function of a problem")

    def register(predict: Callable[[Problem], Prediction] | Any) -> Callable[[Problem], Prediction] | Any:
        function("predict", predict, "a function of a problem")
        predicts = _text("predict.__doc__", predict.__doc__).splitlines()[0]
        THEOREMS.append(Theorem(name, paper, assumes, predicts, applies, predict, limit, identity))
        return predict

    return register


def _text(name: str, value: Any) -> str:
    """`value` without the space around it, where it is text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} = {shown(value)}: a text that says it is needed")
    return value.strip()
