"""What is done about rare classes: remedies in the loss, in networks on a long tail of digits and in the model.

The classes of handwritten digits get counts that fall exponentially, and a perceptron is trained on them to the end,
under weight decay on its affine features and its classifier as the unconstrained features model has it. Beside plain
cross-entropy it has class weights 1/n, additive logit adjustment (Menon et al. 2021), temperatures of logits (CDT, Ye
et al. 2020) or of labels (LDT), both at once (VS, Kini et al. 2021), margins of labels (LDAM, Cao et al. 2019), or a
classifier that is fixed to a simplex (Yang et al. 2022). The model's certified minimum of the same counts, decays and
loss says where the features and the classifier of each end; of test samples it says nothing. Needs scikit-learn:
`pip install -e '.[studies]'`.
"""

import dataclasses
import itertools
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np
import tyro
import xarray

import networks
import ufm
from handwriting import NUM_CLASSES, Digits, split_by_class
from networks import Architecture, Cost, Decays, Recipe, Trained
from ufm import plot
from ufm.console import show

RARE = np.arange(NUM_CLASSES) >= NUM_CLASSES // 2  # classes are in the order of their counts
PANELS = {
    "cosine": "mean cosine of rare classes' rows of A",
    "nc2": plot.LABELS["nc2"],
    "ratio_A": "norms of rows of A, rare over frequent",
    "ratio_H": "norms of class means, rare over frequent",
    "rare": "test accuracy, rare classes",
    "frequent": "test accuracy, frequent classes",
}
GEOMETRY = ("cosine", "nc2", "ratio_A", "ratio_H")
ENDS = (*GEOMETRY, "excess", "nc1", "rare", "frequent", "balanced")
FIXED = "fixed ETF"


@dataclasses.dataclass(frozen=True)
class Config:
    """The long tail, the remedies, and how networks are trained."""

    largest: int = 140
    """Training samples of the most frequent digit; each digit has at least 174 in all, and what is left over tests."""
    ratio: float = 100.0
    """How many times as many these are as those of the rarest, before both are rounded."""
    network: Architecture = Architecture(widths=(128, 32), linear=True)
    """The perceptron; its features may point anywhere."""
    lambda_A: float = 0.05
    """Weight decay of the classifier, in the network and in the model; where it is fixed it has none."""
    lambda_H: float = 2e-4
    """Weight decay of the features, likewise."""
    tau: float = 1.0
    """τ of logit adjustment."""
    gamma: float = 0.2
    """γ of the temperatures."""
    margin: float = 0.5
    """Largest margin of LDAM."""
    epochs: int = 4000
    """Steps on all samples at once."""
    rate: float = 0.1
    """Learning rate at first; it follows a cosine to zero."""
    seeds: int = 3
    """How many splits, orders of the digits from frequent to rare, and starts."""
    output: pathlib.Path = pathlib.Path("figures/long_tail.png")
    """Figure to write; the data goes beside it as .npz."""


class Remedy(NamedTuple):
    """A loss, weights of classes or none, and whether the classifier is fixed to a simplex."""

    loss: Any = ufm.CrossEntropy()
    weights: np.ndarray | None = None
    fixed: bool = False


def counts_of(config: Config) -> np.ndarray:
    """(K,) training samples, exponential from the most frequent class on, and one at least."""
    shares = config.ratio ** (-np.arange(NUM_CLASSES) / (NUM_CLASSES - 1))
    return np.maximum(np.round(config.largest * shares), 1).astype(int)


def remedies_of(config: Config) -> dict[str, Remedy]:
    """All of them, for the counts at hand; weights are 1 in the mean over samples."""
    n, scaling = counts_of(config), ufm.VectorScaling
    return {
        "cross-entropy": Remedy(),
        "weights 1/n": Remedy(weights=np.sum(n) / (NUM_CLASSES * n)),
        "logit adjustment": Remedy(scaling.logit_adjustment(n, tau=config.tau)),
        "CDT": Remedy(scaling.cdt(n, gamma=config.gamma)),
        "LDT": Remedy(scaling.ldt(n, gamma=config.gamma)),
        "VS": Remedy(scaling.vs(n, gamma=config.gamma, tau=config.tau)),
        "LDAM": Remedy(scaling.ldam(n, margin=config.margin)),
        FIXED: Remedy(fixed=True),
    }


