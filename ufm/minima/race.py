"""Many starts of one problem, of which the good ones go on: with hidden layers most end far above the best.

A ReLU has minima at kinks, where L-BFGS gains little in each of thousands of evaluations and its gradient never
vanishes. So starts run in rounds of equal cost, each of twice as many evaluations for half as many starts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ufm._core.lanes import take
from ufm._core.status import Status
from ufm.minima import solver
from ufm.minima.convergence import Solution

FIRST_ROUND = 300  # evaluations: half as many rank starts by how they began


def minimize(
    fun: Any, starts: np.ndarray, args: Any, *, owners: Sequence[int], max_steps: int, **options: Any
) -> Solution:
    """`solver.minimize`, of the starts (n, M) of several owners, whose problems' numbers are `args` with M lanes.

    Args:
        fun: as there.
        starts: as there.
        args: as there.
        owners: (M,) whose each start is, among which the best are chosen.
        max_steps: evaluations of those that come to the last round.
        **options: of `solver.minimize`.
    """
    count = starts.shape[1]
    found = Solution(np.array(starts), np.full(count, np.nan), np.zeros(count, int), [Status.MAX_STEPS] * count)
    running, used, most = np.arange(count), 0, FIRST_ROUND
    while len(running):
        ended = solver.minimize(
            fun, found.x[:, running], take(args, running), max_steps=min(most, max_steps - used), **options
        )
        found.x[:, running], found.value[running] = ended.x, ended.value
        found.steps[running] += ended.steps
        for lane, status in zip(running, ended.status, strict=True):
            found.status[lane] = status
        used, most = used + most, 2 * most
        running = _best_half(found, running, np.asarray(owners)) if used < max_steps else running[:0]
    return found


def _best_half(found: Solution, running: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Of what each owner has running, the better half that isn't done."""
    chosen = []
    for owner in np.unique(owners[running]):
        mine = running[owners[running] == owner]
        ranked = mine[np.argsort(found.value[mine])][: len(mine) // 2]
        chosen += [lane for lane in ranked if found.status[lane] is Status.MAX_STEPS]
    return np.array(sorted(chosen), int)
