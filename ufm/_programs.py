"""Compiled programs: made once for each kind of problem, whichever thread asks first, and forgotten when too many."""

import contextlib
import functools as ft
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

# of problems, whose programs are kept: each kind maps memory 1,200 times, and Linux lets a process do so 65,530 times
MOST_KINDS = 24

_forget: list[Callable[[], None]] = []
_kinds: dict[Any, "_Kind"] = {}
_choosing = threading.Lock()


class _Kind:
    """Whether the programs of a kind of problem are there, and a lock for whoever makes them."""

    def __init__(self):
        self.made = False
        self.making = threading.RLock()


def kept(function: Callable) -> Any:
    """`jax.jit`, whose programs `programs_of` forgets."""
    program: Any = jax.jit(function)
    _forget.append(program.clear_cache)
    return program


def made_once(make: Callable) -> Any:
    """`functools.cache` of a function that makes programs, which `programs_of` forgets."""
    cached = ft.cache(make)
    _forget.append(cached.cache_clear)
    return cached


@contextlib.contextmanager
def programs_of(kind: Any) -> Iterator[None]:
    """Where problems of a kind are worked on: the first time by one thread alone, so that programs are made once.

    Those of all kinds are forgotten where another kind's would be too many; what is needed is made anew.
    """
    with _choosing:
        if kind not in _kinds and len(_kinds) >= MOST_KINDS:
            for forget in _forget:
                forget()
            _kinds.clear()
        mine = _kinds.setdefault(kind, _Kind())
    with contextlib.ExitStack() as alone:
        alone.enter_context(mine.making)
        if mine.made:
            alone.close()
        yield
        mine.made = True
