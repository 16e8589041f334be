"""What a theorem is: assumptions that a problem meets or not, what it then predicts, and what else it checks."""

import dataclasses
import functools as ft
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ufm._core.checks import flag, function, shown
from ufm._core.descent import Descent
from ufm._core.repr import call, unusual
from ufm._core.spectra import Spectrum
from ufm.metrics.definitions import Metrics
from ufm.metrics.history import History
from ufm.model.params import Params
from ufm.model.problem import Problem

GEOMETRY = 1e-6  # tolerance of what describes a minimiser: Grams, norms, singular values, relative; and metrics
OTHER = "others"  # the family of theorems that name none
THEOREMS: dict[str, "Theorem"] = {}

Quantity = float | bool | str | np.ndarray | list[float] | tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """What theory says of a global minimiser; None for what a theorem leaves open.

    Attributes:
        value: the minimum of the objective.
        bounds: two numbers that the minimum lies between.
        degenerate: whether the minimiser is the zero point, A = H = 0, and hidden layers too.
        gram_H: (K, K) Gram of the class means, up to scale.
        gram_A: (K, K) Gram of the classifier's rows, up to scale.
        norm_H: ‖H‖ in Frobenius norm.
        norm_A: ‖A‖ in Frobenius norm.
        norms_H: (K,) norms of the class means.
        norms_A: (K,) norms of the classifier's rows.
        singular_values: of H Aᵀ, the non-zero ones, largest first; with hidden layers H is what these make of it.
        bias: (K,) bias.
        centred_bias: (K,) bias up to a common constant, which the loss doesn't see; sums to zero.
        dead: (K,) which classes have a zero classifier row and zero features.
        merged: groups of classes whose classifier rows coincide, zero ones too, largest groups first; () where none do.
        metrics: values of fields of `ufm.Metrics`.
        spectrum: `Spectrum` of the objective's Hessian.
        rates: of quantities ~ exp(−rate · t) along the gradient flow, by name: nc1, trace_ratio, nc2, nc3, and loss for
            the objective's excess; in the unit of the spectrum. `ufm.theory.factor` makes steps of descent of them.
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
    spectrum: Spectrum | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return call("Prediction", unusual(self))


@dataclasses.dataclass(frozen=True, eq=False)
class Check:
    """A prediction beside a measurement, of which `ufm.verify` makes a claim.

    It holds where it is certain and the error is within the tolerance, fails where the error exceeds the tolerance by
    more than the doubt, and is otherwise undecided.

    Attributes:
        quantity: what is compared, in words.
        predicted: by the theorem.
        measured: at what was found.
        error: distance of the two, in the unit that the tolerance is in; the largest |measured − predicted| by default,
            of truth values 0 or 1.
        tolerance: up to which they agree.
        certain: whether an error within the tolerance shows that they do.
        doubt: by how much the error may be off, in its unit; infinite where nothing is known of it.
    """

    quantity: str
    _: dataclasses.KW_ONLY
    predicted: Quantity
    measured: Quantity
    error: float | None = None
    tolerance: float = GEOMETRY
    certain: bool = True
    doubt: float = 0.0

    @property
    def distance(self) -> float:
        """The error, worked out where none was given.

        Raises:
            ValueError: where what is predicted and measured has no difference.
        """
        if self.error is not None:
            return float(self.error)
        try:
            measured, predicted = np.asarray(self.measured, np.float64), np.asarray(self.predicted, np.float64)
            return float(np.max(np.abs(measured - predicted)))
        except (TypeError, ValueError) as error:
            sides = f"predicted {shown(self.predicted)} and measured {shown(self.measured)}"
            raise ValueError(f"{self.quantity!r}: {sides} have no difference; their error is needed") from error


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """What a theorem's checks look at: parameters that were found for a problem, and what is known of them.

    Attributes:
        means: (M, r) mean features of each group, with class labels of each class, in r coordinates of feature space.
        penultimate: (M, r) mean of what the classifier reads of each group: with hidden layers what the last of them
            makes of the features, in coordinates of its own; elsewhere `means`.
        classifier: (K, r) classifier in the coordinates of `penultimate`.
        bias: (K,) bias.
        value: the objective there.
        lower_bound: a number that the objective is nowhere below.
        relative_gap: how far above the minimum the value can be, relative to it; infinite where nothing is known.
        certified: whether that is little enough for the value to be the minimum.
        metrics: `ufm.Metrics` of what the classifier reads.
        history: `History` of the training run that ended there; None of an optimum.
        lift: gives `params`.
        curve: gives `curvature`.
        lines: gives `spectrum`.
        descent: what gradient descent the run was, as far as that is known.
        minimum: a problem's certified minimum, found by the solver, as another `Found`.
    """

    means: np.ndarray
    penultimate: np.ndarray
    classifier: np.ndarray
    bias: np.ndarray
    value: float
    lower_bound: float
    relative_gap: float
    certified: bool
    metrics: Metrics
    history: History | None
    lift: Callable[[], Params]
    curve: Callable[[], float | None]
    minimum: Callable[[Problem], "Found"]
    lines: Callable[[], Spectrum | None] = lambda: None
    descent: Descent | None = None

    @ft.cached_property
    def params(self) -> Params:
        """The parameters of the problem as posed, H (N, d), A (K, d), b (K,), and hidden layers W, in float64."""
        return self.lift()

    @ft.cached_property
    def curvature(self) -> float | None:
        """Smallest eigenvalue of the Hessian of the objective; None where it is too large to be formed."""
        return self.curve()

    @ft.cached_property
    def spectrum(self) -> Spectrum | None:
        """Spectrum of the Hessian of the objective; None where it is too large to be formed."""
        return self.lines()

    def of_minimiser(
        self,
        quantity: str,
        *,
        predicted: Quantity,
        measured: Quantity,
        error: float | None = None,
        tolerance: float = GEOMETRY,
    ) -> Check:
        """A check of what describes the minimiser: certain where the value is.

        A relative gap g leaves the minimiser free to move by about √g, and further where the objective is flatter.
        """
        check = Check(
            quantity,
            predicted=predicted,
            measured=measured,
            error=error,
            tolerance=tolerance,
            certain=self.certified,
            doubt=10.0 * float(np.sqrt(self.relative_gap)) if self.certified else np.inf,
        )
        refuted = check.distance > tolerance + check.doubt
        return dataclasses.replace(check, doubt=max(check.doubt, 4.0 * self._reach)) if refuted else check

    def of_another(self, quantity: str, other: "Found", *, tolerance: float) -> Check:
        """A check that the minimum is another problem's, relative, certain where both are certified."""
        return Check(
            quantity,
            predicted=other.value,
            measured=self.value,
            error=abs(self.value - other.value) / max(abs(other.value), abs(self.value)),
            tolerance=tolerance,
            certain=self.certified and other.certified,
            doubt=self.relative_gap + other.relative_gap,
        )

    @property
    def _reach(self) -> float:
        """How far the minimiser may be, relative to the smaller factor: f grows by half a curvature times a square."""
        size = min(float(np.linalg.norm(self.classifier)), float(np.linalg.norm(self.means)))
        positive = [] if self.spectrum is None else self.spectrum.positive
        if not size or not len(positive):
            return 0.0
        return float(np.sqrt(2.0 * self.relative_gap * abs(self.value) / positive[0])) / size


