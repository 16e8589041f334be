"""Many smooth minimisations at once: L-BFGS over lanes, and Newton's method for what it leaves unfinished.

An array's last axis is the lane, so that elementwise work vectorises over problems. Each iteration evaluates the
function once in every lane; a lane whose step is rejected shortens it and tries again while the others go on, and a
lane that has finished makes room for the next problem. The module knows nothing of the model.
"""

import collections
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ufm._core import lanes
from ufm._core.arrays import namespace, silent, while_loop
from ufm._core.interrupts import Pace, Threads, check
from ufm._core.lanes import take, width_of
from ufm._core.precision import to_numpy
from ufm._core.programs import kept, made_once, plain
from ufm._core.status import Status
from ufm.minima import newton
from ufm.minima.convergence import Solution, small_gradient
from ufm.minima.lbfgs import begin, iterate, refill
from ufm.minima.newton import NEWTON_SIZE

FIRST_ITERATIONS = 64  # of a batch, before its pace is known
REFILL_AT = 2  # a batch stops for new problems when one lane in so many has finished
SINGLE_THREAD_BELOW = 2**17  # numbers in a batch
EARLY, EARLY_SIZE = 300, 200  # evaluations in NumPy after which Newton's method is tried, of so many variables
UNBOUNDED = 1e30  # size of a value that no bounded problem has


