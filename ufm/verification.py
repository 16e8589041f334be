"""Meets what theorems predict with what was measured, claim by claim, within what the certificate allows."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from ufm._core.checks import instance
from ufm._core.interrupts import interruptible
from ufm._core.progress import says
from ufm.geometry import gram_distance
from ufm.metrics.definitions import Metrics
from ufm.metrics.measurement import measure
from ufm.minima.certificate import LEAST_KNOWN, keeps_digits, lower_bound, relative_gap, unit
from ufm.minima.optimum import Optimum, minimize
from ufm.model.params import Params
from ufm.model.problem import Problem, as_problem, class_means
from ufm.theory import applicable
from ufm.theory.registry import Prediction, Theorem
from ufm.training import Run

VALUE = 1e-8  # tolerance of values, relative
GEOMETRY = 1e-6  # of Grams, norms and singular values, relative; and of metrics
IDENTITY = 1e-12  # of statements about any parameters, relative to the objective
COLUMNS = ("claim", "predicted", "measured", "error", "tolerance", "verdict")
NOTHING_CLAIMED = "no theorem known here speaks of it"
TREND = (1.0, 1e-2, 1e-4)  # factors of both decays along which a limit is approached


@dataclasses.dataclass(frozen=True)
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
            prediction lies outside what the certificate allows; otherwise "undecided".
    """

    theorem: str
    quantity: str
    predicted: Any
    measured: Any
    error: float
    tolerance: float
    verdict: str

    def __repr__(self) -> str:
        quantity, predicted, measured, error, tolerance, verdict = self._cells()
        compared = f"predicted {predicted}, measured {measured}, error {error} of {tolerance}"
        return f"Claim({self.theorem}, {quantity}: {compared}: {verdict})"

    def _cells(self) -> tuple[str, ...]:
        """A row of the report's table."""
        sizes = (f"{self.error:.0e}", f"{self.tolerance:.0e}")
        return (self.quantity, _short(self.predicted), _short(self.measured), *sizes, self.verdict)