Predict = Callable[[Problem], Prediction]
Checks = Callable[[Problem, Found], Iterable[Check]]


def nothing_more(problem: Problem, found: Found) -> Iterable[Check]:
    """The checks of a theorem that says all in its prediction."""
    return ()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Theorem:
    """A statement of the literature as an executable check.

    Attributes:
        name: what it is called here.
        paper: authors and year.
        family: of theorems, under which it is listed.
        assumes: when it applies, in words.
        predicts: what it says, in words.
        applies: whether a problem meets the assumptions.
        any_targets: whether it speaks of problems with `targets` too; others are of class labels alone.
        any_depth: whether it speaks of problems with hidden layers too; others are of none.
        predict: what it says of that problem's optimum.
        checks: what else it says, of whatever was found for the problem, beside what was measured there.
    """

    name: str
    paper: str
    family: str = OTHER
    assumes: str
    predicts: str
    applies: Callable[[Problem], bool]
    predict: Predict
    checks: Checks = nothing_more
    any_targets: bool = False
    any_depth: bool = False

    def speaks_of(self, problem: Problem) -> bool:
        """Whether it says something of a problem."""
        meant = (self.any_targets or problem.targets is None) and (self.any_depth or not problem.widths)
        return meant and self.applies(problem)

    def __repr__(self) -> str:
        return f"{self.name} ({self.paper}): {self.predicts}"


