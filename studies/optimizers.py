"""Which optimisers get where: steps to collapse, distance to the certified minimum, and what AdamW minimises instead.

Decay in the problem is minimised by every optimiser whose steps end. Decay in the optimiser, decoupled from the
gradient, poses another problem. A fixed point of AdamW has λx = −g/(|g| + ε) in every entry, with g the gradient of the
risk: it is a critical point of

    risk + (ε/λ) Σ_i β(λ x_i),    β(u) = −log(1 − |u|) − |u|,

a barrier around the box |x_i| ≤ 1/λ. As ε → 0 what is minimised is the risk in the box (Xie & Li 2024), whatever its
gradient's size; where ε is large beside the gradient β(u) ≈ u²/2, an ordinary decay of ελ.

In that box, balanced cross-entropy over an even number of classes has a minimum that is known. By Jensen's inequality
the risk is at least log(1 + (K−1) exp(−m)), m the mean of all margins, from which biases cancel; and with |h| ≤ R and
|a| ≤ R in every entry, m ≤ R Σ_k ‖a_k − ā‖₁/(K−1) ≤ d R² K/(K−1), since Σ_k |a_k − ā| is convex in the K entries of a
coordinate, hence largest at their corners, where half of them are R and half −R. Equality needs equal margins: a
simplex of signs, which four classes have wherever d is a multiple of 3 (a Hadamard matrix without its first column).
"""

import dataclasses
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import optax
import scipy.optimize
import tyro
import xarray

import ufm
from ufm import plot
from ufm.console import show

COLLAPSED = 1e-6  # of NC1
ROUNDING = float(np.finfo(float).eps)
BETA = 0.99  # of AdamW's second moments where its fixed points are sought, which the default forgets slowly


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and how."""

    num_classes: int = 4
    """K, number of classes; even."""
    dim: int = 12
    """d, dimension of the features."""
    per_class: int = 25
    """Samples of each class."""
    lambda_A: float = 5e-3
    """Weight decay of the classifier, and AdamW's where it is given that of the problem."""
    lambda_H: float = 2e-4
    """Weight decay of the features."""
    steps: int = 4000
    """Optimiser steps, at most, to collapse."""
    rates: int = 10
    """How many learning rates, log-spaced from 1e-3 to 30."""
    snapshots: int = 250
    """How often the metrics are recorded, log-spaced."""
    box: float = 2.0
    """AdamW's decay λ where ε is swept over, so that the box is |x| ≤ 1/λ."""
    boxes: int = 6
    """How many λ, log-spaced from two thirds of that to three times it, where ε is too small to matter."""
    epsilons: int = 10
    """How many ε, log-spaced from 1e-10 to 0.01."""
    fixed_steps: int = 40_000
    """Optimiser steps to AdamW's fixed points."""
    seeds: int = 4
    """Initial parameters of each."""
    output: pathlib.Path = pathlib.Path("figures/optimizers.png")
    """Figure to write; the data goes beside it as .npz."""

    def __post_init__(self):
        if self.num_classes % 2:
            raise ValueError(f"num_classes = {self.num_classes}: an even number of classes is needed")


def to_zero(learning_rate: float, *, steps: int) -> optax.GradientTransformation:
    """Orthogonalised steps that shorten to nothing along a cosine."""
    return optax.contrib.muon(optax.cosine_decay_schedule(learning_rate, steps))