def problem_of(config: Config, remedy: Remedy, radius: float) -> ufm.Problem:
    """The model: the network's objective with free features in place of the layers below them."""
    K, d = NUM_CLASSES, config.network.widths[-1]
    classifier: dict[str, Any] = {"lambda_A": config.lambda_A}
    if remedy.fixed:
        classifier = {"lambda_A": 0.0, "classifier": ufm.Fixed.etf(K, d, radius=radius), "bias": False}
    return ufm.Problem(
        num_classes=K,
        dim=d,
        per_class=counts_of(config).tolist(),
        class_weights=remedy.weights,
        loss=remedy.loss,
        lambda_H=config.lambda_H,
        **classifier,
    )


def data(config: Config) -> xarray.Dataset:
    """The end of every network, and the model's certified minimum for every remedy.

    Rows of the fixed classifier have the root mean square norm of those that plain cross-entropy's minimum has.
    """
    remedies = remedies_of(config)
    plain = ufm.minimize(problem_of(config, remedies["cross-entropy"], 1.0))
    radius = float(np.linalg.norm(plain.A) / np.sqrt(NUM_CLASSES))
    bests, runs = [], []
    for name, remedy in remedies.items():
        bests.append(best := ufm.minimize(problem_of(config, remedy, radius)))
        runs.append([trained(config, name, remedy, best, seed) for seed in range(config.seeds)])
    axes = ("remedy", "seed")
    table = {name: (axes, [[run[name] for run in seeds] for seeds in runs]) for name in ENDS}
    predicted = [geometry(best.means, best.A, best.metrics) for best in bests]
    table |= {f"predicted/{name}": ("remedy", [each[name] for each in predicted]) for name in GEOMETRY}
    table |= {
        "value": ("remedy", [best.value for best in bests]),
        "gap": ("remedy", [best.gap for best in bests]),
        "counts": ("class", counts_of(config)),
    }
    return xarray.Dataset(table, coords={"remedy": list(remedies), "seed": range(config.seeds)})


def trained(config: Config, name: str, remedy: Remedy, best: ufm.Optimum, seed: int) -> dict[str, float]:
    """The end of one network."""
    print(f"training: {name}, seed {seed}", file=sys.stderr)
    digits, decays = long_tail(counts_of(config), seed), Decays(A=config.lambda_A, H=config.lambda_H)
    recipe = Recipe(config.epochs, decays, batch=len(digits.labels), rate=config.rate)
    fixed = best.params.A if remedy.fixed else None
    return measured(networks.fit(digits, config.network, recipe, seed, 2, fixed, cost_of(remedy)), digits, best)


def cost_of(remedy: Remedy) -> Cost:
    """What the network pays: all losses with offsets and factors of one shape, so that one program serves all."""
    K = NUM_CLASSES
    scaled = remedy.loss if isinstance(remedy.loss, ufm.VectorScaling) else ufm.VectorScaling()
    offsets, factors = (np.broadcast_to(np.asarray(part), (K, K)) for part in (scaled.additive, scaled.multiplicative))
    weights = np.ones(K) if remedy.weights is None else remedy.weights
    return Cost(ufm.VectorScaling(offsets, factors), weights.astype(np.float32))


def long_tail(counts: np.ndarray, seed: int) -> Digits:
    """So many samples of digits in a random order, renamed by it, sorted; as many of each as there are to test on."""
    order = np.random.default_rng([seed, 3]).permutation(NUM_CLASSES)
    place = np.argsort(order)
    X, labels, X_test, labels_test = split_by_class(counts[place].tolist(), seed)
    labels, labels_test = (place[each].astype(np.int32) for each in (labels, labels_test))
    least = np.bincount(labels_test).min()
    rows = np.argsort(labels, kind="stable")
    tests = np.concatenate([np.flatnonzero(labels_test == k)[:least] for k in range(NUM_CLASSES)])
    return Digits(X[rows], labels[rows], X_test[tests], labels_test[tests])


