"""Figures from runs, reports and sweeps: measured as marks and lines, theory as dashes with its name."""

import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ufm._checks import Integer, Real, choice, instance, integer, listed, real, shown
from ufm._checks import path as checked_path
from ufm.metrics import Metrics

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


def figure(rows: Integer, columns: Integer, width: Real = 9.0, height: Real = 6.0) -> tuple[Figure, Any]:
    """An empty figure in the house's style and its (rows, columns) array of axes; sizes in inches."""
    import matplotlib

    rows, columns = (integer(name, n, least=1, most=100) for name, n in (("rows", rows), ("columns", columns)))
    width, height = (real(name, x, above=0.0, below=1e3) for name, x in (("width", width), ("height", height)))
    with matplotlib.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        made = Figure(figsize=(width, height), layout="constrained")
        return made, made.subplots(rows, columns, squeeze=False)


def collapse(
    histories: Mapping[str, Any] | Any,
    metrics: Sequence[str] | Any = ("nc1", "nc2", "nc3", "nc4"),
    unit: str | Any = "step",
) -> Figure:
    """NC1–NC4 against steps, one panel a metric and one line a history.

    A dot marks the first recorded step with zero training error, where the terminal phase begins. The first
    three metrics are on log axes; a value of zero cannot be drawn there and is left out. So is what was not measured.

    Args:
        histories: by name; each has `step`, the metrics and, where the mark is wanted, `accuracy`.
        metrics: four of the fields of `ufm.Metrics`.
        unit: what `step` counts.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    metrics = [choice("metrics", name, Metrics._fields) for name in listed("metrics", metrics, "a list of four names")]
    if len(metrics) != 4:
        raise ValueError(f"metrics = {metrics}: four names are needed")
    _check_histories(histories, metrics)
    instance("unit", unit, str, "a text")
    made, axes = figure(2, 2)
    for axis, name in zip(axes.flat, metrics, strict=True):
        for colour, (label, history) in zip(COLOURS, histories.items(), strict=False):
            drawn = trace(axis, history, name, colour, label)
            start = terminal_phase(history)
            if start is not None and drawn[start]:
                value = getattr(history, name)[start]
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
        if not isinstance(name, str) or not all(hasattr(history, field) for field in ("step", *metrics)):
            raise ValueError(f"histories = {shown(histories)}: {needed} are needed")


def trace(axis: Any, history: Any, metric: str, colour: str, label: str) -> np.ndarray:
    """Draw a metric against steps for log axes, without step 0 and what isn't positive; only NC4 may be zero.

    Returns:
        Which snapshots are drawn.
    """
    steps, values = np.asarray(history.step), np.asarray(getattr(history, metric), float)
    drawn = (steps > 0) & np.isfinite(values) & ((values > 0) | (metric == "nc4"))
    alone = "." if np.sum(drawn) == 1 else None  # a line needs two points
    axis.plot(steps[drawn], values[drawn], color=colour, lw=1.6, marker=alone, label=label)
    return drawn


def terminal_phase(history: Any) -> int | None:
    """Index of the first snapshot from which the training error, where known, stays zero; None where there is none."""
    accuracy = np.asarray(getattr(history, "accuracy", []), float)
    known = np.flatnonzero(np.isfinite(accuracy))
    if not known.size or accuracy[known[-1]] < 1.0:
        return None
    wrong = np.flatnonzero(accuracy < 1.0)
    return int(known[known > wrong[-1]][0] if wrong.size else known[0])


def save(made: Figure | Any, path: Any, command: str | Any = None) -> None:
    """Write a PNG that names the command and the versions that made it, and nothing that varies by itself.

    Args:
        made: the figure.
        path: where to.
        command: that made it; by default the one being run.
    """
    instance("made", made, Figure, "a matplotlib Figure")
    instance("command", command, str | None, "a text")
    path = checked_path("path", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(
        path, dpi=150, metadata={"Software": None, "Description": f"{command or this_command()}; {versions()}"}
    )


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