def optimizers(config: Config) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Those that have a learning rate: by name what makes them and its options."""
    return {
        "gradient descent": (optax.sgd, {}),
        "heavy ball": (optax.sgd, {"momentum": 0.9}),
        "Adam": (optax.adam, {}),
        "AdamW": (optax.adamw, {"weight_decay": config.lambda_A}),
        "Muon": (optax.contrib.muon, {}),
        "Muon, cosine": (to_zero, {"steps": config.steps}),
    }


def problem_of(config: Config) -> ufm.Problem:
    """With decay in the problem."""
    decays: dict[str, Any] = {"lambda_A": config.lambda_A, "lambda_H": config.lambda_H}
    return ufm.Problem(config.num_classes, config.dim, per_class=config.per_class, **decays)


def without_decay(config: Config) -> ufm.Problem:
    """For decay in the optimiser."""
    return dataclasses.replace(problem_of(config), lambda_A=0.0, lambda_H=0.0)


def data(config: Config) -> xarray.Dataset:
    """How fast and how far optimisers get, and where AdamW ends."""
    return xarray.merge([races(config), ends_of_adamw(config)])


def races(config: Config) -> xarray.Dataset:
    """NC1 over training with every optimiser and learning rate, and the problem's objective at the end."""
    problem, rates, tables = problem_of(config), np.geomspace(1e-3, 30.0, config.rates), []
    best, names = ufm.minimize(problem), optimizers(config)
    for name, (make, options) in names.items():
        print(f"training: {name}", file=sys.stderr)
        posed = without_decay(config) if name == "AdamW" else problem
        how = ufm.Training(make, options, steps=config.steps, snapshots=config.snapshots, precision="float64")
        tables.append(ufm.sweep(posed, {"learning_rate": rates}, run=how, params=True))
    looks = range(config.steps // 8 + 1)
    lbfgs = ufm.train(problem, optax.lbfgs(), steps=looks[-1], snapshots=looks, precision="float64")
    return xarray.Dataset(
        {
            "nc1": (("optimizer", "rate", "snapshot"), [found.nc1.values for found in tables]),
            "excess": (("optimizer", "rate"), [excess(problem, found, best.value) for found in tables]),
            "lbfgs_nc1": ("lbfgs_step", lbfgs.history.nc1),
            "lbfgs_excess": lbfgs.history.loss[-1] / best.value - 1,
            "lbfgs_A": (("class", "axis"), lbfgs.params.A),
            "gap": best.gap / best.value,
        },
        coords={"optimizer": list(names), "rate": rates, "step": ("snapshot", tables[0].step.values)},
    )


def excess(problem: ufm.Problem, found: xarray.Dataset, minimum: float) -> list[float]:
    """Relative distance of the problem's objective to its minimum at what every learning rate ended at."""
    each = [found.sel(learning_rate=rate) for rate in found.learning_rate.values]
    return [problem.objective(ufm.Params(at.H.values, at.A.values, at.b.values)) / minimum - 1 for at in each]


def ends_of_adamw(config: Config) -> xarray.Dataset:
    """Where AdamW ends on the problem without decay, as ε grows and, at an ε too small to matter, as its decay does."""
    epsilons, decays = np.geomspace(1e-10, 1e-2, config.epsilons), config.box * np.geomspace(2 / 3, 3, config.boxes)
    pairs = [(eps, config.box) for eps in epsilons.tolist()] + [(1e-10, decay) for decay in decays.tolist()]
    options = {"learning_rate": 1e-2, "b2": BETA}
    how = ufm.Training(optax.adamw, options, steps=config.fixed_steps, snapshots=2, precision="float64")
    over = {("eps", "weight_decay"): pairs, "seed": range(config.seeds)}
    found = ufm.sweep(without_decay(config), over, run=how, params=True).isel(snapshot=-1)
    risk, A, H, b = (found[name].values for name in ("loss", "A", "H", "b"))  # (pairs, seeds, ...)
    off = [
        [off_fixed(config, ufm.Params(H[i, j], A[i, j], b[i, j]), *pair) for j in range(config.seeds)]
        for i, pair in enumerate(pairs)
    ]
    best = [(i, int(np.argmin(risk[i]))) for i in range(config.epsilons)]
    fine = np.geomspace(decays[0], decays[-1], 101)
    return xarray.Dataset(
        {
            "size": (("epsilon", "part", "end"), [[extremes(config.box * X[at]) for X in (A, H)] for at in best]),
            "predicted_size": (("epsilon", "part"), [simplex_of_signs(config, eps) for eps in epsilons]),
            "off": (("pair", "seed"), off),
            "risk": (("decay", "seed"), risk[config.epsilons :]),
            "least_risk": ("fine", least_risk(config, fine)),
            "box_A": (("class", "axis"), A[best[0]]),
        },
        coords={"epsilon": epsilons, "decay": decays, "fine": fine, "part": ["A", "H"], "end": ["least", "largest"]},
    )


def extremes(X: np.ndarray) -> tuple[float, float]:
    """Least and largest entry, in size."""
    return float(np.abs(X).min()), float(np.abs(X).max())


def off_fixed(config: Config, params: ufm.Params, epsilon: float, lam: float) -> float:
    """Largest |λx + g/(|g| + ε)| of the entries of A and H.

    The bias's gradient is zero at its fixed point, around which it chatters where ε is small: it is left out.
    """
    with jax.enable_x64(True):
        slope = jax.tree.map(np.asarray, jax.grad(without_decay(config).objective)(params))
    parts = zip((params.H, params.A), (slope.H, slope.A), strict=True)
    return max(float(np.abs(lam * x + g / (np.abs(g) + epsilon)).max()) for x, g in parts)


def simplex_of_signs(config: Config, epsilon: float) -> np.ndarray:
    """λa and λh of the fixed point in which all entries of A are ±a, and all of H ±h.

    With p the probability of each wrong label, the gradient of the risk is p h in an entry of A, K p a / N in one of H.
    """
    K, N = config.num_classes, config.num_classes * config.per_class

    def off(sizes: np.ndarray) -> np.ndarray:
        a, h = sizes / config.box
        p = 1 / (np.exp(a * h * config.dim * K / (K - 1)) + K - 1)
        slopes = p * np.array([h, K * a / N])
        return sizes - slopes / (slopes + epsilon)

    return scipy.optimize.root(off, np.ones(2), tol=1e-13).x


def least_risk(config: Config, lam: np.ndarray) -> np.ndarray:
    """Of the box |x| ≤ 1/λ."""
    K = config.num_classes
    return np.log1p((K - 1) * np.exp(-config.dim * K / (K - 1) / lam**2))


def collapsed_at(steps: np.ndarray, nc1: np.ndarray) -> float:
    """The first step seen at which NC1 is small enough; NaN where there is none."""
    small = np.flatnonzero(nc1 <= COLLAPSED)
    return float(steps[small[0]]) if small.size else float("nan")


def speed(at: xarray.Dataset) -> np.ndarray:
    """Steps to collapse with each learning rate of an optimiser; NaN where it is not reached, or lost in diverging."""
    steps = [collapsed_at(at.step.values, nc1) for nc1 in at.nc1.values]
    return np.where(np.isfinite(at.excess), steps, np.nan)


def draw(table: xarray.Dataset) -> plot.Figure:
    """Speed and distance of optimisers above; what AdamW minimises below."""
    made, ((courses, speeds, ends), (risks, sizes, entries)) = plot.figure(2, 3, width=14.0, height=8.0)
    for colour, mark, name in zip(plot.COLOURS, plot.MARKS, table.optimizer.values, strict=False):
        draw_optimizer(courses, speeds, ends, table.sel(optimizer=name), {"color": colour, "label": name}, mark)
    draw_lbfgs(courses, speeds, ends, table)
    line = table.excess.sel(optimizer="Muon").isel(rate=2) * (table.rate / table.rate[2]) ** 2
    (dashes,) = ends.plot(table.rate, line, "k--", lw=1.0)
    courses.axhline(COLLAPSED, color="black", ls=":", lw=1.0)
    courses.set(xscale="log", yscale="log", xlabel="step", ylim=(1e-25, 1e2), title=plot.LABELS["nc1"])
    courses.legend(loc="lower left", title="at the best learning rate", fontsize=8, frameon=False)
    speeds.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="steps to NC1 ≤ $10^{-6}$")
    speeds.set(ylim=(3, None), title="How soon")
    speeds.legend(loc="lower left", ncols=2, frameon=False)
    ends.set(xscale="log", yscale="log", xlabel="learning rate", ylim=(ROUNDING / 3, 1e8))
    ends.set(ylabel="objective above its certified minimum, relative", title="How near")
    ends.legend([dashes], ["slope 2: steps whose length stays"], loc="upper left", frameon=False)
    draw_boxes(risks, table)
    draw_sizes(sizes, table)
    draw_entries(entries, table)
    return made


