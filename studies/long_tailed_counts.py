"""Long-tailed counts: what each remedy for rare classes changes at the minimum, and squared error's classes that die.

Class k has k^−p times the samples of the first. Under cross-entropy and weight decay logits lose dimensions as p grows:
rare classes have none of their own, and their classifiers are nearly parallel. With a free bias logit adjustment (Menon
et al. 2021) changes nothing but the bias. Class weights 1/n turn the tables: frequent classes are the first to go; with
1/√n none is. Factors of logits or labels that are smaller for rare classes (Ye et al. 2020; Kini et al. 2021) let these
go sooner: two classes of equal count merge where w Δ √n ≤ N c, whatever the offsets of logits. Spheres keep all norms,
and a classifier that is fixed to a simplex (Yang et al. 2022) keeps all angles. Under squared error classes die one by
one, and neither the most frequent nor the rarest have the largest features (Dang et al. 2023).
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tyro
import xarray
from matplotlib import colormaps, rc_context

import ufm
from ufm import plot
from ufm.console import show

FACTORS = ("classifier", "features")
PER_ROW = 6  # remedies
CMAP = "PuOr_r"
DARK = 0.7  # from which on of its colours text is white
ALIVE = 1e-5  # of the largest, from which on a singular value is a dimension, and a row has a direction
PLAIN = {"additive": 0.0, "multiplicative": 1.0}  # offsets and factors of cross-entropy


@dataclasses.dataclass(frozen=True)
class Config:
    """Counts, decay, and how strong the remedies are."""

    num_classes: int = 10
    """K, and d."""
    samples: int = 1000
    """Of the most frequent class."""
    steepest: float = 2.0
    """p, of counts k^−p, at the upper end; 0 at the lower one."""
    points: int = 9
    """How many p."""
    shown: float = 1.75
    """p, or the nearest of them, at which every class is drawn."""
    shrinkage: float = 6.0
    """N c, with c = √(λ_A λ_H): equal classes of n ≤ (N c)² samples merge where nothing is done about it."""
    gamma: float = 0.2
    """γ of factors (n/n_max)^γ."""
    tau: float = 1.0
    """τ of offsets τ log(n/N)."""
    margin: float = 2.0
    """Of the rarest class, with the offsets of LDAM."""
    tail: tuple[int, ...] = (1000, 500, 250, 125, 60, 30, 15, 8)
    """Samples of each class under squared error."""
    prices: int = 41
    """How many c there, evenly spaced from a tenth of what none survives to a tenth beyond."""
    output: pathlib.Path = pathlib.Path("figures/long_tailed_counts.png")
    """Figure to write; the data goes beside it as .npz."""


def counts_of(config: Config, power: float) -> np.ndarray:
    """(K,) whole numbers, near n_1 k^−p."""
    exact = config.samples * np.arange(1, config.num_classes + 1) ** -power
    return np.maximum(np.round(exact), 1).astype(int)


def remedies(config: Config, power: float) -> dict[str, ufm.Problem]:
    """Problems by what is done for rare classes; λ_A and λ_H such that both factors are about equally large."""
    n, K, loss = counts_of(config, power), config.num_classes, ufm.VectorScaling
    c, ratio = config.shrinkage / n.sum(), np.sqrt(n.sum() / K)
    plain = ufm.Problem(K, K, per_class=n, lambda_A=c * ratio, lambda_H=c / ratio, bias=False)
    radius_A, radius_H = radii(config)
    decay = {"lambda_A": 0.0, "lambda_H": 0.0}
    changes: dict[str, dict[str, Any]] = {
        "nothing": {},
        "free bias": {"bias": True},
        "logit adjustment": {"loss": loss.logit_adjustment(n, tau=config.tau)},
        "adjustment, free bias": {"loss": loss.logit_adjustment(n, tau=config.tau), "bias": True},
        "LDAM": {"loss": loss.ldam(n, margin=config.margin)},
        "weights 1/n": {"class_weights": weights_of(n, 1.0)},
        "weights 1/√n": {"class_weights": weights_of(n, 0.5)},
        "CDT": {"loss": loss.cdt(n, gamma=config.gamma)},
        "LDT": {"loss": loss.ldt(n, gamma=config.gamma)},
        "VS": {"loss": loss.vs(n, gamma=config.gamma, tau=config.tau)},
        "spheres": {"features": ufm.Sphere(radius_H), "classifier": ufm.Sphere(radius_A), **decay},
        "fixed ETF": {"classifier": ufm.Fixed.etf(K, K, radius=radius_A), "lambda_A": 0.0},
    }
    return {name: dataclasses.replace(plain, **change) for name, change in changes.items()}


def radii(config: Config) -> tuple[float, float]:
    """Norms of classifier and features where classes are equal and nothing is done: those of spheres and fixed ETF."""
    K, n = config.num_classes, config.samples
    c, ratio = config.shrinkage / (K * n), np.sqrt(n)
    known: Any = ufm.predict(ufm.Problem(K, K, per_class=n, lambda_A=c * ratio, lambda_H=c / ratio, bias=False))
    return float(known.norms_A[0]), float(known.norms_H[0])


def weights_of(n: np.ndarray, power: float) -> np.ndarray:
    """n^−power, of mean 1 over samples."""
    weights = 1.0 / n**power
    return weights / np.average(weights, weights=n)


def data(config: Config) -> xarray.Dataset:
    """Remedies over p, and squared error over decay."""
    return xarray.merge([over_powers(config), as_classes_die(config)])


def over_powers(config: Config) -> xarray.Dataset:
    """Certified minima of each remedy, and how far equal classes would be from merging."""
    powers = np.linspace(0, config.steepest, config.points)
    problems = [list(remedies(config, power).values()) for power in powers.tolist()]
    bests = ufm.minimize([problem for several in problems for problem in several])
    names, classes = list(remedies(config, 0.0)), np.arange(1, config.num_classes + 1)
    norms, each = ("factor", "class"), ("class",)
    further = {"cosine": ("class", "other"), "norm": norms, "predicted/norm": norms, "bias": each, "reach": each}
    records, variables = [measured(best) for best in bests], {}
    for name, first in records[0].items():
        values = np.reshape([at[name] for at in records], (len(powers), len(names), *np.shape(first)))
        variables[name] = (("power", "remedy", *further.get(name, ())), values)
    variables |= {"shown": powers[np.argmin(np.abs(powers - config.shown))], "threshold": config.shrinkage}
    coords = {"power": powers, "remedy": names, "class": classes, "other": classes, "factor": list(FACTORS)}
    return xarray.Dataset(variables, coords)


def measured(best: ufm.Optimum) -> dict[str, Any]:
    """Norms and cosines of rows, dimensions of the logits, bias and gap; norms by theory, and w Δ √n of each class."""
    problem, norms = best.problem, np.array([np.linalg.norm(X, axis=1) for X in (best.A, best.means)])
    directions = best.A / np.where(norms[0] > ALIVE * norms[0].max(), norms[0], np.nan)[:, None]
    values = np.linalg.svd(np.sqrt(problem.class_counts)[:, None] * (best.means @ best.A.T), compute_uv=False)
    known = ufm.predict(problem)
    unknown = np.full(problem.num_classes, np.nan)
    return {
        "gap": best.gap / best.value,
        "cosine": directions @ directions.T,
        "norm": norms,
        "predicted/norm": np.array([unknown if each is None else each for each in (known.norms_A, known.norms_H)]),
        "rank": int(np.sum(values > ALIVE * values[0])),
        "bias": best.b - best.b.mean(),
        "reach": reach(problem),
    }


def reach(problem: ufm.Problem) -> np.ndarray:
    """(K,) w Δ √n, the N c up to which two equal classes differ; NaN where that isn't known.

    Offsets of labels, as those of LDAM, let them differ further, and constraints have multipliers for decay.
    """
    offsets, factors = (getattr(problem.loss, name, default) for name, default in PLAIN.items())
    if problem.lambda_A == 0 or min(np.atleast_2d(offsets).shape) > 1:
        return np.full(problem.num_classes, np.nan)
    return np.asarray(problem.class_weights) * np.ravel(factors) * np.sqrt(problem.class_counts)


def as_classes_die(config: Config) -> xarray.Dataset:
    """Squared norms of rows of both factors under squared error as c = λ_A = λ_H grows, and theory's."""
    n, N, K = np.array(config.tail), sum(config.tail), len(config.tail)
    prices = np.linspace(0.1, 1.1, config.prices) * np.sqrt(n.max()) / N
    shape: dict[str, Any] = {"per_class": config.tail, "loss": ufm.SquaredError(), "bias": False}
    bests = ufm.minimize([ufm.Problem(K, K, lambda_A=c, lambda_H=c, **shape) for c in prices.tolist()])
    s = np.maximum(np.sqrt(n) - N * prices[:, None], 0.0)
    by, rows = ("factor", "shrinkage", "samples"), ([best.A for best in bests], [best.means for best in bests])
    return xarray.Dataset(
        {
            "square": (by, [[np.sum(X**2, axis=1) for X in several] for several in rows]),
            "predicted/square": (by, [s, s / n]),
            "dying_gap": ("shrinkage", [best.gap / best.value for best in bests]),
        },
        coords={"shrinkage": N * prices, "samples": n, "factor": list(FACTORS)},
    )


