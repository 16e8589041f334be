"""Optimiser trajectories: full-batch training in jit-compiled chunks, with every metric recorded on the way."""

import collections
import dataclasses
import functools as ft
import json
import operator
import os
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core import archive
from ufm._core.checks import MOST_STEPS, Integer, choice, entries, flag, instance, integer, room_for, shown
from ufm._core.descent import Descent, descent_of
from ufm._core.identity import ByContent
from ufm._core.interrupts import Pace, Threads, check, interruptible
from ufm._core.precision import DTYPES, in_precision
from ufm._core.programs import kept, made_once
from ufm._core.progress import progress as progress_bar
from ufm._core.provenance import as_json, command, flags, listed, versions
from ufm._core.repr import brief
from ufm._core.status import Status
from ufm.metrics.definitions import Metrics
from ufm.metrics.history import CHIEF, History, known_snapshots, news
from ufm.metrics.layers import Network, of_group_layers, of_layers, side_by_side
from ufm.model.factors import assembled
from ufm.model.layers import ACTIVATIONS, layers
from ufm.model.params import Columns, Params, columns, rows
from ufm.model.problem import Problem, along_constraints, as_classes, feasible, risk, with_values

if TYPE_CHECKING:
    import optax
    import xarray

SINGLE_THREAD_BELOW = 2**20  # parameters; below, splitting a loop over cores costs more than it saves
MOST_IN_GROUP = 8  # snapshots to a call of the compiled program
FIRST_STEPS = 64  # to a call, before its pace is known
MOST_LISTED = 2**63 - 1  # a seed among several, which an array holds
HELD_IN_GROUP = 2**22  # numbers that the snapshots of a group may hold


ENDINGS = (Status.FINISHED, Status.DIVERGED)  # of a run, in the order of the numbers that stand for them in a table


# what Python says of an argument that a function doesn't take, and of one that it needs
REFUSED, MISSING = re.compile(r"got an unexpected keyword argument '(\w+)'"), re.compile(r"missing \d+ required")


class _Unsaid(int):
    """A default that can be told from the same number said."""


UNSAID_SEED = _Unsaid(0)


@archive.storable
class Ending(NamedTuple):
    """Where a run ended, or was seen to have diverged; an array of each where there were several seeds.

    Attributes:
        step: optimiser steps taken.
        snapshot: an index of the history, or its length where the loss there is no number.
    """

    step: Any
    snapshot: Any


