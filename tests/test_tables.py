import pytest
import rich.console
from zoo import problem

import ufm
from ufm._core.tables import html, table, text
from ufm.console import show


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)


@pytest.fixture
def colours(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")


@pytest.mark.parametrize("where", ["notebook", "colours"])
def test_a_report_is_the_same_text_everywhere(where, request):
    report = ufm.verify(problem())
    plain = str(report)
    assert "simplex ETF" in plain
    request.getfixturevalue(where)
    assert str(report) == plain


def test_cells_in_brackets_are_not_markup(capsys):
    rows = [["[bold]", "[nan nan nan]", "[/x]"]]
    show(["name", "[a]", "b"], rows, caption="[red]title")
    drawn = capsys.readouterr().out, text(table(["name", "[a]", "b"], rows, "[red]title"))
    for each in drawn:
        assert all(word in each for word in ("[bold]", "[nan nan nan]", "[/x]", "[red]title", "[a]"))


def test_html_is_escaped():
    drawn = html(["<a>"], [["<b>"], [0.5], [3]], "<c>\n& more")
    assert all(word in drawn for word in ("&lt;a&gt;", "&lt;b&gt;", "&lt;c&gt;\n&amp; more", ">0.5<", ">3<"))


def test_what_is_long_makes_way_for_what_is_short():
    words = [f"word{index}" for index in range(40)]
    rows = [[f"  {' '.join(words)}", "holds"]]
    first, *rest = text(table(["claim", "verdict"], rows, whole=slice(1, None))).splitlines()[3:]
    assert first.startswith("    word0")
    assert first.endswith("holds")
    assert [word for line in (first, *rest) for word in line.removesuffix("holds").split()] == words
    assert {len(line) - len(line.lstrip()) for line in (first, *rest) if line} == {4}
