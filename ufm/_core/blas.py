"""One thread for the linear algebra of small matrices.

Threads of a BLAS wait for one another at every product. Of matrices of a few hundred rows they gain little, and beside
anything else that runs they lose ten- to twentyfold; and the last digits of a product depend on how many they are.
"""

import contextlib
import functools as ft
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_scopes = 0  # of all threads, since the number of BLAS's threads belongs to the process
_limited = contextlib.ExitStack()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A scope in which BLAS and LAPACK work in the calling thread alone, in the whole process."""
    global _scopes
    with _lock:
        if not _scopes:
            _limited.enter_context(_controller().limit(limits=1, user_api="blas"))
        _scopes += 1
    try:
        yield
    finally:
        with _lock:
            _scopes -= 1
            if not _scopes:
                _limited.close()


@ft.cache
def _controller() -> ThreadpoolController:
    """Of the libraries that are loaded."""
    return ThreadpoolController()
