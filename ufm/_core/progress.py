"""Long work made visible: what is being done, with rate and time left where these are known; silence elsewhere."""

import contextlib
import functools as ft
import io
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from ufm._core.interrupts import check, ending

QUIET = 0.7  # seconds before work of unknown length is shown, so that quick answers show nothing
DRAWN_EVERY = 0.25
WIDTH = 80  # of a line where no terminal says
COMPILING = "compiling"  # until there is news
_one_shown = threading.Lock()
_bar: Any = None  # of `working`, where it is what is shown
P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def progress(
    total: int, unit: str, show: bool | None = None, console: Any = None
) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error; the function it yields takes what is done so far and a line of news.

    Args:
        total: what will be done in all.
        unit: of `total`, in the plural.
        show: whether to draw; None draws where standard error is a terminal, and in notebooks.
        console: rich's, to draw on instead of standard error.
    """
    if not _wanted(show) or not _one_shown.acquire(blocking=False):
        yield lambda done, news: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    bar = _row(columns, console)
    task = bar.add_task("", total=total, news=COMPILING, rate="")

    def update(done: int, news: str) -> None:
        speed = bar.tasks[0].speed
        bar.update(task, completed=done, news=news, rate=f"{speed:,.0f}/s" if speed else "")

    with _drawn(bar, console):
        yield update


@contextlib.contextmanager
def working(
    news: str = COMPILING, show: bool | None = None, console: Any = None, quiet: float = QUIET
) -> Iterator[Callable[[str], None]]:
    """Work of unknown length, and how long it has taken; the function it yields takes what is being done.

    Nothing is shown for the first seconds `quiet`. Work within other work speaks in its place.
    """
    global _bar
    if not _wanted(show):
        yield lambda news: None
    elif _one_shown.acquire(blocking=False):
        from rich.progress import SpinnerColumn, TimeElapsedColumn

        _bar = _row((SpinnerColumn(), TimeElapsedColumn()), console)
        _bar.add_task("", total=None, news="")
        with _speaking(_bar, news) as say, _drawn(_bar, console, quiet):
            yield say
    else:
        with _speaking(_bar, news) as say:
            yield say


@contextlib.contextmanager
def _speaking(bar: Any, news: str) -> Iterator[Callable[[str], None]]:
    """A scope with news of its own on a bar, if there is one."""
    if bar is None:
        yield lambda news: None
        return
    task = bar.tasks[0]
    before = task.fields["news"]

    def say(news: str) -> None:
        bar.update(task.id, news=news)

    say(news)
    try:
        yield say
    finally:
        say(before)


def says(news: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function at work, of which is said what it does."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @ft.wraps(function)
        def called(*args: P.args, **words: P.kwargs) -> T:
            with working(news):
                return function(*args, **words)

        return called

    return decorate


def _wanted(show: bool | None) -> bool:
    """Whether to draw, where people look if it isn't said."""
    return show if show is not None else (sys.stderr is not None and sys.stderr.isatty()) or _in_notebook()


def _in_notebook() -> bool:
    """Whether this is a notebook's kernel, where standard error is no terminal but understands a carriage return."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return "ipykernel" in sys.modules and shell() is not None


def _row(columns: Any, console: Any) -> Any:
    """A rich Progress of one task, whose row has as many of its cells as fit: the last news is left out first."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    class Fitting:
        def __init__(self, cells):
            self.cells = cells

        def __rich_console__(self, console, options):
            kept, left = [], options.max_width + 1
            for cell in self.cells:
                left -= Measurement.get(console, options, cell).maximum + 1
                if left < 0:
                    break
                kept.append(cell)
            grid = Table.grid(padding=(0, 1))
            grid.add_row(*kept)
            yield grid

    class Row(Progress):
        def get_renderables(self):
            for task in self.tasks:
                news = [Text(part) for part in task.fields["news"].split("  ")]
                cells = [column(task) for column in columns]
                yield Fitting([cell for cell in (*cells, *news) if not (isinstance(cell, Text) and not cell.plain)])

    console = console or Console(stderr=True, force_jupyter=False)
    return Row(console=console, transient=True, refresh_per_second=1 / DRAWN_EVERY)


class _Lines:
    """The same in a notebook: a line of text, drawn again over itself."""

    def __init__(self, bar: Any):
        self._bar, self._over = bar, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._write("")

    def _run(self):
        while not self._over.wait(DRAWN_EVERY):
            self._write(self._text())

    def _text(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=WIDTH, force_jupyter=False, color_system=None)
        console.print(self._bar.get_renderable(), end="")
        return console.file.getvalue().strip("\n")  # pyright: ignore[reportAttributeAccessIssue]

    def _write(self, text):
        sys.stderr.write(f"\r{text.ljust(WIDTH)}\r")
        sys.stderr.flush()


@contextlib.contextmanager
def _drawn(bar: Any, console: Any, quiet: float = 0.0) -> Iterator[None]:
    """Draw a bar after so many seconds, until the work ends or is given up; others may then be shown."""
    drawn, lock = _Lines(bar) if console is None and _in_notebook() else bar, threading.Lock()
    started, over = False, False

    def start() -> None:
        nonlocal started
        with lock:
            if not over:
                drawn.start()
                started = True

    def stop() -> None:
        global _bar
        nonlocal over
        with lock:
            if over:
                return
            over = True
            try:
                if started:
                    drawn.stop()
            finally:
                _bar = None
                _one_shown.release()

    timer = threading.Timer(quiet, start)
    timer.daemon = True
    with ending(stop):
        try:
            check()  # work given up before has no ending any more
            timer.start() if quiet else start()
            yield
        finally:
            timer.cancel()
            stop()
