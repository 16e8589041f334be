import threading
import time
from concurrent.futures import CancelledError

import jax
import pytest

from ufm._core import lanes
from ufm.sweeps import workers as module
from ufm.sweeps.workers import Workers


@pytest.fixture
def four_places(monkeypatch):
    places = jax.local_devices()[:1] * 4
    monkeypatch.setattr(lanes, "all_places", lambda: places)


@pytest.mark.parametrize(("batches", "shares"), [(1, [4]), (3, [1, 1, 2]), (4, [1] * 4), (9, [1] * 4)])
def test_places_are_shared_out_among_batches(batches, shares, four_places, monkeypatch):
    seen, meeting = [], threading.Barrier(len(shares), timeout=10)

    def rows_of(engine, fields, points, advanced, places):
        meeting.wait()
        seen.append(len(places))

    monkeypatch.setattr(module, "rows_of", rows_of)
    with Workers(batches) as workers:
        for future in [workers.submit(rows_of, None, [], []) for _ in shares]:
            future.result()
    assert sorted(seen) == shares


def test_what_has_ended_is_told_and_what_has_not_is_given_up(four_places, monkeypatch):
    going = threading.Event()

    def rows_of(engine, fields, points, advanced, places):
        while True:
            advanced(3)
            going.set()
            time.sleep(0.001)

    monkeypatch.setattr(module, "rows_of", rows_of)
    with Workers(4) as workers:
        running = workers.submit(rows_of, None, [], [])
        assert going.wait(10)
        assert workers.ended == 3
    with pytest.raises(CancelledError):
        running.result(timeout=10)
    assert workers.ended == 0
