"""Many smooth minimisations at once: L-BFGS over lanes, and Newton's method for what it leaves unfinished.

An array's last axis is the lane, so that elementwise work vectorises over problems. Each iteration evaluates the
function once in every lane; a lane whose step is rejected shortens it and tries again while the others go on, and a
lane that has finished makes room for the next problem. The module knows nothing of the model.
"""

import collections
import contextlib
import enum
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm._interrupts import Pace, Threads, check
from ufm._lanes import dot
from ufm._precision import to_numpy
from ufm._programs import kept, made_once
from ufm.archive import storable

MEMORY = 4  # pairs; more cost more per iteration than they save in iterations
WIDTHS = (8, 32)  # lanes of a batch: these and no others, so that few programs are compiled
ALONE_ABOVE = 2**13  # numbers that a lane holds: side by side such lanes gain nothing, and are solved one by one
ARMIJO = 1e-4
RESOLUTION = 1e-12  # relative; below it a decrease drowns in rounding and the slope decides (Hager & Zhang 2005)
MOST_REJECTED = 30  # steps in a row, after which a lane is at its floor
FIRST_ITERATIONS = 64  # of a batch, before its pace is known
REFILL_AT = 2  # a batch stops for new problems when one lane in so many has finished
SINGLE_THREAD_BELOW = 2**17  # numbers in a batch
UNBOUNDED = 1e30  # size of a value that no bounded problem has
NEWTON_STEPS = 100
DAMPINGS = 14  # tried for a Newton step before giving up
NEWTON_SIZE = 3000  # variables up to which a dense Hessian is formed
HESSIAN_HELD = 2**22  # numbers of the largest arrays while it is formed, by as many rows at a time as that allows


@storable
class Status(enum.Enum):
    """How the solver ended; the value says what to try next."""

    CONVERGED = "the gradient is below the tolerance"
    MAX_STEPS = "the gradient is still above the tolerance; raise max_steps, loosen tol, or try another seed"
    DIVERGED = "the objective is not finite or unbounded below; check the loss, and that decay or constraints bound it"

    def __str__(self) -> str:
        return f"{self.name.lower()}: {self.value}"


class Solution(NamedTuple):
    """M minimisations: x (n, M), value (M,), steps (M,) and a status each."""

    x: np.ndarray
    value: np.ndarray
    steps: np.ndarray
    status: list[Status]


class _State(NamedTuple):
    """One batch of lanes: where each is, where it goes, and what it remembers."""

    x: Any
    f: Any
    g: Any
    direction: Any
    size: Any
    steps_back: Any
    changes_back: Any
    inverse_curvatures: Any
    scaling: Any
    rejected: Any
    steps: Any
    done: Any
    slot: Any


