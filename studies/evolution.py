"""Collapse, seen: features move to the vertices of a simplex, in the model and in a network.

The unconstrained features model with three classes in the plane and with four in space, where a simplex just fits; and
a perceptron that learns four digits, its 64 dimensions projected on the three that its class means span at the end.
Features are drawn in units of their root mean square, on the simplex that theory predicts. Writes an animation and a
strip of stills. Needs scikit-learn: `pip install -e '.[studies]'`.
"""

import dataclasses
import itertools
import pathlib
import sys
from typing import Any

import matplotlib
import numpy as np
import optax
import tyro
import xarray
from matplotlib.animation import PillowWriter

import networks
import ufm
from handwriting import split_by_class
from networks import Architecture, Decays, Recipe
from ufm import plot
from ufm.console import show
from ufm.training import schedule

HELD = 12  # frames for which the last one stays
DIMS = ("frame", "sample", "class", "axis")
MEASURED = ("nc1", "nc2", "nc3", "accuracy")
VIEW = 60.0  # degrees of azimuth from which scenes in space are seen at first
KEY = "dots: features; lines: rows of the classifier; dashes: theory, the simplex"


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how it is drawn."""

    per_class: int = 25
    """Samples of each class, in the model and for the network."""
    lambda_A: float = 5e-3
    """Weight decay of the classifier."""
    lambda_H: float = 5e-4
    """Weight decay of the features."""
    rate_model: float = 1.0
    """Learning rate of gradient descent with momentum 0.9 on the model."""
    steps: int = 3000
    """Its steps."""
    rate_network: float = 0.1
    """Learning rate of the network at first; it follows a cosine to zero."""
    epochs: int = 400
    """The network's passes over its samples."""
    frames: int = 48
    """Of the animation, log-spaced over steps and epochs."""
    seed: int = 0
    """Of everything random."""
    output: pathlib.Path = pathlib.Path("figures/evolution.png")
    """Strip of stills to write; the animation goes beside it as .gif, the data as .npz."""


def data(config: Config) -> xarray.Dataset:
    """Two models and a network, projected, by `scene`; `scene_of` takes one out, without the NaN that fills it up."""
    scenes = {
        "model, K = 3 in the plane": of_model(config, 3),
        "model, K = 4 in space": of_model(config, 4),
        "digits 0 to 3, 64 dimensions projected": of_network(config),
    }
    names, filled = xarray.Variable("scene", list(scenes)), {"data_vars": "all", "coords": "minimal"}
    return xarray.concat(list(scenes.values()), names, compat="equals", join="outer", **filled)


def scene_of(table: xarray.Dataset, name: str) -> xarray.Dataset:
    """A training, as `projected` makes it."""
    scene = table.sel(scene=name)
    for dim in DIMS:
        scene = scene.dropna(dim, how="all")
    return scene.assign(step=scene.step.astype(int), labels=scene.labels.astype(int))


def scenes_of(table: xarray.Dataset) -> dict[str, xarray.Dataset]:
    """All of them."""
    return {str(name): scene_of(table, name) for name in table.scene.values}


def of_model(config: Config, num_classes: int) -> xarray.Dataset:
    """Gradient descent on the model in K−1 dimensions."""
    print(f"training: the model, K = {num_classes}", file=sys.stderr)
    problem = ufm.Problem(
        num_classes, num_classes - 1, per_class=config.per_class, lambda_A=config.lambda_A, lambda_H=config.lambda_H
    )
    optimizer = optax.sgd(config.rate_model, momentum=0.9)
    steps, run, params = schedule(config.steps, config.frames), None, [problem.init(config.seed)]
    for taken in np.diff(steps).tolist():
        begins: Any = {"seed": config.seed} if run is None else {"resume": run}
        run = ufm.train(problem, optimizer, steps=taken, snapshots=[taken], progress=False, **begins)
        params.append(run.params)
    return projected("step", steps, [(p.H, p.A, p.b) for p in params], problem.labels)


