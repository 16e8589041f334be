"""Without weight decay: the flow turns to the largest margin, and its classifier to a support vector machine.

No minimum is attained, since logits grow without end, but the limit of (A, H)'s direction is known: that of least
½(‖A‖² + ‖H‖²) with margins of at least 1 (Lyu & Li 2020; Ji et al. 2021), a simplex where classes are balanced. The
flow goes there slowly, as powers of log t do. At the limit the classifier is the hard-margin support vector machine on
the class means. On rings, which no line separates, kernels do separate, and their features stay spread out; those of
a small network collapse. Needs scikit-learn: `pip install -e '.[studies]'`.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tyro
import xarray
from matplotlib.colors import ListedColormap
from scipy.optimize import minimize

import networks
import ufm
from flows import flow, left_in_place, margins, means_of, simplex_margin
from handwriting import Digits
from ufm import plot
from ufm.console import show

HARD = 1e6  # price of a violated margin, above all multipliers: none is violated
KERNELS: dict[str, dict[str, Any]] = {
    "linear": {"kernel": "linear"},
    "polynomial": {"kernel": "poly", "degree": 2, "coef0": 1.0, "gamma": 1.0},
    "RBF": {"kernel": "rbf", "gamma": 1.0},
}
CLASSES = ("balanced", "imbalanced")
ROOM = {
    "d = K − 1": {"marker": "o", "ls": "", "ms": 4},
    "d > K − 1": {"marker": "s", "ls": "", "ms": 4, "mfc": "none"},
}
MEASURES = {"trace_ratio": "Tr Cov_W / Tr Cov_B", "nc1": "NC1"}
CASES = (*CLASSES, "two classes, free bias")


@dataclasses.dataclass(frozen=True)
class Config:
    """The flows, the pairs of classes, and the rings."""

    balanced: tuple[int, ...] = (5, 5, 5, 5)
    """Samples of each class."""
    imbalanced: tuple[int, ...] = (12, 6, 3, 1)
    """The same where they differ."""
    wide: int = 8
    """d where it exceeds K − 1."""
    pair: tuple[int, int] = (9, 2)
    """Samples of two classes, with a free bias."""
    decades: float = 60.0
    """Of time, from 1 on."""
    points: int = 60
    """At which the flow is looked at, evenly spaced in log log t."""
    seed: int = 0
    """Of the initial points, the rings and the network."""
    radii: tuple[float, ...] = (1.0, 2.0, 3.0)
    """Of the rings, each of which is a class."""
    noise: float = 0.15
    """Standard deviation of a sample's distance from its ring, in either direction."""
    per_ring: int = 60
    """Training samples of each; ten times as many are for testing."""
    widths: tuple[int, ...] = (64, 64, 16)
    """Of the network's hidden layers; the last is that of its features."""
    decay: float = 1e-3
    """Of all its weights; one without decay is trained beside it."""
    epochs: int = 3000
    """Steps on all samples of the rings."""
    pixels: int = 160
    """Along an edge of a drawing of regions."""
    output: pathlib.Path = pathlib.Path("figures/max_margin.png")
    """Figure to write; the data goes beside it as .npz."""

    def __post_init__(self):
        most = max(len(self.balanced), len(self.imbalanced))
        if not self.wide >= most:
            raise ValueError(f"wide = {self.wide}: at least {most}, the most classes, is needed")
        if not 1.0 < self.decades <= 300.0:
            raise ValueError(f"decades = {self.decades}: more than 1 and at most 300, which float64 holds, are needed")


def problem_of(counts: tuple[int, ...], dim: int, bias: bool = False) -> ufm.Problem:
    """Cross-entropy without decay."""
    return ufm.Problem(len(counts), dim, per_class=counts, lambda_A=0.0, lambda_H=0.0, bias=bias)


def angle(X: np.ndarray, Y: np.ndarray) -> float:
    """Between two matrices, in radians."""
    return 2.0 * float(np.arcsin(np.linalg.norm(X / np.linalg.norm(X) - Y / np.linalg.norm(Y)) / 2.0))


