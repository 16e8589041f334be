"""Figures from runs, reports and sweeps: measured as marks and lines, theory as dashes with its name."""

import io
import itertools
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from jax.typing import ArrayLike
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ufm._core.checks import Integer, Real, instance, integer, listed, real, shown
from ufm._core.checks import path as checked_path
from ufm._core.tables import number

if TYPE_CHECKING:
    import xarray

T = TypeVar("T")

# Okabe and Ito's palette, told apart by colour-blind readers; black last, kept for theory
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P")
LABELS = {
    "nc1": "NC1: within / between variability",
    "nc2": "NC2: distance of means to a simplex",
    "nc3": "NC3: misalignment of classifier and means",
    "nc4": "NC4: disagreement with nearest centre",
    "loss": "objective",
    "excess": "objective above its minimum, relative",
}
MOST_PANELS = 6  # of metrics against steps
FOLLOWED = 0.1  # relative, how near a slope is to theory's where a history follows it
LEAST_FALL = np.log(100.0)  # for how long it does so, for dashes
BEYOND = np.log(10.0)  # that dashes go on at either end
WORST = 3  # classes that bear their number in a panel
LONG_TAIL = 10  # times as many samples as another class has: from there on classes stand over their samples
CLEAR = 0.03  # of a panel's height, between such a class and all together
BESIDE = (0.25, 0.07)  # of a panel, between dots whose numbers would be drawn over one another
RASTERISED_FROM = 2_000  # dots, which would make a .pdf or an .svg large and slow
STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
# of a file that says what made it and is the same each time, by suffix: what names the maker, and what matplotlib adds
METADATA = {
    ".png": ("Description", {"Software": None}),
    ".pdf": ("Subject", {"CreationDate": None}),
    ".svg": ("Description", {"Date": None}),
}


class Snapshots(Protocol):
    """Metrics over steps, (S,) or (seeds, S), each an attribute; `accuracy` too where the terminal phase is wanted."""

    @property
    def step(self) -> Any:
        """(S,)."""


class LayersOf(Protocol):
    """Metrics of layers, (S, layers) or (seeds, S, layers) with `step` (S,) beside `layers`; or (layers,) alone."""

    @property
    def nc1(self) -> Any:
        """Of layers alone, or of what the last layer is."""


class Shares(Protocol):
    """Each class's own, (K,) arrays or None, each an attribute: `count`, and what `PANELS` names."""

    @property
    def count(self) -> Any:
        """(K,) samples; 0 of a class that is absent."""


class PerClass(Protocol):
    """What was measured with `per_class=True`."""

    @property
    def classes(self) -> Any:
        """`Shares`."""


class Panel(NamedTuple):
    """How a metric of each class is drawn.

    Attributes:
        title: what it is.
        needs: what measures it.
        worst: 1 where the largest values are the worst, −1 where the least, 0 where those far from all together.
        over: whether samples or classes weigh the same in what all have together.
        shown: values that its axis has, whatever the classes'.
        log: whether its axis is logarithmic.
    """

    title: str
    needs: str
    worst: int
    over: str
    shown: tuple[float, ...] = ()
    log: bool = False


OVER = {"samples": "all samples", "classes": "mean over classes"}
_JUDGED = "the second pass\nwith a classifier"
PANELS = {
    "nc1": Panel(LABELS["nc1"], "the second pass", 1, "samples", log=True),
    "norm": Panel("norm of the centred class mean", "class means", 0, "classes", (0.0,)),
    "distance": Panel("distance to the nearest other class mean", "class means", -1, "classes", (0.0,)),
    "alignment": Panel("cosine of classifier row and class mean", "a classifier", -1, "classes", (0.0, 1.0)),
    "nc4": Panel(LABELS["nc4"], _JUDGED, 1, "samples", (0.0, 1.0)),
    "accuracy": Panel("accuracy", _JUDGED, -1, "samples", (0.0, 1.0)),
}


