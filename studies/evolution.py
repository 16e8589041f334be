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
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import optax
import tyro
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure

import networks
import ufm
from handwriting import split_by_class
from networks import Architecture, Decays, Recipe
from ufm import plot
from ufm.console import show
from ufm.training import schedule

HELD = 12  # frames for which the last one stays
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


class Scene(NamedTuple):
    """A training, projected.

    Attributes:
        unit: of `step`.
        step: (frames,) steps or epochs done.
        H: (frames, N, K−1) features, in units of their root mean square.
        A: (frames, K, K−1) classifier, its rows' root mean square the same.
        labels: (N,).
        simplex: (K, K−1) where theory has collapsed features, turned to where they end.
        metrics: of the features as they are, at each frame.
    """

    unit: str
    step: np.ndarray
    H: np.ndarray
    A: np.ndarray
    labels: np.ndarray
    simplex: np.ndarray
    metrics: ufm.Metrics


def data(config: Config) -> dict[str, Scene]:
    """Two models and a network."""
    return {
        "model, K = 3 in the plane": of_model(config, 3),
        "model, K = 4 in space": of_model(config, 4),
        "digits 0 to 3, 64 dimensions projected": of_network(config),
    }


def of_model(config: Config, num_classes: int) -> Scene:
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


def of_network(config: Config) -> Scene:
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


def projected(unit: str, steps: list[int], looks: list[tuple], labels: np.ndarray) -> Scene:
    """Features and classifier in the span of the last centred class means."""
    K = int(labels.max()) + 1
    metrics = [ufm.measure(H, labels, A, b) for H, A, b in looks]
    H, A = (np.stack([look[index] for look in looks]).astype(np.float64) for index in (0, 1))
    means = np.stack([H[-1][labels == k].mean(axis=0) for k in range(K)])
    basis = np.linalg.svd(means - means.mean(axis=0))[2][: K - 1].T
    frames = [rows / np.sqrt(np.mean(np.sum(rows**2, axis=-1), axis=-1))[:, None, None] for rows in (H, A)]
    simplex = turned(ufm.geometry.simplex_etf(K, K - 1, seed=None), (means - means.mean(axis=0)) @ basis)
    stacked = ufm.Metrics(*map(np.asarray, zip(*metrics, strict=True)))
    return Scene(unit, np.asarray(steps), frames[0] @ basis, frames[1] @ basis, labels, simplex, stacked)


def turned(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The points rotated, or reflected, to come nearest to the target: the orthogonal Procrustes problem."""
    left, _, right = np.linalg.svd(points.T @ target)
    return points @ (left @ right)


def scene_axes(made: Figure, box: Any, scene: Scene) -> Any:
    """Axes for a scene, in the plane or in space; `box` as of `Figure.add_axes`."""
    axis = made.add_axes(box, projection="3d" if scene.H.shape[2] == 3 else None)
    axis.set_axis_off()
    return axis


def draw_scene(axis: Any, scene: Scene, frame: int, turn: float) -> None:
    """A frame: features as dots, the classifier's rows as lines, the simplex as dashes."""
    axis.clear()
    axis.set_axis_off()
    for a, b in itertools.combinations(scene.simplex, 2):
        axis.plot(*np.stack([a, b]).T, color="black", ls="--", lw=0.8)
    for k, (row, colour) in enumerate(zip(scene.A[frame], plot.COLOURS, strict=False)):
        axis.plot(*np.stack([np.zeros_like(row), row]).T, color=colour, lw=1.8, alpha=0.7, clip_on=False)
        axis.plot(*scene.H[frame][scene.labels == k].T, "o", color=colour, ms=3.5, mec="white", mew=0.3, clip_on=False)
    if scene.H.shape[2] == 2:
        axis.set(xlim=(-1.9, 1.9), ylim=(-1.9, 1.9), aspect="equal")
    else:
        axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), zlim=(-1.2, 1.2))
        axis.set_box_aspect((1, 1, 1), zoom=1.5)
        axis.view_init(elev=18.0, azim=turn)


def caption(scene: Scene, frame: int) -> str:
    """What a frame shows."""
    return f"{scene.unit} {scene.step[frame]:,}   NC1 {scene.metrics.nc1[frame]:.1e}"


def draw(scenes: dict[str, Scene], columns: int = 5) -> Figure:
    """A strip of stills: a row for each scene, from the start to the end."""
    with matplotlib.rc_context(plot.STYLE):  # pyright: ignore[reportArgumentType]
        made = Figure(figsize=(2.1 * columns, 2.35 * len(scenes)))
        made.text(0.99, 0.98, KEY, ha="right", va="top", fontsize=8)
        height = 1.0 / len(scenes)
        for row, (name, scene) in enumerate(scenes.items()):
            top = 1.0 - row * height
            made.text(0.01, top - 0.02, name, va="top", fontweight="bold")
            for column, frame in enumerate(np.linspace(0, len(scene.step) - 1, columns).round().astype(int)):
                box = (column / columns, top - 0.93 * height, 1.0 / columns, 0.78 * height)
                draw_scene(scene_axes(made, box, scene), scene, frame, VIEW)
                made.text((column + 0.5) / columns, top - 0.97 * height, caption(scene, frame), ha="center", fontsize=8)
    return made


def animate(scenes: dict[str, Scene], path: pathlib.Path, rate: int = 10) -> None:
    """Write an animation, the scenes side by side; `rate` in frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(plot.STYLE):  # pyright: ignore[reportArgumentType]
        made, width = Figure(figsize=(3.0 * len(scenes), 3.4)), 1.0 / len(scenes)
        axes = [scene_axes(made, (j * width, 0.08, width, 0.82), scene) for j, scene in enumerate(scenes.values())]
        for j, name in enumerate(scenes):
            made.text((j + 0.5) * width, 0.97, name, ha="center", va="top", fontweight="bold", fontsize=8)
        captions = [made.text((j + 0.5) * width, 0.03, "", ha="center") for j in range(len(scenes))]
        writer, longest = PillowWriter(fps=rate), max(len(scene.step) for scene in scenes.values())
        with writer.saving(made, str(path), dpi=80):
            for index in range(longest + HELD):
                for axis, text, scene in zip(axes, captions, scenes.values(), strict=True):
                    frame = min(index * len(scene.step) // longest, len(scene.step) - 1)
                    draw_scene(axis, scene, frame, VIEW + index)
                    text.set_text(caption(scene, frame))
                writer.grab_frame()


def main(config: Config) -> None:
    """Train, print, draw."""
    scenes = data(config)
    rows = []
    for name, scene in scenes.items():
        for frame in (0, -1):
            off = np.linalg.norm(scene.H[frame] - scene.simplex[scene.labels], axis=1).max()
            values = [getattr(scene.metrics, metric)[frame] for metric in ("nc1", "nc2", "nc3", "accuracy")]
            rows.append([f"{name}, {scene.unit} {scene.step[frame]:,}", off, *values])
    show(["scene", "furthest from simplex", "NC1", "NC2", "NC3", "accuracy"], rows)
    plot.save(draw(scenes), config.output)
    animate(scenes, config.output.with_suffix(".gif"))
    arrays = {
        f"{name}/{field}": getattr(scene, field).astype(np.float32)
        for name, scene in scenes.items()
        for field in ("step", "H", "A", "labels", "simplex")
    }
    plot.save_data(arrays, config.output)
    print(f"wrote {config.output}, {config.output.with_suffix('.gif')} and {config.output.with_suffix('.npz')}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
