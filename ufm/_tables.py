"""Tables for people: rich draws them, in colour where a terminal can."""

from collections.abc import Iterable, Sequence
from typing import Any


def show(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table to standard output."""
    from rich.console import Console

    Console(width=None if _wide() else 120).print(table(columns, rows, title))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Any:
    """A rich table: the first column to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        made.add_row(*(number(cell) if isinstance(cell, float) else str(cell) for cell in map(plain, row)))
    return made


def number(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.4g}"


def plain(value: Any) -> Any:
    """NumPy scalars as Python's."""
    return value.item() if hasattr(value, "item") else value


def _wide() -> bool:
    import sys

    return sys.stdout.isatty()