def of_network(config: Config) -> xarray.Dataset:
    """A perceptron with the model's weight decay on features and classifier."""
    print("training: the network", file=sys.stderr)
    digits = split_by_class((config.per_class,) * 4, config.seed)
    recipe = Recipe(
        config.epochs,
        Decays(A=config.lambda_A, H=config.lambda_H),
        batch=config.per_class,
        rate=config.rate_network,
    )
    architecture = Architecture(widths=(128, 128, 64), num_classes=4, linear=True)
    trained = networks.fit(digits, architecture, recipe, config.seed, config.frames)
    looks = [(look.H, look.A, look.b) for look in trained.looks]
    return projected("epoch", [look.epoch for look in trained.looks], looks, trained.labels)


def projected(unit: str, steps: list[int], looks: list[tuple], labels: np.ndarray) -> xarray.Dataset:
    """A training in the span of its last centred class means, by frame.

    Args:
        unit: of `steps`.
        steps: or epochs done at each frame.
        looks: features (N, d), classifier (K, d) and bias (K,) there.
        labels: (N,).

    Returns:
        H (frame, N, K−1) in units of the features' root mean square, A (frame, K, K−1) in units of its rows'; simplex
        (K, K−1), where theory has collapsed features, turned to where they end; and metrics of the features as they
        are.
    """
    K = int(labels.max()) + 1
    metrics = [ufm.measure(H, labels, A, b) for H, A, b in looks]
    H, A = (np.stack([look[index] for look in looks]).astype(np.float64) for index in (0, 1))
    means = np.stack([H[-1][labels == k].mean(axis=0) for k in range(K)])
    basis = np.linalg.svd(means - means.mean(axis=0))[2][: K - 1].T
    H, A = (rows / np.sqrt(np.mean(np.sum(rows**2, axis=-1), axis=-1))[:, None, None] @ basis for rows in (H, A))
    simplex = turned(ufm.geometry.simplex_etf(K, K - 1, seed=None), (means - means.mean(axis=0)) @ basis)
    return xarray.Dataset(
        {
            "unit": unit,
            "step": ("frame", np.asarray(steps)),
            "H": (("frame", "sample", "axis"), H),
            "A": (("frame", "class", "axis"), A),
            "labels": ("sample", labels),
            "simplex": (("class", "axis"), simplex),
            **{name: ("frame", [getattr(each, name) for each in metrics]) for name in MEASURED},
        },
        coords={dim: range(size) for dim, size in zip(DIMS, (len(looks), len(labels), K, K - 1), strict=True)},
    )


def turned(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The points rotated, or reflected, to come nearest to the target: the orthogonal Procrustes problem."""
    left, _, right = np.linalg.svd(points.T @ target)
    return points @ (left @ right)


def scene_axes(made: plot.Figure, box: tuple[float, ...], scene: xarray.Dataset) -> Any:
    """Axes for a scene, in the plane or in space; `box` as of `Figure.add_axes`."""
    axis = made.add_axes(box, projection="3d" if scene.sizes["axis"] == 3 else None)  # pyright: ignore[reportArgumentType]
    axis.set_axis_off()
    return axis


def draw_scene(axis: Any, scene: xarray.Dataset, frame: int, turn: float) -> None:
    """A frame: features as dots, the classifier's rows as lines, the simplex as dashes."""
    axis.clear()
    axis.set_axis_off()
    H, A, labels = scene.H.values[frame], scene.A.values[frame], scene.labels.values
    for a, b in itertools.combinations(scene.simplex.values, 2):
        axis.plot(*np.stack([a, b]).T, color="black", ls="--", lw=0.8)
    for k, (row, colour) in enumerate(zip(A, plot.COLOURS, strict=False)):
        axis.plot(*np.stack([np.zeros_like(row), row]).T, color=colour, lw=1.8, alpha=0.7, clip_on=False)
        axis.plot(*H[labels == k].T, "o", color=colour, ms=3.5, mec="white", mew=0.3, clip_on=False)
    if H.shape[1] == 2:
        axis.set(xlim=(-1.9, 1.9), ylim=(-1.9, 1.9), aspect="equal")
    else:
        axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), zlim=(-1.2, 1.2))
        axis.set_box_aspect((1, 1, 1), zoom=1.5)
        axis.view_init(elev=18.0, azim=turn)