def draw(table: xarray.Dataset) -> plot.Figure:
    """Cosines and norms of each remedy at one p, dimensions and rarest classes over all p, and classes that die."""
    made, ((whole,),) = plot.figure(1, 1, width=13.5, height=15.0)
    whole.remove()
    with rc_context(plot.STYLE):  # pyright: ignore[reportArgumentType]
        parts: Any = made.subfigures(3, 1, height_ratios=(8.2, 3.2, 3.4))
        draw_remedies(parts[0], table)
        draw_tables(parts[1].subplots(1, 2), table)
        draw_dying(parts[2].subplots(1, 3), table)
    return made


def draw_remedies(made: Any, table: xarray.Dataset) -> None:
    """Cosines of classifiers and norms of both factors, remedy by remedy."""
    names = table.remedy.values.tolist()
    axes, image = made.subplots(2 * -(-len(names) // PER_ROW), PER_ROW), None
    for i, name in enumerate(names):
        row, column = divmod(i, PER_ROW)
        image = draw_cosines(axes[2 * row, column], table.sel(power=table.shown, remedy=name), name)
        draw_norms(axes[2 * row + 1, column], table.sel(power=table.shown, remedy=name), with_legend=i == 0)
        axes[2 * row + 1, column].set(ylim=(0, 1.1 * float(table.norm.sel(power=table.shown).max())))
    made.suptitle(
        f"Classes of n ∝ k^−p samples, p = {float(table.shown):g}: classifiers' cosines, and norms; "
        "on grey w Δ √n ≤ N c, where equal classes would merge"
    )
    made.colorbar(image, ax=axes[:, -1], label="cosine of classifiers", shrink=0.5)


def draw_tables(axes: Any, table: xarray.Dataset) -> None:
    """Dimensions, and how parallel the rarest classes are, of each remedy at each p."""
    rank, cosine = table["rank"], table.cosine[..., -2, -1]
    known, above = table.reach.notnull().all("class").values, (table.reach > table.threshold).sum("class").values
    texts = np.vectorize(lambda r, a, k: f"{r} ({a})" if k else f"{r}")(rank.values, above, known)
    draw_table(axes[0], 1 - rank / rank.max(), texts, "Dimensions of the logits (classes with w Δ √n > N c)")
    draw_table(axes[1], cosine, np.vectorize("{:.2f}".format)(cosine.values), "Cosine of the two rarest classifiers")


def draw_cosines(axis: Any, at: xarray.Dataset, name: str) -> Any:
    """Between all rows of the classifier; blank where one vanishes."""
    last = len(at["class"])
    image = axis.imshow(at.cosine, cmap=CMAP, vmin=-1, vmax=1, extent=(0.5, last + 0.5, last + 0.5, 0.5))
    axis.set(title=name, xticks=[1, last // 2, last], yticks=[1, last // 2, last])
    axis.grid(visible=False)
    return image


def draw_norms(axis: Any, at: xarray.Dataset, *, with_legend: bool) -> None:
    """Of rows of both factors; on grey those classes that would merge with their equals."""
    k = at["class"].values
    for colour, mark, factor in zip(plot.COLOURS, plot.MARKS, FACTORS, strict=False):
        axis.plot(k, at.norm.sel(factor=factor), mark, color=colour, ms=3.5, label=factor)
        axis.plot(k, at["predicted/norm"].sel(factor=factor), "k--", lw=1.0)
    for merging in k[at.reach.values <= float(at.threshold)]:
        axis.axvspan(merging - 0.5, merging + 0.5, color="#DDDDDD", lw=0)
    axis.set(xlabel="class", xticks=[k[0], len(k) // 2, k[-1]])
    if with_legend:
        axis.set(ylabel="norm")
        axis.legend(loc="upper right", frameon=False)


def draw_table(axis: Any, values: xarray.DataArray, texts: np.ndarray, title: str) -> None:
    """A text of each remedy at each p, on its colour."""
    axis.imshow(values.T, cmap=CMAP, vmin=-1, vmax=1, aspect="auto")
    for (i, j), _ in np.ndenumerate(values):
        colour = "white" if abs(float(values[i, j])) > DARK else "black"
        axis.text(i, j, texts[i, j], ha="center", va="center", fontsize=7.0, color=colour)
    axis.set(title=title, xlabel="p, of counts k^−p")
    axis.set_xticks(range(len(values.power)), [f"{power:g}" for power in values.power.values])
    axis.set_yticks(range(len(values.remedy)), values.remedy.values.tolist())
    axis.grid(visible=False)


def draw_dying(axes: Any, table: xarray.Dataset) -> None:
    """Squared norms of both factors as classes die, and of features against the count."""
    counts, x = table.samples.values, table.shrinkage.values
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(counts)))
    for axis, factor in zip(axes, FACTORS, strict=False):
        at = table.sel(factor=factor)
        for shade, n in zip(shades, counts.tolist(), strict=True):
            axis.plot(x, at.square.sel(samples=n), "o", color=shade, ms=3.0, label=f"{n:,}")
            axis.plot(x, at["predicted/square"].sel(samples=n), "k--", lw=0.8)
            axis.axvline(np.sqrt(n), color=shade, ls=":", lw=1.0)
        axis.set(xlabel="N c", title=f"Squared error: classes die, {factor}")
    axes[0].legend(loc="upper right", title="samples (dotted: √n)", ncols=2, frameon=False)
    fine = np.geomspace(counts.min(), counts.max(), 400)
    for i, colour in zip((0, len(x) // 12, len(x) // 5), plot.COLOURS, strict=False):
        at = table.square.sel(factor="features").isel(shrinkage=i)
        axes[2].plot(counts, at, "o", color=colour, ms=4, label=f"N c = {x[i]:.1f}")
        axes[2].plot(fine, np.maximum(np.sqrt(fine) - x[i], 0) / fine, "k--", lw=0.8)
        axes[2].axvline(4 * x[i] ** 2, color=colour, ls=":", lw=1.2)
    axes[2].plot([], [], "k:", lw=1.2, label="theory: 4N²c²")
    axes[2].set(xscale="log", xlabel="samples of the class", title="Features: neither many nor few have the largest")
    for axis, letter in zip(axes, "ahh", strict=True):
        axis.set(ylabel=f"$‖{letter}_k‖²$", ylim=(0, None))
    axes[2].legend(loc="upper right", frameon=False)


def summary(table: xarray.Dataset) -> None:
    """Print what each remedy leaves at the p that is drawn, and how sure the minima are."""
    rows = []
    for name in table.remedy.values.tolist():
        at = table.sel(power=table.shown, remedy=name)
        known = bool(at.reach.notnull().all())
        norms = at.norm.sel(factor="classifier").values
        rows.append(
            [
                name,
                int(at["rank"]),
                int((at.reach > at.threshold).sum()) if known else "–",
                float(norms[0]),
                float(norms[-1]),
                f"{float(at.cosine[-2, -1]):.3f}",
            ]
        )
    header = [
        "remedy",
        "dimensions",
        "w Δ √n > N c",
        "norm of the first",
        "of the last classifier",
        "cosine of the rarest two",
    ]
    show(header, rows, caption=f"p = {float(table.shown):g}, N c = {float(table.threshold):g}")
    both = np.abs(table.norm.sel(remedy="free bias") - table.norm.sel(remedy="adjustment, free bias"))
    off = np.abs(table.square - table["predicted/square"]) / table.square.max("samples")
    rows = [
        ["certified minima", table.gap.size + table.dying_gap.size],
        ["largest relative gap", max(float(table.gap.max()), float(table.dying_gap.max()))],
        ["largest change of norms by logit adjustment with a free bias", float(both.max())],
        ["largest error of theory's norms, remedies", float(np.abs(table.norm - table["predicted/norm"]).max())],
        ["largest error of theory's squares, squared error", float(off.max())],
    ]
    show(["quantity", "measured"], rows)


def main(config: Config) -> None:
    """Minimise, print, draw."""
    for name, least in (("num_classes", 3), ("samples", 1), ("points", 1), ("prices", 1)):
        if getattr(config, name) < least:
            option = name.replace("_", "-")
            raise SystemExit(f"--{option} {getattr(config, name)}: at least {least} is needed")
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
