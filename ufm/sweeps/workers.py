"""The executor of a sweep in its own process: batches side by side, each with its own share of the machine."""

import queue
import threading
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from ufm._core import lanes
from ufm._core.interrupts import Threads, check
from ufm.sweeps.engines import rows_of
from ufm.sweeps.points import Field, Point

MOST_WORKERS = 16  # each may hold the programs of a kind of problem, of which there is room for few times as many


class Workers:
    """A thread for each place where the solver may compute, or several places to a thread where batches are few.

    Left by an error or an interrupt, what has not ended is given up.
    """

    def __init__(self, batches: int):
        places = lanes.all_places()
        count = max(min(batches, len(places), MOST_WORKERS), 1)
        self._threads = Threads(count)
        self._shares: queue.SimpleQueue[Sequence[Any]] = queue.SimpleQueue()
        for first in range(count):
            self._shares.put(places[first::count])
        self._ended: dict[int, int] = {}

    @property
    def ended(self) -> int:
        """Points that have ended in unfinished batches."""
        return sum(list(self._ended.values()))

    def submit(self, function: Any, engine: Any, fields: Sequence[Field], points: Sequence[Point]) -> futures.Future:
        """A future of a batch's rows; the function is `rows_of`."""
        return self._threads.submit(self._rows, engine, fields, points)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._threads.__exit__(kind, error, trace)

    def _rows(self, engine, fields, points):
        share, thread = self._shares.get(), threading.get_ident()

        def advanced(ended: int) -> None:
            check()
            self._ended[thread] = ended

        try:
            return rows_of(engine, fields, points, advanced, share)
        finally:
            self._ended.pop(thread, None)
            self._shares.put(share)
