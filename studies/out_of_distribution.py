"""Collapse is for what was trained on: the features of anything else stay away from the simplex, and confidence falls.

A perceptron learns eight digits until its features collapse. It is then shown other samples of these, shifted ones, the
two digits it never saw, and Gaussian noise. Grouped by the network's own decisions, features of what is out of
distribution have NC1–NC3 far above those in distribution; and the further a feature lies from its nearest class centre,
the less confident the network is, as on a straight way from the vertex of a simplex to its centre. Needs scikit-learn:
`pip install -e '.[studies]'`.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import tyro
import xarray

import networks
import ufm
from handwriting import NUM_CLASSES, SIDE, Digits, split_by_class
from networks import Architecture, Decays, Recipe, Trained
from ufm import plot
from ufm.console import show

KNOWN = 8  # digits below are trained on, the others held out
LEAST = 5  # samples that make a group of a decision
METRICS = {"nc1": "NC1", "nc2": "NC2", "nc3": "NC3"}
SHOWN = (*METRICS, "distance", "confidence", "accuracy", "auroc")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and what it is shown."""

    per_class: int = 120
    """Training samples of each of the digits 0 to 7."""
    network: Architecture = Architecture(num_classes=KNOWN)
    """The network."""
    recipe: Recipe = Recipe(epochs=300, decays=Decays(hidden=5e-3, A=5e-3, b=5e-3), batch=120)
    """How it is trained."""
    shifts: tuple[int, ...] = (1, 2, 3)
    """Pixels by which test samples are shifted to the right."""
    noise: int = 1000
    """Samples of Gaussian noise, of the pixels' mean and variance."""
    bins: int = 8
    """Groups by distance, of equally many samples, for the confidence."""
    seeds: int = 3
    """How many splits and starts."""
    output: pathlib.Path = pathlib.Path("figures/out_of_distribution.png")
    """Figure to write; the data goes beside it as .npz."""


def data(config: Config) -> xarray.Dataset:
    """Metrics of every kind of sample and seed; and confidence against distance, over the samples of all seeds."""
    records, seen = [], []
    for seed in range(config.seeds):
        print(f"training: seed {seed}", file=sys.stderr)
        digits = split_by_class((config.per_class,) * KNOWN + (0,) * (NUM_CLASSES - KNOWN), seed)
        known = digits.labels_test < KNOWN
        tested = digits._replace(X_test=digits.X_test[known], labels_test=digits.labels_test[known])
        trained = networks.fit(tested, config.network, config.recipe, seed, snapshots=2)
        shown = samples(config, tested, digits.X_test[~known], seed)
        seen.append({name: judged(trained, X) for name, (X, _) in shown.items()})
        reference = seen[-1]["test samples"]["confidence"]
        records.append(
            {name: measured(trained, seen[-1][name], labels, reference) for name, (_, labels) in shown.items()}
        )
    names = list(records[0])
    pooled = {
        name: [np.concatenate([one[name][key] for one in seen]) for key in ("distance", "confidence")] for name in names
    }
    curves = np.asarray([binned(config.bins, *pooled[name]) for name in names])
    return xarray.Dataset(
        {
            **{key: (("samples", "seed"), [[one[name][key] for one in records] for name in names]) for key in SHOWN},
            "binned_distance": (("samples", "bin"), curves[:, 0]),
            "binned_confidence": (("samples", "bin"), curves[:, 1]),
        },
        coords={"samples": names, "seed": range(config.seeds)},
    )


def samples(config: Config, digits: Digits, held_out: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, Any]]:
    """What the network is shown, with labels where there are right ones.

    Standardised pixels are shifted, and what comes in is their mean: pixels that are nearly constant would take absurd
    values otherwise. Noise keeps to pixels that vary.
    """
    varying = digits.X.std(axis=0) > 0
    noise = np.random.default_rng([seed, 3]).normal(size=(config.noise, len(varying))).astype(np.float32)
    shown: dict[str, tuple[np.ndarray, Any]] = {
        "training samples": (digits.X, digits.labels),
        "test samples": (digits.X_test, digits.labels_test),
    }
    for shift in config.shifts:
        shown[f"shifted by {shift}"] = (shifted(digits.X_test, shift), digits.labels_test)
    return shown | {"digits held out": (held_out, None), "Gaussian noise": (noise * varying, None)}


def shifted(X: np.ndarray, pixels: int) -> np.ndarray:
    """Images (n, 64) moved to the right."""
    images = X.reshape(-1, SIDE, SIDE)
    return np.pad(images, ((0, 0), (0, 0), (pixels, 0)))[:, :, :SIDE].reshape(X.shape)


