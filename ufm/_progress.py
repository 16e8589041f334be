"""Long work made visible: a bar with rate and time left where a person looks, silence elsewhere."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(total: int, unit: str, show: bool | None = None) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error; the function it yields takes what is done so far and a line of news.

    Args:
        total: what will be done in all.
        unit: of `total`, in the plural.
        show: whether to draw; None draws where standard error is a terminal.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda done, news: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit + "  {task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[news]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("", total=total, news="", rate="")

        def update(done: int, news: str) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, news=news, rate=f"{speed:,.0f}/s" if speed else "")

        yield update
