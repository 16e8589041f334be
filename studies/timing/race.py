"""Sides that do the same work, timed in turn in one process, and the rows that say what came out."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

REST = 0.05  # seconds before a run, in which idle threads of another library stop spinning
SAME = 1e-4  # relative difference up to which two results are the same
OURS = "ufm"  # the side that the others are compared with
HEADER = ("what", "ufm", "peer", "peer/ufm", "compilation\n(ufm, peer)", "note")

Run = Callable[[], Any]


class Timed(NamedTuple):
    """Seconds of every run, seconds that compiling adds to the first, and what the last run returned."""

    seconds: list[float]
    compilation: float | None
    result: Any

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return float(np.median(self.seconds))

    def per_problem(self, count: int) -> "Timed":
        """The same times for one of so many problems."""
        return self._replace(seconds=[seconds / count for seconds in self.seconds])


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison of ufm with peers; without `ufm` it could not be timed, and the note says why."""

    what: str
    note: str
    ufm: Timed | None = None
    peers: dict[str, Timed] = dataclasses.field(default_factory=dict)

    def cells(self) -> list[str]:
        """What the table shows."""
        if self.ufm is None:
            return [self.what, "", "", "", "", self.note]
        name, peer = fastest(self.peers)
        times = [duration(self.ufm.median), duration(peer.median), f"{peer.median / self.ufm.median:.4g}"]
        compilation = f"{duration(self.ufm.compilation)}, {duration(peer.compilation)}"
        return [self.what, *times, compilation, f"{name}; {self.note}"]

    def record(self) -> dict[str, Any]:
        """What the JSON holds; times in seconds."""
        if self.ufm is None:
            return {"what": self.what, "note": self.note}
        name, peer = fastest(self.peers)
        sides = {OURS: self.ufm, **self.peers}
        return {
            "what": self.what,
            "ufm": self.ufm.median,
            "peer": peer.median,
            "ratio": peer.median / self.ufm.median,
            "compilation": [self.ufm.compilation, peer.compilation],
            "note": f"{name}; {self.note}",
            "runs": {side: timed.seconds for side, timed in sides.items()},
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """A row to be timed.

    Attributes:
        what: is compared.
        goal: a note on the ratio of the fastest peer's median to ours.
        ours: a run, to be timed in turn with the peers; or what it took.
        peers: likewise, by name. Where ours is timed already they run once: they take minutes where ufm takes
            milliseconds. Without any there is no row but the reason.
        agreement: a note that all found the same, from what they took by name; raises where they did not.
        repeats: runs of each side.
        peers_compile: whether a peer's first run compiles.
        problems: that a run solves; times are for one of them.
        within: a context for the runs.
        missing: why there are no peers.
    """

    what: str
    goal: Callable[[float], str]
    ours: Run | Timed
    peers: Mapping[str, Run | Timed]
    agreement: Callable[[dict[str, Timed]], str] = lambda timed: ""
    repeats: int = 1
    peers_compile: bool = True
    problems: int = 1
    within: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    missing: str = ""

    def row(self) -> Row:
        """Time what is to be timed."""
        if not self.peers:
            return Row(self.what, self.missing)
        with self.within():
            timed = self._timed()
        peers = {name: side for name, side in timed.items() if name != OURS}
        ratio = fastest(peers)[1].median / timed[OURS].median
        return Row(self.what, f"{self.goal(ratio)}; {self.agreement(timed)}", timed[OURS], peers)

    def _timed(self) -> dict[str, Timed]:
        if isinstance(self.ours, Timed):
            return {name: self._once(side) for name, side in self.peers.items()} | {OURS: self.ours}
        timed = race(self.peers, self.ours, self.repeats, self.peers_compile)
        return {name: side.per_problem(self.problems) for name, side in timed.items()}

    def _once(self, side: Run | Timed) -> Timed:
        return side if isinstance(side, Timed) else once(side).per_problem(self.problems)


def rows(listed: Iterable[Comparison | Row]) -> list[Row]:
    """Rows of what is listed, each timed before the next is asked for."""
    return [each.row() if isinstance(each, Comparison) else each for each in listed]


def race(peers: Mapping[str, Any], ours: Run, repeats: int, peers_compile: bool) -> dict[str, Timed]:
    """Time the peers and ufm in turn, after a first run of each that compiles and a second that is not counted."""
    sides: dict[str, Run] = {**peers, OURS: ours}
    first = {}
    for name, run in sides.items():
        jax.clear_caches()  # what the sides share is compiled for each
        first[name] = clock(run)[0]
    for run in sides.values():
        clock(run)
    rounds = [{name: clock(run) for name, run in sides.items()} for _ in range(repeats)]
    timed = {}
    for name in sides:
        seconds = [each[name][0] for each in rounds]
        more = max(first[name] - float(np.median(seconds)), 0.0)
        timed[name] = Timed(seconds, more if name == OURS or peers_compile else None, rounds[-1][name][1])
    return timed


def once(run: Run) -> Timed:
    """A single run."""
    seconds, result = clock(run)
    return Timed([seconds], None, result)


def clock(run: Run) -> tuple[float, Any]:
    """Seconds that a run takes until its results are there, and the results."""
    time.sleep(REST)
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - start, result


def fastest(peers: dict[str, Timed]) -> tuple[str, Timed]:
    """The peer with the smallest median, and its name."""
    return min(((name, side) for name, side in peers.items() if name != OURS), key=lambda item: item[1].median)


def at_least(goal: float) -> Callable[[float], str]:
    """A note on how many times as fast as its peer ufm is."""
    return lambda ratio: f"at least {goal:g} is the goal, {'met' if ratio >= goal else 'missed'}"


def at_most(goal: float) -> Callable[[float], str]:
    """A note on how many times as long as its peer ufm takes."""
    return lambda ratio: (
        f"ufm/peer {1 / ratio:.3f}, at most {goal:g} is the goal, {'met' if ratio * goal >= 1 else 'missed'}"
    )


def same(quantity: str, ours: float, theirs: float, within: float = SAME) -> str:
    """A note that two numbers agree, within a relative difference.

    Raises:
        AssertionError: where they do not.
    """
    if not abs(ours - theirs) <= within * abs(theirs):
        raise AssertionError(f"{quantity}: {ours:.8g} by ufm, {theirs:.8g} by its peer; they differ by over {within:g}")
    return f"{quantity} {ours:.7g}, {theirs:.7g}"


def duration(seconds: float | None) -> str:
    """Seconds in a unit that suits them."""
    if seconds is None:
        return "none"
    return f"{seconds:.4g} s" if seconds >= 1 else f"{1e3 * seconds:.4g} ms"
