"""Tables for people: rich draws them, in colour where a terminal can; notebooks get HTML."""

import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ufm._core.repr import brief

WIDTH = 128  # of a table that goes to a file, a pipe or a string


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, whole: slice = slice(1)
) -> Any:
    """A rich table: the first column to the left, numbers to the right; cells wrap where the columns aren't `whole`.

    So whatever is long makes way for what is short, and a line's indent is that of the lines that it goes on in.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=None if title is None else Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    unbroken = range(len(header))[whole]
    for index, name in enumerate(header):
        made.add_column(Text(name), justify="left" if index == 0 else "right", no_wrap=index in unbroken)
    for row in rows:
        made.add_row(*map(_drawn, row))
    return made


def text(drawn: Any) -> str:
    """What rich would print, as a plain string, wherever this runs."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    console.print(drawn)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def html(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> str:
    """The same table for a notebook; a title keeps its lines."""
    body = "".join(_line("td", map(_cell, row)) for row in rows)
    drawn = f"<table><thead>{_line('th', header)}</thead><tbody>{body}</tbody></table>"
    return drawn if title is None else html_text(title) + drawn


def html_text(lines: str) -> str:
    """Text for a notebook, with its lines as they are."""
    return f'<div style="white-space: pre-wrap">{escape(lines)}</div>'


def number(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.4g}"


def _line(tag: str, texts: Iterable[str]) -> str:
    """A row of a table in HTML."""
    styles = ("text-align: left; white-space: pre", "text-align: right")
    cells = (f'<{tag} style="{styles[index > 0]}">{escape(text)}</{tag}>' for index, text in enumerate(texts))
    return f"<tr>{''.join(cells)}</tr>"


def _drawn(value: Any) -> Any:
    """A cell of a rich table: as Text, since [nan nan] would be a tag of rich's."""
    from rich.padding import Padding
    from rich.text import Text

    cell = _cell(value)
    return Padding(Text(cell.lstrip()), (0, 0, 0, len(cell) - len(cell.lstrip())))


def _cell(value: Any) -> str:
    value = plain(value)
    return number(value) if isinstance(value, float) else value if isinstance(value, str) else brief(value)


def plain(value: Any) -> Any:
    """NumPy scalars as Python's."""
    return value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value
