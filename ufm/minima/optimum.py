"""The global optimum: reduce the problem, solve it, certify the solution, and lift it back."""

import contextlib
import dataclasses
import functools as ft
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import jax
import numpy as np

from ufm._core import archive
from ufm._core.arrays import namespace, silent
from ufm._core.blas import one_thread
from ufm._core.checks import MOST_STEPS, Integer, Real, instance, integer, listed, real, room_for, shown
from ufm._core.interrupts import check, interruptible
from ufm._core.lanes import batches, by_batches, each, take
from ufm._core.precision import float64
from ufm._core.programs import kept
from ufm._core.progress import working
from ufm._core.status import Status
from ufm.metrics import definitions as metrics
from ufm.metrics.definitions import Metrics, numbers
from ufm.metrics.groups import of_group_means
from ufm.metrics.layers import Network, of_group_layers, of_layers, side_by_side
from ufm.minima import proximal_newton, quadrature, race, solver
from ufm.minima.certificate import lower_bounds, relative_gap, unit
from ufm.minima.deep_starts import near, random_factors, started, starts_of
from ufm.minima.lane_objective import gradient_norm as gradient_norm_of_lanes
from ufm.minima.lane_objective import layers as layers_of
from ufm.minima.lane_objective import objective, plain_objective, unfold
from ufm.minima.margins import has_margins
from ufm.minima.moments import Thresholded, thresholded
from ufm.minima.reduction import LaneParams, Reduced, least_dim, lift, merged_groups, reduce, without_lanes, zeros
from ufm.minima.rows import params_of, rows_of
from ufm.minima.sector_metrics import metrics_of
from ufm.minima.sectors import Sectors, lifted
from ufm.minima.shallow import raised_bound
from ufm.minima.starts import informed_start, random_start
from ufm.minima.symmetry import at_sectors, blocks_of, sectors_of, symmetric
from ufm.minima.ways import COMPILED_FROM, RANDOM_STARTS, Way, batch_key, way_in_lanes, way_of
from ufm.model.layers import ACTIVATIONS, layers
from ufm.model.losses import facts_of
from ufm.model.params import Params, columns
from ufm.model.problem import Problem, as_classes, with_values

BATCHES = (256, 32, 8)  # problems of a batch: the first whose reduced factors fit; larger ones gain nothing
HELD_IN_BATCH = 2**20  # numbers of a factor
FEW_STARTS = 2  # at random, where each takes minutes
MANY_UP_TO = 2**24  # multiplications of a product of the factors
LAYERED_STARTS = 32  # at random with hidden layers, narrow ones of which few end near the minimum
LAYERED_UP_TO = 2**16  # multiplications, likewise
PATIENCE = 2000  # evaluations that NumPy goes through; by then it has taken half as long as compiling does
ROUNDED = 1e-6  # relative gap that rounding may leave of what was solved on sizes
SOLVED = 1e-3  # of the gap: what the gradient may leave of it
ROUNDING = 1e-15  # of slopes of losses of order one, which logits of order one multiply
LIMIT = ", or ufm.max_margin(problem), the direction that logits take without them"
AGREEMENT = 1e-9  # relative, of two starts that found the same value


