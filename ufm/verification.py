"""Meets what theorems predict with what was measured, claim by claim, within what the certificate allows."""

import dataclasses
import enum
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ufm._core.arrays import silent
from ufm._core.blas import one_thread
from ufm._core.checks import instance, shown
from ufm._core.interrupts import interruptible
from ufm._core.progress import says
from ufm._core.spectra import distance
from ufm._core.status import Status
from ufm.hessian import dense_curvature, dense_spectrum
from ufm.metrics.definitions import Metrics, numbers
from ufm.metrics.groups import of_group_columns
from ufm.metrics.measurement import measure
from ufm.minima.certificate import LEAST_KNOWN, keeps_digits, lower_bound, relative_gap, unit
from ufm.minima.optimum import Optimum, minimize
from ufm.minima.reduction import LaneParams
from ufm.model.layers import layers
from ufm.model.params import Columns, Params, columns
from ufm.model.problem import Problem, as_classes, class_means, told, with_values
from ufm.theory import applicable
from ufm.theory.formulas import distance_to_gram
from ufm.theory.registry import GEOMETRY, Check, Found, Prediction, Quantity, Theorem
from ufm.training import Run

if TYPE_CHECKING:
    from rich.table import Table

VALUE = 1e-8  # tolerance of values, relative
COLUMNS = ("claim", "predicted", "measured", "error", "tolerance", "verdict")
NOTHING_CLAIMED = "no theorem known here speaks of it"


class Verdict(enum.StrEnum):
    """What became of a claim; each equals its word."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"

    def __repr__(self) -> str:
        return repr(self.value)


@dataclasses.dataclass(frozen=True, eq=False)
class Claim:
    """One prediction met with one measurement.

    Attributes:
        theorem: its name.
        quantity: what is compared.
        predicted: by the theorem.
        measured: at the parameters.
        error: distance of the two, in the unit that the tolerance is in.
        tolerance: up to which they agree.
        verdict: "holds" where the error is within tolerance and the measurement is certified to it; "fails" where the
            prediction lies outside what the certificate allows; otherwise "undecided". A `Verdict`, equal to its word.
    """

    theorem: str
    quantity: str
    _: dataclasses.KW_ONLY
    predicted: Quantity
    measured: Quantity
    error: float
    tolerance: float
    verdict: Verdict

    def __repr__(self) -> str:
        quantity, predicted, measured, error, tolerance, verdict = self._cells()
        compared = f"predicted {predicted}, measured {measured}, error {error} of {tolerance}"
        return f"Claim({self.theorem}, {quantity}: {compared}: {verdict})"

    def _cells(self) -> tuple[str, ...]:
        """A row of the report's table."""
        sizes = (f"{self.error:.0e}", f"{self.tolerance:.0e}")
        return (self.quantity, _short(self.predicted), _short(self.measured), *sizes, self.verdict)


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Claims about one problem. Prints as a table.

    Attributes:
        problem: what they are about.
        claims: a tuple of `Claim`.
        value: the objective where things were measured.
        lower_bound: that certifies it.
    """

    problem: Problem
    claims: tuple[Claim, ...]
    value: float
    lower_bound: float

    @property
    def holds(self) -> bool:
        """Whether there are claims and every one holds."""
        return bool(self.claims) and all(claim.verdict is Verdict.HOLDS for claim in self.claims)

    @property
    def fails(self) -> bool:
        """Whether any claim fails."""
        return any(claim.verdict is Verdict.FAILS for claim in self.claims)

    def to_dicts(self) -> list[dict[str, Any]]:
        """The claims as plain dictionaries of strings, numbers and lists."""
        return [{name: _in_python(value) for name, value in vars(claim).items()} for claim in self.claims]

    def to_json(self) -> str:
        """The report as JSON."""
        summary = {"value": self.value, "lower_bound": self.lower_bound, "holds": self.holds}
        return json.dumps({**summary, "claims": self.to_dicts()}, indent=2)

    def __repr__(self) -> str:
        verdicts = [claim.verdict for claim in self.claims]
        words = {"hold": Verdict.HOLDS, "fail": Verdict.FAILS, "undecided": Verdict.UNDECIDED}
        counts = ", ".join(f"{verdicts.count(verdict)} {word}" for word, verdict in words.items())
        claims = f"{len(verdicts)} claims: {counts}" if verdicts else NOTHING_CLAIMED
        return f"Report on {self.problem!r}\n  {self._title()}; {claims}"

    def __rich__(self) -> "Table | str":
        from ufm._core.tables import table

        return table(COLUMNS, self._rows(), self._title(), whole=slice(3, None)) if self.claims else self._nothing()

    def __str__(self) -> str:
        from ufm._core.tables import text

        return text(self.__rich__())

    def _repr_html_(self) -> str:
        from ufm._core.tables import html, html_text

        return html(COLUMNS, self._rows(), self._title()) if self.claims else html_text(self._nothing())

    def _title(self) -> str:
        return f"value {self.value:.12g}, gap {self.value - self.lower_bound:.1e}"

    def _nothing(self) -> str:
        return f"{self._title()}\n{self.problem!r}: {NOTHING_CLAIMED}, nothing is claimed"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """Of the table: each theorem's name, and below it its claims."""
        for name, claims in itertools.groupby(self.claims, lambda claim: claim.theorem):
            yield (name, *[""] * (len(COLUMNS) - 1))
            for claim in claims:
                quantity, *cells = claim._cells()
                yield (f"  {quantity}", *cells)