def minimize(
    fun: Callable[[Any, Any], Any],
    starts: np.ndarray,
    args: Any,
    tol: float = 1e-11,
    max_steps: int = 3000,
    floor: float = 0.0,
    advanced: Callable[[int], None] = lambda done: None,
    polish: bool = True,
    places: Sequence[Any] | None = None,
    held: int = 0,
) -> Solution:
    """Minimise `fun(x, args)` from M starting points.

    A lane has converged where Σ|g_i x_i| ≤ tol · min(|f|, ‖x‖²), which bounds the relative error of the value for
    objectives that grow like ‖x‖²; or where it is below the rounding of f, or below `floor`.

    Args:
        fun: maps x (n, L) and args to (L,) values, lane by lane; hashable, since programs are kept by it.
        starts: (n, M) starting points.
        args: pytree of arrays whose last axis is M.
        tol: relative, dimensionless.
        max_steps: evaluations of each lane.
        floor: of Σ|g_i x_i|, in the unit of the function: what its gradient's rounding cannot tell from zero.
        advanced: is told how many lanes have finished, often and in any of several threads.
        polish: whether Newton's method goes on where L-BFGS stops at `max_steps` or at its floor.
        places: a device for each thread that may solve; `all_places()` where None.
        held: numbers of the largest arrays that `fun` makes in a lane, where these are more than its variables.

    Returns:
        Solution in the order of the starting points. To be called within `float64()`.
    """
    count = starts.shape[1]
    width = width_of(count, max(held, starts.shape[0]))
    found = Solution(np.array(starts), np.full(count, np.nan), np.zeros(count, int), [Status.MAX_STEPS] * count)
    task = _Task(fun, starts, args, tol, floor, max_steps, width, found, collections.deque(range(count)), advanced)
    first, *others = (places or all_places())[: -(-count // width)]
    with Threads(len(others)) as pool, jax.default_device(first):
        batch = _Batch(task)
        others = [pool.submit(_alongside, task, place) for place in others]
        batch.run()
        for other in others:
            other.result()
    for lane in range(count):
        if polish and found.status[lane] is Status.MAX_STEPS and found.x.shape[0] <= NEWTON_SIZE:
            _polish(fun, found, lane, _take(args, np.array([lane])), tol, floor, max(held, found.x.shape[0]))
    return found


class _Task(NamedTuple):
    """What the batches of one call share; `waiting` has the lanes that no batch has taken yet."""

    fun: Callable
    starts: np.ndarray
    args: Any
    tol: float
    floor: float
    max_steps: int
    width: int
    found: Solution
    waiting: collections.deque
    advanced: Callable[[int], None]


class _Batch:
    """Lanes that iterate side by side in one thread; one that has finished makes room for the next that waits."""

    def __init__(self, task: _Task):
        self.task = task
        taken = _next(task.waiting, task.width)
        self.owners = np.resize(np.array(taken or [0]), task.width)
        self.idle = np.arange(task.width) >= len(taken)
        self.args = _take(task.args, self.owners)
        self.state = _begin(task.starts[:, self.owners])._replace(done=jnp.asarray(self.idle))
        self.program = _program(task.fun, task.starts.shape[0] * task.width < SINGLE_THREAD_BELOW)
        self.pace = Pace(FIRST_ITERATIONS)

    def run(self) -> None:
        task = self.task
        while not self.idle.all():
            quota = max(task.width // REFILL_AT, 1) if task.waiting else task.width
            self._iterate(until=int(self.idle.sum()) + min(quota, int((~self.idle).sum())))
            fresh = np.flatnonzero(np.asarray(self.state.done) & ~self.idle)
            _collect(task.found, self.state, self.owners, fresh, task.tol, task.floor)
            self._tell()
            taken = _next(task.waiting, len(fresh))
            refilled = fresh[: len(taken)]
            self.owners[refilled] = taken
            self.idle[fresh[len(taken) :]] = True
            if taken:
                self.args = _take(task.args, self.owners)
                chosen = np.isin(np.arange(task.width), refilled)
                self.state = _refill(self.state, task.starts[:, self.owners], chosen)

    def _iterate(self, until):
        """Go on until so many lanes are done, a little at a time."""
        task, done = self.task, -1
        while done < until:
            check()
            begun = time.monotonic()
            self.state = self.program(
                self.state, self.args, task.tol, task.floor, task.max_steps, until, self.pace.most
            )
            done = int(np.count_nonzero(self.state.done))
            self.pace.told(time.monotonic() - begun, whole=done < until)
            self._tell()

    def _tell(self):
        self.task.advanced(int(np.count_nonzero(self.task.found.steps)))


def _alongside(task: _Task, place: Any) -> None:
    """Another batch, in another thread."""
    with jax.default_device(place):
        _Batch(task).run()


def _next(waiting: collections.deque, most: int) -> list[int]:
    """Up to so many lanes from those that wait, which other threads also take from."""
    taken = []
    with contextlib.suppress(IndexError):
        while len(taken) < most:
            taken.append(waiting.popleft())
    return taken


def all_places() -> list[Any]:
    """A device for each thread that solves: JAX's default or every local one, or a CPU once for each of its cores."""
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    devices = [chosen] if isinstance(chosen, jax.Device) else jax.local_devices()
    if len(devices) > 1 or devices[0].platform != "cpu":
        return devices
    return devices * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def width_of(count: int, held: int) -> int:
    """Lanes of a batch for so many problems, the largest arrays of each of which hold so many numbers."""
    if held > ALONE_ABOVE:
        return 1
    return next((width for width in WIDTHS if width >= count), WIDTHS[-1])


def by_batches(function: Callable, *trees: Any, held: int) -> Any:
    """`function` of arrays whose last axis is the lane, on batches of lanes; NumPy arrays, lanes last.

    Batches are as wide as `width_of` says of lanes that hold so many numbers. The last one is filled up with copies, so
    that batches of one width are all that is ever compiled.
    """
    count = jax.tree.leaves(trees)[0].shape[-1]
    width = width_of(count, held)
    results = []
    for first in range(0, count, width):
        check()
        lanes = np.minimum(np.arange(first, first + width), count - 1)
        results.append(to_numpy(function(*(_take(tree, lanes) for tree in trees))))
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1)[..., :count], *results)


def _take(args, lanes):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[..., lanes], args)