class NotebookFigure(Figure):
    """A figure that a notebook shows where it ends a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def figure(rows: Integer, columns: Integer, *, width: Real = 9.0, height: Real = 6.0) -> tuple[Figure, np.ndarray]:
    """An empty figure in the house's style and its (rows, columns) array of axes.

    A notebook shows it where it ends a cell.

    Args:
        rows: of panels.
        columns: of panels.
        width: in inches.
        height: in inches.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    import matplotlib

    rows, columns = (integer(name, n, least=1, most=100) for name, n in (("rows", rows), ("columns", columns)))
    width, height = (real(name, x, above=0.0, below=1e3) for name, x in (("width", width), ("height", height)))
    with matplotlib.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        made = NotebookFigure(figsize=(width, height), layout="constrained")
        return made, made.subplots(rows, columns, squeeze=False)


def collapse(
    histories: "Mapping[str, Snapshots | xarray.Dataset]",
    metrics: Sequence[str] = ("nc1", "nc2", "nc3", "nc4"),
    *,
    unit: str = "step",
    factors: Mapping[str, Mapping[str, Real]] | None = None,
    minima: Mapping[str, Real] | None = None,
) -> Figure:
    """NC1–NC4 against steps, one panel a metric and one line a history.

    A dot marks the first recorded step with zero training error, where the terminal phase begins. All metrics but NC4
    are on log axes; a value of zero cannot be drawn there and is left out. So is what was not measured.
    Of several seeds the line is the mean, geometric on log axes, in a band from the least to the largest; the dot
    marks where the last of them has zero error. A seed that diverged is in neither from then on, and there is no dot.

    Args:
        histories: by name: of runs, of recorders, or a run's dataset.
        metrics: one to six fields of `ufm.Metrics`, or others that the histories have, such as the `loss`.
        unit: what `step` counts.
        factors: of some histories, by their name and a metric's, what theory says that a step multiplies the metric by,
            such as `ufm.theory.factor` gives; dashed where the history falls a hundredfold at that slope, or more.
        minima: of some histories, by their name, the least that their `loss` can be; dotted.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    names = [instance("metrics", name, str, "names") for name in listed("metrics", metrics, "a list of names")]
    if not 1 <= len(names) <= MOST_PANELS:
        raise ValueError(f"metrics = {names}: one to {MOST_PANELS} names are needed")
    _check_histories(histories, names)
    instance("unit", unit, str, "a text")
    slopes, levels = _slopes(factors, histories), _numbers("minima", minima, histories)
    made, axes = _panels(len(names))
    dashed = False
    for axis, metric in zip(axes, names, strict=True):
        for colour, (label, history) in zip(itertools.cycle(COLOURS), histories.items(), strict=False):
            seen = _trace_and_dot(axis, history, metric, colour, label)
            if metric in slopes.get(label, {}):
                dashed |= _dashes(axis, seen, slopes[label][metric])
            if metric == "loss" and label in levels:
                axis.axhline(levels[label], color=colour, ls=":", lw=1.4)
        axis.set(xlabel=unit, title=LABELS.get(metric, metric))
        if any(np.size(line.get_xdata()) for line in axis.get_lines()):  # a log axis cannot be drawn empty
            axis.set(xscale="log", yscale="linear" if metric == "nc4" else "log")
    _name_lines(made, axes, dashed, bool(levels) and "loss" in names)
    return made


def _trace_and_dot(axis: Axes, history: Any, metric: str, colour: str, label: str) -> "Curve":
    """Draw a metric, and where the terminal phase begins."""
    seen, start = trace(axis, history, metric=metric, colour=colour, label=label), terminal_phase(history)
    if start is not None and seen.drawn[start]:
        axis.plot(seen.step[start], seen.centre[start], "o", color=colour, ms=6, mec="white", zorder=3)
    return seen


def _name_lines(made: Figure, axes: Sequence[Axes], dashed: bool, dotted: bool) -> None:
    """A legend below of histories, and of the marks that are there."""
    grey: dict[str, Any] = {"color": "#555555"}
    marks = {"zero training error": Line2D([], [], ls="", marker="o", ms=6, mec="white", **grey)}
    if dashed:
        marks["theory: the slope in the end"] = Line2D([], [], ls="--", color="black", lw=1.2)
    if dotted:
        marks["minimum of the objective"] = Line2D([], [], ls=":", lw=1.4, **grey)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(len(labels) + len(marks), 6 if len(axes) > 4 else 4)
    lines = [*handles, *marks.values()]
    made.legend(lines, [*labels, *marks], loc="outside lower center", ncols=columns, frameon=False)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """So many, in two rows where there are more than three."""
    rows = 1 if count <= 3 else 2
    columns = -(-count // rows)
    made, axes = figure(rows, columns, width=4.5 * columns, height=3.0 * rows if rows > 1 else 3.6)
    for axis in axes.flat[count:]:
        made.delaxes(axis)
    return made, list(axes.flat[:count])


def _slopes(factors: Any, histories: Any) -> dict[str, dict[str, float]]:
    """Logarithms of factors, by history and metric."""
    needed = 'factors by history and metric, such as {"SGD": {"nc1": 0.99}},'
    given = {} if factors is None else instance("factors", factors, Mapping, needed)
    found = {}
    for name, of_metrics in given.items():
        if name not in histories or not isinstance(of_metrics, Mapping):
            raise ValueError(f"factors = {shown(factors)}: {needed} of histories that are drawn, are needed")
        known = {m: real(f"factors: {name!r}, {m!r}", factor, above=0.0, below=1.0) for m, factor in of_metrics.items()}
        found[name] = {metric: float(np.log(factor)) for metric, factor in known.items()}
    return found


def _numbers(argument: str, given: Any, histories: Any) -> dict[str, float]:
    """A positive number of some histories."""
    needed = 'numbers by history, such as {"SGD": 0.5},'
    known = {} if given is None else instance(argument, given, Mapping, needed)
    if not set(known) <= set(histories):
        raise ValueError(f"{argument} = {shown(given)}: {needed} of histories that are drawn, are needed")
    return {name: real(f"{argument}: {name!r}", value, above=0.0) for name, value in known.items()}


def _dashes(axis: Axes, seen: "Curve", slope: float) -> bool:
    """Draw a slope beside the longest fall at it, through the middle of that; whether there is one."""
    positive = seen.drawn & (seen.centre.filled(0.0) > 0)
    steps, logs = seen.step[positive], np.log(np.asarray(seen.centre[positive]))
    near = np.abs(np.diff(logs) - slope * np.diff(steps)) <= FOLLOWED * np.abs(slope * np.diff(steps))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], near, [False]]).astype(int)))
    starts, ends = edges[::2], edges[1::2]
    falls = logs[starts] - logs[ends]
    if not np.any(falls >= LEAST_FALL):
        return False
    first, last = (int(each[np.argmax(falls)]) for each in (starts, ends))
    middle = (first + last) // 2
    reach = [steps[at] - sign * BEYOND / slope for at, sign in ((first, -1), (last, 1))]
    x = np.geomspace(max(reach[0], 1.0), reach[1], 200)
    axis.plot(x, np.exp(logs[middle] + slope * (x - steps[middle])), "k--", lw=1.2, zorder=2.5)
    return True


def _check_histories(histories: Any, metrics: Sequence[str]) -> None:
    needed = 'histories by name, such as {"SGD": run.history},'
    instance("histories", histories, Mapping, needed)
    for name, history in histories.items():
        if not isinstance(name, str) or not hasattr(history, "step"):
            raise ValueError(f"histories = {shown(histories)}: {needed} are needed")
        for metric in metrics:
            if not hasattr(history, metric):
                raise ValueError(
                    f"metrics: {metric!r} is not in {name!r}; a name of a metric, as in ufm.Metrics, is needed"
                )


class Curve(NamedTuple):
    """A metric over snapshots as it is drawn, masked where it can't be.

    Attributes:
        step: (S,).
        centre: (S,) the metric; of several seeds its mean, geometric on log axes.
        least: (S,) of the seeds.
        most: (S,) of the seeds.
        seeds: how many.
    """

    step: np.ndarray
    centre: np.ma.MaskedArray
    least: np.ma.MaskedArray
    most: np.ma.MaskedArray
    seeds: int

    @property
    def drawn(self) -> np.ndarray:
        """(S,) whether a snapshot can be drawn."""
        return ~np.ma.getmaskarray(self.centre)


def _curve(history: Any, metric: str) -> Curve:
    """What log axes can show of a metric: not step 0, and nothing that isn't positive; only NC4 may be zero."""
    steps, values = np.asarray(history.step), np.atleast_2d(np.asarray(getattr(history, metric), float))
    legal = (steps > 0)[None] & np.isfinite(values) & ((values > 0) | (metric == "nc4"))
    seen = np.ma.masked_array(values, ~legal)
    if len(seen) == 1:
        return Curve(steps, seen[0], seen[0], seen[0], 1)
    centre = seen.mean(axis=0) if metric == "nc4" else np.ma.exp(np.ma.log(seen).mean(axis=0))
    return Curve(steps, centre, seen.min(axis=0), seen.max(axis=0), len(seen))


