import io
import re
import sys
import threading
import time
import types
from concurrent.futures import CancelledError

import pytest
from rich.console import Console

from ufm._core import progress as bars
from ufm._core.interrupts import Threads
from ufm._core.progress import progress, says, working

NEWS = "loss 1.0e+00  nc1 2.0e+00  nc2 3.0e+00  nc3 4.0e+00  nc4 5.0e+00"


def terminal(width):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False)


def lines(console):
    """What was drawn, line by line, without what moves the cursor."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()))


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_a_bar_fits_and_leaves_out_its_last_news(width):
    console = terminal(width)
    with progress(1_000_000, "steps", True, console) as update:
        update(123_456, NEWS)
    drawn = lines(console)
    assert max(map(len, drawn)) <= width
    last = [line for line in drawn if line.strip()][-1]
    assert ("123456/1000000 steps" in last) == (width >= 40)
    assert ("loss 1.0e+00" in last) == (width >= 80)
    assert ("nc4 5.0e+00" in last) == (width >= 120)


def test_a_bar_says_compiling_until_there_is_news():
    console = terminal(80)
    with progress(10, "points", True, console) as update:
        assert "0/10 points" in lines(console)[-1]
        assert "compiling" in lines(console)[-1]
        update(3, "3 certified")
    assert "compiling" not in [line for line in lines(console) if line.strip()][-1]


def test_work_says_what_it_does_and_work_within_it_speaks_in_its_place():
    console, said = terminal(80), []
    with working("verifying", True, console, quiet=0.0) as say:
        with working(show=True) as inner:
            said.append(bars._bar.tasks[0].fields["news"])
            inner("minimising")
            said.append(bars._bar.tasks[0].fields["news"])
        said.append(bars._bar.tasks[0].fields["news"])
        with progress(3, "points", True) as update:
            update(1, "not beside other work")
        say("comparing")
    assert said == ["compiling", "minimising", "verifying"]
    assert "0:00:0" in lines(console)[0]
    assert "verifying" in lines(console)[0]
    assert "comparing" in [line for line in lines(console) if line.strip()][-1]


def shown(console):
    with progress(1_000, "steps", True, console) as update:
        update(500, "after")
    return "500/1000" in console.file.getvalue()


@pytest.mark.parametrize("show", [lambda: progress(1_000, "steps", True, terminal(80)), lambda: working("it", True)])
def test_what_was_given_up_leaves_its_place_to_others_and_takes_none(show):
    begun, go_on = threading.Event(), threading.Event()

    def work():
        with show():
            begun.set()
            go_on.wait(20)
        with show():
            raise AssertionError("goes on")

    with Threads(1) as threads:
        future = threads.submit(work)
        assert begun.wait(20)
    assert shown(terminal(80))
    go_on.set()
    with pytest.raises(CancelledError):
        future.result()
    assert shown(terminal(80))


def test_quick_answers_and_files_show_nothing(capsys):
    console = terminal(80)
    with working("verifying", True, console):
        pass
    assert console.file.getvalue() == ""
    assert says("adding")(lambda a, b: a + b)(1, b=2) == 3
    with progress(3, "points") as update:
        update(1, "news")
    assert capsys.readouterr() == ("", "")


def test_notebooks_have_a_line_without_further_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    shell = types.SimpleNamespace(get_ipython=lambda: object())
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setattr(bars, "DRAWN_EVERY", 0.01)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(1_000, "steps") as update:
        update(500, NEWS)
        until = time.monotonic() + 20
        while "500/1000 steps" not in stream.getvalue() and time.monotonic() < until:
            threading.Event().wait(0.01)
    drawn = stream.getvalue().split("\r")
    assert "500/1000 steps" in stream.getvalue()
    assert {len(line) for line in drawn} <= {0, 80}
    assert "\x1b" not in stream.getvalue()
    assert drawn[-2].strip() == ""