@interruptible
@says("verifying")
def verify(subject: Optimum | Run | Problem) -> Report:
    """What the literature's theorems say of a problem, beside what was measured.

    Args:
        subject: an optimum; a training run, whose end is certified where it can be; or a problem, which is minimised.

    Returns:
        A Report with a claim for each quantity of each theorem that applies.

    Raises:
        ValueError: for anything else, a run of several seeds, and one whose parameters are not finite.
    """
    kinds = (Optimum, Run, Problem)
    given = instance("subject", subject, kinds, "what ufm.minimize or ufm.train returned, or a ufm.Problem,")
    given = minimize(given) if isinstance(given, Problem) else given
    found = _of_optimum(given) if isinstance(given, Optimum) else _of_run(given)
    problem = as_classes(given.problem)
    with one_thread():
        claims = tuple(
            _claim(theorem, check)
            for theorem, prediction in applicable(problem)
            for check in (*_predicted(prediction, problem, found), *_checked(theorem, problem, found))
        )
    return Report(given.problem, claims, found.value, found.lower_bound)


def predict(problem: Problem) -> Prediction:
    """What theory expects of a problem's optimum before anything runs: the theorems' predictions, merged.

    Fields that no theorem speaks of are None.

    Raises:
        ValueError: for anything but a problem.
    """
    merged: dict[str, Any] = {}
    with one_thread():
        predictions = applicable(as_classes(with_values(problem)))
    for _, prediction in predictions:
        for field in dataclasses.fields(Prediction):
            value = getattr(prediction, field.name)
            if isinstance(value, dict):
                merged[field.name] = {**value, **merged.get(field.name, {})}
            elif value is not None:
                merged.setdefault(field.name, value)
    return Prediction(**merged)


def _of_optimum(best: Optimum) -> Found:
    gap = relative_gap(best.problem, best.value, best.lower_bound)
    hidden = best.solution.W if isinstance(best.solution, LaneParams) else ()
    at_means = Columns(best.means.T, best.A, best.b, hidden)
    return Found(
        means=best.means,
        penultimate=layers(best.problem.activation, at_means)[-1].T,
        classifier=best.A,
        bias=best.b,
        value=best.value,
        lower_bound=best.lower_bound,
        relative_gap=gap,
        certified=gap <= VALUE,
        metrics=best.metrics,
        history=None,
        lift=lambda: best.params,
        curve=lambda: _smallest_curvature(best.problem, best.params),
        lines=lambda: dense_spectrum(best.problem, best.params),
        minimum=_minimum,
    )


def _of_run(run: Run) -> Found:
    problem = run.problem
    if np.ndim(run.params.H) != 2:
        raise ValueError(f"subject: a run of {len(run.params.H)} seeds; verify(run[i]) speaks of the i-th")
    if run.status is Status.DIVERGED:
        raise ValueError(f"subject: a run that {run.ended()}; there is nothing to verify")
    params = problem.finite_params(run.params)
    value, bound = float(problem.objective(params)), lower_bound(problem, params)
    gap, read = relative_gap(problem, value, bound), layers(problem.activation, columns(params))[-1]
    return Found(
        means=class_means(problem, params.H),
        penultimate=class_means(problem, read.T),
        classifier=params.A,
        bias=params.b,
        value=value,
        lower_bound=bound,
        relative_gap=gap,
        certified=gap <= VALUE,
        metrics=_measured(problem, params, read),
        history=run.history,
        lift=lambda: params,
        curve=lambda: _smallest_curvature(problem, params),
        lines=lambda: dense_spectrum(problem, params),
        minimum=_minimum,
        descent=run.descent,
    )


def _measured(problem: Problem, params: Params, X: np.ndarray) -> Metrics:
    """Metrics of what the classifier reads, X (r, N), by groups; where these are no classes, it is another matter."""
    if as_classes(problem).targets is None:
        return measure(X.T, problem.labels, params.A, params.b)
    labels, bias = problem.labels, params.b if problem.bias else np.zeros_like(params.b)
    wanted = None if problem.probabilities is None else np.asarray(told(problem, labels))
    with silent(), one_thread():
        return numbers(of_group_columns(X, labels, problem.num_groups, params.A, bias, wanted))