def _collect(found, state, owners, lanes, tol, floor):
    """Take what has finished out of the batch."""
    ended = state.x, state.f, state.steps, _converged(state.x, state.f, state.g, tol, floor)
    x, f, steps, converged = (entry[..., lanes] for entry in to_numpy(ended))
    mine, diverged = owners[lanes], ~(np.abs(f) <= UNBOUNDED)
    found.x[:, mine], found.value[mine], found.steps[mine] = x, f, steps
    for owner, unbounded, settled in zip(mine, diverged, converged, strict=True):
        if unbounded or settled:
            found.status[owner] = Status.DIVERGED if unbounded else Status.CONVERGED


def _small(x, f, g, tol, floor):
    """Whether the gradient is as small as asked, or as rounding lets it be; lane by lane."""
    squares = dot(x, x)
    # coordinate by coordinate, since some may be large and settled; the norms guard against vanishing ones
    gap = jnp.maximum(dot(jnp.abs(g), jnp.abs(x)), 1e-3 * jnp.sqrt(dot(g, g) * squares))
    rounding = jnp.maximum(0.1 * np.finfo(np.float64).eps * jnp.abs(f), floor)
    return gap <= jnp.maximum(tol * jnp.minimum(jnp.abs(f), squares), rounding)


_converged = kept(_small)


@kept
def _begin(x) -> _State:
    """Lanes that have not been evaluated: their first step has no length, and is accepted unless f isn't finite."""
    n, L = x.shape
    pairs = jnp.zeros((MEMORY, n, L))
    return _State(
        x=x,
        f=jnp.full(L, jnp.inf, x.dtype),
        g=jnp.zeros_like(x),
        direction=jnp.zeros_like(x),
        size=jnp.zeros(L),
        steps_back=pairs,
        changes_back=pairs,
        inverse_curvatures=jnp.zeros((MEMORY, L)),
        scaling=jnp.ones(L),
        rejected=jnp.zeros(L, int),
        steps=jnp.zeros(L, int),
        done=jnp.zeros(L, bool),
        slot=jnp.zeros((), int),
    )


@kept
def _refill(state, x, chosen):
    """The batch with the chosen lanes begun anew."""
    new = _begin(x)
    mixed = jax.tree.map(lambda a, b: _chosen(chosen, a, b), new._replace(slot=None), state._replace(slot=None))
    return mixed._replace(slot=state.slot)


def _chosen(mask, new, old):
    """`new` in the lanes of the mask, `old` in the others."""
    return jnp.where(mask.reshape((1,) * (new.ndim - 1) + mask.shape), new, old)


@made_once
def _program(fun, single_thread):
    """Iterate until so many lanes are done, or so often; on one core where splitting loops costs more than it saves."""

    def run(state, args, tol, floor, max_steps, until, most):
        state, _ = jax.lax.while_loop(
            lambda carry: (jnp.sum(carry[0].done) < until) & (carry[1] > 0),
            lambda carry: (_iterate(fun, carry[0], args, tol, floor, max_steps), carry[1] - 1),
            (state, most),
        )
        return state

    alone: Any = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}
    options = alone if single_thread and jax.default_backend() == "cpu" else None
    return kept(run, donate_argnums=0, compiler_options=options)


def _iterate(fun, state: _State, args, tol, floor, max_steps) -> _State:
    """One evaluation in every lane, and what follows from it."""
    x = state.x + state.size[None] * state.direction
    f, g = _value_and_grad(fun, x, args)
    slope, new_slope = dot(state.g, state.direction), dot(g, state.direction)
    decreased = f <= state.f + ARMIJO * state.size * slope
    level = (f <= state.f + RESOLUTION * jnp.abs(state.f)) & (new_slope <= (2 * ARMIJO - 1) * slope)
    accepted = (decreased | level) & jnp.isfinite(f) & ~state.done
    first_size = 1.0 / jnp.maximum(jnp.sqrt(dot(g, g)), 1.0)
    next_size = jnp.where(jnp.isinf(state.f), first_size, 1.0)
    state = _remember(state, _chosen(accepted, x - state.x, 0.0), _chosen(accepted, g - state.g, 0.0))
    shorter = _shorter(state.size, f - state.f, slope)
    state = state._replace(
        x=_chosen(accepted, x, state.x),
        f=jnp.where(accepted, f, state.f),
        g=_chosen(accepted, g, state.g),
        rejected=jnp.where(accepted, 0, state.rejected + 1),
        steps=jnp.where(state.done, state.steps, state.steps + 1),
    )
    direction = _direction(state)
    direction = _chosen(dot(direction, state.g) < 0, direction, -state.g)
    stopped = (state.steps >= max_steps) | (state.rejected > MOST_REJECTED)
    return state._replace(
        direction=_chosen(accepted, direction, state.direction),
        size=jnp.where(accepted, next_size, shorter),
        done=state.done | _small(state.x, state.f, state.g, tol, floor) | stopped,
    )