@dataclasses.dataclass(frozen=True)
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
        return bool(self.claims) and all(claim.verdict == "holds" for claim in self.claims)

    @property
    def fails(self) -> bool:
        """Whether any claim fails."""
        return any(claim.verdict == "fails" for claim in self.claims)

    def to_dicts(self) -> list[dict[str, Any]]:
        """The claims as plain dictionaries of strings, numbers and lists."""
        return [{name: _plain(value) for name, value in vars(claim).items()} for claim in self.claims]

    def to_json(self) -> str:
        """The report as JSON."""
        summary = {"value": self.value, "lower_bound": self.lower_bound, "holds": self.holds}
        return json.dumps({**summary, "claims": self.to_dicts()}, indent=2)

    def __repr__(self) -> str:
        verdicts = [claim.verdict for claim in self.claims]
        words = {"hold": "holds", "fail": "fails", "undecided": "undecided"}
        counts = ", ".join(f"{verdicts.count(verdict)} {word}" for word, verdict in words.items())
        claims = f"{len(verdicts)} claims: {counts}" if verdicts else NOTHING_CLAIMED
        return f"Report on {self.problem!r}\n  {self._title()}; {claims}"

    def __rich__(self) -> Any:
        from ufm._core.tables import table

        return table(COLUMNS, self._rows(), self._title(), wrap=False) if self.claims else self._nothing()

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


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Parameters read as class means, with what certifies them."""

    problem: Problem
    params: Params
    means: np.ndarray
    A: np.ndarray
    b: np.ndarray
    value: float
    lower_bound: float
    metrics: Metrics

    @property
    def doubt(self) -> float:
        """Relative gap of the value; the geometry is certain to about its square root."""
        return relative_gap(self.problem, self.value, self.lower_bound)

    @property
    def certified(self) -> bool:
        """Whether the value is the minimum, by the rule of `Optimum.certified`."""
        return self.doubt <= VALUE

    def tolerance(self, predicted: float) -> float:
        """Within which a value is the predicted one."""
        return max(VALUE * unit(self.problem, predicted), LEAST_KNOWN)


@interruptible
@says("verifying")
def verify(subject: Optimum | Run | Problem | Any) -> Report:
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
    found = _from_optimum(given) if isinstance(given, Optimum) else _from_run(given)
    claims = []
    for theorem, prediction in applicable(found.problem):
        claims.extend(_compare(theorem, prediction, found))
        claims.extend(_identities(theorem, found))
        if isinstance(given, Optimum):
            claims.extend(_trend(theorem, given))
    return Report(found.problem, tuple(claims), found.value, found.lower_bound)


def predict(problem: Problem | Any) -> Prediction:
    """What theory expects of a problem's optimum before anything runs: the theorems' predictions, merged.

    Fields that no theorem speaks of are None.

    Raises:
        ValueError: for anything but a problem.
    """
    merged: dict[str, Any] = {}
    for _, prediction in applicable(as_problem(problem)):
        for field in dataclasses.fields(Prediction):
            value = getattr(prediction, field.name)
            if isinstance(value, dict):
                merged[field.name] = {**value, **merged.get(field.name, {})}
            elif value is not None:
                merged.setdefault(field.name, value)
    return Prediction(**merged)


def _from_optimum(best: Optimum) -> _Measured:
    parts = (best.means, best.A, best.b)
    return _Measured(best.problem, best.params, *parts, best.value, best.lower_bound, best.metrics)


def _from_run(run: Run) -> _Measured:
    problem = run.problem
    if np.ndim(run.params.H) != 2:
        raise ValueError(f"subject: a run of {len(run.params.H)} seeds; verify(run[i]) speaks of the i-th")
    params = problem.finite_params(run.params)
    bound = lower_bound(problem, params)
    measured = measure(params.H, problem.labels, params.A, params.b)
    value = float(problem.objective(params))
    return _Measured(problem, params, class_means(problem, params.H), params.A, params.b, value, bound, measured)


def _compare(theorem: Theorem, prediction: Prediction, found: _Measured) -> Iterator[Claim]:
    """A claim for each quantity that the prediction names."""
    if prediction.value is not None:
        yield _value_claim(theorem, prediction.value, found)
    if prediction.bounds is not None:
        yield from _bound_claims(theorem, prediction.bounds, found)
    for quantity, predicted, measured, error in _geometry(prediction, found):
        yield Claim(theorem.name, quantity, predicted, measured, error, GEOMETRY, _verdict(error, GEOMETRY, found))


def _value_claim(theorem: Theorem, predicted: float, found: _Measured) -> Claim:
    """The minimum lies in [lower_bound, value]: a prediction outside it is wrong."""
    tolerance = found.tolerance(predicted)
    error = abs(found.value - predicted)
    if not found.lower_bound - tolerance <= predicted <= found.value + tolerance:
        verdict = "fails"
    else:
        verdict = "holds" if error <= tolerance and found.certified else "undecided"
    return Claim(theorem.name, "minimum of the objective", predicted, found.value, error, tolerance, verdict)


def _bound_claims(theorem: Theorem, bounds: tuple[float, float], found: _Measured) -> Iterator[Claim]:
    """Upper bounds are met by a value, lower ones by the certificate's; either is refuted by the other."""
    for quantity, bound, sign in (("minimum is at least", bounds[0], 1.0), ("minimum is at most", bounds[1], -1.0)):
        tolerance = found.tolerance(bound)
        sure, known = (found.lower_bound, found.value) if sign > 0 else (found.value, found.lower_bound)
        met, refuted = sign * (sure - bound) >= -tolerance, sign * (known - bound) < -tolerance
        told = keeps_digits(found.problem, bound)
        verdict = "fails" if refuted else "holds" if met and told else "undecided"
        error = max(sign * (bound - found.value), 0.0)
        yield Claim(theorem.name, quantity, bound, found.value, error, tolerance, verdict)


def _verdict(error: float, tolerance: float, found: _Measured) -> str:
    """Geometry is as certain as its value: a relative gap g leaves it free to move by about √g."""
    if not found.certified:
        return "undecided"
    if error <= tolerance:
        return "holds"
    return "fails" if error > tolerance + 10.0 * np.sqrt(found.doubt) else "undecided"


