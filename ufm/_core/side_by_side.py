"""Work in pieces on all cores: threads for NumPy, each with one thread of BLAS, and results in order.

Pieces are the caller's, a function of shapes, and results come in their order: so what is added up of them is the same
bits on any number of cores.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ufm._core.arrays import silent
from ufm._core.blas import one_thread

WAITING = 8  # results for each core that may be there before they are taken


def side_by_side(work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[Any]:
    """`work` of each piece, in order."""

    def one(piece):
        with silent():  # which is a thread's own
            return work(piece)

    with one_thread():
        workers = min(os.cpu_count() or 1, len(pieces))
        if workers <= 1:
            yield from map(one, pieces)
            return
        with ThreadPoolExecutor(workers) as pool:
            for first in range(0, len(pieces), WAITING * workers):
                yield from pool.map(one, pieces[first : first + WAITING * workers])