@archive.storable
@dataclasses.dataclass(frozen=True)
class Optimum:
    """What `minimize` returns; everything in float64.

    Attributes:
        problem: what was minimised.
        value: of the objective at `params`.
        lower_bound: a number that the objective is nowhere below; −∞ where none is known.
        grad_norm: of the objective at `params`, along the constraints; in the unit of the objective over the unit of
            the parameters.
        steps: function evaluations of L-BFGS from the best start; or Newton steps, where the problem was solved on the
            different sizes of its classes.
        status: how the solver ended; prints what to try next.
        certified: whether the gap is at most tol times the value's size, however small the value is. A bound that is
            only the loss's infimum thus certifies nothing above it. Two kinds of value have a rule of their own. Where
            the minimum may be that infimum itself (a loss that declares it `attained`, as squared error and dot
            regression do, and no weight decay on any factor), the gap is relative to at least 10⁻⁴ of the risk at zero
            logits. And a value below 10⁻²⁹⁰ of any other loss underflows: it is never certified.
        degenerate: whether the optimum is the zero point, A = H = 0.
        metrics: `ufm.Metrics` at `params`.
        starts: how many starting points were tried.
        agreed: how many of them ended at the best value.
        seed: of the random starting points.
        solution: the group means, classifier and bias of the reduced problem; or what they are made of, where classes
            of equal count and weight are treated alike.
    """

    problem: Problem
    value: float
    lower_bound: float
    grad_norm: float
    steps: int
    status: Status
    certified: bool
    degenerate: bool
    metrics: Metrics
    starts: int
    agreed: int
    seed: int
    solution: LaneParams | Sectors

    @classmethod
    def _of_file(cls, **fields: Any) -> "Optimum":
        """What a file holds; those of earlier versions hold means, A and b, or classifier and bias."""
        names = {"means": "H", "A": "A", "b": "b", "classifier": "A", "bias": "b"}
        parts = {names[name]: fields.pop(name) for name in names if name in fields}
        solution = {"solution": LaneParams(**parts)} if parts else {}
        return cls(**{**fields, **solution})

    @ft.cached_property
    def _dense(self) -> LaneParams:
        """Group means (M, r), classifier (K, r), bias (K,), and hidden layers between, which have reduced widths."""
        if isinstance(self.solution, LaneParams):
            return self.solution
        K, r = self.problem.num_classes, least_dim(self.problem)
        room_for(f"num_classes = {K}: class means and classifier in {r} dimensions", 2 * K * r)
        means, A, b = lifted(self.solution)
        missing = ((0, 0), (0, r - means.shape[1]))
        return LaneParams(np.pad(means, missing), np.pad(A, missing), b)

    @property
    def means(self) -> np.ndarray:
        """(M, r) group means of the features in the reduced dimension r: with class labels the class means."""
        H = self._dense.H
        return H if len(H) == self.problem.num_groups else H[merged_groups(self.problem)[1]]

    @property
    def A(self) -> np.ndarray:
        """(K, r) classifier in the same coordinates; with hidden layers in those of the last, as `solution` has it."""
        return self._dense.A

    @property
    def b(self) -> np.ndarray:
        """(K,) bias."""
        solution = self.solution
        return solution.b if isinstance(solution, LaneParams) else solution.b[solution.size_of]

    @property
    def gap(self) -> float:
        """value − lower_bound: how far from optimal this can be."""
        return self.value - self.lower_bound

    @property
    def params(self) -> Params:
        """A minimiser of the problem as posed: H (N, d), A (K, d), b (K,), and hidden layers W."""
        return lift(self.problem, self._dense._replace(H=self.means))

    @ft.cached_property
    def layers(self) -> Metrics | None:
        """`Metrics` of arrays over layers, features H and then every hidden layer; None where there are none."""
        if not self.problem.widths:
            return None
        params, counts = self.params, self.problem.group_counts
        return _of_layers(self.problem, params._replace(H=params.H[np.cumsum(counts) - counts]))

    def __repr__(self) -> str:
        certified = "certified" if self.certified else "not certified"
        starts = f"{self.agreed} of {self.starts} starts ended there"
        return (
            f"Optimum of {self.problem!r}\n"
            f"  value {self.value:.12g}, gap {self.gap:.1e}, {certified}; {starts}\n"
            f"  {self.status}"
        )

    def _repr_html_(self) -> str:
        from ufm._core.tables import html

        return html(("metric", "value"), self.metrics.known(), repr(self))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to exactly `path`, an npz file without pickle; `ufm.load` reads it."""
        archive.save(path, self)


@overload
def minimize(problem: Problem, seed: Integer = 0, *, tol: Real = 1e-8, max_steps: Integer = 3000) -> Optimum: ...
@overload
def minimize(
    problem: Sequence[Problem], seed: Integer = 0, *, tol: Real = 1e-8, max_steps: Integer = 3000
) -> list[Optimum]: ...
@interruptible
def minimize(
    problem: Problem | Sequence[Problem], seed: Integer = 0, *, tol: Real = 1e-8, max_steps: Integer = 3000
) -> Optimum | list[Optimum]:
    """The global minimum with a certificate, in float64, at a cost that depends on neither n nor d beyond K.

    Nothing is compiled for a few problems with losses and constraints of ours. A convex loss with weight decay on both
    factors and enough dimensions is solved on as many sizes as classes have, of count and weight, whatever K is. Other
    problems go through L-BFGS, in NumPy; those of a user's own, and hundreds of one shape, through compiled programs.

    With hidden layers there are other minima than the global one. Linear ones under squared error, with equal weights
    and no or a free bias, are solved in closed form, certified. All others go from many starts: balanced factors of
    shallow minima, or for ReLUs the constructions that are known (Súkeník et al. 2023, 2024) and points near them, and
    factors at random. The bound there is that of shallow problems, tight where decay is large, or layers need but one
    direction.

    Args:
        problem: whose every factor is bounded by weight decay or a constraint; or a list of such, of any shapes, of
            which those of one shape and kind are solved side by side.
        seed: of the random starting points, which are used where the first solution isn't certified, and always with
            hidden layers that closed form doesn't solve.
        tol: relative gap that counts as certified (see `Optimum.certified`), dimensionless.
        max_steps: function evaluations of each start, or Newton steps; with hidden layers only good starts go so far.

    Returns:
        An optimum; of a list a list of them, in its order.

    Raises:
        ValueError: where a factor is free and has no weight decay, so that no minimum is attained; or for a wrong
            argument.
    """
    problems = [problem] if isinstance(problem, Problem) else _several(problem)
    for one in problems:
        _check_bounded(with_values(one))
    found: dict[int, Optimum] = {}
    with working() as say:
        for batch in batches([batch_key(one) for one in problems], lambda first: batch_size(problems[first])):
            together, seeds = [problems[index] for index in batch], [seed] * len(batch)
            ended = minimize_all(together, seeds, tol, max_steps, lambda ended: say("minimising"))
            found.update(zip(batch, ended, strict=True))
    return found[0] if isinstance(problem, Problem) else [found[index] for index in range(len(problems))]


def _several(problems: Any) -> list[Problem]:
    """The problems of a list, at least one."""
    needed = "a ufm.Problem, or a list of at least one of them,"
    found = listed("problem", problems, needed)
    if not found:
        raise ValueError(f"problem = {shown(problems)}: {needed} is needed")
    return [instance("problem", each, Problem, needed) for each in found]


def batch_size(problem: Problem) -> int:
    """Problems of its kind that are solved side by side: a function of shapes alone."""
    held = problem.num_classes * least_dim(problem)
    return next((size for size in BATCHES if size * held <= HELD_IN_BATCH), BATCHES[-1])


def minimize_all(
    problems: list[Problem],
    seeds: list[Any],
    tol: Any = 1e-8,
    max_steps: Any = 3000,
    advanced: Any = None,
    places: Any = None,
) -> list[Optimum]:
    """`minimize` of many problems of one `batch_key`, side by side, on the solver's `places`."""
    seeds = [integer("seed", seed, least=0) for seed in seeds]
    tol = real("tol", tol, above=0.0)
    max_steps = integer("max_steps", max_steps, least=2, most=MOST_STEPS)
    posed, problems = problems, [as_classes(problem) for problem in problems]
    for problem in problems:
        _check_bounded(problem)
    if len({batch_key(problem) for problem in problems}) != 1:
        raise ValueError("problems: all of one shape and kind are needed")
    heard = advanced or (lambda ended: None)
    found: list[Optimum | None] = [None] * len(problems)
    ways = {Way.ON_SIZES: _one_by_one(_on_sizes), Way.ON_MOMENTS: _on_moments, Way.ON_ROWS: _one_by_one(_on_rows)}
    without_lanes = ways.get(way_of(problems[0], len(problems)))
    if without_lanes is not None:
        for index, best in enumerate(without_lanes(problems, seeds, tol, max_steps)):
            found[index] = best
            heard(index + 1)
    left = [index for index, best in enumerate(found) if best is None]
    if left:
        ended = _in_lanes([problems[i] for i in left], [seeds[i] for i in left], tol, max_steps, heard, places)
        found = [best or ended.pop(0) for best in found]
    pairs: Any = zip(found, posed, strict=True)
    return [best if best.problem is problem else dataclasses.replace(best, problem=problem) for best, problem in pairs]


