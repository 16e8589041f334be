"""What a script shows to whoever runs it: tables on standard output, and bars of long work on standard error."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ufm._core import progress as bars
from ufm._core.checks import Integer, flag, instance, integer, listed, shown
from ufm._core.tables import WIDTH, table


def show(header: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str | None = None) -> None:
    """Print a table: the first column to the left, the others to the right, in colour where a terminal can.

    Args:
        header: names of the columns.
        rows: lists of as many cells: texts as they are, numbers with four significant digits, and anything else.
        caption: a line, or several, above the table.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    from rich.console import Console

    names = [instance("header", name, str, "a list of texts") for name in listed("header", header, "a list of texts")]
    cells = [listed("rows", row, "a list of lists") for row in listed("rows", rows, "a list of lists")]
    for row in cells:
        if len(row) != len(names):
            raise ValueError(f"rows: {shown(row)} has {len(row)} cells; {len(names)}, as many as header, are needed")
    instance("caption", caption, str | None, "a text")
    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, emoji=False)
    if caption is not None:
        console.print(caption, soft_wrap=True, highlight=False)
    console.print(table(names, cells))


def progress(
    total: Integer, unit: str, *, show: bool | None = None
) -> contextlib.AbstractContextManager[Callable[[int, str], None]]:
    """A bar on standard error, with rate and time left.

    `with progress(100, "epochs") as update: update(1, "loss 0.5")` says that one is done.

    Args:
        total: what will be done in all.
        unit: of `total`, in the plural.
        show: whether to draw; None draws where standard error is a terminal, and in notebooks.

    Returns:
        A context, and in it a function that takes what is done so far and a line of news. What ufm does within it
        shows no bar of its own.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    total, unit = integer("total", total, least=0), instance("unit", unit, str, "a text")
    return bars.progress(total, unit, None if show is None else flag("show", show))