def turned_angle(X: np.ndarray, Y: np.ndarray) -> float:
    """Between two matrices of rows, at the best rotation of their columns."""
    U, _, Vt = np.linalg.svd(X.T @ Y)
    return angle(X @ U @ Vt, Y)


def data(config: Config) -> xarray.Dataset:
    """Flows, support vector machines on class means, and rings."""
    return xarray.merge([over_time(config), over_classifiers(config), over_rings(config)])


def over_time(config: Config) -> xarray.Dataset:
    """What flows are like, and what theory says of them, over log(1 + t)."""
    log_times = np.geomspace(1.0, config.decades * np.log(10.0), config.points)
    runs = [
        [of_flow(problem_of(counts, dim), config.seed, log_times) for dim in (len(counts) - 1, config.wide)]
        for counts in (config.balanced, config.imbalanced)
    ]
    table = {name: [[run[name] for run in row] for row in runs] for name in runs[0][0]}
    coords = {"classes": list(CLASSES), "room": list(ROOM), "log_time": log_times}
    return xarray.Dataset({name: (tuple(coords), values) for name, values in table.items()}, coords)


def of_flow(problem: ufm.Problem, seed: int, log_times: np.ndarray) -> dict[str, np.ndarray]:
    """One flow from a random start, and theory: √log t is the norm in units of the limit's, as s is about log t."""
    best, start = ufm.max_margin(problem), problem.init(seed)
    H, A = flow(problem, start, log_times)
    looks = [of_point(problem, best, *point) for point in zip(H, A, strict=True)]
    seen = {name: np.array([look[name] for look in looks]) for name in looks[0]}
    left, within = left_in_place(problem, start, A[-1])
    between = np.var(means_of(problem.class_counts, best.params.H), axis=0).sum()
    scale = best.value / (2.0 * np.expm1(log_times) * log_times)
    return seen | {
        "loss_scaled": seen["loss"] / scale,
        "simplex_loss_scaled": simplex_loss(problem, start, best.value, log_times) / scale,
        "nc1_law": (np.exp(log_times) * log_times) ** (-1.0 / problem.num_classes) / log_times,
        "predicted_angle": np.sqrt(left / (2.0 * best.value * log_times)),
        "predicted_ratio": within / (between * log_times),
    }


def of_point(problem: ufm.Problem, best: ufm.Margin, H: np.ndarray, A: np.ndarray) -> dict[str, float]:
    """How far a point is from the limit, and its metrics."""
    leads = margins(problem.labels, H, A)
    losses = np.log1p(np.exp(-leads).sum(axis=1))
    half = (np.sum(H**2) + np.sum(A**2)) / 2.0
    metrics = ufm.measure(H, problem.labels, A)
    return {
        "angle": turned_angle(np.concatenate([A, H]), np.concatenate([best.params.A, best.params.H])),
        "margin": leads.min() / half * best.value,
        "loss": losses.mean(),
        **{name: float(getattr(metrics, name)) for name in MEASURES},
        "classifier_angle": classifier_angle(means_of(problem.class_counts, H), A) if leads.min() > 0 else np.nan,
    }


def simplex_loss(problem: ufm.Problem, start: ufm.Params, value: float, log_times: np.ndarray) -> np.ndarray:
    """The loss of the flow from simplices as long as `start` is; NaN where classes are not balanced."""
    counts, K = problem.class_counts, problem.num_classes
    if np.ptp(counts) > 0:
        return np.full(len(log_times), np.nan)
    first = (np.sum(start.H**2) + np.sum(start.A**2)) / (2.0 * value)
    return np.log1p((K - 1) * np.exp(-simplex_margin(K, int(counts[0]), float(first), log_times)))


def machine(means: np.ndarray) -> np.ndarray:
    """(K, d) classifier of scikit-learn's hard-margin machine of K classes without a bias (Crammer & Singer 2001)."""
    from sklearn.svm import LinearSVC  # here, so that it is `handwriting` that says what is missing

    words: dict[str, Any] = {"multi_class": "crammer_singer", "fit_intercept": False}
    return LinearSVC(C=HARD, tol=1e-12, max_iter=100_000, **words).fit(means, np.arange(len(means))).coef_


