"""Tables for people: rich draws them, in colour where a terminal can."""

import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 128  # of a table that goes to a file, a pipe or a string


def show(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table to standard output."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if title is not None:
        console.print(title, soft_wrap=True, highlight=False)
    console.print(table(columns, rows))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, wrap: bool = True) -> Any:
    """A rich table: the first column to the left, numbers to the right; long cells wrap, if they may."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0 or not wrap)
    for row in rows:
        made.add_row(*(number(cell) if isinstance(cell, float) else str(cell) for cell in map(plain, row)))
    return made


def text(drawn: Any) -> str:
    """What rich would print, as a plain string."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(drawn)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # pyright: ignore[reportAttributeAccessIssue]


def number(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.4g}"


def plain(value: Any) -> Any:
    """NumPy scalars as Python's."""
    return value.item() if hasattr(value, "item") else value