def _one_by_one(solve):
    """A way of one problem as a way of several."""
    return lambda problems, seeds, *options: (solve(*each, *options) for each in zip(problems, seeds, strict=True))


def _on_sizes(problem: Problem, seed: int, tol: float, max_steps: int) -> Optimum | None:
    """The minimum of a problem whose classes of one size are alike; None where d, or the solver, doesn't suffice.

    Where rounding leaves a gap above `tol`, other ways and other starts would find nothing else.
    """
    check()
    blocks, size_of = blocks_of(problem)

    def solved():
        found = quadrature.solve(blocks, tol=SOLVED * tol, enough=0.1 * tol, max_steps=max_steps)
        return found, *sectors_of(problem, blocks, size_of, found.point)

    def finished(sectors):
        return sectors, metrics_of(sectors, problem.group_counts.astype(np.float64))

    return _in_logits(problem, seed, tol, blocks, solved, finished)


def _on_rows(problem: Problem, seed: int, tol: float, max_steps: int) -> Optimum | None:
    """The same of targets, group by group."""
    check()
    blocks = rows_of(problem)

    def solved():
        found = proximal_newton.solve(blocks, tol=SOLVED * tol, max_steps=max_steps)
        return found, *sectors_of(problem, blocks, np.arange(blocks.num_sizes), found.point)

    def finished(factors):
        params = params_of(problem, factors)
        told = blocks.rows.T if facts_of(problem.loss).conjugate_on_simplex else None
        return params, numbers(of_group_means(params.H, blocks.counts, params.A, params.b, told))

    return _in_logits(problem, seed, tol, blocks, solved, finished)


