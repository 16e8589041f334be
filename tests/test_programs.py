import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ufm import _programs
from ufm._programs import programs_of


@pytest.fixture(autouse=True)
def no_kinds(monkeypatch):
    monkeypatch.setattr(_programs, "_kinds", {})


def test_the_first_of_a_kind_is_alone_and_later_ones_are_not():
    inside, most, meeting = [], [], threading.Barrier(2, timeout=10)

    def first():
        with programs_of("a"):
            inside.append(0)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    def later():
        with programs_of("a"):
            meeting.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: first(), range(2)))
        assert max(most) == 1
        list(pool.map(lambda _: later(), range(2)))


def test_one_that_fails_leaves_the_making_to_the_next():
    with pytest.raises(RuntimeError), programs_of("a"):
        raise RuntimeError
    assert not _programs._kinds["a"].made
    with programs_of("a"), programs_of("a"):  # a second width of the same problems, in the same thread
        pass
    assert _programs._kinds["a"].made
    assert _programs._kinds["a"].making.acquire(blocking=False)


def test_kinds_beyond_the_most_forget_all(monkeypatch):
    forgotten = []
    monkeypatch.setattr(_programs, "MOST_KINDS", 2)
    monkeypatch.setattr(_programs, "_forget", [lambda: forgotten.append(0)])
    for kind in ("a", "b", "a", "b"):
        with programs_of(kind):
            pass
    assert not forgotten
    with programs_of("c"):
        pass
    assert len(forgotten) == 1
    assert list(_programs._kinds) == ["c"]