def minimize(
    fun: Callable[[Any, Any], Any],
    starts: np.ndarray,
    args: Any,
    *,
    tol: float = 1e-11,
    max_steps: int = 3000,
    floor: float = 0.0,
    advanced: Callable[[int], None] = lambda done: None,
    polish: bool = True,
    places: Sequence[Any] | None = None,
    held: int = 0,
    at_once: int = 0,
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
        polish: whether Newton's method goes on where L-BFGS stops at `max_steps` or at its floor, and in NumPy is tried
            on few variables before that.
        places: a device for each thread that may solve; `lanes.all_places()` where None.
        held: numbers of the largest arrays that `fun` makes in a lane, where these are more than its variables.
        at_once: evaluations of each lane for which NumPy goes through the iteration with all lanes at once, before JAX
            compiles it for those that go on; `fun` then has its gradient in closed form, as `value_and_grad`.

    Returns:
        Solution in the order of the starting points. To be called within `jax.enable_x64(True)`.
    """
    n, count = starts.shape
    found = Solution(np.array(starts), np.full(count, np.nan), np.zeros(count, int), [Status.MAX_STEPS] * count)
    task = _Task(fun, args, tol, floor, max_steps, count, found, collections.deque(range(count)), advanced, False)
    held = max(held, n)

    def polished(most, compiled):
        for lane in range(count):
            if polish and found.status[lane] is Status.MAX_STEPS and n <= most:
                newton.polish(fun, found, lane, take(args, np.array([lane])), tol, floor, held, compiled)

    used, at_once = 0, min(at_once, max_steps)
    for until in (min(EARLY, at_once), at_once) if n <= EARLY_SIZE else (at_once,):
        if until > used and task.waiting:
            _run(task._replace(max_steps=until - used), places)
            used = until
            reached = found.x.copy(), found.value.copy()
            polished(EARLY_SIZE, False)
            left = _unfinished(found, used)
            if used < at_once:  # Newton's method may end in a valley along which L-BFGS is slow
                found.x[:, left], found.value[left] = reached[0][:, left], reached[1][left]
            task.waiting.extend(left if used < max_steps else ())
    compiled = bool(task.waiting)
    if compiled:
        width = width_of(len(task.waiting), held)
        _run(task._replace(max_steps=max_steps - used, width=width, compiled=True), places)
    polished(NEWTON_SIZE, compiled)
    return found


def _unfinished(found: Solution, used: int) -> list[int]:
    """Lanes that ended as they had no evaluation left."""
    lanes = enumerate(zip(found.status, found.steps, strict=True))
    return [lane for lane, (status, steps) in lanes if status is Status.MAX_STEPS and steps >= used]


def _run(task: "_Task", places: Sequence[Any] | None) -> None:
    """L-BFGS of the lanes that wait, each from where it was found last, in as many threads as have a batch."""
    first, *others = (places or lanes.all_places())[: -(-len(task.waiting) // task.width)]
    with Threads(len(others)) as pool, jax.default_device(first):
        batch = _Batch(task)
        others = [pool.submit(_alongside, task, place) for place in others]
        batch.run()
        for other in others:
            other.result()


class _Task(NamedTuple):
    """What the batches of one call share; `waiting` has the lanes that no batch has taken yet."""

    fun: Callable
    args: Any
    tol: float
    floor: float
    max_steps: int
    width: int
    found: Solution
    waiting: collections.deque
    advanced: Callable[[int], None]
    compiled: bool


class _Batch:
    """Lanes that iterate side by side in one thread; one that has finished makes room for the next that waits."""

    def __init__(self, task: _Task):
        self.task = task
        taken = _next(task.waiting, task.width)
        self.owners = np.resize(np.array(taken or [0]), task.width)
        self.idle = np.arange(task.width) >= len(taken)
        self.args = take(task.args, self.owners)
        single_thread = task.found.x.shape[0] * task.width < SINGLE_THREAD_BELOW
        self.begin = begin if task.compiled else plain(begin)
        self.program = _program(task.fun, single_thread) if task.compiled else silent()(_iteration(task.fun))
        state = self.begin(task.found.x[:, self.owners])
        self.state = state._replace(done=namespace(state.x).asarray(self.idle))
        self.pace = Pace(FIRST_ITERATIONS)

    def run(self) -> None:
        task = self.task
        while not self.idle.all():
            quota = max(task.width // REFILL_AT, 1) if task.waiting else task.width
            self.iterate(until=int(self.idle.sum()) + min(quota, int((~self.idle).sum())))
            ended = np.flatnonzero(np.asarray(self.state.done) & ~self.idle)
            _collect(task.found, self.state, self.owners, ended, task.tol, task.floor)
            self._tell()
            taken = _next(task.waiting, len(ended))
            refilled = ended[: len(taken)]
            self.owners[refilled] = taken
            self.idle[ended[len(taken) :]] = True
            if taken:
                self.args = take(task.args, self.owners)
                chosen = np.isin(np.arange(task.width), refilled)
                self.state = refill(self.state, task.found.x[:, self.owners], chosen)

    def iterate(self, until):
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


def _collect(found, state, owners, lanes, tol, floor):
    """Take what has finished out of the batch."""
    x, f, g, steps = (entry[..., lanes] for entry in to_numpy((state.x, state.f, state.g, state.steps)))
    with silent():
        converged = small_gradient(x, f, g, tol, floor)
    mine, diverged = owners[lanes], ~(np.abs(f) <= UNBOUNDED)
    found.x[:, mine], found.value[mine], found.steps[mine] = x, f, found.steps[mine] + steps
    for owner, unbounded, settled in zip(mine, diverged, converged, strict=True):
        if unbounded or settled:
            found.status[owner] = Status.DIVERGED if unbounded else Status.CONVERGED


@made_once
def _program(fun, single_thread):
    """A compiled iteration; on one core where splitting loops costs more than it saves."""
    alone: Any = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}
    options = alone if single_thread and jax.default_backend() == "cpu" else None
    return kept(_iteration(fun), donate_argnums=0, compiler_options=options)


def _iteration(fun):
    """Iterate until so many lanes are done, or so often."""

    def run(state, args, tol, floor, max_steps, until, most):
        state, _ = while_loop(
            lambda carry: (carry[0].done.sum() < until) & (carry[1] > 0),
            lambda carry: (iterate(fun, carry[0], args, tol, floor, max_steps), carry[1] - 1),
            (state, most),
        )
        return state

    return run