def _in_logits(problem, seed, tol, blocks, solved, finished) -> Optimum | None:
    """The optimum that a point of a problem in logits gives.

    `solved()` gives how its minimisation ended, the point's factors and their rank; `finished(factors)` solution and
    metrics.
    """
    with one_thread(), silent():
        try:
            ended, factors, rank = solved()
        except np.linalg.LinAlgError:  # of numbers too far apart
            return None
        value, grad_norm = at_sectors(problem, blocks, factors)
        gap = relative_gap(problem, value, ended.lower_bound)
        if rank > problem.dim or not gap <= max(tol, ROUNDED):
            return None
        solution, measured = finished(factors)
    return Optimum(
        problem=problem,
        value=value,
        lower_bound=ended.lower_bound,
        grad_norm=grad_norm,
        steps=ended.steps,
        status=Status.CONVERGED if gap <= tol else ended.status,
        certified=gap <= tol,
        degenerate=rank == 0,
        metrics=measured,
        starts=1,
        agreed=1,
        seed=seed,
        solution=solution,
    )


def _on_moments(problems: list[Problem], seeds: list[int], tol: float, max_steps: int) -> Iterator[Optimum]:
    """The minima of squared errors by mean and covariance of their targets."""
    if len(problems) < COMPILED_FROM:
        for problem, seed, found in zip(problems, seeds, thresholded(problems), strict=True):
            check()
            with one_thread(), silent():
                measured = numbers(_of_read(problem, found.params))
            yield _of_moments(problem, seed, tol, found, measured)
        return
    many = list(thresholded(problems))
    yield from map(_of_moments, problems, seeds, [tol] * len(many), many, _of_read_in_lanes(problems, many))


def _of_moments(problem: Problem, seed: int, tol: float, found: Thresholded, measured: Metrics) -> Optimum:
    """The optimum of a problem that was solved so."""
    certified = relative_gap(problem, found.value, found.lower_bound) <= tol
    return Optimum(
        problem=problem,
        value=found.value,
        lower_bound=found.lower_bound,
        grad_norm=found.grad_norm,
        steps=0,
        status=Status.CONVERGED,
        certified=certified,
        degenerate=found.alive == 0,
        metrics=measured,
        starts=1,
        agreed=1,
        seed=seed,
        solution=found.params,
    )


