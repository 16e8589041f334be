import types

import numpy as np
import optax
import pytest
from zoo import problem

import ufm
from ufm import plot


def history(accuracy):
    return types.SimpleNamespace(accuracy=np.array(accuracy))


def test_terminal_phase_begins_where_the_error_stays_zero():
    assert plot.terminal_phase(history([0.5, 1.0, 0.9, 1.0, 1.0])) == 3
    assert plot.terminal_phase(history([1.0, 1.0])) == 0
    assert plot.terminal_phase(history([0.5, 0.9])) is None
    assert plot.terminal_phase(types.SimpleNamespace()) is None
    nan = np.nan  # not measured
    assert plot.terminal_phase(history([1.0, 0.5, nan, 1.0, nan])) == 3
    assert plot.terminal_phase(history([nan, 1.0])) == 1
    assert plot.terminal_phase(history([nan, 0.5, nan])) is None
    assert plot.terminal_phase(history([nan, nan])) is None


def test_collapse_draws_what_the_history_holds(tmp_path):
    run = ufm.train(problem(), optax.sgd(0.5), steps=50, snapshots=9)
    made = plot.collapse({"a run": run.history})
    for axis, name in zip(made.axes, ("nc1", "nc2", "nc3", "nc4"), strict=True):
        line = axis.get_lines()[0]
        assert line.get_xdata().tolist() == run.history.step[1:].tolist()
        assert line.get_ydata() == pytest.approx(getattr(run.history, name)[1:])
        assert axis.get_yscale() == ("linear" if name == "nc4" else "log")
    for name in ("one.png", "two.png"):
        plot.save(made, tmp_path / name, "a command")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert b"a command; ufm " in (tmp_path / "one.png").read_bytes()
