"""The model predicts the network: with weight decay on features and classifier alone, it ends at the model's optimum.

A perceptron and a convolutional network are trained on handwritten digits, with true and with random labels, under
weight decay on their features and last layer as the unconstrained features model has it, and none elsewhere. The last
hidden layer is affine, so that features may point anywhere. What the model's global minimum says of the objective, of
both norms and of the Gram matrices is then met by all four, whatever the data and the labels: it depends on counts
only. Needs scikit-learn: `pip install -e '.[studies]'`.
"""

import dataclasses
import pathlib
import sys

import numpy as np
import tyro
import xarray

import networks
import ufm
from handwriting import NUM_CLASSES, split_by_class
from networks import Architecture, Decays, Look, Recipe
from ufm import plot
from ufm.console import show

PANELS = {
    "objective": "objective",
    "norm_A": "‖A‖",
    "norm_H": "‖H‖",
    "excess": "relative excess over the minimum",
    "gram_H": "distance of the means' Gram to the minimum's",
    "nc1": plot.LABELS["nc1"],
}
NORMS = ("norm_A", "norm_H")
PREDICTED = ("objective", *NORMS)
ENDS = ("excess", *NORMS, "gram_H", "gram_A", "nc1", "nc2", "nc3", "accuracy", "test_accuracy")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    per_class: int = 100
    """Training samples of each digit; the others are for testing."""
    perceptron: Architecture = Architecture(linear=True)
    """The fully connected network."""
    convolutional: Architecture = Architecture(widths=(128, 64), channels=(16, 32), linear=True)
    """The convolutional network."""
    lambda_A: float = 5e-3
    """Weight decay of the classifier, in the network and in the model."""
    lambda_H: float = 8e-6
    """Weight decay of the features, likewise."""
    epochs: int = 1000
    """Passes over the samples."""
    rate: float = 0.2
    """Learning rate at first; it follows a cosine to zero."""
    batch: int = 125
    """Samples of a batch."""
    snapshots: int = 40
    """How often the network is looked at, log-spaced."""
    seeds: int = 3
    """How many splits, random labels and starts."""
    output: pathlib.Path = pathlib.Path("figures/feature_decay.png")
    """Figure to write; the data goes beside it as .npz."""


def problem_of(config: Config, architecture: Architecture) -> ufm.Problem:
    """The model: the network's objective with free features in place of the layers below them."""
    return ufm.Problem(
        num_classes=NUM_CLASSES,
        dim=architecture.widths[-1],
        per_class=config.per_class,
        lambda_A=config.lambda_A,
        lambda_H=config.lambda_H,
    )


def data(config: Config) -> xarray.Dataset:
    """Both networks over epochs with both kinds of labels, and the model's certified minimum."""
    recipe = Recipe(config.epochs, Decays(A=config.lambda_A, H=config.lambda_H), batch=config.batch, rate=config.rate)
    cases, bests, epochs = {}, [], []
    for network, architecture in (("MLP", config.perceptron), ("CNN", config.convolutional)):
        problem = problem_of(config, architecture)
        bests.append(ufm.minimize(problem))
        for kind in ("true", "random"):
            cases[f"{network}, {kind} labels"] = seeds = []
            for seed in range(config.seeds):
                print(f"training: {network}, {kind} labels, seed {seed}", file=sys.stderr)
                digits = split_by_class((config.per_class,) * NUM_CLASSES, seed)
                if kind == "random":
                    shuffled = np.random.default_rng([seed, 1]).permutation(digits.labels)
                    digits = digits._replace(labels=shuffled)
                trained = networks.fit(digits, architecture, recipe, seed, config.snapshots)
                seeds.append([against(problem, bests[-1], seen, trained.labels) for seen in trained.looks])
                epochs = [seen.epoch for seen in trained.looks]
    axes = ("network", "seed", "epoch")
    table = xarray.Dataset(
        {
            name: (axes, [[[seen[name] for seen in run] for run in seeds] for seeds in cases.values()])
            for name in ("objective", *ENDS)
        },
        coords={"network": list(cases), "seed": range(config.seeds), "epoch": epochs},
    )
    minimum = {
        "objective": bests[0].value,
        "gap": max(best.gap for best in bests),
        "norm_A": np.linalg.norm(bests[0].A),
        "norm_H": np.sqrt(config.per_class) * np.linalg.norm(bests[0].means),
    }
    return table.assign({f"minimum/{name}": value for name, value in minimum.items()})


def against(problem: ufm.Problem, best: ufm.Optimum, seen: Look, labels: np.ndarray) -> dict[str, float]:
    """A look at a network, beside the minimum of the model."""
    order = np.argsort(labels, kind="stable")
    H, A, b = (x.astype(np.float64) for x in (seen.H[order], seen.A, seen.b))
    params = ufm.Params(H, A, b)
    objective = problem.objective(params)
    metrics = ufm.measure(H, problem.labels, A, b)
    means = H.reshape(problem.num_classes, -1, problem.dim).mean(axis=1)
    return {
        "objective": objective,
        "excess": objective / best.value - 1.0,
        "norm_A": float(np.linalg.norm(A)),
        "norm_H": float(np.linalg.norm(H)),
        "gram_H": ufm.geometry.gram_distance(means, best.means),
        "gram_A": ufm.geometry.gram_distance(A, best.A),
        **{name: getattr(metrics, name) for name in ("nc1", "nc2", "nc3", "accuracy")},
        "test_accuracy": seen.test_accuracy,
    }


def draw(table: xarray.Dataset) -> plot.Figure:
    """Objective, norms and geometry over epochs: mean of the seeds and their range; the model's minimum as a dash."""
    made, axes = plot.figure(2, 3, width=11.0, height=6.4)
    epochs = table.epoch.values
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for colour, network in zip(plot.COLOURS, table.network.values, strict=False):
            values = table[name].sel(network=network).values
            axis.plot(epochs[1:], values.mean(axis=0)[1:], color=colour, lw=1.6, label=str(network))
            axis.fill_between(epochs[1:], *(f(values, axis=0)[1:] for f in (np.min, np.max)), color=colour, alpha=0.2)
        if name in PREDICTED:
            axis.axhline(
                float(table[f"minimum/{name}"]), color="black", ls="--", lw=1.4, label="theory: minimum of the UFM"
            )
        axis.set(xscale="log", yscale="log", xlabel="epoch", title=title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    return made


def summary(table: xarray.Dataset) -> None:
    """Print where each network ends, beside the minimum of the model."""
    last = table.isel(epoch=-1)
    titles = ["excess %", "‖A‖ %", "‖H‖ %", "Gram H", "Gram A", "NC1", "NC2", "NC3", "accuracy", "test"]
    rows = []
    for network in table.network.values:
        for seed in table.seed.values:
            end = last.sel(network=network, seed=seed)
            above = [float(end.excess), *(float(end[name] / table[f"minimum/{name}"]) - 1.0 for name in NORMS)]
            cells = [*(f"{100.0 * value:.2f}" for value in above), *(f"{float(end[name]):.4f}" for name in ENDS[3:])]
            rows.append([f"{network}, seed {seed}", *cells])
    show(["end above UFM's minimum", *titles], rows)
    values = ", ".join(f"{PANELS[name]} {float(table[f'minimum/{name}']):.6f}" for name in PREDICTED)
    print(f"certified minimum of the UFM (gap {float(table['minimum/gap']):.0e}): {values}")


def main(config: Config) -> None:
    """Train, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