def _of_read(problem: Problem, params: LaneParams) -> Metrics:
    """Metrics of what the classifier reads."""
    counts, read = problem.group_counts.astype(np.float64), _read(params)
    if problem.targets is None:
        return metrics.of_means(read.H, counts, read.A, read.b)
    return of_group_means(read.H, counts, read.A, read.b, None)


def _read(params: LaneParams) -> LaneParams:
    """A classifier and what it reads: group means, or what linear hidden layers make of them."""
    read = params.H
    for layer in params.W:
        read = read @ layer.T
    return LaneParams(read, params.A, params.b)


def _of_read_in_lanes(problems: list[Problem], found: list[Thresholded]) -> list[Metrics]:
    """The same of many problems, compiled."""
    params = jax.tree.map(lambda *parts: np.stack(parts, axis=-1), *(_read(each.params) for each in found))
    counts = np.stack([problem.group_counts.astype(np.float64) for problem in problems], axis=-1)
    with float64():
        how: Any = {"held": max(params.H.size, params.A.size) // len(found)}
        if problems[0].targets is None:
            measured = by_batches(_measured, params, counts, **how)
        else:
            measured = by_batches(_measured_groups, params, counts, None, **how)
    return [_of_lane(measured, lane) for lane in range(len(found))]


def _of_lane(measured: Metrics, lane: int) -> Metrics:
    """Metrics of one of many problems."""
    return Metrics(*(None if entry is None else entry[lane] for entry in measured))


def _in_lanes(problems, seeds, tol, max_steps, heard, places) -> list[Optimum]:
    """Minima of problems of one shape and kind, side by side."""
    compiled = way_in_lanes(problems[0], len(problems)) is Way.COMPILED
    with float64(), contextlib.nullcontext() if compiled else one_thread():
        reduced = reduce(problems)
        if reduced.widths:
            return _through_layers(problems, reduced, seeds, tol, max_steps, heard, places, compiled)
        start = by_batches(informed_start, reduced, held=reduced.held, compiled=compiled)
        reduced = dataclasses.replace(reduced, bias_scale=start.bias_scale, bias_at_zero=start.bias_at_zero)
        solve = ft.partial(_solve, tol=tol, max_steps=max_steps, places=places, compiled=compiled)
        first = solve(problems, reduced, start.x, advanced=heard)
        candidates = [[(first, lane)] for lane in range(len(problems))]
        gaps = map(relative_gap, problems, first.value, first.lower_bound)
        unsettled = [lane for lane, gap in enumerate(gaps) if not gap <= tol]
        others: dict[int, Optimum | None] = {}
        for lane in unsettled if compiled and symmetric(problems[0]) else ():  # a way of their own, before other starts
            others[lane] = _on_sizes(problems[lane], seeds[lane], tol, max_steps)
        unsettled = [lane for lane in unsettled if others.get(lane) is None]
        if unsettled:
            again = ft.partial(solve, advanced=lambda _: heard(len(problems)))
            _retry(problems, reduced, start.x, seeds, unsettled, candidates, again)
        ended = zip(problems, seeds, candidates, strict=True)
        return [others.get(lane) or _optimum(*of_one, tol) for lane, of_one in enumerate(ended)]


def _through_layers(problems, reduced: Reduced, seeds, tol, max_steps, heard, places, compiled) -> list[Optimum]:
    """Minima of problems with hidden layers: the best of many starts, and the shallow problem's bound."""
    count = _random_starts(reduced)

    def solved(problem):
        return minimize_all([problem], [0], tol, max_steps)[0]

    def starts(lane, problem, seed):
        of_one, draw = without_lanes(take(reduced, lane)), np.random.default_rng(seed)
        found = list(starts_of(problem, of_one, lambda shallow: solved(shallow)._dense))
        found += [near(start, of_one, draw) for start in found if problem.activation != "linear"]
        return found + [random_factors(of_one, draw) for _ in range(count)]

    many = [starts(lane, *of_one) for lane, of_one in enumerate(zip(problems, seeds, strict=True))]
    owners = [lane for lane, found in enumerate(many) for _ in found]
    params = jax.tree.map(lambda *parts: np.stack(parts, axis=-1), *itertools.chain(*many))
    of_owners = take(reduced, owners)
    start = by_batches(started, params, of_owners, held=reduced.held, compiled=compiled)
    of_owners = dataclasses.replace(of_owners, bias_scale=start.bias_scale, bias_at_zero=start.bias_at_zero)
    how: Any = {"tol": tol, "max_steps": max_steps, "places": places, "compiled": compiled, "advanced": heard}
    how["minimise"] = ft.partial(race.minimize, owners=owners)
    ended = _solve([problems[lane] for lane in owners], of_owners, start.x, **how)
    found = []
    for lane, (problem, seed) in enumerate(zip(problems, seeds, strict=True)):
        candidates = [(ended, index) for index, owner in enumerate(owners) if owner == lane]
        found.append(_bounded_by(solved, _optimum(problem, seed, candidates, tol), tol))
    return found


def _bounded_by(solved, best: Optimum, tol: float) -> Optimum:
    """The optimum with the bound that shallow problems beneath give."""
    bound = raised_bound(best.problem, best.value, tol, lambda shallow: solved(shallow).lower_bound)
    certified = relative_gap(best.problem, best.value, bound) <= tol
    return dataclasses.replace(best, lower_bound=bound, certified=certified)


@dataclasses.dataclass(frozen=True)
class _Solved:
    """Lanes of candidates."""

    value: np.ndarray
    lower_bound: np.ndarray
    grad_norm: np.ndarray
    steps: np.ndarray
    status: list[Status]
    degenerate: np.ndarray
    metrics: Metrics
    params: LaneParams


def _solve(
    problems, reduced: Reduced, x, tol, max_steps, places, compiled, advanced, minimise=solver.minimize
) -> _Solved:
    """Minimise every lane from x (n, L), compare with the zero point, and certify."""
    floor = ROUNDING if _holds_zero(reduced) else 0.0
    how: Any = {"held": reduced.held, "compiled": compiled}
    limits: Any = {"tol": SOLVED * tol, "max_steps": max_steps, "floor": floor, "places": places}
    limits["polish"] = ACTIVATIONS[reduced.activation].passes is None  # at a kink there is no second derivative
    at_once = 0 if compiled else PATIENCE
    found = minimise(objective, x, reduced, advanced=advanced, held=reduced.held, at_once=at_once, **limits)
    reached, zero = by_batches(_finish, found.x, reduced, **how)
    degenerate = zero.value <= reached.value + 1e-14 * np.abs(reached.value)
    best: _Ended = jax.tree.map(lambda at_zero, elsewhere: np.where(degenerate, at_zero, elsewhere), zero, reached)
    grad_norm = by_batches(_gradient_norm, best.params, reduced, **how)
    read = LaneParams(layers_of(best.params, reduced)[-1], best.params.A, best.params.b)
    if reduced.group_labels is None:
        told = reduced.targets if facts_of(reduced.loss).conjugate_on_simplex else None
        measured = by_batches(_measured_groups, read, reduced.counts, told, **how)
    else:
        measured = by_batches(_measured, read, reduced.counts, **how)
    status = [
        Status.CONVERGED if at_zero and status is Status.MAX_STEPS else status
        for at_zero, status in zip(degenerate, found.status, strict=True)
    ]
    return _Solved(
        value=best.value,
        lower_bound=lower_bounds(problems, reduced, best.params, compiled=compiled),
        grad_norm=grad_norm,
        steps=found.steps,
        status=status,
        degenerate=degenerate,
        metrics=measured,
        params=best.params,
    )


def _holds_zero(reduced: Reduced) -> bool:
    """Whether the zero point is feasible."""
    return all(factor.constraint.holds_zero for factor in reduced.factors())


class _Ended(NamedTuple):
    """Lanes of parameters, and their values (L,)."""

    params: LaneParams
    value: Any


@kept
def _finish(x, reduced) -> tuple[_Ended, _Ended]:
    """Where the solver ended, and the zero point with its best bias."""
    reached = unfold(x, reduced)
    none = (zeros(reduced, factor.rows, factor.dim) for factor in reduced.factors())
    at_zero = reduced.assembled(none, reduced.bias_at_zero)
    value = plain_objective(at_zero, reduced)
    value = value if _holds_zero(reduced) else np.inf * namespace(value).ones_like(value)
    return _Ended(reached, plain_objective(reached, reduced)), _Ended(at_zero, value)


_gradient_norm = kept(gradient_norm_of_lanes)


@kept
def _measured(params, counts):
    """Metrics, lane by lane; a program for each shape, whatever the loss."""
    return each(metrics.of_means, params.H, counts, params.A, params.b)


@kept
def _measured_groups(params, counts, told):
    """The same of groups that are no classes."""
    return each(of_group_means, params.H, counts, params.A, params.b, told)


def _retry(problems, reduced, x, seeds, lanes, results, solve) -> None:
    """More starts, at random, for the lanes whose first solution is not known to be global."""
    count = _random_starts(reduced)
    owners = [lane for lane in lanes for _ in range(count)]
    many = jax.tree.map(lambda leaf: np.asarray(leaf)[..., owners], reduced)
    draws = [np.random.default_rng(seeds[lane]).spawn(count) for lane in lanes]
    starts = random_start(many, x[:, owners], [draw for group in draws for draw in group])
    solved = solve([problems[lane] for lane in owners], many, starts)
    for index, owner in enumerate(owners):
        results[owner].append((solved, index))


def _random_starts(reduced: Reduced) -> int:
    """How many there are of a problem, which may be large."""
    rows = [factor.rows * factor.dim for factor in reduced.factors()[1:]]
    products = reduced.num_groups * sum(rows)
    if reduced.widths and products <= LAYERED_UP_TO:
        return LAYERED_STARTS
    return RANDOM_STARTS if products <= MANY_UP_TO else FEW_STARTS


def _optimum(problem: Problem, seed: int, candidates: list, tol: float) -> Optimum:
    """The best of a problem's candidates."""
    values = [float(solved.value[lane]) for solved, lane in candidates]
    bound = max(float(solved.lower_bound[lane]) for solved, lane in candidates)
    known = [index for index, value in enumerate(values) if not math.isnan(value)]
    best = min(known, key=values.__getitem__, default=0)
    (solved, lane), value = candidates[best], values[best]
    close = AGREEMENT * unit(problem, value)
    return Optimum(
        problem=problem,
        value=value,
        lower_bound=bound,
        grad_norm=float(solved.grad_norm[lane]),
        steps=int(solved.steps[lane]),
        status=solved.status[lane],
        certified=relative_gap(problem, value, bound) <= tol,
        degenerate=bool(solved.degenerate[lane]),
        metrics=_of_lane(solved.metrics, lane),
        starts=len(candidates),
        agreed=sum(abs(other - value) <= close for other in values),
        seed=seed,
        solution=jax.tree.map(lambda part: part[..., lane], solved.params),
    )


def _of_layers(problem: Problem, params: Params) -> Metrics:
    """Metrics of each layer of features that have collapsed to their groups' means, H (M, d)."""
    network = Network(params.W, params.A, params.b, ACTIVATIONS[problem.activation].passes)
    features, groups = layers(problem.activation, columns(params)), problem.group_labels
    counts = problem.group_counts.astype(float)
    with silent(), one_thread():
        if as_classes(problem).targets is None:
            found = of_layers(features, groups, problem.num_groups, network, counts)
        else:
            told = None if problem.probabilities is None else problem.probabilities.T
            found = of_group_layers(features, groups, problem.num_groups, network, told, counts)
        return side_by_side(found)


def _check_bounded(problem: Problem) -> None:
    """Refuse a factor that can grow without end."""
    factors = problem.factors()
    for factor in factors:
        if not factor.bounded:
            hint = "" if any(each.decay > 0 for each in factors) or not has_margins(problem) else LIMIT
            raise ValueError(
                f"{factor.decay_name} = 0 with unbounded {factor.side}: no minimum is attained; weight decay or a "
                f"bound is needed{hint}"
            )