def caption(scene: xarray.Dataset, frame: int) -> str:
    """What a frame shows."""
    return f"{scene.unit.item()} {scene.step.values[frame]:,}   NC1 {scene.nc1.values[frame]:.1e}"


def draw(table: xarray.Dataset, columns: int = 5) -> plot.Figure:
    """A strip of stills: a row for each scene, from the start to the end."""
    with matplotlib.rc_context(plot.STYLE):  # pyright: ignore[reportArgumentType]
        height = 1.0 / table.sizes["scene"]
        made = plot.Figure(figsize=(2.1 * columns, 2.35 / height))
        made.text(0.99, 0.98, KEY, ha="right", va="top", fontsize=8)
        for row, (name, scene) in enumerate(scenes_of(table).items()):
            top = 1.0 - row * height
            made.text(0.01, top - 0.02, name, va="top", fontweight="bold")
            for column, frame in enumerate(np.linspace(0, scene.sizes["frame"] - 1, columns).round().astype(int)):
                box = (column / columns, top - 0.93 * height, 1.0 / columns, 0.78 * height)
                draw_scene(scene_axes(made, box, scene), scene, frame, VIEW)
                made.text((column + 0.5) / columns, top - 0.97 * height, caption(scene, frame), ha="center", fontsize=8)
    return made


def animate(table: xarray.Dataset, path: pathlib.Path, rate: int = 10) -> None:
    """Write an animation, the scenes side by side; `rate` in frames a second."""
    scenes, longest, width = scenes_of(table), table.sizes["frame"], 1.0 / table.sizes["scene"]
    with matplotlib.rc_context(plot.STYLE):  # pyright: ignore[reportArgumentType]
        made = plot.Figure(figsize=(3.0 * len(scenes), 3.4))
        axes = [scene_axes(made, (j * width, 0.08, width, 0.82), scene) for j, scene in enumerate(scenes.values())]
        for j, name in enumerate(scenes):
            made.text((j + 0.5) * width, 0.97, name, ha="center", va="top", fontweight="bold", fontsize=8)
        captions = [made.text((j + 0.5) * width, 0.03, "", ha="center") for j in range(len(scenes))]
        writer = PillowWriter(fps=rate)
        with writer.saving(made, str(path), dpi=80):
            for index in range(longest + HELD):
                for axis, text, scene in zip(axes, captions, scenes.values(), strict=True):
                    frames = scene.sizes["frame"]
                    frame = min(index * frames // longest, frames - 1)
                    draw_scene(axis, scene, frame, VIEW + index)
                    text.set_text(caption(scene, frame))
                writer.grab_frame()
    print(f"wrote {path}")


def summary(table: xarray.Dataset) -> None:
    """Print how far from the simplex each scene begins and ends."""
    rows = []
    for name, scene in scenes_of(table).items():
        off = np.linalg.norm(scene.H.values - scene.simplex.values[scene.labels.values][None], axis=2).max(axis=1)
        for frame in (0, -1):
            title = f"{name}, {scene.unit.item()} {scene.step.values[frame]:,}"
            rows.append([title, off[frame], *(scene[metric].values[frame] for metric in MEASURED)])
    show(["scene", "furthest from simplex", "NC1", "NC2", "NC3", "accuracy"], rows)


def main(config: Config) -> None:
    """Train, print, draw."""
    table = data(config)
    summary(table)
    halved = {name: table[name].astype(np.float32) for name in ("H", "A", "simplex")}
    plot.write(draw(table), config.output, data=table.assign(halved))
    animate(table, config.output.with_suffix(".gif"))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