def draw_optimizer(courses, speeds, ends, at: xarray.Dataset, look: dict[str, Any], mark: str) -> None:
    """NC1 with the learning rate that is fastest, or else comes nearest to collapse; speed and distance with all."""
    found, last = speed(at), np.where(np.isfinite(at.excess), at.nc1[:, -1], np.inf)
    best = int(np.argmin(last) if np.all(np.isnan(found)) else np.nanargmin(found))
    courses.plot(at.step[1:], at.nc1[best, 1:], **{**look, "label": f"{look['label']}, {float(at.rate[best]):.2g}"})
    speeds.plot(at.rate, found, f"{mark}-", ms=4, lw=1.0, **look)
    ends.plot(at.rate, np.maximum(at.excess, ROUNDING), f"{mark}-", ms=4, lw=1.0, **look)


def draw_lbfgs(courses, speeds, ends, table: xarray.Dataset) -> None:
    """L-BFGS, which has no learning rate."""
    look = {"color": "#555555", "ls": "-.", "label": "L-BFGS"}
    courses.plot(table.lbfgs_step[1:], table.lbfgs_nc1[1:], **look)
    speeds.axhline(collapsed_at(table.lbfgs_step.values, table.lbfgs_nc1.values), **look)
    ends.axhline(max(float(table.lbfgs_excess), ROUNDING), **look)


