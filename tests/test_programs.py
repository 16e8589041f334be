import pathlib
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ufm._core import programs
from ufm._core.programs import kept, made_once


@pytest.fixture
def forgotten(monkeypatch):
    calls = []
    monkeypatch.setattr(programs, "_traced", 0)
    monkeypatch.setattr(programs, "_programs", weakref.WeakSet())
    monkeypatch.setattr(programs, "_forget", [lambda: calls.append(0)])
    return calls


def doubled(traces):
    return kept(lambda x: traces.append(x.shape) or x + x)


def test_programs_beyond_the_most_forget_all_and_are_made_anew(forgotten, monkeypatch):
    monkeypatch.setattr(programs, "MOST_PROGRAMS", 3)
    traces = []
    program = doubled(traces)
    for size in (1, 2, 3, 1, 2, 3):
        program(np.ones(size))
    assert (traces, len(forgotten)) == ([(1,), (2,), (3,)], 0)
    assert program(np.ones(4)).tolist() == [2.0] * 4
    assert len(forgotten) == 1
    program(np.ones(1))
    program(np.ones(1))
    assert traces[4:] == [(1,)]


def test_maps_of_memory_beyond_the_most_forget_all_but_a_few_programs(forgotten, monkeypatch):
    monkeypatch.setattr(programs, "FEWEST", 3)
    monkeypatch.setattr(programs, "MOST_MAPS", 0)
    program = doubled([])
    for size in range(1, 8):
        program(np.ones(size))
    assert len(forgotten) == (2 if programs.MAPS.exists() else 0)


def test_a_program_that_forgets_all_in_the_midst_of_another_harms_neither(forgotten, monkeypatch):
    monkeypatch.setattr(programs, "MOST_PROGRAMS", 1)
    inner = doubled([])
    outer = kept(lambda x: inner(x) + inner(x[:1]))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda size: outer(np.ones(size)).sum(), [1, 2, 3, 4] * 5))
    assert found == [4.0, 8.0, 12.0, 16.0] * 5


def test_every_program_of_the_package_is_kept():
    package = pathlib.Path(programs.__file__).parent.parent
    jitted = [str(file.relative_to(package)) for file in package.rglob("*.py") if "jax.jit" in file.read_text()]
    assert jitted == ["_core/programs.py"]


def test_threads_make_a_program_once_and_again_when_it_is_forgotten(forgotten):
    made, meeting = [], threading.Barrier(4, timeout=10)
    program = made_once(lambda kind: made.append(kind) or object())

    def ask(kind):
        meeting.wait()
        return program(kind)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, "aaaa"))) == 1
    assert made == ["a"]
    programs._forget[-1]()
    program("a")
    assert made == ["a", "a"]