def _minimum(problem: Problem) -> Found:
    return _of_optimum(minimize(problem))


def _smallest_curvature(problem: Problem, params: Params) -> float | None:
    found = dense_curvature(problem, params)
    return None if found is None else found.smallest


def _claim(theorem: Theorem, check: Check) -> Claim:
    """A theorem's check with the verdict on it; what is no number is neither small nor large."""
    error, verdict = check.distance, Verdict.UNDECIDED
    if error > check.tolerance + check.doubt:
        verdict = Verdict.FAILS
    elif error <= check.tolerance and check.certain:
        verdict = Verdict.HOLDS
    return Claim(
        theorem.name,
        check.quantity,
        predicted=check.predicted,
        measured=check.measured,
        error=error,
        tolerance=check.tolerance,
        verdict=verdict,
    )


def _checked(theorem: Theorem, problem: Problem, found: Found) -> Iterator[Check]:
    """What a theorem checks by itself.

    Raises:
        ValueError: where its `checks` gives anything else.
    """
    checks = theorem.checks(problem, found)
    for check in instance(f"checks of {theorem.name!r}", checks, Iterable, "an iterable of ufm.theory.Check"):
        if not isinstance(check, Check):
            raise ValueError(f"checks of {theorem.name!r} gave {shown(check)}: a ufm.theory.Check is needed")
        yield check


def _predicted(prediction: Prediction, problem: Problem, found: Found) -> Iterator[Check]:
    """A check of each quantity that the prediction names."""
    if prediction.value is not None:
        yield _value(prediction.value, problem, found)
    if prediction.bounds is not None:
        yield from _bounds(prediction.bounds, problem, found)
    for quantity, predicted, measured, error in _geometry(prediction, problem.group_counts, found):
        yield found.of_minimiser(quantity, predicted=predicted, measured=measured, error=error)


def _value(predicted: float, problem: Problem, found: Found) -> Check:
    """The minimum lies in [lower_bound, value]: a prediction outside it is wrong."""
    return Check(
        "minimum of the objective",
        predicted=predicted,
        measured=found.value,
        error=abs(found.value - predicted),
        tolerance=_tolerance(problem, predicted),
        certain=found.certified,
        doubt=_gap(found) if predicted < found.value else 0.0,
    )


def _bounds(bounds: tuple[float, float], problem: Problem, found: Found) -> Iterator[Check]:
    """An upper bound is met by the value, a lower one by the certificate's; either is refuted by the other."""
    least, most = bounds
    yield Check(
        "minimum is at least",
        predicted=least,
        measured=found.value,
        error=max(least - found.value, 0.0),
        tolerance=_tolerance(problem, least),
        certain=keeps_digits(problem, least) and least - found.lower_bound <= _tolerance(problem, least),
    )
    yield Check(
        "minimum is at most",
        predicted=most,
        measured=found.value,
        error=max(found.value - most, 0.0),
        tolerance=_tolerance(problem, most),
        certain=keeps_digits(problem, most),
        doubt=_gap(found),
    )


def _tolerance(problem: Problem, predicted: float) -> float:
    """Within which a value is the predicted one."""
    return max(VALUE * unit(problem, predicted), LEAST_KNOWN)


def _gap(found: Found) -> float:
    """By how much the minimum may lie below the value."""
    return max(found.value - found.lower_bound, 0.0)


def _geometry(
    prediction: Prediction, counts: np.ndarray, found: Found
) -> Iterator[tuple[str, Quantity, Quantity, float]]:
    """(quantity, predicted, measured, error) of everything that is not a value."""
    yield from _degeneracy(prediction, found)
    yield from _grams(prediction, found)
    yield from _sizes(prediction, counts, found)
    yield from _biases(prediction, found)
    yield from _coincidences(prediction, found.classifier)
    yield from _spectra(prediction, found)
    for name, predicted in prediction.metrics.items():
        measured = float(getattr(found.metrics, name))
        yield name, float(predicted), measured, abs(measured - predicted)


def _spectra(prediction: Prediction, found: Found) -> Iterator[tuple[str, str, str, float]]:
    """Where the Hessian can be formed, the largest difference of eigenvalues in order, relative to the largest."""
    if prediction.spectrum is not None and found.spectrum is not None:
        said, seen = (f"{len(each.values)} values" for each in (prediction.spectrum, found.spectrum))
        yield "Hessian spectrum", said, seen, distance(prediction.spectrum, found.spectrum)


