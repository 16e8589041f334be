import types

import numpy as np
import optax
import pytest
import xarray
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


def test_collapse_draws_what_the_history_holds():
    run = ufm.train(problem(), optax.sgd(0.5), steps=50, snapshots=9)
    made = plot.collapse({"a run": run.history})
    for axis, name in zip(made.axes, ("nc1", "nc2", "nc3", "nc4"), strict=True):
        line = axis.get_lines()[0]
        assert line.get_xdata().tolist() == run.history.step[1:].tolist()
        assert line.get_ydata() == pytest.approx(getattr(run.history, name)[1:])
        assert axis.get_yscale() == ("linear" if name == "nc4" else "log")
    assert made._repr_png_().startswith(b"\x89PNG")  # what a notebook shows


@pytest.mark.parametrize("suffix", [".png", ".PDF", ".svg"])
def test_saved_figures_say_what_made_them_and_nothing_else(suffix, tmp_path):
    made, _ = plot.figure(1, 1)
    files = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for file in files:
        plot.save(made, file, command="a command")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"a command; ufm " in files[0].read_bytes()
    for name in ("one.bmp", "one"):
        with pytest.raises(ValueError, match=r"path = .*one.*: a name that ends in .png, .pdf, .svg is needed"):
            plot.save(made, tmp_path / name)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_figure_and_its_data_are_written_and_said(labelled, tmp_path, capsys):
    axes = {"rate": [0.1, 0.5], "kind": ["a", "b", "c"]}
    values = np.arange(6.0).reshape(2, 3)
    data = xarray.Dataset({"nc1": (("rate", "kind"), values)}, axes) if labelled else {"nc1": values, **axes}
    file = tmp_path / "folder" / "figure.svg"
    plot.write(plot.figure(1, 1)[0], file, data=data, command="a command")
    assert capsys.readouterr().out == f"wrote {file} and {file.with_suffix('.npz')}\n"
    with np.load(file.with_suffix(".npz")) as written:
        assert set(written) == {"nc1", "rate", "kind", "command", "versions"}
        assert np.array_equal(written["nc1"], values)
        assert written["kind"].tolist() == axes["kind"]
        assert written["command"] == "a command"
    assert b"a command; ufm " in file.read_bytes()


def test_data_that_would_need_pickle_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"data: 'x' has entries of any type"):
        plot.write(plot.figure(1, 1)[0], tmp_path / "figure.png", data={"x": [None, "a"]})
    assert not list(tmp_path.iterdir())


def of_seeds(**metrics):
    return types.SimpleNamespace(step=np.array([0, 1, 2, 3]), **{name: np.array(m) for name, m in metrics.items()})


def test_several_seeds_are_drawn_by_mean_and_range():
    nan = np.nan
    two = [[9.0, 1.0, 0.5, nan], [9.0, 4.0, 8.0, 3.0]]
    seeds = of_seeds(nc1=two, nc2=two, nc3=two, nc4=[[0.5, 0.5, 0.0, 0.0], [1.0, 0.2, 0.0, nan]])
    seeds.accuracy = np.array([[0.0, 1.0, 1.0, 1.0], [0.0, 0.5, 1.0, 1.0]])
    made = plot.collapse({"two": seeds})
    lines = [axis.get_lines()[0] for axis in made.axes]
    assert lines[0].get_ydata() == pytest.approx([2.0, 2.0, 3.0])  # geometric: √(1·4), √(0.5·8), 3 alone
    assert lines[3].get_ydata() == pytest.approx([0.35, 0.0, 0.0])
    for axis, low, high in ((made.axes[0], [1.0, 0.5, 3.0], [4.0, 8.0, 3.0]), (made.axes[3], [0.2, 0, 0], [0.5, 0, 0])):
        ((band,),) = ([path.vertices for path in bands.get_paths()] for bands in axis.collections)
        for step, least, most in zip((1, 2, 3), low, high, strict=True):
            at = band[band[:, 0] == step, 1]
            assert (at.min(), at.max()) == pytest.approx((least, most))
        (mark,) = (line for line in axis.get_lines()[1:] if len(line.get_xdata()))
        assert mark.get_xdata()[0] == 2  # from where both have no error
        assert mark.get_ydata()[0] == axis.get_lines()[0].get_ydata()[1]
    assert "mean and range of 2 seeds" in made.legends[0].get_texts()[0].get_text()


def test_a_seed_that_diverged_has_no_terminal_phase():
    nan = np.nan
    assert plot.terminal_phase(history([[0.5, 1.0, 1.0], [0.5, 0.9, 1.0]])) == 2
    assert plot.terminal_phase(history([[0.5, 1.0, 1.0], [0.5, 1.0, nan]])) is None
    assert plot.terminal_phase(history([[0.5, nan, 1.0], [0.5, nan, 1.0]])) == 2  # not measured


def test_a_run_of_several_seeds_is_drawn():
    run = ufm.train(problem(), optax.sgd(0.5), steps=20, snapshots=9, seed=[0, 1, 2])
    axis = plot.collapse({"seeds": run.history}).axes[1]
    mean = np.exp(np.log(run.history.nc2[:, 1:]).mean(axis=0))
    assert axis.get_lines()[0].get_ydata() == pytest.approx(mean)


def test_no_history_is_left_out():
    names = [f"run {index}" for index in range(9)]
    one = [1.0, 0.5, 0.2, 0.1]
    made = plot.collapse({name: of_seeds(nc1=one, nc2=one, nc3=one, nc4=one) for name in names})
    assert [text.get_text() for text in made.legends[0].get_texts()][:9] == names