def draw_boxes(axis, table: xarray.Dataset) -> None:
    """Risk where AdamW ends, beside the least in the box."""
    axis.plot(table.decay, table.risk, "o", color=plot.COLOURS[3], mfc="none", ms=5)
    axis.plot([], [], "o", color=plot.COLOURS[3], mfc="none", ms=5, label=f"AdamW, {table.sizes['seed']} seeds")
    axis.plot(table.fine, table.least_risk, "k--", lw=1.2, label="theory: the least with all |x| ≤ 1/λ")
    axis.set(yscale="log", xlabel="AdamW's decay λ", ylabel="mean cross-entropy")
    axis.set(title="Decoupled decay minimises the risk in a box")
    axis.legend(loc="lower right", frameon=False)


def draw_sizes(axis, table: xarray.Dataset) -> None:
    """Entries where AdamW ends as ε grows."""
    for colour, mark, part in zip(plot.COLOURS, plot.MARKS, table.part.values, strict=False):
        least, largest = table["size"].sel(part=part).values.T
        look: dict[str, Any] = {
            "fmt": mark,
            "color": colour,
            "ms": 5,
            "capsize": 3,
            "label": f"{part}, least to largest",
        }
        axis.errorbar(table.epsilon, (least + largest) / 2, yerr=(largest - least) / 2, **look)
        axis.plot(table.epsilon, table.predicted_size.sel(part=part), "k--", lw=1.0)
    axis.plot([], [], "k--", lw=1.0, label="theory: λ|x| = |g|/(|g| + ε), a simplex of signs")
    axis.set(xscale="log", xlabel="AdamW's ε", ylabel="λ|x| of entries x", ylim=(0, 1.1))
    axis.set(title="… behind a barrier as strong as ε")
    axis.legend(loc="lower left", frameon=False)


def draw_entries(axis, table: xarray.Dataset) -> None:
    """Sizes of the classifier's entries, sorted."""
    kinds = {"AdamW's decay": table.box_A, "the problem's": table.lbfgs_A}
    for colour, mark, (kind, A) in zip(plot.COLOURS[3:], plot.MARKS, kinds.items(), strict=False):
        sizes = np.sort(np.abs(A.values.ravel())) / np.sqrt(np.mean(A.values**2))
        axis.plot(sizes, (np.arange(sizes.size) + 0.5) / sizes.size, mark, color=colour, ms=4, label=kind)
    axis.axvline(1.0, color="black", ls="--", lw=1.2, label="theory: corners")
    axis.set(xlabel="|entry of A| over their root mean square", ylabel="share of smaller entries")
    axis.set(title="The box has axes, a norm has none")
    axis.legend(loc="lower right", frameon=False)


def summary(table: xarray.Dataset) -> None:
    """Print how soon and how near, and how well AdamW's problem is known."""
    rows = []
    for name in table.optimizer.values:
        at = table.sel(optimizer=name)
        steps = speed(at)
        soonest = "never" if np.all(np.isnan(steps)) else int(np.nanmin(steps))
        rows.append([str(name), soonest, float(np.nanmin(at.excess))])
    rows.append(
        ["L-BFGS", int(collapsed_at(table.lbfgs_step.values, table.lbfgs_nc1.values)), float(table.lbfgs_excess)]
    )
    show(["optimiser", "steps to NC1 ≤ 1e-6, fastest", "above the certified minimum, nearest"], rows)
    known = np.interp(table.decay, table.fine, table.least_risk)
    above = table.risk / known[:, None] - 1
    off = np.abs(table["size"].isel(epsilon=0) - table.predicted_size.isel(epsilon=0))
    rows = [
        [
            "largest |λx + g/(|g| + ε)|: median, largest over ends",
            f"{float(table.off.median()):.1e}, {float(table.off.max()):.1e}",
        ],
        ["λ|x| at the least ε, largest error", float(off.max())],
        [
            "risk above the least in the box, relative: least, largest",
            f"{float(above.min()):.1e}, {float(above.max()):.1e}",
        ],
    ]
    show(["AdamW's own problem", "measured"], rows)


def main(config: Config) -> None:
    """Train, compare, draw."""
    if min(config.boxes, config.epsilons) < 1:
        raise SystemExit(f"--boxes {config.boxes} --epsilons {config.epsilons}: at least 1 of each is needed")
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
