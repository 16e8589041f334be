"""Figures from runs, reports and sweeps: measured as marks and lines, theory as dashes with its name."""

import io
import itertools
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ufm._core.checks import Integer, Real, instance, integer, listed, real, shown
from ufm._core.checks import path as checked_path

if TYPE_CHECKING:
    import xarray

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


class Snapshots(Protocol):
    """Metrics over steps, (S,) or (seeds, S), each an attribute; `accuracy` too where the terminal phase is wanted."""

    @property
    def step(self) -> Any:
        """(S,)."""


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
) -> Figure:
    """NC1–NC4 against steps, one panel a metric and one line a history.

    A dot marks the first recorded step with zero training error, where the terminal phase begins. The first
    three metrics are on log axes; a value of zero cannot be drawn there and is left out. So is what was not measured.
    Of several seeds the line is the mean, geometric on log axes, in a band from the least to the largest; the dot
    marks where the last of them has zero error. A seed that diverged is in neither from then on, and there is no dot.

    Args:
        histories: by name: of runs, of recorders, or a run's dataset.
        metrics: four of the fields of `ufm.Metrics`.
        unit: what `step` counts.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    names = [instance("metrics", name, str, "names") for name in listed("metrics", metrics, "a list of four names")]
    if len(names) != 4:
        raise ValueError(f"metrics = {names}: four names are needed")
    _check_histories(histories, names)
    instance("unit", unit, str, "a text")
    made, axes = figure(2, 2)
    for axis, metric in zip(axes.flat, names, strict=True):
        for colour, (label, history) in zip(itertools.cycle(COLOURS), histories.items(), strict=False):
            seen = trace(axis, history, metric=metric, colour=colour, label=label)
            start = terminal_phase(history)
            if start is not None and seen.drawn[start]:
                axis.plot(seen.step[start], seen.centre[start], "o", color=colour, ms=6, mec="white", zorder=3)
        axis.set(xlabel=unit, title=LABELS.get(metric, metric))
        if any(len(line.get_xdata()) for line in axis.get_lines()):  # a log axis cannot be drawn empty
            axis.set(xscale="log", yscale="linear" if metric == "nc4" else "log")
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
