import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ufm import _programs
from ufm._programs import made_once, make_room


@pytest.fixture
def forgotten(monkeypatch):
    calls = []
    monkeypatch.setattr(_programs, "_kinds", set())
    monkeypatch.setattr(_programs, "_forget", [lambda: calls.append(0)])
    return calls


def test_kinds_beyond_the_most_forget_all(forgotten, monkeypatch):
    monkeypatch.setattr(_programs, "MOST_KINDS", 2)
    for kind in ("a", "b", "a", "b"):
        make_room(kind)
    assert not forgotten
    make_room("c")
    assert len(forgotten) == 1
    assert _programs._kinds == {"c"}


def test_threads_make_a_program_once_and_again_when_it_is_forgotten(forgotten):
    made, meeting = [], threading.Barrier(4, timeout=10)
    program = made_once(lambda kind: made.append(kind) or object())

    def ask(kind):
        meeting.wait()
        return program(kind)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, "aaaa"))) == 1
    assert made == ["a"]
    _programs._forget[-1]()
    program("a")
    assert made == ["a", "a"]
