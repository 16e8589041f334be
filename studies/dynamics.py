"""How fast, and in which order: the slopes of NC1–NC3, which of them is last, and squared error's central path.

Above, cross-entropy is trained with three optimisers; theory's slopes are what `ufm.theory.factor` makes of the rates
of `ufm.predict`.

In the middle, squared error without decay, with its classifier at the least-squares optimum at all times, and features
that flow down the gradient with their covariance within classes held at I (Han, Papyan & Donoho 2022). With singular
values ω_j of the centred means, least squares give ½Σ 1/(K + ω_j²). The gradient by a sample's distance to its mean is
AᵀA times that distance, over N: what a symmetric matrix makes of the distances is normal to the features of that
covariance, so that means move alone,

    n dω/dt = ω/(K + ω²)²,    K² log ω + Kω² + ω⁴/4 = t/n + const,

and ω ~ (4t/n)^{1/4} from wherever it starts: the means become a simplex, but NC1 = Σ 1/ω_j² only falls like 1/√t.

Below, which measure of collapse is last: which falls at the least rate, and so is the last to pass any threshold that
is small enough. NC1 and the ratio of traces count as they are, squares of deviations. NC1 is not among the last: in the
means' span it falls at 2λ_H(1 + θ), and λ_H(1 + θ) is an entry on the diagonal of [[λ_H(1 + θ), c(θ − 1)],
[c(θ − 1), λ_A(1 + θ)]], whose least eigenvalue, no larger, the rates of NC2 and NC3 don't exceed from K = 4 on. Where
d > K − 1 there are dimensions beyond that span, of which NC1 sees but products of deviations: there the variability
within classes, of which the ratio of traces tells, falls at 2λ_H. Without a bias rates over λ_H are functions of
Kκ = K√(n λ_A λ_H) and λ_H/λ_A alone, so that a diagram over these two is that of every n.
"""

import dataclasses
import itertools
import pathlib
import sys
from typing import Any

import numpy as np
import optax
import scipy.integrate
import scipy.optimize
import tyro
import xarray
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import ufm
from ufm import plot, theory
from ufm.console import show

METRICS = ("nc1", "nc2", "nc3")
POWERS = {"nc1": 2.0, "trace_ratio": 2.0, "nc2": 1.0, "nc3": 1.0}
TERMINAL = {1.0: (1e-12, 1e-6), 2.0: (1e-24, 1e-12)}  # where a power of deviations is above rounding, and small
PHASES = ("NC1", "Tr Σ_W / Tr Σ_B, beyond the means' span", "NC2", "NC3", "NC2 and NC3 alike")  # POWERS, and a tie
UNKNOWN = -1
SHADES = tuple(plot.COLOURS[i] for i in (3, 2, 4, 1, 0))
SLOPES = tuple(f"slope of log {metric} per step" for metric in METRICS)  # as claims are called
SHARE = 0.2  # of the inverse of the largest eigenvalue at the minimum, as a learning rate
ALIKE = 0.1  # relative difference of measured slopes that are taken for one


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    num_classes: int = 4
    """K, number of classes."""
    dim: int = 8
    """d, dimension of the features, more than K − 1."""
    per_class: int = 10
    """Samples of each class."""
    lambda_A: float = 2e-2
    """Weight decay of the classifier."""
    lambda_H: float = 5e-3
    """Weight decay of the features."""
    rate: float = 4.0
    """Learning rate."""
    heavy_ball: float = 0.4
    """Momentum of the heavy ball."""
    nesterov: float = 0.6
    """Nesterov's momentum."""
    steps: int = 2400
    """Optimiser steps."""
    grid: int = 41
    """Points of each axis of the diagram, log-spaced."""
    trained: int = 4
    """How many of each axis are trained."""
    trained_steps: int = 30_000
    """Optimiser steps of each of these."""
    seed: int = 0
    """Of the initial parameters."""
    decades: float = 8.0
    """Of time along the central path."""
    output: pathlib.Path = pathlib.Path("figures/dynamics.png")
    """Figure to write; the data goes beside it as .npz."""