def trace(axis: Axes, history: "Snapshots | xarray.Dataset", *, metric: str, colour: str, label: str) -> Curve:
    """Draw a metric against steps for log axes; of several seeds mean and range, as `collapse` says.

    Returns:
        What is drawn.
    """
    found = _curve(history, metric)
    steps, centre, least, most = (np.asarray(values[found.drawn]) for values in found[:4])
    if found.seeds > 1:
        axis.fill_between(steps, least, most, color=colour, alpha=0.2, lw=0)
        label = f"{label}, mean and range of {found.seeds} seeds"
    alone = "." if len(steps) == 1 else None  # a line needs two points
    axis.plot(steps, centre, color=colour, lw=1.6, marker=alone, label=label)
    return found


def terminal_phase(history: "Snapshots | xarray.Dataset") -> int | None:
    """Index of the first snapshot from which the training error, where known, stays zero; None where there is none.

    Of several seeds that of all; one that is unknown where another is known has diverged.
    """
    seeds = np.atleast_2d(np.asarray(getattr(history, "accuracy", []), float))
    accuracy = np.where(np.isnan(seeds).all(axis=0), np.nan, np.nan_to_num(seeds, nan=0.0).min(axis=0))
    known = np.flatnonzero(np.isfinite(accuracy))
    if not known.size or accuracy[known[-1]] < 1.0:
        return None
    wrong = np.flatnonzero(accuracy < 1.0)
    return int(known[known > wrong[-1]][0] if wrong.size else known[0])