def _remember(state: _State, step, change) -> _State:
    """Keep a pair; where a lane's step was rejected or its curvature is not positive, one without effect."""
    curvature, squares = dot(step, change), dot(change, change)
    good = curvature > 1e-12 * jnp.sqrt(squares * dot(step, step))
    slot = state.slot % MEMORY
    return state._replace(
        steps_back=state.steps_back.at[slot].set(step),
        changes_back=state.changes_back.at[slot].set(change),
        inverse_curvatures=state.inverse_curvatures.at[slot].set(_where_over(good, 1.0, curvature, 0.0)),
        scaling=_where_over(good, curvature, squares, state.scaling),
        slot=state.slot + 1,
    )


def _direction(state: _State):
    """−B⁻¹ g by the two-loop recursion (Nocedal 1980), newest pair first and then last."""
    order = [(state.slot - 1 - age) % MEMORY for age in range(MEMORY)]
    pairs = [(state.steps_back[i], state.changes_back[i], state.inverse_curvatures[i]) for i in order]
    q, weights = state.g, []
    for step, change, inverse in pairs:
        weights.append(inverse * dot(step, q))
        q = q - weights[-1][None] * change
    q = state.scaling[None] * q
    for (step, change, inverse), weight in zip(pairs[::-1], weights[::-1], strict=True):
        q = q + (weight - inverse * dot(change, q))[None] * step
    return -q


def _shorter(size, rise, slope):
    """The next trial after a rejected one: the minimum of the parabola through what is known, kept within bounds."""
    minimum = -0.5 * size * slope / (rise / size - slope)
    return jnp.where(jnp.isfinite(minimum), jnp.clip(minimum, 0.1 * size, 0.5 * size), 0.1 * size)


def _value_and_grad(fun, x, args):
    value, pull = jax.vjp(lambda x: fun(x, args), x)
    return value, pull(jnp.ones_like(value))[0]


def _where_over(good, numerator, denominator, otherwise):
    return jnp.where(good, numerator / jnp.where(good, denominator, 1.0), otherwise)


def _polish(fun, found: Solution, lane: int, args, tol, floor, held) -> None:
    """Newton's method on one problem that L-BFGS left unfinished, damped until the step descends.

    Curvatures enter by their size, since the valley floor may be concave; directions without any, as rotations are,
    are left alone.
    """
    if found.status[lane] is Status.DIVERGED:
        return
    value_and_grad, hessian = _derivatives(fun)
    x = found.x[:, lane]
    f, g = to_numpy(value_and_grad(x, args))
    damping = 0.0
    for _ in range(NEWTON_STEPS):
        check()
        if _small(jnp.asarray(x)[:, None], f, jnp.asarray(g)[:, None], tol, floor)[0]:
            found.status[lane] = Status.CONVERGED
            break
        values, vectors = np.linalg.eigh(np.asarray(hessian(x, args, held)))
        steepest = np.abs(values).max()
        along = vectors.T @ g
        for _ in range(DAMPINGS):
            curvatures = np.abs(values) + damping
            flat = curvatures <= 1e-13 * steepest
            trial = x - vectors @ np.where(flat, 0.0, along / np.where(flat, 1.0, curvatures))
            trial_f, trial_g = to_numpy(value_and_grad(trial, args))
            closer = np.linalg.norm(trial_g) < np.linalg.norm(g)
            if trial_f < f - RESOLUTION * abs(f) or (trial_f <= f + RESOLUTION * abs(f) and closer):
                break
            damping = max(10.0 * damping, 1e-9 * steepest)
        else:
            break
        x, f, g, damping = trial, trial_f, trial_g, damping / 10.0
    found.x[:, lane], found.value[lane] = x, f


@made_once
def _derivatives(fun):
    """Value with gradient, and Hessian, of a single lane whose largest arrays hold so many numbers."""

    def value(x, args):
        return fun(x[:, None], args)[0]

    def hessian(x, args, held):
        _, pull = jax.vjp(lambda x: jax.grad(value)(x, args), x)
        coordinates, rows = jnp.arange(x.shape[0]), max(HESSIAN_HELD // held, 1)
        return jax.lax.map(lambda i: pull((coordinates == i).astype(x.dtype))[0], coordinates, batch_size=rows)

    return kept(jax.value_and_grad(value)), kept(hessian, static_argnums=2)
