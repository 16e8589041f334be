"""What a theorem is: assumptions that a problem meets or not, and what it then predicts of the optimum."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ufm._checks import function, shown
from ufm._repr import call, unusual
from ufm.constraints import Free
from ufm.metrics import Metrics
from ufm.problem import Params, Problem

THEOREMS: list["Theorem"] = []

NEAR = 1e-6  # relative distance to a threshold within which only the value is predicted

WITHIN = {"nc1": 0.0, "trace_ratio": 0.0}  # metrics where a loss is convex and not everything is zero

COLLAPSED = dict.fromkeys(Metrics._fields, 0.0) | {"accuracy": 1.0}  # metrics of a simplex ETF and its dual classifier

TOTAL = "c at total collapse"  # c = √(λ_A λ_H) from which the minimiser is the zero point


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


def decay_scale(problem: Problem) -> float:
    """c = √(λ_A λ_H): the price of a unit of ‖H Aᵀ‖_*."""
    return float(np.sqrt(problem.lambda_A * problem.lambda_H))


def is_plain(problem: Problem, *losses: Any) -> bool:
    """Whether both factors are free and decayed, and the loss is one of those named."""
    free = isinstance(problem.features, Free) and isinstance(problem.classifier, Free)
    return free and problem.lambda_A > 0 and problem.lambda_H > 0 and isinstance(problem.loss, losses)


def radius_of(side: Any) -> float:
    """Of a sphere or ball; infinite without constraint."""
    return np.inf if isinstance(side, Free) else float(side.radius)


def weights(problem: Problem) -> np.ndarray:
    """(K,) class weights, ones where there are none."""
    return np.ones(problem.num_classes) if problem.class_weights is None else problem.class_weights


def same_weights(problem: Problem) -> bool:
    """Whether all class weights are one number w; then f/w is the unweighted objective with decays λ/w."""
    return bool(np.ptp(weights(problem)) == 0)


def near(x: float, threshold: float) -> bool:
    """Whether x is so close to a threshold that a computed minimiser can't tell on which side it is.

    Factors vanish there like the square root of the distance.
    """
    return bool(abs(x - threshold) <= NEAR * abs(threshold))


def factor_norms(problem: Problem, singular_values: Any) -> dict[str, Any]:
    """Norms of the factors of a Z = H Aᵀ with these singular values.

    The least decay of factors of Z is c‖Z‖_*, half of it on either side: λ_A‖A‖² = λ_H‖H‖² = c‖Z‖_*.
    """
    values = np.sort(np.asarray(singular_values, np.float64))[::-1]
    price = decay_scale(problem) * np.sum(values)
    return {
        "singular_values": values,
        "norm_A": float(np.sqrt(price / problem.lambda_A)),
        "norm_H": float(np.sqrt(price / problem.lambda_H)),
    }


def balanced_shape(problem: Problem, simplex: float, common: float = 0.0) -> dict[str, Any]:
    """Everything about the factors of Z whose class means are (s₀ P + s₁ J/K)/√n, P = I − J/K.

    Z has the singular values s₀ (K − 1 times) and s₁, and A = √(λ_H n/λ_A) H̄, with AAᵀ ∝ G = s₀ P + s₁ J/K: a simplex
    ETF for s₁ = 0, an orthogonal frame for s₁ = s₀. The metrics centre the means, and P G P = s₀ P is the simplex
    again, so every metric is that of an ETF except self-duality, which sees A as it is: the cosine between A and the
    centred C is ⟨A, C⟩/‖A‖‖C‖ = √((K−1)s₀/((K−1)s₀ + s₁)).
    """
    K = problem.num_classes
    gram = simplex * (np.eye(K) - 1 / K) + common / K
    cosine = np.sqrt((K - 1) * simplex / ((K - 1) * simplex + common))
    shape = factor_norms(problem, [simplex] * (K - 1) + [common] * (common > 0))
    return shape | {
        "gram_A": gram,
        "gram_H": gram,
        "norms_A": np.full(K, shape["norm_A"] / np.sqrt(K)),
        "norms_H": np.full(K, shape["norm_H"] / np.sqrt(problem.num_samples)),
        "metrics": COLLAPSED | {"self_duality": float(np.sqrt(2 - 2 * cosine))},
    }


def unused_bias(problem: Problem) -> dict[str, Any]:
    """A bias that the optimum doesn't use: 0 where it is decayed, any multiple of 1 where it is free."""
    zero = np.zeros(problem.num_classes)
    return {"none": {}, "regularised": {"bias": zero}, "free": {"centred_bias": zero}}[problem.bias_kind]
