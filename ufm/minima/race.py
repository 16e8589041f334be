"""Many starts of one problem, of which the good ones go on: with hidden layers most end far above the best.

A ReLU has minima at kinks, where L-BFGS gains little in each of thousands of evaluations and its gradient never
vanishes. So starts run in rounds of equal cost, each of twice as many evaluations for half as many starts, until what
a round gains is no longer worth it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ufm._core.lanes import take
from ufm._core.status import Status
from ufm.minima import solver
from ufm.minima.convergence import Solution

FIRST_ROUND = 100  # evaluations: half as many rank starts by how they began
WORTH = 1e-5  # of a value, by which a round has to lower it for another to follow
LAST_ROUND = 100  # before Newton's method, which the solver tries last


def minimize(
    fun: Any,
    starts: np.ndarray,
    args: Any,
    *,
    owners: Sequence[int],
    max_steps: int,
    polish: bool,
    **options: Any,
) -> Solution:
    """`solver.minimize`, of the starts (n, M) of several owners, whose problems' numbers are `args` with M lanes.

    Args:
        fun: as there.
        starts: as there.
        args: as there.
        owners: (M,) whose each start is, among which the best are chosen.
        max_steps: evaluations of those that come to the last round.
        polish: whether Newton's method goes on with each owner's best, where that isn't done.
        **options: of `solver.minimize`.
    """
    count, whose = starts.shape[1], np.asarray(owners)
    found = Solution(np.array(starts), np.full(count, np.nan), np.zeros(count, int), [Status.MAX_STEPS] * count)

    def go_on(lanes, most, **how):
        ended = solver.minimize(fun, found.x[:, lanes], take(args, lanes), max_steps=most, **how, **options)
        found.x[:, lanes], found.value[lanes] = ended.x, ended.value
        found.steps[lanes] += ended.steps
        for lane, status in zip(lanes, ended.status, strict=True):
            found.status[lane] = status

    running, used, most = np.arange(count), 0, FIRST_ROUND
    while len(running):
        before = found.value.copy()
        go_on(running, min(most, max_steps - used), polish=False)
        used, most = used + most, 2 * most
        gained = ~(before - found.value <= WORTH * np.abs(found.value))  # the first round has nothing before it
        running = _best_half(found, running[gained[running]], whose) if used < max_steps else running[:0]
    best = [mine[np.argmin(found.value[mine])] for mine in map(np.flatnonzero, np.unique(whose)[:, None] == whose)]
    left = [lane for lane in best if found.status[lane] is Status.MAX_STEPS]
    if polish and left:
        go_on(np.array(left), LAST_ROUND, polish=True)
    return found


def _best_half(found: Solution, running: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Of what each owner has running, the better half that isn't done; the last goes on alone."""
    chosen = []
    for owner in np.unique(owners[running]):
        mine = running[owners[running] == owner]
        ranked = mine[np.argsort(found.value[mine])][: max(len(mine) // 2, 1)]
        chosen += [lane for lane in ranked if found.status[lane] is Status.MAX_STEPS]
    return np.array(sorted(chosen), int)
