"""Compiled programs: one of each for all threads, as JAX sees to, and forgotten where they are too many.

Whoever compiles a program does so through `kept`, and need not think of it again. A program is counted while JAX traces
it, which it does once for each shape and kind; calls of what is compiled already cost nothing more. The program at
whose tracing the others are forgotten is forgotten with them once it has run.
"""

import functools as ft
import inspect
import pathlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

import jax

MOST_PROGRAMS = 512  # some 10 MB each where they are large; what is needed of those forgotten is made anew
MOST_MAPS = 30_000  # of memory, 10 to 150 to a program; Linux lets a process map it 65,530 times, and then it crashes
FEWEST = 32  # programs that are kept whatever else in the process maps memory
MAPS = pathlib.Path("/proc/self/maps")
_forget: list[Callable[[], None]] = []
_programs: weakref.WeakSet = weakref.WeakSet()
_traced = 0  # since all were forgotten
_one_at_a_time = threading.RLock()


def kept(function: Callable, **options: Any) -> Any:
    """`jax.jit`, whose programs are counted, and forgotten with all others where they are too many."""

    @ft.wraps(function)
    def traced(*arguments, **words):
        _make_room()
        return function(*arguments, **words)

    program: Any = jax.jit(traced, **options)
    with _one_at_a_time:
        _programs.add(program)
    return program


def plain(function: Callable) -> Callable:
    """What a program was made of, for NumPy to call; other functions are that themselves."""
    return inspect.unwrap(function)


def made_once(make: Callable) -> Any:
    """`functools.cache` of a function that makes programs, which is forgotten with them; one thread makes them."""
    cached = ft.cache(make)
    _forget.append(cached.cache_clear)

    @ft.wraps(make)
    def of(*arguments):
        with _one_at_a_time:
            return cached(*arguments)

    of.cache_clear = cached.cache_clear  # pyright: ignore[reportAttributeAccessIssue]
    return of


def forget_all() -> None:
    """Forget every program; what is needed of them is made anew."""
    global _traced
    with _one_at_a_time:
        for forget in [*_forget, *(program.clear_cache for program in _programs)]:
            forget()
        _traced = 0


def _make_room() -> None:
    """Count another program, and forget those before it where they are too many."""
    global _traced
    with _one_at_a_time:
        if _traced >= MOST_PROGRAMS or (_traced >= FEWEST and _maps() > MOST_MAPS):
            forget_all()
        _traced += 1


def _maps() -> int:
    """How often this process maps memory, which takes some milliseconds to count; 0 where the system doesn't say."""
    try:
        return MAPS.read_bytes().count(b"\n")
    except OSError:
        return 0
