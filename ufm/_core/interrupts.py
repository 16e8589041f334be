"""Work that Ctrl-C can stop.

Python answers signals between two bytecodes of its main thread, and compiling, or a run of a compiled program, is less
than one. Such work is therefore done in another thread, for which the main thread can cease to wait. What is given up
stops at its next check; what has not stopped when the interpreter ends would crash it, which is prevented here.
"""

import atexit
import contextlib
import contextvars
import functools as ft
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NoReturn, ParamSpec, TypeVar

import jax

WAKES = 0.2  # seconds: where waiting ends at no signal, as on Windows, the main thread looks for one so often
GRACE = 0.3  # seconds at the interpreter's end, of work that was given up
INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells have it
# JAX's settings that belong to a thread, and the scopes that set them
SCOPES: dict[str, Callable[[Any], contextlib.AbstractContextManager]] = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_device": jax.default_device,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_threefry_partitionable": jax.threefry_partitionable,
    "jax_debug_nans": jax.debug_nans,
    "jax_debug_infs": jax.debug_infs,
    "jax_disable_jit": jax.disable_jit,
    "jax_no_tracing": jax.no_tracing,
    "jax_no_execution": jax.no_execution,
    "jax_check_tracer_leaks": jax.check_tracer_leaks,
    "jax_log_compiles": jax.log_compiles,
    "jax_explain_cache_misses": jax.explain_cache_misses,
    "jax_transfer_guard_host_to_device": jax.transfer_guard_host_to_device,
    "jax_transfer_guard_device_to_device": jax.transfer_guard_device_to_device,
    "jax_transfer_guard_device_to_host": jax.transfer_guard_device_to_host,
}
GOAL = 0.2  # seconds of a call of a compiled loop; short enough to be seen to go on, and to be given up
P = ParamSpec("P")
T = TypeVar("T")
_current: contextvars.ContextVar["Threads | None"] = contextvars.ContextVar("ufm_threads", default=None)
_at_work: set[threading.Thread] = set()


class Threads:
    """An executor whose threads work in the scopes of whoever asks; left, it waits for none, and gives up what goes on.

    Args:
        most: threads, each begun where there is work for it.
    """

    def __init__(self, most: int):
        self._most, self._threads, self._idle = most, [], threading.Semaphore(0)
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._parent, self._left, self._endings = _current.get(), False, []

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the work any more."""
        return self._left or (self._parent is not None and self._parent.abandoned)

    def submit(self, function: Callable, *args: Any, **words: Any) -> futures.Future:
        """A future of `function(*args, **words)`."""
        future: futures.Future = futures.Future()
        context = contextvars.copy_context()
        context.run(_current.set, self)
        self._work.put((future, ft.partial(context.run, function, *args, **words), _settings()))
        if len(self._threads) < self._most and not self._idle.acquire(blocking=False):
            thread = threading.Thread(target=self._run, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._left = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()[0].cancel()
        for _ in self._threads:
            self._work.put(None)
        for ending in self._endings:
            ending()

    def _run(self):
        while (work := self._work.get()) is not None:
            with _busy():
                _do(*work)
            del work  # and what it holds
            self._idle.release()


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    thread = threading.current_thread()
    _at_work.add(thread)
    try:
        yield
    finally:
        _at_work.discard(thread)


def _do(future: futures.Future, function: Callable[[], Any], settings: dict[str, Any]) -> None:
    """What a future is of, within settings of JAX."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        with contextlib.ExitStack() as scopes:
            for name, value in settings.items():
                if getattr(jax.config, name) != value:  # within a scope of its own JAX would trace programs anew
                    scopes.enter_context(SCOPES[name](value))
            result = function()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


class Pace:
    """How many turns of a loop to ask of a compiled program at once: as many as it makes in about `GOAL`.

    Results are not to depend on it. A first call that compiles only seems slow, which calls that follow make good.
    """

    def __init__(self, first: int):
        self.most = first

    def told(self, seconds: float, whole: bool) -> None:
        """Learn how long a call took, and whether it made all turns that it was asked for."""
        if seconds > GOAL:
            self.most = max(int(self.most * GOAL / seconds), 1)
        elif whole and seconds < GOAL / 4:
            self.most *= 4


def _settings() -> dict[str, Any]:
    return {name: getattr(jax.config, name) for name in SCOPES}


def check() -> None:
    """Raise `CancelledError` in work that was given up."""
    threads = _current.get()
    if threads is not None and threads.abandoned:
        raise futures.CancelledError


@contextlib.contextmanager
def ending(function: Callable[[], None]) -> Iterator[None]:
    """A scope whose work, where it is given up, has `function` called by whoever gives it up."""
    threads = _current.get()
    while threads is not None and threads._parent is not None:
        threads = threads._parent
    endings = [] if threads is None else threads._endings
    endings.append(function)
    try:
        yield
    finally:
        endings.remove(function)


def interruptible(function: Callable[P, T], note: str | None = None) -> Callable[P, T]:
    """`function`, which Ctrl-C leaves at once: called by the main thread, it works in another.

    A note says below the traceback what an interrupt leaves behind.
    """

    @ft.wraps(function)
    def called(*args: P.args, **words: P.kwargs) -> T:
        if threading.current_thread() is not threading.main_thread():
            return function(*args, **words)
        with noting(note), Threads(1) as aside:
            future = aside.submit(function, *args, **words)
            while not futures.wait([future], WAKES).done:
                pass
            return future.result()

    return called


@contextlib.contextmanager
def noting(note: str | None) -> Iterator[None]:
    """A scope in which an interrupt is given a note, which Python prints below its traceback."""
    try:
        yield
    except KeyboardInterrupt as error:
        if note is not None:
            error.add_note(note)
        raise


@atexit.register
def _at_exit() -> None:
    """Let what was given up end. Where it takes long, end without it after an interrupt; otherwise wait for it."""
    try:
        threads, until = list(_at_work), time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))
        if not any(thread.is_alive() for thread in threads):
            return
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            end_now()
        for thread in threads:  # the interrupt was caught, and the code to end with is not known here
            thread.join()
    except KeyboardInterrupt:
        end_now()


def end_now() -> NoReturn:
    """End this process as interrupted: the interpreter's own end takes seconds, and would crash threads within XLA."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(INTERRUPTED)