def layers(history: "LayersOf | xarray.Dataset", *, snapshots: Integer = 6) -> Figure:
    """NC1–NC3 of each layer, one panel a metric and one line a snapshot, on log axes.

    Layer 0 are the features H. A value of zero cannot be drawn and is left out, and so is what was not measured. Of
    several seeds a line is the geometric mean.

    Args:
        history: of a run of a problem with hidden layers, or the run's dataset; or layers alone, as `best.layers` and
            `ufm.measure` of a list of features give them.
        snapshots: how many at most, evenly spaced among those that were recorded.

    Raises:
        ValueError: where there are no hidden layers, or for a wrong argument.
    """
    count = integer("snapshots", snapshots, least=1, most=100)
    steps = np.asarray(getattr(history, "step", [np.nan]))
    found = _by_layer(history)
    chosen = np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int)) if count > 1 else [len(steps) - 1]
    made, axes = figure(1, 3, width=11.0, height=3.8)
    for axis, (metric, seen) in zip(axes.flat, found.items(), strict=True):
        for at, shade in zip(chosen, np.linspace(0.9, 0.0, len(chosen)), strict=True):
            label = "" if np.isnan(steps[at]) else f"step {steps[at]:,}"
            axis.plot(seen[at], color=colormaps["viridis"](shade), lw=1.6, marker="o", ms=4, label=label)
        axis.set(xlabel="layer", yscale="log" if seen[chosen].count() else "linear")
        axis.set_title(LABELS[metric], fontsize="medium")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        made.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 6), frameon=False)
    return made


def _by_layer(history: Any) -> dict[str, np.ma.MaskedArray]:
    """(snapshots, layers) of each metric, masked where log axes can't show it; a mean over seeds."""
    layers = getattr(history, "layers", history)
    of_dataset, alone = hasattr(history, "layer_nc1"), layers is history
    form = "layer_{}" if of_dataset else "{}"
    found: Any = {name: getattr(layers, form.format(name), None) for name in ("nc1", "nc2", "nc3")}
    axes = np.ndim(found["nc1"])
    if found["nc1"] is None or axes not in ((1,) if alone and not of_dataset else (2, 3)):
        raise ValueError(f"history = {shown(history)}: metrics of layers, as of a run with hidden ones, are needed")
    return {name: _drawable(np.asarray(np.nan if each is None else each, float)) for name, each in found.items()}