def _degeneracy(prediction: Prediction, found: Found) -> Iterator[tuple[str, bool, bool, float]]:
    if prediction.degenerate is not None:
        zero = bool(np.sqrt(np.sum(found.classifier**2) + np.sum(found.means**2)) <= GEOMETRY)
        yield "zero point is optimal", prediction.degenerate, zero, float(zero != prediction.degenerate)


def _grams(prediction: Prediction, found: Found) -> Iterator[tuple[str, float, float, float]]:
    """Scale-free distances to what is predicted."""
    for name, rows, gram in (
        ("Gram of class means", found.means, prediction.gram_H),
        ("Gram of classifier", found.classifier, prediction.gram_A),
    ):
        if gram is not None:
            distance = distance_to_gram(rows, gram)
            yield name, 0.0, distance, distance


def _sizes(prediction: Prediction, counts: np.ndarray, found: Found) -> Iterator[tuple[str, Quantity, Quantity, float]]:
    """Norms and singular values; each group's mean M (M, r) stands for `counts` (M,) rows of H."""
    M, A, wanted = found.means, found.classifier, prediction.singular_values
    products = np.sqrt(counts)[:, None] * (found.penultimate @ A.T)
    values = np.zeros(0) if wanted is None else np.linalg.svd(products, compute_uv=False)
    for name, predicted, measured in (
        ("norm of H", prediction.norm_H, float(np.sqrt(counts @ np.sum(M**2, axis=1)))),
        ("norm of A", prediction.norm_A, float(np.linalg.norm(A))),
        ("norms of class means", prediction.norms_H, np.linalg.norm(M, axis=1)),
        ("norms of classifier rows", prediction.norms_A, np.linalg.norm(A, axis=1)),
        ("singular values of H Aᵀ", _padded(wanted, len(values)), values),
    ):
        if predicted is not None:
            yield name, predicted, measured, _relative(predicted, measured, least=GEOMETRY)


def _biases(prediction: Prediction, found: Found) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """Against the unit of logits: a bias may well be zero."""
    for name, predicted, measured in (
        ("bias", prediction.bias, found.bias),
        ("bias up to a constant", prediction.centred_bias, found.bias - np.mean(found.bias)),
    ):
        if predicted is not None:
            yield name, predicted, measured, _relative(predicted, measured, least=1.0)


def _coincidences(prediction: Prediction, A: np.ndarray) -> Iterator[tuple[str, Quantity, Quantity, float]]:
    """Classifier rows (K, r) that are zero, and those that coincide, beside the largest of them."""
    norms = np.linalg.norm(A, axis=1)
    largest = max(float(norms.max()), np.finfo(float).tiny)
    if prediction.dead is not None:
        dead = norms <= GEOMETRY * largest
        yield "classes that die", prediction.dead, dead, float(np.sum(dead != prediction.dead))
    if prediction.merged is not None:
        merged = _merged(A, largest)
        yield "classes that merge", prediction.merged, merged, float(merged != _sorted_groups(prediction.merged))


def _padded(values: np.ndarray | None, length: int) -> np.ndarray | None:
    return None if values is None else np.pad(np.asarray(values, float), (0, max(length - len(values), 0)))


def _relative(predicted: float | np.ndarray, measured: float | np.ndarray, *, least: float) -> float:
    """Largest difference, relative to the largest predicted entry, or to `least`."""
    scale = max(float(np.max(np.abs(predicted))), least)
    return float(np.max(np.abs(np.asarray(measured) - np.asarray(predicted)))) / scale


def _merged(A: np.ndarray, largest: float) -> tuple[tuple[int, ...], ...]:
    """Groups of two or more classes whose classifier rows coincide, zero ones too."""
    close = (np.linalg.norm(A - row, axis=1) <= GEOMETRY * largest for row in A)  # never K × K × r numbers
    groups = {tuple(int(j) for j in np.flatnonzero(near)) for near in close}
    return _sorted_groups(group for group in groups if len(group) > 1)


def _sorted_groups(groups: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    """The largest groups first."""
    return tuple(sorted((tuple(group) for group in groups), key=lambda group: (-len(group), group)))


def _in_python(value: Any) -> Any:
    """NumPy's numbers and arrays, and verdicts, as Python's own."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_in_python(item) for item in value] if isinstance(value, tuple | list) else value


def _short(value: Any) -> str:
    """A value as a table shows it: arrays by their first entries."""
    value = _in_python(value)
    if isinstance(value, list):
        head = " ".join(f"{item:.3g}" if isinstance(item, float) else str(item) for item in value[:3])
        return f"[{head}{' …' if len(value) > 3 else ''}]"
    return f"{value:.7g}" if isinstance(value, float) else str(value)
