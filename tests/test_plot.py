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


STEPS = np.array([0, 1, 2, 5, 10, 20, 40, 60, 80, 100, 120, 160, 200])


def falling(factor):
    """A history whose nc1 falls by a factor a step in the end, and then is rounding."""
    nc1 = 0.3 * np.exp(-STEPS.astype(float)) + 1e-2 * factor**STEPS + 1e-9
    return types.SimpleNamespace(step=STEPS, nc1=nc1, loss=2.0 + nc1)


def theorys(axis):
    return [line for line in axis.get_lines() if line.get_linestyle() == "--"]


def test_theorys_slopes_are_dashed_where_a_history_follows_them():
    runs = {"one": falling(0.9), "another": falling(0.8)}
    made = plot.collapse(runs, ["nc1", "loss"], factors={"one": {"nc1": 0.9}, "another": {"nc1": 0.9}})
    (line,) = theorys(made.axes[0])  # the other is steeper
    x, y = line.get_xdata(), line.get_ydata()
    np.testing.assert_allclose(np.diff(np.log(y)) / np.diff(x), np.log(0.9), rtol=1e-9)
    at = np.interp(60.0, x, np.log(y))
    assert at == pytest.approx(np.log(runs["one"].nc1[STEPS == 60].item()), abs=0.05)
    assert x[0] < 20.0  # a tenfold before
    assert 100.0 < x[-1] < 200.0
    assert [text.get_text() for text in made.legends[0].get_texts()][-1] == "theory: the slope in the end"
    for factor in (0.5, 0.999):
        assert not theorys(plot.collapse(runs, ["nc1"], factors={"one": {"nc1": factor}}).axes[0])
    right = types.SimpleNamespace(step=STEPS, nc4=np.zeros(len(STEPS)))  # and what has no slope has none
    assert not theorys(plot.collapse({"one": right}, ["nc4"], factors={"one": {"nc4": 0.9}}).axes[0])


def test_minima_are_dotted_where_the_loss_is():
    made = plot.collapse({"one": falling(0.9), "another": falling(0.8)}, ["nc1", "loss"], minima={"another": 1.5})
    found = [[line.get_ydata()[0] for line in axis.get_lines() if line.get_linestyle() == ":"] for axis in made.axes]
    assert found == [[], [1.5]]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"metrics": []}, r"metrics = \[\]: one to 6 names are needed"),
        ({"metrics": ["nc1"] * 7}, "one to 6 names are needed"),
        ({"factors": {"one": {"nc1": 1.5}}}, r"factors: 'one', 'nc1' = 1.5: .*less than 1"),
        ({"factors": {"two": {"nc1": 0.5}}}, "factors = .*two.*: factors by history and metric"),
        ({"factors": {"one": 0.5}}, "factors = .*: factors by history and metric"),
        ({"minima": {"two": 0.5}}, "minima = .*two.*: numbers by history"),
        ({"minima": {"one": "low"}}, "minima: 'one' = 'low'"),
    ],
)
def test_what_collapse_cannot_draw_is_refused(words, match):
    with pytest.raises(ValueError, match=match):
        plot.collapse({"one": falling(0.9)}, **{"metrics": ["nc1"], **words})


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


PANELS = ("nc1", "norm", "distance", "alignment", "nc4", "accuracy")


def each_class(**changes):
    """Five classes that are the same, but for what is changed."""
    ones = {"count": np.full(5, 10.0), **{name: np.ones(5) for name in PANELS}, "nc4": np.zeros(5)}
    return types.SimpleNamespace(**{**ones, **changes})


def panels(result):
    made = plot.classes(result)
    assert made._repr_png_().startswith(b"\x89PNG")
    return dict(zip(PANELS, made.axes, strict=True))


def dots(axis):
    return axis.get_lines()[0].get_xdata().tolist(), axis.get_lines()[0].get_ydata().tolist()


def dashes(axis):
    return [line.get_ydata()[0] for line in axis.get_lines() if line.get_linestyle() == "--"]


def numbers(axis):
    """Of the worst classes: what isn't said above the panel."""
    return [text.get_text() for text in axis.texts if "dashes" not in text.get_text()]


def said(axis):
    return " ".join(text.get_text() for text in axis.texts)