def theorem(
    name: str,
    *,
    paper: str,
    family: str = OTHER,
    assumes: str,
    applies: Callable[[Problem], bool],
    checks: Checks = nothing_more,
    any_targets: bool = False,
    any_depth: bool = False,
) -> Callable[[Predict], Predict]:
    """Register the function below it as a theorem's prediction; its docstring's first line says what it predicts.

    Any module may: whatever it registers is listed by `ufm.theorems()` and verified where it applies, as ours are.

        def centred(problem, found):
            size = np.max(np.abs(found.classifier.mean(axis=0)))
            yield found.of_minimiser("mean of the classifier's rows", predicted=0.0, measured=size)

        @theorem(
            "mine",
            paper="me",
            family="conjectures",
            assumes="cross-entropy, weight decay on both factors",
            applies=lambda problem: is_plain(problem, ufm.CrossEntropy),
            checks=centred,
        )
        def mine(problem):
            "The rows of the classifier sum to zero."
            return Prediction()

    Args:
        name: what it is called. A module that registers the name again replaces what it registered.
        paper: authors and year.
        family: of theorems that belong together, under which `ufm theorems` lists it.
        assumes: when it applies, in words.
        applies: a function of a problem that says whether it does.
        checks: a function of a problem and what was `Found` for it that yields a `Check` for each statement that is no
            field of `Prediction`: about any parameters, a limit, the landscape, the course of training.
        any_targets: whether the theorem speaks of problems with `targets` too, about which `applies` is then asked;
            without it, of class labels alone.
        any_depth: whether the theorem speaks of problems with hidden layers too; without it, of none.

    Raises:
        ValueError: where a text is missing, that docstring too, a function is none, or a theorem of another module has
            the name.
    """
    for said, text in (("name", name), ("paper", paper), ("family", family), ("assumes", assumes)):
        _text(said, text)
    function("applies", applies, "a function of a problem")
    function("checks", checks, "a function of a problem and what was found")

    def register(predict: Predict) -> Predict:
        function("predict", predict, "a function of a problem")
        _check_free(name, module_of(predict))
        THEOREMS[name] = Theorem(
            name=name,
            paper=paper,
            family=family,
            assumes=assumes,
            predicts=_text("predict.__doc__", predict.__doc__).splitlines()[0],
            applies=applies,
            predict=predict,
            checks=checks,
            any_targets=flag("any_targets", any_targets),
            any_depth=flag("any_depth", any_depth),
        )
        return predict

    return register


def module_of(predict: Predict) -> str:
    """Where a prediction was written; empty where that is in no module."""
    return getattr(predict, "__module__", None) or ""


def _check_free(name: str, module: str) -> None:
    """Refuse a name that another module's theorem has."""
    owner = module_of(THEOREMS[name].predict) if name in THEOREMS else module
    if owner != module:
        raise ValueError(f"name = {name!r}: a theorem of {owner or 'no module'} has it; another name is needed")


def _text(name: str, value: Any) -> str:
    """`value` without the space around it, where it is text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} = {shown(value)}: a text that says it is needed")
    return value.strip()