def judged(trained: Trained, X: np.ndarray) -> dict[str, np.ndarray]:
    """Features, decisions, their softmax probability, and the distance to the nearest centre of training features.

    The distance is squared, in units of Tr Cov_B: zero at collapse, 1 at the global mean where classes are a simplex.
    """
    H, Z = networks.apply(trained.state, X)
    H, confidence = np.asarray(H), np.asarray(jax.nn.softmax(Z).max(axis=1))
    means = class_means(trained)
    spread = np.mean(np.sum((means - means.mean(axis=0)) ** 2, axis=1))
    nearest = np.min([np.sum((H - mean) ** 2, axis=1) for mean in means], axis=0)
    return {"H": H, "decision": np.argmax(Z, axis=1), "confidence": confidence, "distance": nearest / spread}


def class_means(trained: Trained) -> np.ndarray:
    """(K, d) of the training features."""
    H = trained.looks[-1].H
    return np.stack([H[trained.labels == k].mean(axis=0) for k in range(KNOWN)])


def measured(trained: Trained, seen: dict[str, np.ndarray], labels: Any, reference: np.ndarray) -> dict[str, float]:
    """Metrics of features grouped by decision, where a group has enough; confidence as a detector of the others."""
    from sklearn.metrics import roc_auc_score  # here, so that it is `handwriting` that says what is missing

    last, decision, confidence = trained.looks[-1], seen["decision"], seen["confidence"]
    present = np.bincount(decision, minlength=KNOWN) >= LEAST
    kept, number = present[decision], np.cumsum(present) - 1
    metrics = ufm.measure(seen["H"][kept], number[decision[kept]], last.A[present], last.b[present])
    in_distribution = np.repeat([1, 0], [len(reference), len(confidence)])
    return {name: getattr(metrics, name) for name in METRICS} | {
        "distance": float(np.mean(seen["distance"])),
        "confidence": float(np.mean(confidence)),
        "accuracy": np.nan if labels is None else float(np.mean(decision == labels)),
        "auroc": float(roc_auc_score(in_distribution, np.concatenate([reference, confidence]))),
    }


def binned(bins: int, distance: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of both over groups of equally many samples, by distance."""
    groups = np.array_split(np.argsort(distance), bins)
    return np.asarray([distance[g].mean() for g in groups]), np.asarray([confidence[g].mean() for g in groups])


def straight(distance: np.ndarray, confidence: float) -> np.ndarray:
    """Confidence on the straight way from a vertex of the simplex to its centre, at squared distances from the vertex.

    There A (h − μ_G) = (1 − √distance) t (e_k − 1/K), with t so that the vertex has the `confidence` given.
    """
    t = np.log((KNOWN - 1) * confidence / (1.0 - confidence))
    return 1.0 / (1.0 + (KNOWN - 1) * np.exp(-t * (1.0 - np.sqrt(distance))))


def draw(table: xarray.Dataset) -> plot.Figure:
    """NC1–NC3 of every kind of sample, mean of the seeds and every one; and confidence against distance."""
    made, ((left, right),) = plot.figure(1, 2, width=11.0, height=4.8)
    places = np.arange(table.sizes["samples"])
    for index, (name, label) in enumerate(METRICS.items()):
        style = {"color": plot.COLOURS[index]}
        left.plot(places, table[name].mean("seed"), plot.MARKS[index], ms=7, label=label, **style)
        left.plot(places, table[name], plot.MARKS[index], ms=3, alpha=0.4, **style)
    left.set(yscale="log", title="Collapsed in distribution, not out of it", ylabel="of features grouped by decision")
    left.set_xticks(places, table.samples.values, rotation=30, ha="right")
    left.legend(loc="lower right")
    grid = np.geomspace(1e-5, 1.0, 200)
    right.plot(
        grid,
        straight(grid, float(table.binned_confidence[0, 0])),
        "k--",
        lw=1.4,
        label="theory: from the simplex's vertex to its centre",
    )
    for index, name in enumerate(table.samples.values):
        one = table.sel(samples=name)
        mark, colour = [*zip(plot.MARKS, plot.COLOURS, strict=False), ("*", "#777777")][index]
        right.plot(one.binned_distance, one.binned_confidence, mark + "-", ms=4, lw=1.0, label=name, color=colour)
    right.axhline(1.0 / KNOWN, color="#888888", lw=1.0, ls=":")
    right.text(1.2e-5, 1.0 / KNOWN + 0.01, "chance, 1/K", va="bottom", color="#555555")
    right.set(xscale="log", xlabel="squared distance to the nearest class centre / Tr Cov_B", ylabel="confidence")
    right.set(title="Confidence falls with the distance to collapse", ylim=(0, 1.03), xlim=(1e-5, None))
    right.legend(loc="center left")
    return made


def summary(table: xarray.Dataset) -> None:
    """Print what was measured of every kind of sample, means of the seeds."""
    mean = table.mean("seed")
    rows = [[name, *(float(mean[key].sel(samples=name)) for key in SHOWN)] for name in mean.samples.values]
    titles = [*METRICS.values(), "distance", "confidence", "accuracy", "AUROC against test"]
    show(["samples, mean of seeds", *titles], rows)


def main(config: Config) -> None:
    """Train, print, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
