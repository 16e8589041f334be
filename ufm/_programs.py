"""Compiled programs: one of each for all threads, as JAX sees to, and forgotten where they are too many."""

import functools as ft
import threading
from collections.abc import Callable
from typing import Any

import jax

# of problems, whose programs are kept: each kind maps memory 1,200 times, and Linux lets a process do so 65,530 times
MOST_KINDS = 24

_forget: list[Callable[[], None]] = []
_kinds: set[Any] = set()
_one_at_a_time = threading.RLock()


def kept(function: Callable) -> Any:
    """`jax.jit`, whose programs `make_room` forgets."""
    program: Any = jax.jit(function)
    _forget.append(program.clear_cache)
    return program


def made_once(make: Callable) -> Any:
    """`functools.cache` of a function that makes programs, which `make_room` forgets; one thread makes them."""
    cached = ft.cache(make)
    _forget.append(cached.cache_clear)

    @ft.wraps(make)
    def of(*arguments):
        with _one_at_a_time:
            return cached(*arguments)

    of.cache_clear = cached.cache_clear  # pyright: ignore[reportAttributeAccessIssue]
    return of


def make_room(kind: Any) -> None:
    """Forget all programs where those of another kind of problem would be too many; what is needed is made anew."""
    with _one_at_a_time:
        if kind not in _kinds and len(_kinds) >= MOST_KINDS:
            for forget in _forget:
                forget()
            _kinds.clear()
        _kinds.add(kind)