@archive.storable
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What `train` returns; arrays are NumPy's, with a leading axis where there were several seeds.

    Of several seeds, `run[i]` is the run of the i-th.

    Attributes:
        problem: what was trained.
        params: final parameters, in the precision of the run.
        history: metrics at the snapshots.
        status: how it ended; a tuple of them for several seeds.
        ended_at: where it ended or diverged.
        optimizer_state: leaves of the optimiser's state, from which `train(resume=run)` goes on.
        steps: taken in all.
        seed: of the initial parameters, an integer or an array of them.
        precision: "float32" or "float64".
        descent: the learning rate and momentum of the optimiser where it is `optax.sgd` with a constant rate, with a
            heavy ball, Nesterov's momentum or none; None of any other.
    """

    problem: Problem
    params: Params
    history: History
    status: Status | tuple[Status, ...]
    ended_at: Ending
    optimizer_state: tuple
    steps: int
    seed: Any
    precision: str
    descent: Descent | None = None

    def __repr__(self) -> str:
        first = f"Run of {self.problem!r}\n  {self.steps} steps, seed {brief(self.seed)}, {self.precision}"
        return f"{first}; {self.ended()}\n  {self.history.last()}"

    def _repr_html_(self) -> str:
        from ufm._core.tables import html

        return html(CHIEF, self.history.rows(), repr(self))

    def __getitem__(self, index: int) -> "Run":
        """The run of one of several seeds, with the history that it has alone.

        Raises:
            IndexError: where there are not so many seeds.
            ValueError: where `index` is no integer, or there is one seed.
        """
        if isinstance(self.status, Status):
            raise ValueError(f"run[{shown(index)}]: a run of one seed; of a run of several, run[i] is that of the i-th")
        count = len(self.status)
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise ValueError(f"index = {shown(index)}: an integer from {-count} to {count - 1} is needed")
        at = operator.index(index)
        if not -count <= at < count:
            raise IndexError(f"run[{at}]: there are {count} seeds, 0 to {count - 1}")
        params, state = jax.tree.map(lambda leaf: leaf[at], (self.params, self.optimizer_state))
        return dataclasses.replace(
            self,
            params=params,
            history=self.history.of_seed(at),
            status=self.status[at],
            ended_at=Ending(*(int(each[at]) for each in self.ended_at)),
            optimizer_state=state,
            seed=self.seed if np.ndim(self.seed) == 0 else int(self.seed[at]),
        )

    def ended(self) -> str:
        """How and where it ended, on a line; of several seeds how many in which way."""
        if isinstance(self.status, Status):
            step, snapshot = self.ended_at
            return f"{self.status.word} at step {step} (snapshot {snapshot}): {self.status.value}"
        return ", ".join(f"{self.status.count(each)} {each.word}" for each in Status if each in self.status)

    def to_xarray(self) -> "xarray.Dataset":
        """Loss, metrics and status, labelled: dimensions `snapshot`, with a coordinate `step`, and `seed` of several.

        Attributes say which problem, in which precision, and which versions and command made the table.
        """
        several = np.ndim(self.params.H) == 3
        words = [status.word for status in ENDINGS]
        numbers = [ENDINGS.index(status) for status in np.atleast_1d(np.asarray(self.status, object))]
        notes = {"long_name": "how it ended", **flags(words)}
        status = np.asarray(numbers if several else numbers[0], np.int8)
        table = self.history.to_xarray().assign(status=(("seed",) if several else (), status, notes))
        if np.ndim(self.seed) == several:
            seed = np.asarray(self.seed)
            seed = seed.astype(str) if seed.dtype.hasobject else seed  # of more than 64 bits
            table = table.assign_coords(seed=(("seed",) if several else (), seed))
        made_by = {"versions": listed(versions()), "precision": self.precision, "command": command()}
        return table.assign_attrs(problem=json.dumps(as_json(self.problem)), **made_by)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to exactly `path`, an npz file without pickle; `ufm.load` reads it."""
        archive.save(path, self)

    @classmethod
    def _of_file(cls, status: Any, ended_at: Ending | None = None, **fields: Any) -> "Run":
        """What a file holds; earlier versions wrote step and snapshot into each status."""
        if ended_at is None:
            several = isinstance(status[0], tuple)
            columns = map(np.array, zip(*status, strict=True)) if several else status
            status, *places = columns
            status, ended_at = tuple(status) if several else status, Ending(*places)
        return cls(status=status, ended_at=ended_at, **fields)


archive.formerly("TrainingStatus", lambda outcome, step, snapshot: (outcome, step, snapshot))


class _Carry(NamedTuple):
    params: Columns
    state: Any