def solved(means: np.ndarray, A: np.ndarray) -> np.ndarray:
    """The same by quadratic programming, to 1e-12 of its norm even of means that are hard to tell apart.

    Args:
        means: (K, d) class means.
        A: (K, d) classifier that separates them, to begin with.
    """
    K = len(means)
    apart = np.eye(K)[:, None, :, None] - np.eye(K)[None, :, :, None]  # (right, wrong, classifier's row, 1)
    rows = (apart * means[:, None, None, :]).reshape(K * K, -1)[~np.eye(K, dtype=bool).ravel()]
    unit = np.min(rows @ A.ravel()) / np.linalg.norm(A)  # of means, in which the norm of the machine is at most 1
    rows = rows / unit
    wide = {"type": "ineq", "fun": lambda a: rows @ a - 1.0, "jac": lambda a: rows}
    start, options = A.ravel() / np.linalg.norm(A), {"ftol": 1e-15, "maxiter": 1000}
    found = minimize(lambda a: (a @ a / 2, a), start, jac=True, method="SLSQP", constraints=wide, options=options)
    return found.x.reshape(A.shape) / unit


def classifier_angle(means: np.ndarray, A: np.ndarray) -> float:
    """Between a classifier, less its mean row, and the hard-margin machine on the class means that it separates."""
    A = A - A.mean(axis=0)
    return angle(solved(means, A), A)


def over_classifiers(config: Config) -> xarray.Dataset:
    """Entries of certified classifiers beside those of scikit-learn's machines on their class means."""
    cases = [(counts, len(counts) - 1, False) for counts in (config.balanced, config.imbalanced)]
    cases += [(config.pair, 1, True)]
    found = [beside_machine(problem_of(*case)) for case in cases]
    sizes = [len(case["ours"]) for case in found]
    return xarray.Dataset(
        {
            **{name: ("entry", np.concatenate([case[name] for case in found])) for name in ("ours", "theirs")},
            "gap": ("case", [case["gap"] for case in found]),
        },
        coords={"case": list(CASES), "of_case": ("entry", np.repeat(CASES, sizes))},
    )


def beside_machine(problem: ufm.Problem) -> dict[str, Any]:
    """Entries of A, and of b where there is one, in their own unit: the largest is 1."""
    from sklearn.svm import SVC  # here, so that it is `handwriting` that says what is missing

    best = ufm.max_margin(problem)
    means, (_, A, b, *_) = means_of(problem.class_counts, best.params.H), best.params
    if problem.bias_kind == "none":
        ours, theirs = A, machine(means)
    else:  # of two classes, whose rows are opposite
        line = SVC(kernel="linear", C=HARD, tol=1e-10).fit(means, [0, 1])
        halves = np.concatenate([line.coef_[0], line.intercept_]) / 2.0
        ours, theirs = np.column_stack([A, b - b.mean()]), np.stack([-halves, halves])
    unit = np.abs(ours).max()
    return {"ours": ours.ravel() / unit, "theirs": theirs.ravel() / unit, "gap": best.gap / best.value}