def _geometry(prediction: Prediction, found: _Measured) -> Iterator[tuple[str, Any, Any, float]]:
    """(quantity, predicted, measured, error) of everything that is not a value."""
    M, A, b = found.means, found.A, found.b
    counts = found.problem.class_counts
    norms_A = np.linalg.norm(A, axis=1)
    size = max(norms_A.max(), np.finfo(float).tiny)
    if prediction.degenerate is not None:
        zero = bool(np.sqrt(np.sum(A**2) + np.sum(M**2)) <= GEOMETRY)
        yield "zero point is optimal", prediction.degenerate, zero, float(zero != prediction.degenerate)
    for name, rows, target in (
        ("Gram of class means", M, prediction.gram_H),
        ("Gram of classifier", A, prediction.gram_A),
    ):
        if target is not None:
            distance = _distance_to_gram(rows, target)
            yield name, 0.0, distance, distance
    norm_H = float(np.sqrt(counts @ np.sum(M**2, axis=1)))
    values = np.linalg.svd(np.sqrt(counts)[:, None] * (M @ A.T), compute_uv=False)
    for name, predicted, measured in (
        ("norm of H", prediction.norm_H, norm_H),
        ("norm of A", prediction.norm_A, float(np.linalg.norm(A))),
        ("norms of class means", prediction.norms_H, np.linalg.norm(M, axis=1)),
        ("norms of classifier rows", prediction.norms_A, norms_A),
        ("singular values of H Aᵀ", _padded(prediction.singular_values, len(values)), values),
    ):
        if predicted is not None:
            yield name, predicted, measured, _relative(predicted, measured)
    for name, predicted, measured in (
        ("bias", prediction.bias, b),
        ("bias up to a constant", prediction.centred_bias, b - b.mean()),
    ):
        if predicted is not None:  # against the unit of logits: a bias may well be zero
            yield name, predicted, measured, _relative(predicted, measured, least=1.0)
    if prediction.dead is not None:
        dead = norms_A <= GEOMETRY * size
        yield "classes that die", prediction.dead, dead, float(np.sum(dead != prediction.dead))
    if prediction.merged is not None:
        merged = _merged(A, size)
        yield "classes that merge", prediction.merged, merged, float(merged != _sorted_groups(prediction.merged))
    for name, predicted in prediction.metrics.items():
        measured = float(getattr(found.metrics, name))
        yield name, float(predicted), measured, abs(measured - predicted)


def _distance_to_gram(rows: np.ndarray, target: np.ndarray) -> float:
    """Scale-free distance of the rows' Gram to a target Gram."""
    values, vectors = np.linalg.eigh(target)
    return gram_distance(rows, vectors * np.sqrt(np.maximum(values, 0.0)))


def _padded(values: np.ndarray | None, length: int) -> np.ndarray | None:
    return None if values is None else np.pad(np.asarray(values, float), (0, max(length - len(values), 0)))


def _relative(predicted: Any, measured: Any, least: float = GEOMETRY) -> float:
    """Largest difference, relative to the largest predicted entry."""
    scale = max(float(np.max(np.abs(predicted))), least)
    return float(np.max(np.abs(np.asarray(measured) - np.asarray(predicted)))) / scale


def _merged(A: np.ndarray, size: float) -> tuple[tuple[int, ...], ...]:
    """Groups of two or more classes whose classifier rows coincide, zero ones too."""
    close = (np.linalg.norm(A - row, axis=1) <= GEOMETRY * size for row in A)  # never K × K × r numbers
    groups = {tuple(int(j) for j in np.flatnonzero(near)) for near in close}
    return _sorted_groups(group for group in groups if len(group) > 1)


def _sorted_groups(groups: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted((tuple(group) for group in groups), key=lambda group: (-len(group), group)))


def _identities(theorem: Theorem, found: _Measured) -> Iterator[Claim]:
    """Statements about any parameters, at those found and at random ones; arithmetic alone decides."""
    if theorem.identity is None:
        return
    for where, params in (("here", found.params), ("at random", found.problem.init(seed=1))):
        scale = max(abs(float(found.problem.objective(params))), 1.0)
        for quantity, (predicted, measured) in theorem.identity(found.problem, params).items():
            error = abs(measured - predicted) / scale
            verdict = "holds" if error <= IDENTITY else "fails"
            yield Claim(theorem.name, f"{quantity}, {where}", predicted, measured, error, IDENTITY, verdict)


def _trend(theorem: Theorem, best: Optimum) -> Iterator[Claim]:
    """A limit of vanishing decay is approached, never met: the distance must shrink along it."""
    if theorem.limit is None:
        return
    problem = best.problem
    smaller = [
        dataclasses.replace(problem, lambda_A=factor * problem.lambda_A, lambda_H=factor * problem.lambda_H)
        for factor in TREND
    ]
    optima = [best, *(minimize(p) for p in smaller[1:])]
    targets = theorem.limit(problem)
    for name, read, target in zip(("classifier", "class means"), ("classifier", "means"), targets, strict=True):
        distances = [_distance_to_gram(getattr(optimum, read), target) for optimum in optima]
        rises = max(0.0, *(after - before for before, after in itertools.pairwise(distances)))
        certified = all(optimum.certified for optimum in optima)
        verdict = ("holds" if rises == 0.0 else "fails") if certified else "undecided"
        yield Claim(theorem.name, f"distance of {name} to the limit", "falling", distances, rises, 0.0, verdict)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _short(value: Any) -> str:
    """A value as a table shows it: arrays by their first entries."""
    value = _plain(value)
    if isinstance(value, list):
        head = " ".join(f"{item:.3g}" if isinstance(item, float) else str(item) for item in value[:3])
        return f"[{head}{' …' if len(value) > 3 else ''}]"
    return f"{value:.7g}" if isinstance(value, float) else str(value)
