"""Figures from runs, reports and sweeps: measured as marks and lines, theory as dashes with its name."""

import io
import itertools
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ufm._core.checks import Integer, Real, instance, integer, listed, real, shown
from ufm._core.checks import path as checked_path

# Okabe and Ito's palette, told apart by colour-blind readers; black last, kept for theory
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P")
LABELS = {
    "nc1": "NC1: within / between variability",
    "nc2": "NC2: distance of means to a simplex",
    "nc3": "NC3: misalignment of classifier and means",
    "nc4": "NC4: disagreement with nearest centre",
}
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


class NotebookFigure(Figure):
    """A figure that a notebook shows where it ends a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def figure(rows: Integer, columns: Integer, width: Real = 9.0, height: Real = 6.0) -> tuple[Figure, Any]:
    """An empty figure in the house's style and its (rows, columns) array of axes; sizes in inches.

    A notebook shows it where it ends a cell.
    """
    import matplotlib

    rows, columns = (integer(name, n, least=1, most=100) for name, n in (("rows", rows), ("columns", columns)))
    width, height = (real(name, x, above=0.0, below=1e3) for name, x in (("width", width), ("height", height)))
    with matplotlib.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        made = NotebookFigure(figsize=(width, height), layout="constrained")
        return made, made.subplots(rows, columns, squeeze=False)


def collapse(
    histories: Mapping[str, Any] | Any,
    metrics: Sequence[str] | Any = ("nc1", "nc2", "nc3", "nc4"),
    unit: str | Any = "step",
) -> Figure:
    """NC1–NC4 against steps, one panel a metric and one line a history.

    A dot marks the first recorded step with zero training error, where the terminal phase begins. The first
    three metrics are on log axes; a value of zero cannot be drawn there and is left out. So is what was not measured.
    Of several seeds the line is the mean, geometric on log axes, in a band from the least to the largest; the dot
    marks where the last of them has zero error. A seed that diverged is in neither from then on, and there is no dot.

    Args:
        histories: by name; each has `step` (S,), the metrics, (S,) or (seeds, S), and, where the mark is wanted,
            `accuracy`.
        metrics: four of the fields of `ufm.Metrics`.
        unit: what `step` counts.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    metrics = [instance("metrics", name, str, "names") for name in listed("metrics", metrics, "a list of four names")]
    if len(metrics) != 4:
        raise ValueError(f"metrics = {metrics}: four names are needed")
    _check_histories(histories, metrics)
    instance("unit", unit, str, "a text")
    made, axes = figure(2, 2)
    for axis, name in zip(axes.flat, metrics, strict=True):
        for colour, (label, history) in zip(itertools.cycle(COLOURS), histories.items(), strict=False):
            drawn = trace(axis, history, name, colour, label)
            start = terminal_phase(history)
            if start is not None and drawn[start]:
                value = axis.get_lines()[-1].get_ydata()[np.sum(drawn[:start])]
                axis.plot(history.step[start], value, "o", color=colour, ms=6, mec="white", zorder=3)
        axis.set(xlabel=unit, title=LABELS.get(name, name))
        if any(len(line.get_xdata()) for line in axis.get_lines()):  # a log axis cannot be drawn empty
            axis.set(xscale="log", yscale="linear" if name == "nc4" else "log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(axes[0, 0].plot([], [], "o", color="#555555", ms=6, mec="white")[0])
    made.legend(
        handles, [*labels, "zero training error"], loc="outside lower center", ncols=min(len(handles), 4), frameon=False
    )
    return made


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


def trace(axis: Any, history: Any, metric: str, colour: str, label: str) -> np.ndarray:
    """Draw a metric against steps for log axes, without step 0 and what isn't positive; only NC4 may be zero.

    Of several seeds it draws mean and range, as `collapse` says.

    Returns:
        Which snapshots are drawn.
    """
    steps, values = np.asarray(history.step), np.atleast_2d(np.asarray(getattr(history, metric), float))
    legal = (steps > 0) & np.isfinite(values) & ((values > 0) | (metric == "nc4"))
    drawn = np.any(legal, axis=0)
    steps, seen = steps[drawn], np.ma.masked_array(values, ~legal)[:, drawn]
    alone = "." if len(steps) == 1 else None  # a line needs two points
    line = np.asarray(seen[0])
    if len(seen) > 1:
        line = np.asarray(seen.mean(axis=0) if metric == "nc4" else np.ma.exp(np.ma.log(seen).mean(axis=0)))
        axis.fill_between(steps, seen.min(axis=0), seen.max(axis=0), color=colour, alpha=0.2, lw=0)
        label = f"{label}, mean and range of {len(seen)} seeds"
    axis.plot(steps, line, color=colour, lw=1.6, marker=alone, label=label)
    return np.asarray(drawn)


def terminal_phase(history: Any) -> int | None:
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


def save(made: Figure | Any, path: Any, command: str | Any = None) -> None:
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


def suffix(name: str, path: Any) -> str:
    """The ending of a path that a figure can be written to; otherwise a ValueError that names the argument."""
    ending = checked_path(name, path).suffix.lower()
    if ending not in METADATA:
        raise ValueError(f"{name} = {str(path)!r}: a name that ends in {', '.join(METADATA)} is needed")
    return ending


def save_data(arrays: Mapping[str, Any] | Any, path: Any) -> None:
    """Write the data of a figure beside it, as an .npz of the same name, with the command and versions that made it."""
    made_by = {"command": this_command(), "versions": versions()}
    instance("arrays", arrays, Mapping, "a mapping of names to arrays")
    np.savez(checked_path("path", path).with_suffix(".npz"), **arrays, **made_by)  # pyright: ignore[reportArgumentType]


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