def _drawable(values: np.ndarray) -> np.ma.MaskedArray:
    """(snapshots, layers) of numbers that may have an axis of seeds before, or none of snapshots."""
    seeds = values if values.ndim == 3 else np.atleast_2d(values)[None]
    return np.ma.exp(np.ma.log(np.ma.masked_array(seeds, ~(seeds > 0))).mean(axis=0))


def classes(result: PerClass | Shares | Mapping[str, PerClass | Shares]) -> Figure:
    """What each class has of the metrics, a dot a class: NC1, norm, distance, alignment, NC4 and accuracy.

    Dots stand over the samples of their class, on a log axis, where one has ten times those of another; else over its
    number. The worst few of a panel bear their number, where they are off and not among many. Dashes are what all
    classes have together: NC1, NC4 and accuracy of all samples, and means over classes. On the log axis of NC1 a zero
    can't be drawn: how many there are is said, as are how many classes have no sample, and what was not measured.

    Args:
        result: of `ufm.measure(..., per_class=True)` or `Recorder.epoch(per_class=True)`, or its `classes`; or several
            by name.

    Raises:
        ValueError: for what was measured without `per_class=True`, and where there is nothing.
    """
    given = result if isinstance(result, Mapping) else {"": result}
    shares = {instance("result", name, str, "a name of each"): _shares(each) for name, each in given.items()}
    if not shares:
        raise ValueError(f"result = {shown(result)}: what was measured with per_class=True is needed")
    made, axes = figure(2, 3, width=12.0, height=6.8)
    long_tailed = any(_long_tailed(each.count) for each in shares.values())
    for axis, (metric, panel) in zip(axes.flat, PANELS.items(), strict=True):
        axis.set_title(panel.title, loc="left", pad=18.0)
        clouds = [(colour, _cloud(each, metric, long_tailed)) for colour, each in _coloured(shares.values())]
        known = [(colour, cloud) for colour, cloud in clouds if cloud is not None]
        if known:
            _draw(axis, panel, known)
            _over_classes(axis, long_tailed)
            _number(axis, panel, known)
        else:
            unmeasured(axis, panel.needs)
    handles = [Line2D([], [], ls="", marker="o", color=colour) for colour, _ in _coloured(shares)]
    labels = [*map(_named, shares, shares.values()), "all classes together"]
    dashes = Line2D([], [], ls="--", color="#555555")
    made.legend([*handles, dashes], labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    return made


def unmeasured(axis: Axes, needs: str) -> None:
    """Say in an empty panel what would measure what it is for."""
    axis.text(0.5, 0.5, f"not measured:\nneeds {needs}", ha="center", va="center", transform=axis.transAxes)
    axis.set(xticks=[], yticks=[])


class Cloud(NamedTuple):
    """Classes that have samples, (n,) each: their numbers and samples, where they stand, and values of a metric."""

    number: np.ndarray
    samples: np.ndarray
    place: np.ndarray
    value: np.ndarray

    def together(self, panel: Panel) -> float:
        """What all classes have together."""
        return float(np.average(self.value, weights=self.samples if panel.over == "samples" else None))

    def worst(self, panel: Panel) -> np.ndarray:
        """Which of them are the few that are worse than all together and than the others."""
        off = self.value - self.together(panel)
        badness = panel.worst * off if panel.worst else abs(off)
        order = np.argsort(-badness, kind="stable")[: WORST + 1]
        next_worst = badness[order[WORST]] if len(order) > WORST else 0.0
        return order[badness[order] > max(0.0, next_worst)]


def _shares(result: Any) -> Any:
    """Each class's own, of what was measured."""
    found = getattr(result, "classes", result)
    if not all(hasattr(found, name) for name in ("count", *PANELS)):
        raise ValueError(f"result = {shown(result)}: what was measured with per_class=True is needed")
    return found


def _long_tailed(count: np.ndarray) -> bool:
    """Whether a class has many times the samples of another."""
    return bool(count.max() >= LONG_TAIL * count[count > 0].min())


def _cloud(shares: Any, metric: str, long_tailed: bool) -> Cloud | None:
    """What is drawn of a metric; None where it was not measured."""
    value, number = getattr(shares, metric), np.flatnonzero(shares.count)
    if value is None:
        return None
    count = shares.count[number]
    return Cloud(number, count, count if long_tailed else number, value[number])


def _coloured(things: Iterable[T]) -> Iterator[tuple[str, T]]:
    """Each of them with a colour."""
    return zip(itertools.cycle(COLOURS), things, strict=False)


def _named(name: str, shares: Any) -> str:
    """A result in a legend, with how many classes it has."""
    absent = int(np.sum(shares.count == 0))
    left_out = f" ({absent:,} without a sample left out)" if absent else ""
    return f"{name}{': ' if name else ''}{len(shares.count) - absent:,} classes{left_out}"


def _draw(axis: Axes, panel: Panel, clouds: list[tuple[str, Cloud]]) -> None:
    """Dots and dashes of several results, and a line above that says what the dashes are at."""
    log = panel.log and any(np.any(cloud.value > 0) for _, cloud in clouds)  # a log axis cannot be drawn empty
    least = 0.0 if log else -np.inf
    for colour, cloud in clouds:
        _dots(axis, cloud, cloud.value > least, colour)
        if cloud.together(panel) > least:
            axis.axhline(cloud.together(panel), ls="--", lw=1.2, color=colour)
    axis.set(yscale="log" if log else "linear", ymargin=0.1)  # where numbers have room
    if panel.shown:
        values = [*axis.get_ylim(), *panel.shown]
        room = 0.06 * (max(values) - min(values))
        axis.set_ylim(min(values) - room, max(values) + room)
    undrawn = sum(int(np.sum(cloud.value <= least)) for _, cloud in clouds)
    together = ", ".join(number(cloud.together(panel)) for _, cloud in clouds)
    said = f"dashes: {OVER[panel.over]} {together}" + (f"; {undrawn:,} at zero, not drawn" if undrawn else "")
    axis.text(0.0, 1.02, said, fontsize=8.0, color="#555555", transform=axis.transAxes)


def _dots(axis: Axes, cloud: Cloud, drawn: np.ndarray, colour: str) -> None:
    """A dot for each class, smaller and more transparent where they are many."""
    many = len(cloud.value)
    size, alpha = (6.0, 0.9) if many <= 50 else (4.0, 0.6) if many <= 1000 else (2.5, 0.25)
    look: dict[str, Any] = {"ms": size, "alpha": alpha, "mec": "none", "rasterized": many >= RASTERISED_FROM}
    axis.plot(cloud.place[drawn], cloud.value[drawn], "o", color=colour, **look)


class Tag(NamedTuple):
    """Numbers of classes whose dots are beside one another: one text, since several would be drawn over one another.

    Attributes:
        dot: (2,) the first of them.
        stands: (2,) where it is in its panel, which is from (0, 0) to (1, 1).
        below: whether it is below the dashes.
        numbers: as they are written.
    """

    dot: np.ndarray
    stands: np.ndarray
    below: bool
    numbers: list[str]


def _number(axis: Axes, panel: Panel, clouds: list[tuple[str, Cloud]]) -> None:
    """Draw the worst classes whole, those that stand clear of the dashes, with their numbers beside them."""
    tags: list[Tag] = []
    axis.autoscale_view()  # of which places in the panel are known
    for colour, cloud in clouds:
        for at in cloud.worst(panel):
            dot, dashes = np.array([[cloud.place[at], value] for value in (cloud.value[at], cloud.together(panel))])
            stands, middle = (axis.transScale + axis.transLimits).transform([dot, dashes])
            if abs(stands[1] - middle[1]) > CLEAR:
                axis.plot(*dot, "o", ms=6.0, color=colour, mec="black", mew=0.8, zorder=3)
                _add_tag(tags, Tag(dot, stands, stands[1] < middle[1], [str(cloud.number[at])]))
    for tag in tags:
        x, ha = (6, "left") if tag.stands[0] < 0.6 else (-6, "right")
        y, va = (-2, "top") if tag.below else (2, "bottom")
        place, look = (tag.dot[0], tag.dot[1]), {"ha": ha, "va": va, "fontsize": 8.0}
        axis.annotate(", ".join(tag.numbers), place, (x, y), textcoords="offset points", **look)


def _add_tag(tags: list[Tag], new: Tag) -> None:
    """One more, or its numbers in that of a dot beside it."""
    for tag in tags:
        if np.all(abs(tag.stands - new.stands) < BESIDE):
            tag.numbers.extend(text for text in new.numbers if text not in tag.numbers)
            return
    tags.append(new)


def _over_classes(axis: Axes, long_tailed: bool) -> None:
    """The axis that classes stand over."""
    if long_tailed:
        axis.set(xlabel="samples of the class", xscale="log")
    else:
        axis.set(xlabel="class")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def write(
    made: Figure,
    path: str | os.PathLike[str],
    *,
    data: "Mapping[str, ArrayLike] | xarray.Dataset",
    command: str | None = None,
) -> None:
    """Write a figure, and its data beside it; and print which files these are.

    Args:
        made: the figure.
        path: where to, with the suffix .png, .pdf or .svg; the data goes into an .npz of the same name.
        data: what is drawn: arrays by name, or an `xarray.Dataset`, of which coordinates and variables are kept.
        command: that made it; by default the one being run.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    arrays = _arrays("data", data)
    save(made, path, command=command)
    print(f"wrote {path} and {_save_arrays(arrays, path, command)}")


def save(made: Figure, path: str | os.PathLike[str], *, command: str | None = None) -> None:
    """Write a figure that names the command and the versions that made it, and nothing that varies by itself.

    Args:
        made: the figure.
        path: where to, with the suffix .png, .pdf or .svg.
        command: that made it; by default the one being run.

    Raises:
        ValueError: for another suffix.
    """
    import matplotlib

    instance("made", made, Figure, "a matplotlib Figure")
    instance("command", command, str | None, "a text")
    path = checked_path("path", path)
    maker, metadata = METADATA[suffix("path", path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**metadata, maker: f"{command or this_command()}; {versions()}"}
    with matplotlib.rc_context({"svg.hashsalt": "ufm"}):  # names of an SVG's parts are random otherwise
        made.savefig(path, dpi=150, metadata=metadata)


def suffix(name: str, path: str | os.PathLike[str]) -> str:
    """The ending of a path that a figure can be written to; otherwise a ValueError that names the argument."""
    ending = checked_path(name, path).suffix.lower()
    if ending not in METADATA:
        raise ValueError(f"{name} = {str(path)!r}: a name that ends in {', '.join(METADATA)} is needed")
    return ending


def save_data(arrays: "Mapping[str, ArrayLike] | xarray.Dataset", path: str | os.PathLike[str]) -> None:
    """Write the data of a figure beside it, as an .npz of the same name, with the command and versions that made it.

    Args:
        arrays: by name, or an `xarray.Dataset`, of which coordinates and variables are kept.
        path: of the figure.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    _save_arrays(_arrays("arrays", arrays), path, None)


def _arrays(name: str, data: Any) -> dict[str, np.ndarray]:
    """Data as arrays that a file without pickle holds, by name."""
    instance(name, data, Mapping, "a mapping of names to arrays, or an xarray.Dataset,")
    arrays = {str(key): np.asarray(value) for key, value in getattr(data, "variables", data).items()}
    for key, array in arrays.items():
        if array.dtype == object:
            raise ValueError(f"{name}: {key!r} has entries of any type; an array of numbers or texts is needed")
    return arrays


def _save_arrays(arrays: dict[str, np.ndarray], path: Any, command: str | None) -> pathlib.Path:
    """Write arrays beside a figure, and say where."""
    made_by: dict[str, Any] = {"command": command or this_command(), "versions": versions()}
    file = checked_path("path", path).with_suffix(".npz")
    np.savez(file, **{**arrays, **made_by})
    return file


def this_command() -> str:
    """The command being run, as it would be typed from the project's root."""
    script = pathlib.Path(sys.argv[0])
    root = pathlib.Path.cwd()
    name = script.resolve().relative_to(root) if script.resolve().is_relative_to(root) else script.name
    return shlex.join(["python", str(name), *sys.argv[1:]])


def versions() -> str:
    """Versions of what numbers depend on."""
    packages = " ".join(f"{name} {version(name)}" for name in ("ufm", "jax", "optax", "numpy", "matplotlib"))
    return f"{packages} python {platform.python_version()}"