def data(config: Config) -> xarray.Dataset:
    """Slopes, diagram and central path."""
    return xarray.merge([slopes(config), diagram(config), central_path(config)])


def descents(config: Config) -> dict[str, dict[str, Any]]:
    """The three optimisers by name, as options of optax's and of theory's."""
    return {
        "gradient descent": {"momentum": 0.0, "nesterov": False},
        "heavy ball": {"momentum": config.heavy_ball, "nesterov": False},
        "Nesterov": {"momentum": config.nesterov, "nesterov": True},
    }


def slopes(config: Config) -> xarray.Dataset:
    """NC1–NC3 with every optimiser, and what a step multiplies them by in theory."""
    decays: dict[str, Any] = {"lambda_A": config.lambda_A, "lambda_H": config.lambda_H}
    problem = ufm.Problem(config.num_classes, config.dim, per_class=config.per_class, **decays)
    rates, looks = ufm.predict(problem).rates, range(0, config.steps + 1, max(1, config.steps // 600))
    courses, factors, claims = [], [], []
    for name, options in descents(config).items():
        print(f"training: {name}", file=sys.stderr)
        optimizer = optax.sgd(config.rate, **options)
        run = ufm.train(problem, optimizer, steps=config.steps, seed=config.seed, snapshots=looks, precision="float64")
        courses.append([getattr(run.history, metric) for metric in METRICS])
        factors.append([theory.factor(rates[m], config.rate, **options, power=POWERS[m]) for m in METRICS])
        claims += [claim for claim in ufm.verify(run).claims if claim.quantity in SLOPES]
    verdicts = [claim.verdict for claim in claims]
    return xarray.Dataset(
        {
            "course": (("optimizer", "metric", "snapshot"), courses),
            "factor": (("optimizer", "metric"), factors),
            "claims": len(claims),
            "claims_held": verdicts.count(ufm.Verdict.HOLDS),
            "claims_failed": verdicts.count(ufm.Verdict.FAILS),
        },
        coords={"optimizer": list(descents(config)), "metric": list(METRICS), "step": ("snapshot", list(looks))},
    )


def terminal(values: np.ndarray, power: float) -> slice:
    """Where a power of deviations is small for good, and not yet rounding."""
    least, most = TERMINAL[power]
    first = int(np.max(np.flatnonzero(~(values <= most)), initial=-1)) + 1
    small = np.flatnonzero(values[first:] < least)
    return slice(first, first + int(small[0]) if small.size else len(values))


def slope(steps: np.ndarray, values: np.ndarray, power: float) -> float:
    """Of the logarithm a step, by least squares in the later half of the terminal phase; NaN where it is too short."""
    phase = terminal(values, power)
    half = slice((phase.start + phase.stop) // 2, phase.stop)
    if half.stop - half.start < 4:
        return float("nan")
    return float(np.polyfit(steps[half], np.log(values[half]), 1)[0])


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """Of the three diagrams: whether means leave dimensions free, and whether there is a bias."""
    tight, wide = config.num_classes - 1, config.dim
    return {
        "d = K − 1, no bias": {"dim": tight, "bias": False},
        "d > K − 1, no bias": {"dim": wide, "bias": False},
        f"d > K − 1, a free bias, n = {config.per_class}": {"dim": wide, "bias": True},
    }


def problem_at(config: Config, setting: str, price: float, ratio: float) -> ufm.Problem:
    """At Kκ and λ_H/λ_A."""
    c = price / (config.num_classes * np.sqrt(config.per_class))
    decays = {"lambda_A": float(c / np.sqrt(ratio)), "lambda_H": float(c * np.sqrt(ratio))}
    return ufm.Problem(config.num_classes, per_class=config.per_class, **decays, **settings(config)[setting])


def last(log_rates: np.ndarray, tolerance: float) -> np.ndarray:
    """Which of `PHASES`, by logarithms of rates (..., 4): the least, or NC2 and NC3 where theirs are as good as one.

    UNKNOWN where a rate is.
    """
    slowest = np.argmin(log_rates, axis=-1)
    together = np.abs(log_rates[..., 2] - log_rates[..., 3]) <= tolerance
    return np.where(np.isnan(log_rates).any(axis=-1), UNKNOWN, np.where((slowest >= 2) & together, 4, slowest))


def diagram(config: Config) -> xarray.Dataset:
    """Rates in theory over Kκ and λ_H/λ_A."""
    prices, ratios, names = np.geomspace(1e-3, 0.9, config.grid), np.geomspace(1e-2, 1e2, config.grid), settings(config)
    known = [[[ufm.predict(problem_at(config, name, x, y)).rates for x in prices] for y in ratios] for name in names]
    found = [[[[rates[m] for m in POWERS] for rates in row] for row in each] for each in known]
    return xarray.Dataset(
        {"log_rate": (("setting", "ratio", "price", "measure"), np.log(found))},
        coords={"setting": list(names), "price": prices, "ratio": ratios, "measure": list(POWERS)},
    ).merge(trained(config))


def trained(config: Config) -> xarray.Dataset:
    """Slopes a step of gradient descent, measured and in theory, with a learning rate far from where it diverges."""
    prices, ratios = np.geomspace(1e-2, 0.75, config.trained), np.geomspace(3e-2, 3e1, config.trained)
    found, expected = [], []
    for name in settings(config):
        print(f"training: {name}", file=sys.stderr)
        points = [(problem_at(config, name, x, y)) for x in prices for y in ratios]
        told = [ufm.predict(point) for point in points]
        steps = [SHARE / float(each.spectrum.values[-1]) for each in told]  # pyright: ignore[reportOptionalMemberAccess]
        over = [(float(p.lambda_A), float(p.lambda_H), step) for p, step in zip(points, steps, strict=True)]
        how = ufm.Training(optax.sgd, {}, steps=config.trained_steps, snapshots=1000, precision="float64")
        runs = ufm.sweep(points[0], {("lambda_A", "lambda_H", "learning_rate"): over}, run=how)
        for i, (each, step) in enumerate(zip(told, steps, strict=True)):
            at = runs.isel({runs.nc1.dims[0]: i})
            found.append([slope(runs.step.values, at[m].values, power) for m, power in POWERS.items()])
            expected.append([np.log(theory.factor(each.rates[m], step, power=power)) for m, power in POWERS.items()])
    shape = (len(settings(config)), len(prices), len(ratios), len(POWERS))
    dims = ("setting", "trained_price", "trained_ratio", "measure")
    return xarray.Dataset(
        {"slope": (dims, np.reshape(found, shape)), "predicted_slope": (dims, np.reshape(expected, shape))},
        coords={"setting": list(settings(config)), "trained_price": prices, "trained_ratio": ratios},
    )


def central_path(config: Config) -> xarray.Dataset:
    """Singular values and loss along the path, of features that flow and by the formula."""
    K, n = config.num_classes, config.per_class
    times = np.concatenate([[0.0], np.geomspace(1.0, 10**config.decades, 60)])
    H = whitened(np.random.default_rng(config.seed).normal(size=(K * n, config.dim)), K, means=0.2)
    flow = scipy.integrate.solve_ivp(
        lambda _, h: projected(h.reshape(H.shape), K).ravel(),
        (0.0, times[-1]),
        H.ravel(),
        "DOP853",
        times,
        rtol=1e-12,
        atol=1e-12,
    )
    features = flow.y.T.reshape(-1, *H.shape)
    omega = np.array([singular_values(each, K) for each in features])
    return xarray.Dataset(
        {
            "omega": (("time", "value"), omega),
            "predicted_omega": (("time", "value"), [[along(t, start, K, n) for start in omega[0]] for t in times]),
            "path_classes": K,
            "path_samples": n,
            "path_loss": ("time", [least_squares(each, K)[1] for each in features]),
        },
        coords={"time": times},
    )


def of_classes(H: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, d) class means and (N, d) samples about them."""
    means = H.reshape(K, -1, H.shape[1]).mean(axis=1)
    return means, H - np.repeat(means, len(H) // K, axis=0)


def whitened(H: np.ndarray, K: int, means: float = 1.0) -> np.ndarray:
    """Features with a covariance of I within classes, and so much of their means."""
    at, within = of_classes(H, K)
    left, _, right = np.linalg.svd(within, full_matrices=False)
    return means * np.repeat(at, len(H) // K, axis=0) + np.sqrt(len(H)) * left @ right


def least_squares(H: np.ndarray, K: int) -> tuple[np.ndarray, float]:
    """Classifier and bias, (d + 1, K), and the loss ½‖Z_i − e_y‖², a mean over samples."""
    inputs, wanted = np.column_stack([H, np.ones(len(H))]), np.repeat(np.eye(K), len(H) // K, axis=0)
    weights = np.linalg.lstsq(inputs, wanted)[0]
    return weights, 0.5 * float(np.sum((inputs @ weights - wanted) ** 2)) / len(H)


def projected(H: np.ndarray, K: int) -> np.ndarray:
    """Down the loss's gradient by H, less what would change the covariance within classes.

    A covariance that is I but for rounding is made I first: without that its error grows exponentially.
    """
    H = whitened(H, K)
    weights, _ = least_squares(H, K)
    wanted = np.repeat(np.eye(K), len(H) // K, axis=0)
    down = -(H @ weights[:-1] + weights[-1] - wanted) @ weights[:-1].T / len(H)
    _, within = of_classes(H, K)
    change = within.T @ down / len(H)
    return down - within @ (change + change.T) / 2


def singular_values(H: np.ndarray, K: int) -> np.ndarray:
    """(K−1,) of the centred class means."""
    means, _ = of_classes(H, K)
    return np.linalg.svd(means - means.mean(axis=0), compute_uv=False)[: K - 1]


def along(time: float, start: float, K: int, n: int) -> float:
    """ω at a time, from where it started: it grows, and ω⁴ by at most 4t/n."""

    def passed(omega: float) -> float:
        return K**2 * np.log(omega / start) + K * (omega**2 - start**2) + (omega**4 - start**4) / 4 - time / n

    most = (start**4 + 4 * time / n) ** 0.25 * (1 + 1e-12)
    return float(scipy.optimize.root_scalar(passed, bracket=(start, most), xtol=1e-14 * most, rtol=1e-14).root)


def draw(table: xarray.Dataset) -> plot.Figure:
    """Slopes above, the central path in the middle, what is last below."""
    made, axes = plot.figure(3, 3, width=14.0, height=12.0)
    for axis, metric in zip(axes[0], table.metric.values, strict=True):
        draw_slopes(axis, table.sel(metric=metric), str(metric))
    for axis, setting in zip(axes[2], table.setting.values, strict=True):
        draw_diagram(axis, table.sel(setting=setting), str(setting))
    draw_key(made, table)
    draw_path(axes[1], table)
    return made


def draw_slopes(axis, at: xarray.Dataset, metric: str) -> None:
    """A metric with every optimiser, and theory's slope through where rounding begins."""
    steps, (least, most) = at.step.values, TERMINAL[POWERS[metric]]
    for colour, name in zip(plot.COLOURS, at.optimizer.values, strict=False):
        values, factor = at.course.sel(optimizer=name).values, float(at.factor.sel(optimizer=name))
        axis.plot(steps, np.where(values > 0, values, np.nan), color=colour, lw=2.2, alpha=0.7, label=name)
        end = terminal(values, POWERS[metric]).stop - 1
        line = values[end] * factor ** (steps - steps[end])
        shown = (line <= 1e3 * most) & (line >= least)
        axis.plot(steps[shown], line[shown], "k--", lw=1.1)
    axis.plot([], [], "k--", lw=1.1, label="theory: the slowest mode's slope")
    rounded = np.flatnonzero((at.course >= least).any("optimizer"))[-1]
    axis.set(yscale="log", xlabel="step", title=plot.LABELS[metric], ylim=(least, None), xlim=(0, steps[rounded]))
    axis.legend(loc="upper right", frameon=False)


def draw_diagram(axis, at: xarray.Dataset, setting: str) -> None:
    """Which measure is last: regions by theory, marks by training."""
    fine = {name: np.geomspace(at[name][0], at[name][-1], 241)[1:-1] for name in ("price", "ratio")}
    regions = last(at.log_rate.interp(fine).transpose("ratio", "price", "measure").values, 1e-2)
    look: dict[str, Any] = {"cmap": ListedColormap(SHADES), "vmin": -0.5, "vmax": len(SHADES) - 0.5}
    axis.pcolormesh(fine["price"], fine["ratio"], regions, alpha=0.3, rasterized=True, **look)
    for index in np.unique(regions)[1:]:
        axis.contour(fine["price"], fine["ratio"], regions >= index, [0.5], colors="k", linestyles="--", linewidths=1.0)
    seen, known = (last(np.log(-at[name].values), ALIKE) for name in ("slope", "predicted_slope"))
    for (i, x), (j, y) in itertools.product(enumerate(at.trained_price.values), enumerate(at.trained_ratio.values)):
        if seen[i, j] != UNKNOWN:
            axis.plot(x, y, "o" if seen[i, j] == known[i, j] else "X", color=SHADES[seen[i, j]], mec="black", ms=8)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="$Kκ = K\\sqrt{n\\,λ_A λ_H}$",
        ylabel="$λ_H / λ_A$",
        title=f"What is last: {setting}",
    )
    axis.grid(False)


def draw_key(made: plot.Figure, table: xarray.Dataset) -> None:
    """What colours and marks of the diagrams say."""
    found = np.unique(last(table.log_rate.values, 1e-6))
    patches = [Patch(color=SHADES[index], alpha=0.3, label=f"theory: {PHASES[index]}") for index in found]
    dots = [Line2D([], [], ls="", marker=mark, color="white", mec="black", ms=8) for mark in ("o", "X")]
    labels = [*(patch.get_label() for patch in patches), "trained: as in theory", "trained: another"]
    made.legend([*patches, *dots], labels, loc="outside lower center", ncols=5, frameon=False)


def draw_path(axes, table: xarray.Dataset) -> None:
    """Singular values, their ratio and NC1, and how far the integration is from the formula."""
    values, shape, errors = axes
    later = table.isel(time=slice(1, None))
    t, omega, known = later.time.values, later.omega.values, later.predicted_omega.values
    n = float(table.path_samples)
    values.plot(t, omega, "o", color=plot.COLOURS[0], ms=4, mfc="none")
    values.plot([], [], "o", color=plot.COLOURS[0], ms=4, mfc="none", label="features that flow, integrated")
    values.plot(t, known, "k--", lw=1.1)
    values.plot([], [], "k--", lw=1.1, label="theory: $K^2\\log ω + Kω^2 + ω^4/4 = t/n$ + const")
    values.plot(t, (4 * t / n) ** 0.25, ":", color="#555555", lw=1.4, label="$(4t/n)^{1/4}$")
    values.set(
        xscale="log",
        yscale="log",
        xlabel="time t",
        ylabel="ω",
        ylim=(None, 1e3),
        title="Central path: the means' singular values",
    )
    values.legend(loc="upper left", frameon=False)
    pairs = {
        "$ω_{max}/ω_{min} - 1$": lambda x: x[:, 0] / x[:, -1] - 1,
        "NC1 = $\\sum 1/ω^2$": lambda x: (x**-2.0).sum(axis=1),
    }
    for colour, mark, (label, of) in zip(plot.COLOURS, plot.MARKS, pairs.items(), strict=False):
        shape.plot(t, of(omega), mark, color=colour, ms=4, mfc="none", label=label)
        shape.plot(t, of(known), "k--", lw=1.1)
    shape.plot([], [], "k--", lw=1.1, label="theory (Han, Papyan & Donoho 2022)")
    shape.plot(t, omega.shape[1] * (n / (4 * t)) ** 0.5, ":", color="#555555", lw=1.4, label="$(K-1)\\sqrt{n/4t}$")
    shape.set(xscale="log", yscale="log", xlabel="time t", title="To a simplex, and NC1 like $1/\\sqrt{t}$")
    shape.legend(loc="lower left", frameon=False)
    off = {"ω, relative": off_path(later), "loss": off_loss(later, int(table.path_classes))}
    for colour, mark, (label, error) in zip(plot.COLOURS, plot.MARKS, off.items(), strict=False):
        errors.plot(t, np.maximum(error, 1e-17), f"{mark}-", color=colour, ms=4, lw=0.8, label=label)
    errors.axhline(1e-6, color="black", ls=":", lw=1.0)
    errors.set(xscale="log", yscale="log", xlabel="time t", ylabel="|integrated − formula|", ylim=(1e-17, 1e-5))
    errors.set(title="Formula and integration agree")
    errors.legend(loc="center right", frameon=False)


def off_path(table: xarray.Dataset) -> np.ndarray:
    """Largest relative error of a singular value at every time."""
    return np.abs(table.omega / table.predicted_omega - 1).max("value").values


def off_loss(table: xarray.Dataset, K: int) -> np.ndarray:
    """Error of the loss at every time."""
    return np.abs(table.path_loss - 0.5 * (1 / (K + table.predicted_omega**2)).sum("value")).values


def summary(table: xarray.Dataset) -> None:
    """Print how near slopes, orders and the central path are to theory."""
    steps = table.step.values
    rows = []
    for name in table.optimizer.values:
        at = table.sel(optimizer=name)
        off = [
            slope(steps, at.course.sel(metric=m).values, POWERS[m]) / np.log(float(at.factor.sel(metric=m))) - 1
            for m in METRICS
        ]
        rows.append([str(name), *(abs(error) for error in off)])
    show(["slope, relative error", *(plot.LABELS[m].split(":")[0] for m in METRICS)], rows)
    seen, known = (last(np.log(-table[name].values), ALIKE) for name in ("slope", "predicted_slope"))
    least = np.abs(table.slope / table.predicted_slope - 1).values
    slowest = np.take_along_axis(least, np.argmax(table.predicted_slope.values, axis=-1)[..., None], axis=-1)
    rows = [
        ["claims on slopes of NC1–NC3: hold, fail", f"{int(table.claims_held)}, {int(table.claims_failed)}"],
        [
            "trained points where theory says what is last",
            f"{int(np.sum(seen == known))} of {int(np.sum(seen != UNKNOWN))}",
        ],
        ["slope of what is last there, largest relative error", float(np.nanmax(slowest))],
        ["central path: largest relative error of ω", float(off_path(table).max())],
        ["central path: largest error of the loss", float(off_loss(table, int(table.path_classes)).max())],
    ]
    show(["quantity", "measured"], rows)


def main(config: Config) -> None:
    """Train, integrate, compare, draw."""
    if config.num_classes < 3:
        raise SystemExit(f"--num-classes {config.num_classes}: two centred means have no shape; at least 3 are needed")
    if config.trained < 1:
        raise SystemExit(f"--trained {config.trained}: at least 1 of each axis is needed")
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