@ft.partial(interruptible, note="the run that was interrupted is not kept")
def train(
    problem: Problem,
    optimizer: "optax.GradientTransformation",
    *,
    steps: Integer = 2000,
    seed: Integer | Sequence[int] | np.ndarray | jax.Array = UNSAID_SEED,
    snapshots: Integer | Sequence[int] | np.ndarray | jax.Array = 100,
    params: Params | None = None,
    precision: str = "float32",
    resume: Run | None = None,
    progress: bool | None = None,
) -> Run:
    """Minimise by full-batch gradient steps, and record every metric on the way.

    The gradient is projected to the constraints' tangent space, the optimiser steps, and the result is put
    back on the constraint. The optimiser sees the fields of `Params` with features in columns, H (d, N). An optimiser's
    `weight_decay` adds to the problem's own.

    Args:
        problem: what to minimise.
        optimizer: any optax transformation; those that ask for `value`, `grad`, `value_fn` (Polyak, line searches),
            `obj_fn` (Sophia) or `grad_fn` (sharpness-aware descent) are given it. Optimisers of equal content share
            their compiled program.
        steps: number of steps, at least 1.
        seed: of the initial parameters; several (a list, a range, an array) are trained all at once.
        snapshots: how many, log-spaced and including the first and the last step, or an explicit list of steps.
        params: where to start, instead of at random; with a leading axis where there are several seeds. They are
            copied, never modified.
        precision: "float32" or "float64".
        resume: a run to go on with: its parameters, seeds, optimiser state and step count.
        progress: whether to draw a bar; None does where standard error is a terminal.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    known = ByContent(_checked(optimizer))
    run = trained(problem, known, steps, seed, snapshots, params, precision, resume, progress)
    return dataclasses.replace(run, descent=descent_of(known))


def trained(
    problem: Any,
    optimizer: ByContent,
    steps: Any,
    seed: Any,
    snapshots: Any,
    params: Any = None,
    precision: Any = "float32",
    resume: Any = None,
    progress: Any = None,
) -> Run:
    """`train` with an optimiser whose content is known."""
    problem = with_values(problem)
    choice("precision", precision, tuple(DTYPES))
    if progress is not None:
        flag("progress", progress)
    steps = integer("steps", steps, least=1, most=MOST_STEPS)
    looks = schedule(steps, snapshots)
    seed = _seed_of(seed, params, resume)
    first, batched = (0 if resume is None else resume.steps), _batched(seed, resume)
    with in_precision(precision):
        carry = _start(problem, optimizer, seed, batched, params, resume, DTYPES[precision])
        carry, done, records = _drive(problem, optimizer, carry, batched, steps, looks, progress)
        history, status, ended_at = _history(records, looks, first, batched)
        final = jax.tree.map(np.asarray, rows(carry.params))
        state = tuple(np.asarray(leaf) for leaf in jax.tree.leaves(carry.state))
    return Run(problem, final, history, status, ended_at, state, first + done, seed, precision)


def schedule(steps: int, snapshots: Any) -> list[int]:
    """Steps at which a run is recorded: 0, then log-spaced up to the last, or those listed.

    Raises:
        ValueError: where a listed step is not in 0..steps, or a number of snapshots is below 2.
    """
    taken = entries(snapshots)
    if taken is None:
        count = integer("snapshots", snapshots, least=2)
        room_for("snapshots", count)
        spaced = np.geomspace(1, steps, count - 1) if count > 2 else [steps]
        return [0, *sorted({round(float(step)) for step in spaced})]
    if not taken:
        raise ValueError(f"snapshots = {shown(snapshots)}: a number of at least 2, or a list of steps, is needed")
    return sorted({integer("snapshots", step, least=0, most=steps) for step in taken})


def _seed_of(seed: Any, params: Any, resume: Any) -> Any:
    """The seed of a run, or an array of several."""
    if resume is None:
        several = entries(seed)
        if several is None:
            return integer("seed", seed, least=0)
        if not several:
            raise ValueError(f"seed = {shown(seed)}: an integer, or at least one of them, is needed")
        return np.array([integer("seed", each, least=0, most=MOST_LISTED) for each in several])
    instance("resume", resume, Run, "a run, as ufm.train returns and ufm.load reads it,")
    if params is not None:
        raise ValueError("params and resume: only one of them says where to start")
    if seed is not UNSAID_SEED:
        raise ValueError(f"seed = {shown(seed)}: a run that is resumed has its own, {shown(resume.seed)}; leave it out")
    return resume.seed


def _batched(seed: Any, resume: Run | None) -> bool:
    """Whether parameters have a leading axis of seeds."""
    return np.ndim(seed) == 1 if resume is None else np.ndim(resume.params.H) == 3


def _checked(optimizer: Any) -> "optax.GradientTransformation":
    import optax  # a quarter of a second, which those who only minimise never need

    needed = "an optax GradientTransformation, such as optax.sgd(0.5),"
    instance("optimizer", optimizer, optax.GradientTransformation, needed)
    if not (callable(optimizer.init) and callable(optimizer.update)):
        raise ValueError(f"optimizer = {shown(optimizer)}: {needed} is needed, whose init and update are functions")
    return optimizer


def _start(problem, optimizer, seed, batched, params, resume, dtype) -> _Carry:
    """Initial carry on the device, in buffers of its own."""
    given = params if resume is None else resume.params
    params = _drawn(problem, seed, batched) if given is None else _given(problem, given, seed, batched)
    params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype, copy=True), params)
    init = optimizer.value.init
    state = (jax.vmap(init) if batched else init)(params)
    if resume is not None:
        leaves, structure = jax.tree.flatten(state)
        saved = resume.optimizer_state
        if [np.shape(leaf) for leaf in leaves] != [np.shape(leaf) for leaf in saved]:
            raise ValueError("optimizer: its state has another shape than the one resume was trained with")
        state = structure.unflatten([jnp.array(new, leaf.dtype) for new, leaf in zip(saved, leaves, strict=True)])
    return _Carry(params, jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state))


def _drawn(problem, seed, batched) -> Columns:
    """Random parameters of each seed, with H in columns."""
    starts = [columns(problem.init(int(each))) for each in np.atleast_1d(seed)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *starts) if batched else starts[0]


def _given(problem, params, seed, batched) -> Columns:
    """Somebody's parameters where their shapes are the problem's, with H in columns."""
    if not batched:
        return columns(problem.check_params(params))
    *stacked, b = problem.parts_of(params).values()
    lengths, wanted = {leaf.shape[:1] for leaf in (*stacked, b)}, np.shape(seed) or stacked[0].shape[:1]
    if lengths != {wanted}:
        raise ValueError(f"params with leading axes of {sorted(lengths)}: {wanted}, one entry a seed, are needed")
    factors = problem.factors()
    of_seeds = (assembled(factors, (leaf[i] for leaf in stacked), b[i], Params) for i in range(*wanted))
    each = [problem.check_params(params) for params in of_seeds]
    return columns(jax.tree.map(lambda *leaves: np.stack(leaves), *each))


class _Groups(NamedTuple):
    """That groups are no classes, and the probabilities (M, K) that their samples are told, where these are such."""

    told: Any


def _drive(problem, optimizer, carry, batched, steps, looks, progress):
    """Run from look to look, while a second thread measures what the first has left behind.

    A long stretch is several calls of the program, so that it can be seen to go on, and be given up.
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(carry.params))
    advance, losses, metrics = _compiled(size < SINGLE_THREAD_BELOW)
    groups = None if as_classes(problem).targets is None else _Groups(problem.probabilities)
    kind = problem.activation, problem.num_groups, np.asarray(problem.labels, np.int32), np.bool_(problem.bias), groups
    group, pace = max(1, min(MOST_IN_GROUP, HELD_IN_GROUP // size)), Pace(FIRST_STEPS)

    def measured(params, count):
        loss, others = losses(problem, batched, params, count), metrics(batched, *kind, params, count)
        return np.concatenate([np.asarray(loss)[:, None], np.asarray(others)], axis=1)[:count]

    stops = [*looks, steps] if looks[-1] < steps else looks
    records, pending, done, told = [], collections.deque(), 0, time.monotonic()
    with Threads(1) as aside, progress_bar(steps, "steps", progress) as show:
        for first in range(0, len(stops), group):
            waiting = collections.deque(stops[first : first + group])
            while waiting:
                check()
                counts, complete = _next_call(waiting, done, pace.most)
                padded = np.pad(counts, (0, group - len(counts))).astype(np.int32)
                carry, params = advance(problem, optimizer, batched, carry, padded)
                done += sum(counts)
                pending.append((aside.submit(measured, params, complete), done, sum(counts) >= pace.most))
                if len(pending) > 1:  # one call behind: holds memory down
                    future, reached, whole = pending.popleft()
                    records.extend(future.result())
                    pace.told(time.monotonic() - told, whole)
                    told = time.monotonic()
                    show(reached, _said(records[-1]) if records else "")
            if first and not np.any(np.isfinite(records[first - 1][0])):  # one group behind, whatever the calls
                break
        for future, _, _ in pending:
            records.extend(future.result())
    return carry, done, records[: len(looks)]


def _said(record: np.ndarray) -> str:
    """A snapshot on a line: the loss, and metrics of the features that the classifier reads."""
    return news(record[0], *record[-len(Metrics._fields) :])


def _next_call(waiting: collections.deque, done: int, most: int) -> tuple[list[int], int]:
    """Steps from stop to stop that a call is to take, at most so many in all, and how many stops it completes.

    Takes those stops from `waiting`. A stretch that is too long ends on the way, a stop that is none.
    """
    counts = []
    while waiting and waiting[0] - done <= most:
        counts.append(waiting[0] - done)
        done, most = waiting.popleft(), most - counts[-1]
    complete = len(counts)
    if waiting and most > 0:
        counts.append(most)
    return counts, complete


def _history(records, looks, first, batched) -> tuple[History, Any, Ending]:
    """Records as arrays, cut after a divergence that all seeds share; and of each seed how and where it ended."""
    loss, *values = np.stack(records, axis=-1)  # (fields, S) or (fields, seeds, S)
    steps = first + np.asarray(looks[: len(records)])
    known = known_snapshots(np.atleast_2d(loss))
    last = np.minimum(known, len(steps) - 1)
    statuses = tuple(Status.FINISHED if count == len(steps) else Status.DIVERGED for count in known)
    keep = max(*known, 1)
    count, kept_values = len(Metrics._fields), [value[..., :keep] for value in values]
    of_layers = [Metrics(*kept_values[at : at + count]) for at in range(0, len(kept_values), count)]
    by_layer = side_by_side(of_layers) if len(of_layers) > 1 else None
    history = History(steps[:keep], loss[..., :keep], of_layers[-1], by_layer)
    if batched:
        return history, statuses, Ending(steps[last], last)
    return history, statuses[0], Ending(int(steps[last[0]]), int(last[0]))


@made_once
def _compiled(single_thread: bool):
    """The three programs of a run: steps, losses and metrics; the last, the slowest to compile, for any loss.

    On a CPU a small one is kept on one core, where XLA would split its loops over all, and the features are updated
    in place, where it would copy them at every step.
    """
    alone: Any = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"} if single_thread else {}
    in_place: Any = {"xla_cpu_copy_insertion_use_region_analysis": True}
    on_cpu = jax.default_backend() == "cpu"
    options = [{**alone, **in_place}, alone] if on_cpu else [None, None]
    advance = kept(_advance, static_argnums=(1, 2), donate_argnums=3, compiler_options=options[0])
    losses = kept(_losses, static_argnums=1, compiler_options=options[1])
    return advance, losses, kept(_metrics, static_argnums=(0, 1, 2), compiler_options=options[1])


def _advance(problem, optimizer, batched, carry, counts):
    """Take counts[j] steps, then the next; the parameters after each. Traced numbers: one compilation serves all."""

    def one(carry):
        def until_next(carry, count):
            carry = jax.lax.fori_loop(0, count, lambda _, c: _step(problem, optimizer, c), carry)
            return carry, carry.params

        return jax.lax.scan(until_next, carry, counts)

    return jax.vmap(one, out_axes=(0, 1))(carry) if batched else one(carry)


def _step(problem, optimizer, carry: _Carry) -> _Carry:
    import optax

    params, state = carry
    value, gradient = jax.value_and_grad(risk, argnums=1)(problem, params)
    # all gradients before any update: XLA then updates in place instead of copying the features at every step
    gradient = jax.lax.optimization_barrier(gradient)
    gradient = along_constraints(problem, params, gradient)
    offered = {"value": value, "grad": gradient, **_functions_of(problem)}
    update = optax.with_extra_args_support(optimizer.value).update
    updates, state = _updated(update, (gradient, state, params), offered)
    moved: Any = optax.apply_updates(params, updates)  # pyright: ignore[reportArgumentType]
    return _Carry(feasible(problem, moved), state)


def _functions_of(problem):
    """What optimisers may call, by the names that they have for it: the objective and its gradient at parameters."""

    def value_fn(params, *, obj_fn=None, grad_fn=None):  # optax's line searches hand on what isn't theirs
        return risk(problem, params)

    def grad_fn(params, *_):  # of sharpness-aware descent, which says how many of its steps were taken
        return along_constraints(problem, params, jax.grad(risk, argnums=1)(problem, params))

    return {"value_fn": value_fn, "obj_fn": ft.partial(risk, problem), "grad_fn": grad_fn}


def _updated(update, given, offered):
    """Updates and the new state, with what the optimiser takes of the `offered` arguments.

    Which these are, an optimiser that wraps others can't say before: Python tells, argument by argument.
    """
    try:
        return update(*given, **offered)
    except TypeError as error:
        refused = REFUSED.search(str(error))
        if refused is not None and refused[1] in offered:
            taken = {name: value for name, value in offered.items() if name != refused[1]}
        elif MISSING.search(str(error)):
            shared = ", ".join(offered) or "nothing beside the parameters"
            raise ValueError(f"optimizer: {error}; what all of it can be given is {shared}") from error
        else:
            raise
    return _updated(update, given, taken)


def _losses(problem, batched, params, count):
    """Losses of the first `count` of a group of parameters: (group,) or (group, seeds)."""
    return _of_each(lambda params: risk(problem, params), batched, params, count)


def _metrics(batched, activation, num_groups, labels, biased, groups, params, count):
    """Metrics of the first `count` of a group of parameters: (group, fields) or (group, fields, seeds).

    Fields of `Metrics`, layer after layer, of which the last is the one that the classifier reads.
    """

    def one(params):
        b = jnp.where(biased, params.b, jnp.zeros_like(params.b))
        network = Network(params.W, params.A, b, ACTIVATIONS[activation].passes)
        features = layers(activation, params)
        if groups is None:
            found = of_layers(features, labels, num_groups, network)
        else:
            told = None if groups.told is None else groups.told.T[:, labels].astype(params.H.dtype)
            found = of_group_layers(features, labels, num_groups, network, told)
        unknown = jnp.full((), jnp.nan, params.H.dtype)
        return jnp.stack([unknown if value is None else value for layer in found for value in layer])

    return _of_each(one, batched, params, count)


def _of_each(one, batched, params, count):
    """`one` of the first `count` of a group of parameters, seeds last; zeros for the others."""
    of_one = jax.vmap(one, out_axes=-1) if batched else one

    def fill(j, records):
        return records.at[j].set(of_one(jax.tree.map(lambda leaf: leaf[j], params)))

    first = jax.eval_shape(of_one, jax.tree.map(lambda leaf: leaf[0], params))
    records = jnp.zeros((params.H.shape[0], *first.shape), first.dtype)
    return jax.lax.fori_loop(0, count, fill, records)