def rings(config: Config, per_ring: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples (n, 2) around the origin, and the numbers of their rings (n,)."""
    rng = np.random.default_rng([config.seed, seed])
    labels = np.repeat(np.arange(len(config.radii), dtype=np.int32), per_ring)
    lengths = np.array(config.radii)[labels] + config.noise * rng.normal(size=len(labels))
    turns = rng.uniform(0.0, 2.0 * np.pi, len(labels))
    return (lengths * np.stack([np.cos(turns), np.sin(turns)])).T.astype(np.float32), labels


def over_rings(config: Config) -> xarray.Dataset:
    """Regions of kernel machines and of networks, how many test samples are right, and variability of features."""
    from sklearn.svm import SVC  # here, so that it is `handwriting` that says what is missing

    samples = Digits(*rings(config, config.per_ring, 0), *rings(config, 10 * config.per_ring, 1))
    edge = np.linspace(-1.2, 1.2, config.pixels) * max(config.radii)
    grid = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2).astype(np.float32)
    fits = [SVC(**kernel).fit(samples.X, samples.labels) for kernel in KERNELS.values()]
    free, decayed = (trained(config, samples, decay) for decay in (0.0, config.decay))
    histories = [networks.history(network) for network in (free, decayed)]
    rules = [*(fit.predict for fit in fits), lambda X: np.argmax(networks.apply(decayed.state, X)[1], axis=1)]
    features = [*(kernel_features(kernel, samples.X) for kernel in KERNELS.values()), decayed.looks[-1].H]
    spreads = [ufm.measure(H, samples.labels) for H in features]
    shape = (len(rules), config.pixels, config.pixels)
    return xarray.Dataset(
        {
            "region": (("rule", "y", "x"), np.reshape([rule(grid) for rule in rules], shape).astype(np.int8)),
            "right": ("rule", [np.mean(rule(samples.X_test) == samples.labels_test) for rule in rules]),
            **{f"features/{name}": ("rule", [float(getattr(spread, name)) for spread in spreads]) for name in MEASURES},
            **{f"network/{name}": (("decay", "epoch"), [each[name].values for each in histories]) for name in MEASURES},
            "sample": (("ring_sample", "axis"), samples.X),
            "feature": (("ring_sample", "axis"), in_their_plane(features[-1], samples.labels)),
            "ring": ("ring_sample", samples.labels),
        },
        coords={
            "rule": [*KERNELS, "network"],
            "x": edge,
            "y": edge,
            "decay": [0.0, config.decay],
            "epoch": histories[0].step.values,
        },
    )


def trained(config: Config, samples: Digits, decay: float) -> networks.Trained:
    """The network, by gradient descent on all samples, with this decay of all weights."""
    architecture = networks.Architecture(config.widths, num_classes=len(config.radii), inputs=2)
    decays = networks.Decays(hidden=decay, A=decay, b=decay)
    recipe = networks.Recipe(config.epochs, decays, batch=len(samples.X))
    return networks.fit(samples, architecture, recipe, config.seed)


def kernel_features(kernel: dict[str, Any], X: np.ndarray) -> np.ndarray:
    """(N, N) features whose inner products are the kernel: the root of its matrix of the samples."""
    from sklearn.metrics.pairwise import pairwise_kernels  # here, so that it is `handwriting` that says what is missing

    words = {name: value for name, value in kernel.items() if name != "kernel"}
    values, vectors = np.linalg.eigh(pairwise_kernels(X.astype(np.float64), metric=kernel["kernel"], **words))
    return vectors * np.sqrt(np.maximum(values, 0.0))


def in_their_plane(H: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, 2) features on the plane that their class means are nearest to, around the mean of these."""
    means = means_of(np.bincount(labels), H)
    _, _, Vt = np.linalg.svd(means - means.mean(axis=0))
    return (H - means.mean(axis=0)) @ Vt[:2].T


def draw(table: xarray.Dataset) -> plot.Figure:
    """Flows above, classifiers and features in the middle, regions below."""
    made, (above, middle, below) = plot.figure(3, 4, width=17.0, height=12.0)
    draw_flows(above[:3], table)
    draw_variability(above[3], table.sel(classes="balanced"))
    draw_flowing_classifier(middle[0], table)
    draw_entries(middle[1], table)
    draw_collapse(middle[2], table)
    draw_features(middle[3], table)
    for axis, rule in zip(below, table.rule.values, strict=True):
        draw_regions(axis, table.sel(rule=rule))
    return made


def each_flow(table: xarray.Dataset) -> Iterator[tuple[xarray.Dataset, dict[str, Any]]]:
    """Each flow's table, and how its points look."""
    for colour, classes in zip(plot.COLOURS, CLASSES, strict=False):
        for room, look in ROOM.items():
            yield table.sel(classes=classes, room=room), {"color": colour, "label": f"{classes}, {room}", **look}


def draw_flows(axes, table: xarray.Dataset) -> None:
    """Angle, margin and loss over time."""
    angles, shares, losses = axes
    for at, style in each_flow(table):
        shares.plot(at.log_time, at.margin, **style)
        del style["label"]
        angles.plot(at.log_time, at.angle, **style)
        angles.plot(at.log_time, at.predicted_angle, "--", color=style["color"], lw=1.0)
        losses.plot(at.log_time, at.loss_scaled, **style)
    angles.plot([], [], "k--", lw=1.0, label="theory: what never moves, ∝ 1/√log t")
    angles.set(yscale="log", ylabel="angle to the largest margin", title="The direction turns to the largest margin")
    shares.axhline(1.0, color="black", ls="--", lw=1.0, label="theory: 1/value")
    shares.set(ylim=(0, 1.05), ylabel="value · least margin / ½(‖A‖² + ‖H‖²)", title="The normalised margin rises")
    losses.axhline(1.0, color="black", ls="--", lw=1.0, label="theory: value/(2 t log t)")
    simplex = table.sel(classes="balanced", room="d = K − 1")
    losses.plot(simplex.log_time, simplex.simplex_loss_scaled, "k-.", lw=1.0, label="theory: the flow of simplices")
    losses.set(ylim=(0.5, 1.7), ylabel="loss · 2 t log t / value", title="The loss falls like value/(2 t log t)")
    for axis, place in zip(axes, ("upper right", "lower right", "upper right"), strict=True):
        over_log_time(axis, table, place)


def draw_variability(axis, table: xarray.Dataset) -> None:
    """Of the balanced flows, within classes, by both measures."""
    for colour, (name, said) in zip(plot.COLOURS[2:], MEASURES.items(), strict=False):
        for room, look in ROOM.items():
            axis.plot(table.log_time, table[name].sel(room=room), color=colour, **look, label=f"{said}, {room}")
    wide, tight = (table.sel(room=room) for room in ("d > K − 1", "d = K − 1"))
    axis.plot(wide.log_time, wide.predicted_ratio, "k--", lw=1.0, label="theory: C/log t")
    late = tight.isel(log_time=slice(-len(table.log_time) // 4, None))
    axis.plot(
        late.log_time,
        late.nc1_law / late.nc1_law[-1] * late.nc1[-1],
        "k:",
        lw=1.5,
        label="theory: $(t \\log t)^{-1/K}/\\log t$",
    )
    axis.set(yscale="log", ylabel="variability within classes", title="What varies off the span of A stays")
    over_log_time(axis, table, "lower left")


def over_log_time(axis, table: xarray.Dataset, place: str) -> None:
    """Time on an axis of log log t."""
    powers = [power for power in 2 ** np.arange(10) if power * np.log(10.0) <= table.log_time[-1]]
    axis.set(xscale="log", xlabel="time t of the flow", xlim=(2.0, None))
    axis.set_xticks(np.log(10.0) * np.array(powers), [f"$10^{{{power}}}$" for power in powers])
    axis.minorticks_off()
    axis.legend(loc=place, frameon=False)


def draw_flowing_classifier(axis, table: xarray.Dataset) -> None:
    """How far flows' classifiers are from machines on their class means."""
    for at, style in each_flow(table):
        axis.plot(at.log_time, at.classifier_angle, **style)
    axis.set(yscale="log", ylabel="angle to the machine", title="A turns to the SVM on its own class means")
    over_log_time(axis, table, "lower left")


def draw_entries(axis, table: xarray.Dataset) -> None:
    """Entries of certified classifiers beside machines'."""
    for index, (case, off) in enumerate(differences(table).items()):
        ours, theirs = (table[name].values[table.of_case.values == case] for name in ("ours", "theirs"))
        style = {"color": plot.COLOURS[index], "ls": "", "mfc": "none", "label": f"{case}: within {off:.0e}"}
        axis.plot(ours, theirs, plot.MARKS[index], **style)
    axis.axline((0, 0), slope=1, color="black", ls="--", lw=1.0)
    axis.set(xlabel="certified classifier of the largest margin", ylabel="scikit-learn's SVM on its class means")
    axis.set(title="The limit is the hard-margin SVM", ylim=(-1.1, 1.5))
    axis.legend(loc="upper left", frameon=False)


def differences(table: xarray.Dataset) -> dict[str, float]:
    """The largest in an entry, in each case."""
    off = np.abs(table.ours - table.theirs).values
    return {str(case): float(off[table.of_case.values == case].max()) for case in table.case.values}


def draw_collapse(axis, table: xarray.Dataset) -> None:
    """Variability of networks' features over epochs beside the kernels'."""
    for colour, decay in zip(plot.COLOURS[3:], table.decay.values, strict=False):
        label = f"network, weight decay {decay:g}" if decay else "network, no weight decay"
        axis.plot(table.epoch, table["network/trace_ratio"].sel(decay=decay), "o-", color=colour, ms=3, label=label)
    for rule, line in zip(KERNELS, ("-", "--", "-."), strict=True):
        ratio = float(table["features/trace_ratio"].sel(rule=rule))
        axis.axhline(ratio, color="black", ls=line, lw=1.0, label=f"{rule} kernel")
    axis.set(xscale="log", yscale="log", xlabel="epoch", ylabel=MEASURES["trace_ratio"] + " of the features")
    axis.set(title="Kernels separate, networks collapse", ylim=(1e-4, None))
    axis.legend(loc="lower left", frameon=False)


def draw_features(axis, table: xarray.Dataset) -> None:
    """The network's, on the plane of their class means."""
    for ring in np.unique(table.ring):
        chosen = table.feature.values[table.ring.values == ring]
        style = {"color": plot.COLOURS[ring], "ls": "", "mfc": "none", "ms": 4, "label": f"ring {ring + 1}"}
        axis.plot(*chosen.T, plot.MARKS[ring], **style)
    axis.set(title="The network's features", xlabel="on the plane of the class means", aspect="equal")
    axis.set_adjustable("datalim")
    axis.legend(loc="best", frameon=False)


def draw_regions(axis, table: xarray.Dataset) -> None:
    """Which class a rule gives each place, and the training samples."""
    many = len(np.unique(table.ring))
    style = {"cmap": ListedColormap(plot.COLOURS[:many]), "vmin": 0, "vmax": many - 1, "alpha": 0.3}
    axis.pcolormesh(table.x, table.y, table.region, **style, rasterized=True)
    for ring in range(many):
        axis.plot(*table.sample.values[table.ring.values == ring].T, ".", color=plot.COLOURS[ring], ms=4)
    said = f"{table.rule.item()}" + (" SVM" if table.rule.item() in KERNELS else "")
    axis.set(title=f"{said}: {100 * float(table.right):.1f} % right", aspect="equal", xticks=[], yticks=[])


def summary(table: xarray.Dataset) -> None:
    """Print where flows are at the end, how near the machines are, and what the rings gave."""
    rows = []
    for at, style in each_flow(table.isel(log_time=-1)):
        numbers = at.angle, at.predicted_angle, at.margin, at.loss_scaled, at.nc1, at.trace_ratio, at.classifier_angle
        rows.append([style["label"], *map(float, numbers)])
    titles = ["angle", "theory's", "margin", "loss", "NC1", "trace ratio", "angle to the SVM"]
    show(["flow at the end", *titles], rows, caption="margin · value, and loss · 2 t log t / value, tend to 1")
    gaps = zip(differences(table).items(), table.gap.values.tolist(), strict=True)
    titles = ["classifier of the largest margin", "relative gap", "largest difference to the SVM"]
    show(titles, [[case, gap, off] for (case, off), gap in gaps])
    names = "right", *(f"features/{name}" for name in MEASURES)
    rows = [[str(rule), *(float(table[name].sel(rule=rule)) for name in names)] for rule in table.rule.values]
    show(["rings", "right", *MEASURES.values()], rows)


def main(config: Config) -> None:
    """Follow, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