@pytest.fixture(scope="module")
def measured():
    """Ten classes of sizes 20 to 29, of which the fourth doesn't collapse."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), np.arange(20, 30))
    means = np.eye(10, 12)
    H = means[labels] + np.where(labels == 3, 0.5, 0.01)[:, None] * random.normal(size=(len(labels), 12))
    return ufm.measure(H, labels, means, per_class=True)


def test_classes_are_drawn_as_they_were_measured(measured):
    drawn = panels(measured)
    for name, axis in drawn.items():
        assert dots(axis) == (list(range(10)), getattr(measured.classes, name).tolist())
        assert axis.get_yscale() == ("log" if name == "nc1" else "linear")
        assert axis.get_xlabel() == "class"
    for name in ("nc1", "nc4", "accuracy"):
        assert dashes(drawn[name]) == pytest.approx([getattr(measured, name)])
        assert f"all samples {getattr(measured, name):.4g}" in said(drawn[name])
    for name in ("norm", "distance", "alignment"):
        assert dashes(drawn[name]) == pytest.approx([getattr(measured.classes, name).mean()])
    assert dashes(drawn["alignment"]) == pytest.approx([measured.uniformity.duality])
    assert numbers(drawn["nc1"]) == ["3"]
    assert numbers(drawn["accuracy"]) == ["3"]
    for of_classes in ({"a": measured.classes}, measured.classes):
        assert dots(panels(of_classes)["nc1"]) == dots(drawn["nc1"])


def test_what_was_not_measured_is_said():
    drawn = panels(each_class(alignment=None, nc4=None, accuracy=None))
    for name in ("alignment", "nc4", "accuracy"):
        assert not drawn[name].get_lines()
        assert "not measured" in said(drawn[name])
        assert "a classifier" in said(drawn[name])
    assert len(dots(drawn["norm"])[0]) == 5
    assert "the second pass" in said(panels(each_class(nc1=None))["nc1"])


def test_classes_of_very_different_sizes_stand_over_their_samples():
    nan = np.nan
    nc1 = np.array([0.5, nan, 0.1, 0.0, 3.0])
    made = plot.classes(each_class(count=np.array([100.0, 0.0, 10.0, 1.0, 9.0]), nc1=nc1))
    assert dots(made.axes[0]) == ([100.0, 10.0, 9.0], [0.5, 0.1, 3.0])  # one sample has no spread, and log axes no 0
    assert dashes(made.axes[0]) == pytest.approx([(50.0 + 1.0 + 27.0) / 120])
    assert "1 at zero, not drawn" in said(made.axes[0])
    assert dots(made.axes[1]) == ([100.0, 10.0, 1.0, 9.0], [1.0] * 4)
    for axis in made.axes:
        assert (axis.get_xscale(), axis.get_xlabel()) == ("log", "samples of the class")
    legend = [text.get_text() for text in made.legends[0].get_texts()]
    assert legend == ["4 classes (1 without a sample left out)", "all classes together"]


def test_nothing_but_zeros_is_drawn_on_no_log_axis():
    drawn = panels(each_class(nc1=np.zeros(5), norm=np.zeros(5), distance=np.zeros(5), alignment=np.zeros(5)))
    assert drawn["nc1"].get_yscale() == "linear"
    assert dots(drawn["nc1"])[1] == [0.0] * 5
    assert not any(numbers(axis) for axis in drawn.values())


def test_the_worst_are_numbered_unless_they_are_many():
    few = panels(each_class(accuracy=np.array([1.0, 0.2, 1.0, 0.8, 1.0]), norm=np.array([1.0, 1.0, 2.0, 1.0, 0.1])))
    assert numbers(few["accuracy"]) == ["1"]  # the other is as good as all are together
    assert numbers(few["norm"]) == ["2", "4"]  # far from the mean, on either side
    many = panels(each_class(count=np.full(100, 9.0), **{name: np.arange(100.0) % 2 for name in PANELS}))
    assert not any(numbers(axis) for axis in many.values())
    nc1 = np.where(np.arange(1000) == 77, 2.0, 1e-3)
    rare = panels(each_class(count=np.full(1000, 9.0), **dict.fromkeys(PANELS, nc1)))
    assert numbers(rare["nc1"]) == ["77"]


def test_numbers_of_classes_beside_one_another_are_not_drawn_over_one_another():
    worst = np.ones(100)
    worst[[10, 12, 90]] = 100.0, 101.0, 99.0
    drawn = panels(each_class(count=np.full(100, 9.0), **dict.fromkeys(PANELS, worst)))
    assert numbers(drawn["nc1"]) == ["12, 10", "90"]


def test_several_results_share_a_figure(measured):
    made = plot.classes({"one": measured, "other": each_class(nc4=None)})
    assert len(dashes(made.axes[0])) == 2
    assert len(dashes(made.axes[4])) == 1
    legend = [text.get_text() for text in made.legends[0].get_texts()]
    assert legend == ["one: 10 classes", "other: 5 classes", "all classes together"]


def test_many_classes_are_pixels_of_a_drawing(tmp_path):
    several = each_class(count=np.full(30_000, 9.0), **dict.fromkeys(PANELS, np.linspace(0.1, 1.0, 30_000)))
    plot.save(plot.classes(several), tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size < 2_000_000


def test_what_has_no_classes_is_refused(measured):
    H, labels = np.eye(4), np.array([0, 0, 1, 1])
    for result in (ufm.measure(H, labels), {"a": measured, "b": ufm.measure(H, labels)}, {}, None, [measured], "text"):
        with pytest.raises(ValueError, match=r"result = .*: what was measured with per_class=True is needed"):
            plot.classes(result)
    with pytest.raises(ValueError, match="result = 3: a name of each is needed"):
        plot.classes({3: measured})