def measured(run: Trained, digits: Digits, best: ufm.Optimum) -> dict[str, float]:
    """Geometry of the training features, how far above the model's minimum they are, and accuracy on test samples."""
    last = networks.features(run)
    metrics = ufm.measure(**last)
    H, A, b = (last[name].astype(np.float64) for name in ("H", "A", "b"))
    means = np.stack([H[digits.labels == k].mean(axis=0) for k in range(NUM_CLASSES)])
    right = np.argmax(networks.apply(run.state, digits.X_test)[1], axis=1) == digits.labels_test
    by_class = np.asarray([right[digits.labels_test == k].mean() for k in range(NUM_CLASSES)])
    return geometry(means, A, metrics) | {
        "excess": float(best.problem.objective(ufm.Params(H, A, b))) / best.value - 1.0,
        "nc1": metrics.nc1,
        "rare": by_class[RARE].mean(),
        "frequent": by_class[~RARE].mean(),
        "balanced": by_class.mean(),
    }


def geometry(means: np.ndarray, A: np.ndarray, metrics: ufm.Metrics) -> dict[str, float]:
    """Cosines, NC2 and norms, of class means and classifier (K, d)."""
    return {"cosine": mean_cosine(A), "nc2": float(metrics.nc2), "ratio_A": ratio(A), "ratio_H": ratio(means)}


def mean_cosine(A: np.ndarray) -> float:
    """Between rows of the rare classes: −1/(K−1) on a simplex, 1 where they have merged."""
    units = A[RARE] / np.linalg.norm(A[RARE], axis=1, keepdims=True)
    return float(np.mean([a @ b for a, b in itertools.combinations(units, 2)]))


def ratio(rows: np.ndarray) -> float:
    """Mean norm of the rare classes' rows over that of the frequent ones'."""
    norms = np.linalg.norm(rows, axis=1)
    return float(norms[RARE].mean() / norms[~RARE].mean())


def draw(table: xarray.Dataset) -> plot.Figure:
    """Each remedy's networks, every seed a point, over the model's dash."""
    made, axes = plot.figure(2, 3, width=12.0, height=7.2)
    names = [str(name) for name in table.remedy.values]
    places = np.arange(len(names))
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for seed in table.seed.values:
            label = "network, one seed each" if seed == 0 else None
            axis.plot(places, table[name].sel(seed=seed), "o", ms=6, alpha=0.7, color=plot.COLOURS[0], label=label)
        if name in GEOMETRY:
            style = {"color": "black", "ls": "--", "lw": 1.8, "label": "theory: minimum of the UFM"}
            axis.hlines(table[f"predicted/{name}"], places - 0.4, places + 0.4, **style)
        axis.set(title=title, xticks=places)
        axis.set_xticklabels(names, rotation=40, ha="right")
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].axhline(-1 / (NUM_CLASSES - 1), color="#555555", ls=":", lw=1.4, label="−1/(K−1), of a simplex")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return made


def summary(table: xarray.Dataset) -> None:
    """Print the counts, and for every remedy the mean of the seeds beside what the model predicts."""
    n, mean = table.counts.values, table.mean("seed")
    print(f"training samples {', '.join(map(str, n))}: a ratio of {n[0] / n[-1]:.0f} to 1; {int(n.sum())} in all")
    rows = []
    for name in table.remedy.values:
        at = mean.sel(remedy=name)
        pairs = [f"{float(at[part]):.3f} ({float(at[f'predicted/{part}']):.3f})" for part in GEOMETRY]
        accuracies = [f"{float(at[part]):.3f}" for part in ("rare", "frequent", "balanced")]
        rows.append([str(name), *pairs, f"{100 * float(at.excess):.1f}", f"{float(at.nc1):.1e}", *accuracies])
    titles = ["rare cosine", "NC2", "‖a‖ ratio", "‖h‖ ratio", "excess %", "NC1", "rare", "frequent", "all"]
    caption = f"the model's in brackets; its largest relative gap {float((table.gap / table['value']).max()):.0e}"
    show(["remedy", *titles], rows, caption=caption)


def main(config: Config) -> None:
    """Train, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
